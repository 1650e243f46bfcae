import { Fragment } from "preact";
import type { ReportPrompt } from "../../src/report/data.ts";
import { tokenText } from "../../src/report/format.ts";

/** A prompt as running text; the patch prompt's tokens stand above the ones they replace, one token can be marked, and lead somewhere. */
export function PromptText(props: { prompt: ReportPrompt; marked?: number; sign?: number; href?: string }) {
  const { prompt, marked } = props;
  const sign = (props.sign ?? 0) < 0 ? "negative" : "positive";
  return (
    <span class="prompt">
      {prompt.clean.map((token, t) => {
        const text = tokenText(token);
        const patch = prompt.patch[t] ?? null;
        const word =
          patch === null ? (
            text.trimStart()
          ) : (
            <Replaced clean={text.trimStart()} patch={tokenText(patch).trimStart()} />
          );
        return (
          <Fragment key={t}>
            {text.startsWith(" ") && " "}
            {t === marked ? (
              <mark class={sign}>{props.href === undefined ? word : <a href={props.href}>{word}</a>}</mark>
            ) : (
              word
            )}
          </Fragment>
        );
      })}
    </span>
  );
}

function Replaced({ clean, patch }: { clean: string; patch: string }) {
  return (
    <ruby>
      {clean}
      <rp> (patch: </rp>
      <rt>{patch}</rt>
      <rp>)</rp>
    </ruby>
  );
}
