import { kindWord } from "../../src/report/findings.ts";
import { number, signed, whole } from "../../src/report/format.ts";
import type { Known, KnownFeature } from "../known.ts";
import { useSelection } from "../selection.tsx";
import { Contexts, CorpusContexts } from "./contexts.tsx";
import { Effects } from "./effects.tsx";
import { Histogram } from "./histogram.tsx";
import { InCircuit, Neighbours } from "./neighbours.tsx";
import { Panel } from "./panel.tsx";
import { PromotedTokens } from "./promoted.tsx";
import { FiresOn, Without } from "./without.tsx";

/** All that the report tells of the feature that the selection names, beside the page. Nothing without one. */
export function FeaturePanel({ known }: { known: Known }) {
  const { site, feature } = useSelection().selection;
  if (site === null || feature === null) return null;
  const name = `${site}/${feature}`;
  const shown = known.of({ site, feature });
  return (
    <Panel name={name}>
      {shown === null ? (
        <p class="empty">This report does not name {name}. The run's features.parquet may have it.</p>
      ) : (
        <FeatureCardView of={shown} known={known} />
      )}
    </Panel>
  );
}

/** The parts of a card, what it reads and what happens without it first. */
function FeatureCardView({ of, known }: { of: KnownFeature; known: Known }) {
  const { data } = known;
  return (
    <>
      <Numbers of={of} known={known} />
      <nav class="card-parts" aria-label="Parts of the card">
        {(["contexts", "without", "effects", "activations", "neighbours"] as const).map((part) => (
          <button
            key={part}
            type="button"
            class="plain"
            onClick={() => document.getElementById(`card-${part}`)?.scrollIntoView()}
          >
            {parts[part]}
          </button>
        ))}
      </nav>
      <h3 id="card-contexts">{parts.contexts}</h3>
      <Contexts of={of} data={data} />
      <CorpusContexts of={of} data={data} />
      <h3 id="card-without">{parts.without}</h3>
      <Without of={of} data={data} />
      <FiresOn of={of} data={data} />
      <h3 id="card-effects">{parts.effects}</h3>
      <Effects of={of} data={data} />
      <PromotedTokens of={of} data={data} />
      <h3 id="card-activations">{parts.activations}</h3>
      <Histogram of={of} />
      <h3 id="card-neighbours">{parts.neighbours}</h3>
      <InCircuit of={of} data={data} />
      <Neighbours of={of} known={known} />
    </>
  );
}

const parts = {
  contexts: "Top contexts",
  without: "Without it",
  effects: "Effects",
  activations: "Activations",
  neighbours: "Neighbours",
} as const;

/** What it does, in one line per kind of number, and where it is known elsewhere. */
function Numbers({ of, known }: { of: KnownFeature; known: Known }) {
  const { run, exact } = known.data;
  const { card, groups, cardSite, feature } = of;
  const all = groups.filter(({ group }) => group.case === "");
  const patched = all.flatMap(({ group, at }) =>
    group.exact[at] == null ? [] : [{ group, at, value: group.exact[at] }],
  )[0];
  const bySplit =
    card?.effects ?? all.map(({ group, at }) => ({ split: group.split, effect: group.effect[at]!, rank: at + 1 }));
  return (
    <dl class="card-numbers">
      {bySplit.map(({ split, effect, rank }) => {
        const words = all.find(({ group }) => group.split === split);
        const spread = words === undefined ? null : words.group.spread[words.at];
        return (
          <div key={split}>
            <dt>
              {kindWord(run.method, run.score)}, {split}
            </dt>
            <dd>
              <b>{signed(effect)}</b>
              {spread && ` [${signed(spread.by_words.low)}, ${signed(spread.by_words.high)}]`}
              {rank !== null && `, rank ${whole(rank)}`}
              {spread && ` [${spread.ranks.low}–${spread.ranks.high}]`}
            </dd>
          </div>
        );
      })}
      {patched !== undefined && exact !== null && (
        <>
          {patched.group.beside.map(({ kind, effect }) =>
            effect[patched.at] == null ? null : (
              <div key={kind}>
                <dt>{kind}, same sample</dt>
                <dd>{signed(effect[patched.at]!)}</dd>
              </div>
            ),
          )}
          <div>
            <dt>exact, patched by itself</dt>
            <dd>
              <b>{signed(patched.value)}</b> on {whole(exact.pairs)} of {whole(exact.of)} {exact.split} pairs
            </dd>
          </div>
        </>
      )}
      {card !== null && (
        <div>
          <dt>active</dt>
          <dd>
            {share(card.activations)} of {whole(card.activations.tokens)} prompt tokens
            {card.corpus && `, ${share(card.corpus)} of ${whole(card.corpus.tokens)} corpus tokens`}
          </dd>
        </div>
      )}
      {cardSite?.page != null && (
        <div>
          <dt>elsewhere</dt>
          <dd>
            <a href={`${cardSite.page}/${feature}`} rel="noreferrer">
              Neuronpedia
            </a>{" "}
            (opens a page of the network)
          </dd>
        </div>
      )}
    </dl>
  );
}

const share = ({ tokens, active }: { readonly tokens: number; readonly active: number }) =>
  tokens === 0 ? "–" : `${number((100 * active) / tokens)} %`;
