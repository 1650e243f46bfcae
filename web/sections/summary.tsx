import { effectKinds, type MethodName } from "../../src/effects/method.ts";
import type { ReportData, SiteImportance } from "../../src/report/data.ts";
import { lastPart, number, percent, percentOf, signed, whole } from "../../src/report/format.ts";
import { Figure, Warnings } from "../controls.tsx";
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
  const strongest = strongestSite(data);
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
          name="Strongest site"
          value={strongest === null ? "–" : strongest.site}
          note={
            strongest === null
              ? ""
              : `Σ|${run.score === "effect" ? "effect" : "score"}| ${number(strongest.importance)} ${unitOf[run.score]}`
          }
        />
        <Figure
          name="Checks passed"
          value={data.checks.length === 0 ? "none" : `${passed} of ${data.checks.length}`}
          note={passed === data.checks.length ? "" : `${data.checks.length - passed} failed`}
          failed={passed < data.checks.length}
        />
      </dl>
      <Warnings lines={warnings} />
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
      <Kind data={data} />
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

/** What kind of number an effect is, and how far it was found from the exact one. */
function Kind({ data: { run, exact, unexplained } }: { data: ReportData }) {
  const kind = effectKinds[run.method as MethodName];
  if (run.score !== "effect" || kind === undefined) return null;
  return (
    <p class="lede">
      Effects here are {kind}. {fitSentence(unexplained)}
      {exact !== null && (
        <>
          Patched by themselves on {whole(exact.pairs)} of {whole(exact.of)} {exact.split} pairs, the strongest features
          are off by {exact.distance === null ? "–" : percentOf(exact.distance)} (Σ|effect − exact| / Σ|exact|);
          furthest off is {exact.worst.site}/{exact.worst.feature}, {signed(exact.worst.effect)} where the exact effect
          is {signed(exact.worst.exact)} logits.
        </>
      )}
    </p>
  );
}

/** How much of what the model computes on these prompts the SAEs give back. */
function fitSentence(unexplained: ReportData["unexplained"]): string {
  const shares = Object.entries(unexplained);
  if (shares.length === 0) return "";
  const [site, most] = shares.reduce((a, b) => (b[1] > a[1] ? b : a));
  const least = Math.min(...shares.map(([, share]) => share));
  const range = least === most ? percentOf(most) : `${percentOf(least)} to ${percentOf(most)}`;
  return `The SAEs leave ${range} of the variance of these prompts' activations unexplained (most at ${site}). `;
}

/** The site with the largest importance in the run's first split; sites overlap, so they are not added. */
function strongestSite(data: ReportData): SiteImportance | null {
  const rows = data.importance.filter((row) => row.split === splitsOf(data)[0]);
  return rows.reduce<SiteImportance | null>((a, b) => (a !== null && a.importance >= b.importance ? a : b), null);
}

function exampleAnswers(data: ReportData): string[] {
  const example = data.examples[0];
  return example === undefined ? [] : [example.cleanAnswer, example.patchAnswer];
}

function signSentence({ run }: ReportData): string {
  if (run.score === "effect") {
    return run.method === "exact"
      ? "A positive effect: taking its patch value, the feature alone moves the model to the patch answer; its clean value supports the clean answer."
      : "A positive effect: the feature's change from its clean to its patch value pushes the model to the patch answer; its clean value supports the clean answer.";
  }
  if (run.score === "gradient") {
    return `A positive ${nameOf[run.score]}: more of the feature moves the model to the patch answer. No patch prompt was run.`;
  }
  return `A positive ${nameOf[run.score]}: as active as it is in the clean prompt, the feature moves the model to the patch answer. No patch prompt was run.`;
}
