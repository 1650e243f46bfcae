import { sha256OfText } from "../bytes/sha256.ts";
import type { MethodName, Rule } from "../effects/method.ts";
import type { BosChoice } from "../prompts/bos.ts";
import type { AnswerTokens } from "../prompts/check.ts";
import type { TaskName } from "../prompts/english/tasks.ts";

/** What the flags of a run say, one field per flag; null where a flag was not given and the default depends on the model or the task. */
export interface JobOptions {
  readonly model_name: string;
  /** Fields of config.json that are not understood and left out; missing where there are none. */
  readonly allow_config_field?: string[];
  /** Missing where the tokenizer decides. */
  readonly bos?: Exclude<BosChoice, "auto">;
  readonly sae_source: string | null;
  readonly layers: string | null;
  readonly sites: string | null;
  readonly num_examples: number | null;
  readonly batch_size: number | null;
  /** Null where `pairs` or `clean` are given, which replace it. */
  readonly task: string | null;
  readonly pairs: string | null;
  /** One pair as it was typed, in place of the task. The patch prompt may be missing with the scores that need none. */
  readonly clean?: string | null;
  readonly patch?: string | null;
  /** The clean and the patch answer, a comma between them. */
  readonly answers?: string | null;
  /** Default: one. */
  readonly answer_tokens?: AnswerTokens;
  readonly seed: number;
  readonly method: MethodName;
  /** Of integrated methods alone. */
  readonly steps?: number;
  readonly rule?: Rule;
  readonly score: "effect" | "gradient" | "gradient-activation";
  readonly precision: "float32" | "float64";
  readonly device: string;
  /** How far the device's numbers may be from the CPU's, as a share of the largest; missing where `parityTolerance` holds. Changes no result. */
  readonly device_tolerance?: number;
  readonly top: number;
  readonly keep: "all" | "correct";
  readonly weights: WeightsChoice;
  /** A folder of `sfc contexts`; missing for what lies beside the SAEs. */
  readonly contexts?: string;
}

/** Where weights are kept: all in memory, or in their files, read block by block; `auto` decides by their size. */
export type WeightsChoice = "auto" | "held" | "streamed";

/** The model that comes with the package. */
export const embeddedModel = "demo";

/** Pairs per split and case of the tasks that are made here. */
export const defaultExamples = 32;

/** How far a device's numbers may be from the CPU's in float64, as a share of the largest, where nothing else is asked. */
export const parityTolerance = 1e-3;

/** Pairs from which on work with all of them is a phase of its own, which shows its progress. */
export const manyPairs = 2000;

/** The task where none is named. */
export const defaultTask: TaskName = "agreement";

/** The part of the options that says what is analysed: model, SAEs, pairs, and on what it is computed. */
export type WorkOptions = Pick<
  JobOptions,
  | "model_name"
  | "allow_config_field"
  | "bos"
  | "sae_source"
  | "layers"
  | "sites"
  | "num_examples"
  | "task"
  | "pairs"
  | "clean"
  | "patch"
  | "answers"
  | "answer_tokens"
  | "seed"
  | "precision"
  | "device"
  | "device_tolerance"
>;

/** What the flags of a comparison say, one field per flag. */
export interface CompareOptions extends WorkOptions {
  readonly methods: string;
  /** Of integrated methods whose names carry none. */
  readonly steps: number;
  readonly rule: Rule;
  /** Features per site that `exact` patches; null: all. */
  readonly top: number | null;
  readonly by_pair: boolean;
  readonly weights: "held" | "streamed";
}

/** The task, the name of the file of pairs without its ending, or a name of its own for the pair that was typed. */
export function taskName({
  task,
  pairs,
  clean,
  patch,
  answers,
}: Pick<WorkOptions, "task" | "pairs" | "clean" | "patch" | "answers">): string {
  if (clean != null) return `prompt-${sha256OfText(JSON.stringify([clean, patch, answers])).slice(0, 8)}`;
  return pairs === null ? (task ?? defaultTask) : fileName(pairs).replace(/\.[a-z]+$/, "");
}

/** What follows the last separator of a path. */
const fileName = (path: string) => path.slice(Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\")) + 1);
