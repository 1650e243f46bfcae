import { useState } from "preact/hooks";
import type { LiveState } from "../../src/serve/api.ts";
import { Select } from "../controls.tsx";
import { Bench } from "../live/bench.tsx";
import type { AskLive } from "../live/question.ts";
import { Waiting } from "../live/waiting.tsx";
import { ask, useAnswer } from "./client.ts";
import { Keep } from "./keep.tsx";
import { modelText } from "./models.ts";

const askServer: AskLive = (kind, request) => ask(`POST live/${kind}`, request as never) as never;

/** Live work on pairs that are typed, which the server does. */
export function LiveView() {
  const state = useAnswer("GET live", {});
  return (
    <section class="section" aria-labelledby="live-title">
      <h1 id="live-title">Live</h1>
      <p>
        Type a pair of prompts with its two answers. The model and its SAEs stay open between questions. Effects are
        changes of m = logit(patch answer) − logit(clean answer), in logits: a positive one moves the model to the patch
        answer.
      </p>
      <Waiting asked={state} what="the models" />
      {state.answer && <ServerBench state={state.answer} />}
    </section>
  );
}

function ServerBench({ state }: { state: LiveState }) {
  const [model, setModel] = useState(state.open?.id ?? state.models[0]!.id);
  return (
    <Bench
      model={model}
      ask={askServer}
      choices={
        <Select
          label="Model"
          values={state.models.map(({ id }) => id)}
          value={model}
          show={(id) => modelText(state, id)}
          onChange={setModel}
        />
      }
      keep={(id, request) => <Keep key={id} id={id} {...(request && { run: request })} />}
    />
  );
}
