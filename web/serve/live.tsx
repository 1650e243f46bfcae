import { useState } from "preact/hooks";
import type { InterveneRequest, LiveAnswer, LiveSubject, TypedPair } from "../../src/live/questions.ts";
import { number, seconds } from "../../src/report/format.ts";
import type { EndpointName, LiveState, RequestOf, ResponseOf } from "../../src/serve/api.ts";
import { Choice, Select } from "../controls.tsx";
import { CircuitSection } from "../sections/circuit.tsx";
import { type Asked, ask, useAnswer } from "./client.ts";
import { Changes, type Chosen, InterventionFields } from "./intervention.tsx";
import { Keep } from "./keep.tsx";
import { FoundEffects } from "./live-effects.tsx";
import { LocalSelection } from "./local-selection.tsx";
import { modelText } from "./models.ts";
import { PairFields, typedPairs } from "./pair-fields.tsx";
import { Waiting } from "./waiting.tsx";

const nothing = { answer: null, error: null, busy: false };
const methods = ["secant", "analytic"] as const;

/** An answer beside what was asked: what is typed may have changed since. */
type Replied<N extends EndpointName> = ResponseOf<N> & { readonly request: RequestOf<N> };

/** A question that is asked when a button is pressed. */
function useQuestion<N extends EndpointName>(name: N): [Asked<Replied<N>>, (request: RequestOf<N>) => void] {
  const [asked, setAsked] = useState<Asked<Replied<N>>>(nothing);
  const put = (request: RequestOf<N>) => {
    setAsked({ answer: null, error: null, busy: true });
    ask(name, request).then(
      (answer) => setAsked({ answer: { ...answer, request }, error: null, busy: false }),
      (error: Error) => setAsked({ answer: null, error: error.message, busy: false }),
    );
  };
  return [asked, put];
}

/** Live work: pairs that are typed, their effects, what changed features do, their circuit. */
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
      {state.answer && <Bench state={state.answer} />}
    </section>
  );
}

function Bench({ state }: { state: LiveState }) {
  const [model, setModel] = useState(state.open?.id ?? state.models[0]!.id);
  const [pair, setPair] = useState<TypedPair>({
    clean: "The dogs near the house",
    patch: "The dog near the house",
    clean_answer: "are",
    patch_answer: "is",
  });
  const [more, setMore] = useState("");
  const [method, setMethod] = useState<(typeof methods)[number]>("secant");
  const [chosen, setChosen] = useState<readonly Chosen[]>([]);
  const [size, setSize] = useState(40);
  const [effects, askEffects] = useQuestion("POST live/effects");
  const [changed, askChanged] = useQuestion("POST live/intervene");
  const [circuit, askCircuit] = useQuestion("POST live/circuit");
  const pairs = typedPairs(pair, more);
  const subject = { model, pairs };
  const busy = effects.busy || changed.busy || circuit.busy;
  const take = (site: string, feature: number) => {
    if (!chosen.some((one) => one.site === site && one.feature === feature))
      setChosen([...chosen, { site, feature, way: "ablate", value: "0" }]);
  };
  return (
    <>
      <div class="controls">
        <Select
          label="Model"
          values={state.models.map(({ id }) => id)}
          value={model}
          show={(id) => modelText(state, id)}
          onChange={setModel}
        />
        <Choice label="Method" values={methods} value={method} onChange={setMethod} />
      </div>
      <PairFields pair={pair} more={more} onPair={setPair} onMore={setMore} />
      <p>
        <button type="button" class="go" disabled={busy} onClick={() => askEffects({ ...subject, method, top: 20 })}>
          Find the features of {pairs.length === 1 ? "this pair" : `these ${pairs.length} pairs`}
        </button>
      </p>
      <Answered asked={effects} />
      {effects.answer && (
        <>
          <FoundEffects found={effects.answer} onFeature={take} />
          <Keep key={effects.answer.id} id={effects.answer.id} run={effects.answer.request} />
        </>
      )}

      <h2>Change features</h2>
      <p>Choose features above, or name one. They are changed at every token of the clean prompts; BOS stays.</p>
      <InterventionFields chosen={chosen} onChange={setChosen} />
      <p>
        <button
          type="button"
          class="go"
          disabled={busy || chosen.length === 0}
          onClick={() => askChanged({ ...subject, ...asTexts(chosen) })}
        >
          Change {chosen.length === 1 ? "this feature" : `these ${chosen.length} features`}
        </button>
      </p>
      <Answered asked={changed} />
      {changed.answer && (
        <>
          <Changes found={changed.answer} pairs={usedPairs(changed.answer)} />
          <Keep key={changed.answer.id} id={changed.answer.id} />
        </>
      )}

      <h2>Circuit</h2>
      <p>
        <label>
          Features{" "}
          <input
            type="number"
            min={1}
            max={500}
            value={size}
            onInput={(event) => setSize(Number(event.currentTarget.value))}
          />
        </label>{" "}
        <button type="button" class="go" disabled={busy} onClick={() => askCircuit({ ...subject, size })}>
          Find the circuit
        </button>
      </p>
      <Answered asked={circuit} />
      {circuit.answer && (
        <>
          <Keep key={circuit.answer.id} id={circuit.answer.id} />
          <LocalSelection key={`circuit ${circuit.answer.id}`}>
            <CircuitSection circuit={circuit.answer.circuit} cards={false} />
          </LocalSelection>
        </>
      )}
    </>
  );
}

/** The pairs that an answer is about, in its order. */
function usedPairs({ request, rejected }: LiveAnswer & { readonly request: LiveSubject }): readonly TypedPair[] {
  return request.pairs.filter((_, i) => !rejected.some(({ pair }) => pair === i));
}

/** Features as the command line names them. */
function asTexts(chosen: readonly Chosen[]): Pick<InterveneRequest, "ablate" | "scale" | "set"> {
  const of = (way: Chosen["way"]) =>
    chosen
      .filter((one) => one.way === way)
      .map(({ site, feature, value }) => `${site}/${feature}${way === "ablate" ? "" : `=${value}`}`);
  return { ablate: of("ablate"), scale: of("scale"), set: of("set") };
}

/** How an answer came about, or that it is on its way. */
function Answered({ asked }: { asked: Asked<LiveAnswer> }) {
  const { answer, busy } = asked;
  if (!answer)
    return busy ? (
      <p class="note" role="status">
        Computing …
      </p>
    ) : (
      <Waiting asked={asked} what="" />
    );
  const { rejected, notes, model, opening_seconds: opening } = answer;
  const megabytes = (bytes: number) => `${number(bytes / 1e6)} MB`;
  return (
    <>
      <p class="note" role="status">
        {seconds(answer.seconds)}
        {opening > 0.05 && `, of which ${seconds(opening)} to open the model`}; in memory{" "}
        {megabytes(model.bytes.weights)} of weights, {megabytes(model.bytes.saes)} of SAEs,{" "}
        {megabytes(model.bytes.resident!)} in all.
      </p>
      {[
        ...notes,
        ...rejected.map(({ pair, reason }) => `Pair ${pair + 1} is left out: ${reason}.`),
        ...model.warnings,
      ].map((line) => (
        <p class="note" key={line}>
          {line}
        </p>
      ))}
    </>
  );
}
