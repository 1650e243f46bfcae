import type { JobOptions } from "../analysis/options.ts";
import type { Answered } from "../live/answers.ts";
import type { LiveAnswer, LiveAsks, LiveKind } from "../live/questions.ts";

/** What opens a model and its SAEs. */
export type ModelOptions = Pick<
  JobOptions,
  "model_name" | "allow_config_field" | "bos" | "sae_source" | "layers" | "sites" | "seed"
>;

/** A question to a live process. */
export interface LiveJob<K extends LiveKind = LiveKind> {
  readonly kind: K;
  readonly options: ModelOptions;
  readonly request: LiveAsks[K]["request"];
}

/** Its answer. */
export type LiveResult<K extends LiveKind = LiveKind> = Pick<LiveAnswer, "seconds" | "opening_seconds"> & Answered<K>;
