import { countText } from "../../src/amounts.ts";
import { effectKinds, type MethodName } from "../../src/effects/method.ts";
import type { ReportData } from "../../src/report/data.ts";
import { findingsOf, keepsCorrect } from "../../src/report/findings.ts";
import { lastPart, percent, percentOf, signed, whole } from "../../src/report/format.ts";
import { Figure, Warnings } from "../controls.tsx";
import { nameOf, splitsOf } from "../select.ts";
import { linkTo } from "../selection.tsx";
import { Named } from "./named.tsx";

/** The result at a glance: what was found, in sentences; then on what, and what the numbers are. */
export function Summary({ data }: { data: ReportData }) {
  const { run, change } = data;
  const splits = splitsOf(data);
  const pairs = splits.map((split) => {
    const rows = data.accuracy.filter((row) => row.split === split);
    return { split, pairs: rows.reduce((sum, row) => sum + row.pairs, 0) };
  });
  const all = pairs.reduce((sum, row) => sum + row.pairs, 0);
  const right = data.accuracy.reduce((sum, row) => sum + row.accuracy * row.pairs, 0);
  const passed = data.checks.filter((check) => check.passed).length;
  const total = change.train ?? change.test;

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
      <Warnings lines={warnings} />
      <Found data={data} />
      <dl class="figures">
        <Figure
          name="Pairs"
          value={whole(all)}
          note={pairs.map((row) => `${whole(row.pairs)} ${row.split}`).join(", ")}
        />
        <Figure
          name="Accuracy"
          value={all === 0 ? "–" : percent(right / all)}
          note={`${countText(new Set(data.accuracy.map((row) => row.case)).size, "case")}${keepsCorrect(run) ? ", wrong pairs left out" : ""}`}
        />
        {total !== undefined && (
          <Figure name="Change of m" value={signed(total)} note="logits, clean to patch prompt" />
        )}
        <Figure
          name="Checks passed"
          value={data.checks.length === 0 ? "none" : `${passed} of ${data.checks.length}`}
          note={passed === data.checks.length ? "" : `${data.checks.length - passed} failed`}
          failed={passed < data.checks.length}
        />
      </dl>
      <Reading data={data} />
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

/** What was found, each sentence with its numbers and a link to the part that shows it. */
function Found({ data }: { data: ReportData }) {
  const findings = findingsOf(data);
  return (
    <section id="found" aria-labelledby="found-title">
      <h2 id="found-title" tabIndex={-1}>
        What was found
      </h2>
      {findings.length === 0 ? (
        <p class="empty">Nothing: the run has no pairs and no features.</p>
      ) : (
        <ul class="findings">
          {findings.map(({ claim, grounds, section }) => (
            <li key={claim}>
              <strong>
                <Named text={claim} />
              </strong>{" "}
              <span class="grounds">
                <Named text={grounds} />{" "}
                <a href={linkTo({}, section)} aria-label={`Show the numbers: ${claim}`}>
                  Show
                </a>
              </span>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}

/** What m is, and what the signs say. */
function Reading({ data }: { data: ReportData }) {
  const [first, second] = exampleAnswers(data);
  return (
    <p class="lede">
      Every number is about <i>m</i> = logit(patch answer) − logit(clean answer), read at the end of the clean prompt
      {first !== undefined && (
        <>
          ; with the answers <q>{first.trim()}</q> (clean) and <q>{second?.trim()}</q> (patch), <i>m</i> {"<"} 0 means
          that the model prefers <q>{first.trim()}</q>
        </>
      )}
      . {signSentence(data)}
    </p>
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
          furthest off is{" "}
          <a href={linkTo({ site: exact.worst.site, feature: exact.worst.feature })}>
            {exact.worst.site}/{exact.worst.feature}
          </a>
          , {signed(exact.worst.effect)} where the exact effect is {signed(exact.worst.exact)} logits.
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
  const [low, high] = [percentOf(least), percentOf(most)];
  const range = low === high ? high : `${low} to ${high}`;
  const where = low === high ? "" : ` (most at ${site})`;
  return `The SAEs leave ${range} of the variance of these prompts' activations unexplained${where}. `;
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
  const more =
    run.score === "gradient"
      ? "more of the feature moves the model to the patch answer"
      : "as active as it is in the clean prompt, the feature moves the model to the patch answer";
  return `A positive ${nameOf[run.score]}: ${more}. The score itself takes nothing from patch prompts.`;
}
