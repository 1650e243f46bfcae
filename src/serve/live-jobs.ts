import type { LiveFound } from "../analysis/live.ts";
import type { JobOptions } from "../analysis/options.ts";
import type { ReportCircuit } from "../report/circuit.ts";
import type { CircuitRequest, EffectsRequest, Intervened, InterveneRequest, LiveAnswer, OpenedModel } from "./api.ts";

/** What opens a model and its SAEs. */
export type ModelOptions = Pick<
  JobOptions,
  "model_name" | "allow_config_field" | "bos" | "sae_source" | "layers" | "sites" | "seed"
>;

/** What a live process can be asked, by kind. */
export interface LiveAsks {
  readonly effects: { request: EffectsRequest; found: LiveFound };
  readonly intervene: { request: InterveneRequest; found: Intervened };
  readonly circuit: { request: CircuitRequest; found: { readonly circuit: ReportCircuit } };
}

export type LiveKind = keyof LiveAsks;

/** A question to a live process. */
export interface LiveJob<K extends LiveKind = LiveKind> {
  readonly kind: K;
  readonly options: ModelOptions;
  readonly request: LiveAsks[K]["request"];
}

/** Its answer. What opened the model is told without its choice, which the process does not know. */
export type LiveResult<K extends LiveKind = LiveKind> = Omit<LiveAnswer, "id" | "model"> & {
  readonly opened: Omit<OpenedModel, "id" | "model" | "saes">;
  readonly found: LiveAsks[K]["found"];
};
