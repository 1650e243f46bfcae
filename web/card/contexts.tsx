import type { ReportData } from "../../src/report/data.ts";
import { number, percent, signed, tokenText, whole } from "../../src/report/format.ts";
import { type KnownFeature, tokensOf } from "../known.ts";
import { linkTo } from "../selection.tsx";
import { Shaded } from "./shaded.tsx";

interface Part {
  readonly of: KnownFeature;
  readonly data: ReportData;
}

/** The prompts of the run in which the feature does most, each token shaded by the feature's code there. */
export function Contexts({ of, data }: Part) {
  const { card, drivers, site } = of;
  if (card !== null && data.cards !== null && card.contexts.length > 0) {
    const { cards } = data;
    const most = Math.max(1e-12, card.activations.max, ...card.contexts.map(({ patch_code }) => patch_code ?? 0));
    return (
      <>
        <p class="note">
          In the run's prompts: where its effect is largest, each driving token once. Shade: the feature's activation,
          darkest {number(most)}; a dotted line where the run keeps none. Above a token: the patch prompt's.
        </p>
        <ol class="windows">
          {card.contexts.map((context, i) => {
            const prompt = cards.prompts[context.prompt]!;
            const patch = prompt.patch.map((place) => (place === null ? null : (cards.tokens[place] ?? "")));
            return (
              <li key={i}>
                <Shaded
                  tokens={tokensOf(cards, prompt.clean)}
                  patch={patch}
                  codes={context.codes}
                  most={most}
                  marked={context.position}
                />
                <ContextLine
                  effect={context.effect}
                  codes={[context.codes[context.position] ?? null, context.patch_code]}
                  at={{ site, split: prompt.split, case: prompt.case }}
                  pairs={context.pairs}
                />
              </li>
            );
          })}
        </ol>
      </>
    );
  }
  if (drivers === null || drivers.contexts.length === 0) {
    return (
      <p class="empty">
        This page has no contexts of the feature: it is not among the strongest of its site. The run's effects.parquet
        has every token at which it changes.
      </p>
    );
  }
  return (
    <ol class="windows">
      {drivers.contexts.map((context, i) => (
        <li key={i}>
          <Shaded
            tokens={context.prompt.clean}
            patch={context.prompt.patch}
            codes={context.prompt.clean.map((_, t) => (t === context.position ? context.codeClean : null))}
            most={Math.max(1e-12, context.codeClean)}
            marked={context.position}
          />
          <ContextLine
            effect={context.effect}
            codes={[context.codeClean, context.codePatch]}
            at={{ site, split: context.split, case: context.case }}
            pairs={context.pairs}
          />
        </li>
      ))}
    </ol>
  );
}

function ContextLine(props: {
  effect: number;
  codes: readonly [clean: number | null, patch: number | null];
  at: { site: string; split: "train" | "test"; case: string };
  pairs: number;
}) {
  const { effect, at } = props;
  const [clean, patch] = props.codes;
  return (
    <p class="note">
      <span class={effect < 0 ? "effect negative" : "effect positive"}>{signed(effect)}</span> activation{" "}
      {clean === null ? "–" : number(clean)}
      {patch !== null && `, patch ${number(patch)}`};{" "}
      <a href={linkTo({ split: at.split, case: at.case }, "features")}>{at.case}</a>, {at.split},{" "}
      {props.pairs === 1 ? "1 pair" : `${whole(props.pairs)} pairs`}
    </p>
  );
}

/** Where the feature is most active in a corpus. */
export function CorpusContexts({ of: { card, cardSite, name }, data }: Part) {
  const { cards } = data;
  if (card === null || cards === null) return null;
  const { corpus } = card;
  if (corpus === null || cardSite?.corpus == null) {
    return (
      <p class="note">
        Nothing of a corpus: <code>sfc contexts</code> finds where {name} is active in any text.
      </p>
    );
  }
  const frequent = corpus.top_tokens.token.map((place, i) => ({
    text: tokenText(cards.tokens[place] ?? "").trim(),
    rows: corpus.top_tokens.rows[i]!,
  }));
  return (
    <>
      <h4>In a corpus</h4>
      <p class="note">
        Largest activations in {whole(cardSite.corpus.tokens)} tokens of {cardSite.corpus.name}; active at{" "}
        {corpus.tokens === 0 ? "–" : percent(corpus.active / corpus.tokens)} of {whole(corpus.tokens)} tokens.
        {frequent.length > 0 &&
          ` Most often at ${frequent.map(({ text, rows }) => `“${text}” (${whole(rows)})`).join(", ")}.`}
      </p>
      <ol class="windows">
        {corpus.contexts.map((context, i) => (
          <li key={i}>
            <Shaded
              tokens={tokensOf(cards, context.tokens)}
              codes={context.codes}
              most={Math.max(1e-12, corpus.max)}
              marked={context.top}
            />
            <span class="note"> {number(context.codes[context.top] ?? 0)}</span>
          </li>
        ))}
      </ol>
    </>
  );
}
