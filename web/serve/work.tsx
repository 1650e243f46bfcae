import { useEffect, useState } from "preact/hooks";
import { percent, seconds } from "../../src/report/format.ts";
import type { LiveState, RunState } from "../../src/serve/api.ts";
import { Choice, Select } from "../controls.tsx";
import { Waiting } from "../live/waiting.tsx";
import { ask, useAnswer } from "./client.ts";
import { modelText } from "./models.ts";
import { placeLink } from "./place.ts";

const tasks = ["agreement", "determiner", "pronoun"] as const;
const methods = ["analytic", "secant"] as const;

/** Milliseconds between looks at runs that are under way. */
const pause = 500;

/** Runs that are started here, and how far they are. */
export function WorkView() {
  const state = useAnswer("GET live", {});
  const [runs, setRuns] = useState<readonly RunState[]>([]);
  const [error, setError] = useState<string | null>(null);
  const look = () =>
    ask("GET work", {}).then(
      (answer) => setRuns(answer.runs),
      (problem: Error) => setError(problem.message),
    );
  const isBusy = runs.some(({ status }) => status === "running");
  useEffect(() => {
    void look();
    if (!isBusy) return;
    const timer = setInterval(() => void look(), pause);
    return () => clearInterval(timer);
  }, [isBusy]);
  const act = (asked: Promise<unknown>) => {
    setError(null);
    asked.then(look, (problem: Error) => setError(problem.message));
  };
  return (
    <section class="section" aria-labelledby="work-title">
      <h1 id="work-title">Work</h1>
      <p>A run is made in a process of its own, in a new folder beside the others; one at a time.</p>
      <Waiting asked={state} what="the models" />
      {error !== null && (
        <p class="problem" role="alert">
          {error}
        </p>
      )}
      {state.answer && (
        <StartForm state={state.answer} busy={isBusy} onStart={(request) => act(ask("POST work/start", request))} />
      )}
      {runs.map((run) => (
        <Run key={run.id} run={run} onStop={() => act(ask("POST work/stop", { id: run.id }))} />
      ))}
    </section>
  );
}

function StartForm(props: {
  state: LiveState;
  busy: boolean;
  onStart: (request: Parameters<typeof ask<"POST work/start">>[1]) => void;
}) {
  const { state, busy, onStart } = props;
  const [name, setName] = useState("my-run");
  const [model, setModel] = useState(state.models[0]!.id);
  const [task, setTask] = useState<(typeof tasks)[number]>("agreement");
  const [method, setMethod] = useState<(typeof methods)[number]>("analytic");
  const [count, setCount] = useState(8);
  return (
    <>
      <div class="controls">
        <label>
          Folder <input value={name} onInput={(event) => setName(event.currentTarget.value)} spellcheck={false} />
        </label>
        <Select
          label="Model"
          values={state.models.map(({ id }) => id)}
          value={model}
          show={(id) => modelText(state, id)}
          onChange={setModel}
        />
        <Choice label="Task" values={tasks} value={task} onChange={setTask} />
        <Choice label="Method" values={methods} value={method} onChange={setMethod} />
        <label>
          Pairs per split and case{" "}
          <input
            type="number"
            min={1}
            max={10_000}
            value={count}
            onInput={(event) => setCount(Number(event.currentTarget.value))}
          />
        </label>
      </div>
      <p>
        <button
          type="button"
          class="go"
          disabled={busy || name === ""}
          onClick={() => onStart({ name, model, method, of: { task, num_examples: count } })}
        >
          Start the run
        </button>
      </p>
    </>
  );
}

function Run({ run, onStop }: { run: RunState; onStop: () => void }) {
  const { name, status, phase, share, lines, error } = run;
  return (
    <article class="job" aria-label={`The run ${name}`}>
      <h2>{name}</h2>
      <p role="status">
        {status === "running" ? `${phase}, ${percent(share)}` : status}, {seconds(run.seconds)}
      </p>
      {status === "running" && (
        <>
          <progress aria-label={phase} max={1} value={share} />{" "}
          <button type="button" onClick={onStop}>
            Stop
          </button>
        </>
      )}
      {status === "failed" && <p class="problem">{error}</p>}
      {status === "finished" && (
        <p>
          <a href={`/files/${encodeURIComponent(name)}/report.html`}>Its report</a>,{" "}
          <a href={placeLink("rows", name)}>its effects</a>
        </p>
      )}
      {lines.map((line) => (
        <p class="note" key={line}>
          {line}
        </p>
      ))}
    </article>
  );
}
