import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { firstMethod, firstPair } from "../../src/live/first.ts";
import type { EffectsRequest, InterveneRequest, LiveAnswer, LiveSubject, TypedPair } from "../../src/live/questions.ts";
import { number, seconds } from "../../src/report/format.ts";
import { Choice } from "../controls.tsx";
import { CircuitSection } from "../sections/circuit.tsx";
import { FoundEffects } from "./effects.tsx";
import { Changes, type Chosen, InterventionFields } from "./intervention.tsx";
import { LocalSelection } from "./local-selection.tsx";
import { PairFields, typedPairs } from "./pair-fields.tsx";
import { type Asked, type AskLive, useQuestion } from "./question.ts";
import { Waiting } from "./waiting.tsx";

const methods = ["secant", "analytic"] as const;

/** Pairs that are typed, their effects, what changed features do, their circuit. */
export function Bench(props: {
  /** The id of the model. */
  model: string;
  ask: AskLive;
  /** Choices in front of the one of the method. */
  choices?: ComponentChildren;
  /** What can be done with the answer of this id; those with effects come with their request. */
  keep?: (id: string, request?: EffectsRequest) => ComponentChildren;
}) {
  const { model, ask, choices, keep } = props;
  const [pair, setPair] = useState<TypedPair>(firstPair);
  const [more, setMore] = useState("");
  const [method, setMethod] = useState<(typeof methods)[number]>(firstMethod);
  const [chosen, setChosen] = useState<readonly Chosen[]>([]);
  const [size, setSize] = useState(40);
  const [effects, askEffects] = useQuestion(ask, "effects");
  const [changed, askChanged] = useQuestion(ask, "intervene");
  const [circuit, askCircuit] = useQuestion(ask, "circuit");
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
        {choices}
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
          {keep?.(effects.answer.id, effects.answer.request)}
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
          {keep?.(changed.answer.id)}
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
          {keep?.(circuit.answer.id)}
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
        {megabytes(model.bytes.weights)} of weights, {megabytes(model.bytes.saes)} of SAEs
        {model.bytes.resident !== undefined && `, ${megabytes(model.bytes.resident)} in all`}.
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
