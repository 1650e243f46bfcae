import type { ReportData } from "../../src/report/data.ts";
import { parseSite } from "../../src/site.ts";
import { Figure } from "../controls.tsx";
import { lastPart, number, percent, whole } from "../format.ts";
import { nameOf, splitsOf, unitOf } from "../select.ts";

/** The result at a glance: what was asked, how the model does, where it happens, whether the numbers hold. */
export function Summary({ data }: { data: ReportData }) {
  const { run } = data;
  const splits = splitsOf(data);
  const pairs = splits.map((split) => {
    const rows = data.accuracy.filter((row) => row.split === split);
    return { split, pairs: rows.reduce((sum, row) => sum + row.pairs, 0) };
  });
  const all = pairs.reduce((sum, row) => sum + row.pairs, 0);
  const right = data.accuracy.reduce((sum, row) => sum + row.accuracy * row.pairs, 0);
  const layer = strongestLayer(data);
  const passed = data.checks.filter((check) => check.passed).length;
  const [first, second] = exampleAnswers(data);

  const unfinished = `This run is not complete (${run.status}); the numbers may change when it is.`;
  const warnings = run.status === "finished" ? data.warnings : [unfinished, ...data.warnings];

  return (
    <header class="summary">
      {run.dictionaries.dummy && (
        <p class="banner" role="alert">
          <strong>Dummy dictionaries.</strong> The directions below are random, not trained features. The numbers show
          that the machinery runs; they say nothing about the model.
        </p>
      )}
      <p class="kicker">analytic-sfc report{run.method === "analytic" ? "" : `, method ${run.method}`}</p>
      <h1>
        The features behind <em>{lastPart(run.task)}</em> in{" "}
        <span class="unbroken">{lastPart(run.model.name).replace(/\.gguf$/i, "")}</span>
      </h1>
      <dl class="figures">
        <Figure
          name="Pairs"
          value={whole(all)}
          note={pairs.map((row) => `${whole(row.pairs)} ${row.split}`).join(", ")}
        />
        <Figure
          name="Accuracy"
          value={all === 0 ? "–" : percent(right / all)}
          note={`${new Set(data.accuracy.map((row) => row.case)).size} cases`}
        />
        <Figure
          name="Strongest layer"
          value={layer === null ? "–" : `layer ${layer.layer}`}
          note={
            layer === null
              ? ""
              : `Σ|${run.score === "effect" ? "effect" : "score"}| ${number(layer.sum)} ${unitOf[run.score]}`
          }
        />
        <Figure
          name="Checks passed"
          value={data.checks.length === 0 ? "none" : `${passed} of ${data.checks.length}`}
          note={passed === data.checks.length ? "" : `${data.checks.length - passed} failed`}
          failed={passed < data.checks.length}
        />
      </dl>
      {warnings.length > 0 && (
        <section class="warnings" aria-label="Warnings">
          <h2>Read this first</h2>
          <ul>
            {warnings.map((line) => (
              <li key={line}>{line}</li>
            ))}
          </ul>
        </section>
      )}
      <p class="lede">
        Every number below is about <i>m</i> = logit(patch answer) − logit(clean answer), read at the end of the clean
        prompt
        {first !== undefined && (
          <>
            ; with the answers <q>{first.trim()}</q> (clean) and <q>{second?.trim()}</q> (patch), <i>m</i> {"<"} 0 means
            that the model prefers <q>{first.trim()}</q>
          </>
        )}
        . {signSentence(data)}
      </p>
      <p class="legend" aria-hidden="true">
        <span>
          <span class="key negative" /> moves the model to the clean answer
        </span>
        <span>
          <span class="key positive" /> moves the model to the patch answer
        </span>
      </p>
    </header>
  );
}

/** The layer with the largest sum of importance over its sites, in the run's first split. */
function strongestLayer(data: ReportData): { layer: number; sum: number } | null {
  const sums = new Map<number, number>();
  for (const row of data.importance) {
    const { kind, layer } = parseSite(row.site);
    if (kind === "embed" || row.split !== splitsOf(data)[0]) continue;
    sums.set(layer, (sums.get(layer) ?? 0) + row.importance);
  }
  const best = [...sums].sort(([, a], [, b]) => b - a)[0];
  return best === undefined ? null : { layer: best[0], sum: best[1] };
}

function exampleAnswers(data: ReportData): string[] {
  const example = data.examples[0];
  return example === undefined ? [] : [example.cleanAnswer, example.patchAnswer];
}

function signSentence({ run }: ReportData): string {
  if (run.score === "effect") {
    return "A positive effect: taking its patch value, the feature alone moves the model to the patch answer; its clean value supports the clean answer.";
  }
  if (run.score === "gradient") {
    return `A positive ${nameOf[run.score]}: more of the feature moves the model to the patch answer. No patch prompt was run.`;
  }
  return `A positive ${nameOf[run.score]}: as active as it is in the clean prompt, the feature moves the model to the patch answer. No patch prompt was run.`;
}
