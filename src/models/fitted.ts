import { UserError } from "../errors.ts";
import { modelFromConfig } from "./architectures.ts";
import { type Checkpoint, mergeAdapter, notQuantised } from "./checkpoint.ts";
import type { Model } from "./model.ts";

/** A model and the checkpoint with its weights, each of which the other accounts for. */
export interface FittedModel {
  readonly model: Model;
  /** The weights under the names that the model asks for. */
  readonly checkpoint: Checkpoint;
  /** What whoever reads the numbers has to know. */
  readonly warnings: readonly string[];
}

/**
 * The model of a checkpoint: what its config.json describes, found in its weights, and nothing else there. An unembedding of its own beside
 * `tie_word_embeddings: true` is used, as transformers 5 does, if it differs from the embedding. Only headers are read, and such an unembedding.
 *
 * @param where the folder, for messages
 * @param allowedFields unknown fields of config.json to go on with
 * @throws UserError if the config is not understood, a weight is missing or of another shape or number format, or a tensor is none of the model's
 */
export async function fittedModel(
  checkpoint: Checkpoint,
  where = checkpoint.name,
  allowedFields: readonly string[] = [],
): Promise<FittedModel> {
  const tied = modelFromConfig(checkpoint.config, where, allowedFields);
  const warnings = (tied.ignoredFields ?? []).map(
    (field) => `${field} in config.json is not understood and was left out, as --allow_config_field says.`,
  );
  const [embedding, head] = tied.tokenTables as [string, string];
  const own = tied.parameters.has(head) ? undefined : checkpoint.spelling(head);
  if (own === undefined) return fitted(tied, checkpoint, [], warnings);
  // Where one of two names of the same numbers was saved, it may be either.
  if (!checkpoint.has(embedding)) return fitted(tied, renamed(checkpoint, embedding, head), [], warnings);
  if (await areEqual(checkpoint, embedding, head)) return fitted(tied, checkpoint, [own], warnings);
  const untied = modelFromConfig(withoutTie(checkpoint.config), where, allowedFields);
  const warning = `config.json ties the unembedding to the embedding, but ${own} differs from ${checkpoint.spelling(embedding)}: ${own} is used, as by transformers 5 (4 uses the embedding).`;
  return fitted(untied, checkpoint, [], [...warnings, warning]);
}

/** @param others tensors that may be there beside the parameters */
function fitted(
  model: Model,
  checkpoint: Checkpoint,
  others: readonly string[],
  warnings: readonly string[],
): FittedModel {
  const used = new Set([...others, ...[...model.parameters.keys()].map((name) => checkpoint.spelling(name) ?? "")]);
  const unknown = checkpoint.names.filter((name) => !used.has(name) && !isHarmless(name, model, checkpoint));
  const refuse = (name: string, advice: string): never => {
    throw new UserError(
      `weight ${name}: expected those that ${model.modelType} has by its config.json, got this one beside them in ${checkpoint.name}. ${advice}`,
    );
  };
  for (const [pattern, advice] of otherKinds) {
    const name = unknown.find((one) => pattern.test(one));
    if (name !== undefined) refuse(name, advice);
  }
  const missing = [...model.parameters.keys()].find((name) => !checkpoint.has(name));
  if (missing !== undefined) throw missingWeight(missing, unknown[0], model, checkpoint);
  for (const [name, shape] of model.parameters) checkpoint.check(name, shape);
  if (unknown[0] !== undefined)
    refuse(unknown[0], unknown[0].endsWith("bias") ? `${announceBias} ${saveAgain}` : saveAgain);
  return { model, checkpoint, warnings };
}

const announceBias = "If the model was trained with it, config.json has to say so (attention_bias, mlp_bias).";
const saveAgain =
  "If the model does not compute with it, save the model again with transformers (from_pretrained, save_pretrained), which leaves it out.";

/** Tensors of other kinds of checkpoints, and what to do with them. */
const otherKinds: readonly (readonly [RegExp, string])[] = [
  [
    /\.(qweight|qzeros|g_idx|scales|SCB|absmax|quant_map|nested_\w+|quant_state\..*|weight_(scale|scale_inv|packed|format|zero_point|shape|g_idx|quantizer\..*)|(input|k|v|kv)_scale)$/,
    notQuantised,
  ],
  [
    /(^|\.)(lora_\w+|base_layer|modules_to_save|adapter\w*|ia3_\w+|prompt_embeddings)(\.|$)|^base_model\./,
    mergeAdapter,
  ],
];

function missingWeight(name: string, other: string | undefined, model: Model, checkpoint: Checkpoint): UserError {
  const got = other === undefined ? "none" : `none, but ${other}`;
  const advice =
    name === model.tokenTables[1]
      ? "It was saved without its unembedding: save it again as a model of language (AutoModelForCausalLM of transformers)."
      : "The model is of another kind, or its files are not complete.";
  return new UserError(`weight ${name}: expected one of that name, got ${got} in ${checkpoint.name}. ${advice}`);
}

/** What follows from the config alone, or belongs to parts that text has no use for; transformers leaves it out without a word. */
function isHarmless(name: string, model: Model, checkpoint: Checkpoint): boolean {
  if (/(^|\.)(rotary_emb\.(inv_freq|cos_cached|sin_cached)|position_ids)$/.test(name)) return true;
  // Causal masks, [1,1,n,n], and what stood in them for −∞.
  if (model.modelType === "gpt2" || model.modelType === "gpt_neox") {
    if (/(^|\.)(attn|attention)\.masked_bias$/.test(name)) return true;
    if (/(^|\.)(attn|attention)\.bias$/.test(name)) return checkpoint.shape(name).length === 4;
  }
  return model.unused?.some((start) => name.startsWith(start)) ?? false;
}

/** A config.json that says that the unembedding is not the embedding. */
function withoutTie(config: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const { text_config: text } = config;
  return {
    ...config,
    tie_word_embeddings: false,
    ...(typeof text === "object" && text !== null ? { text_config: withoutTie({ ...text }) } : {}),
  };
}

/** The checkpoint with one weight under the name of another. */
function renamed(checkpoint: Checkpoint, name: string, to: string): Checkpoint {
  const of = (asked: string) => (asked === name ? to : asked);
  return {
    ...checkpoint,
    spelling: (asked) => checkpoint.spelling(of(asked)),
    has: (asked) => checkpoint.has(of(asked)),
    check: (asked, shape) => checkpoint.check(of(asked), shape),
    shape: (asked) => checkpoint.shape(of(asked)),
    tensor: (asked, shape) => checkpoint.tensor(of(asked), shape),
    rows: (asked, shape, indices) => checkpoint.rows(of(asked), shape, indices),
    storedType: (asked) => checkpoint.storedType(of(asked)),
    stored: (asked, shape, into) => checkpoint.stored(of(asked), shape, into),
  };
}

/** Numbers that are compared at once. */
const comparedAtOnce = 2 ** 20;

/** Whether two matrices are the same, read piece by piece as far as they are. */
async function areEqual(checkpoint: Checkpoint, one: string, other: string): Promise<boolean> {
  const shape = checkpoint.shape(one);
  const [R, C] = shape;
  const otherShape = checkpoint.shape(other);
  if (R === undefined || C === undefined || String(shape) !== String(otherShape)) return false;
  const step = Math.max(1, Math.floor(comparedAtOnce / Math.max(1, C)));
  for (let first = 0; first < R; first += step) {
    const indices = Int32Array.from({ length: Math.min(step, R - first) }, (_, i) => first + i);
    const [a, b] = [await checkpoint.rows(one, shape, indices), await checkpoint.rows(other, shape, indices)];
    if (a.some((x, i) => x !== b[i])) return false;
  }
  return true;
}
