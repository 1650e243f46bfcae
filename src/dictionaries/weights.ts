import { sha256 } from "../bytes/sha256.ts";
import { checkFinite, type TensorFile } from "../bytes/tensor-file.ts";
import type { TorchFile } from "../bytes/torch.ts";
import { UserError } from "../errors.ts";
import type { SiteName } from "../site.ts";
import type { Activation, Dictionary, Encoder, EncoderPart, Normalization, TrainedOn } from "./dictionary.ts";

/** A matrix of a file, and whether it lies the other way round than the one that is meant. */
interface Matrix {
  readonly tensor: string;
  readonly transposed: boolean;
}

/** What the weights are called in a file. */
export interface WeightNames {
  /** W_enc[D,F] */
  readonly encoder: Matrix;
  /** W_dec[F,D] */
  readonly decoder: Matrix;
  /** b_enc[F]; absent if the activation brings its own. */
  readonly encoderBias?: string;
  /** b_dec[D] */
  readonly decoderBias: string;
}

/** Gemma Scope's and SAELens' names. */
export const plainNames = {
  encoder: { tensor: "W_enc", transposed: false },
  decoder: { tensor: "W_dec", transposed: false },
  encoderBias: "b_enc",
  decoderBias: "b_dec",
} as const satisfies WeightNames;

/** Matrices of two torch Linear layers, which are kept as [output, input]. */
export const linearMatrices = {
  encoder: { tensor: "encoder.weight", transposed: true },
  decoder: { tensor: "decoder.weight", transposed: true },
} as const;

/** An activation as files describe it, with the names of its tensors, all [F]. */
export type ActivationSource =
  | { readonly kind: "relu" }
  /** A tensor [F], a tensor with one number, or a number for all features; `isLogarithm`: of log θ. */
  | { readonly kind: "jumprelu"; readonly threshold: string | number; readonly isLogarithm?: boolean }
  | { readonly kind: "topk"; readonly k: number }
  /** 1[xW + gate bias > 0]·ReLU(x(W·e^r) + magnitude bias) */
  | { readonly kind: "gated"; readonly gateBias: string; readonly logScale: string; readonly magnitudeBias: string };

/** What a format says of its dictionary. */
export interface DictionarySource {
  readonly site: SiteName;
  readonly names: WeightNames;
  readonly activation: ActivationSource;
  /** Whether b_dec is subtracted from x before it is encoded. */
  readonly subtractDecoderBias: boolean;
  /** c of an SAE of c·x; folded, so that the dictionary is one of x. Default 1. */
  readonly inputScale?: number;
  /** Decoder rows are made unit vectors and codes multiplied by their former lengths (before TopK chooses). */
  readonly unitDecoder?: boolean;
  /** A tensor [F] of positive factors by which codes are multiplied; not with TopK. */
  readonly codeScale?: string;
  readonly normalization?: Normalization;
  /** Mean number of active features per token, where files tell; TopK's own k otherwise. */
  readonly meanActive?: number;
  /** What a reader of its effects has to know. */
  readonly warnings?: readonly string[];
  /** With centred weights it is an SAE of x less its mean over D, in models that ignore it; what it decodes then lacks that mean. */
  readonly trainedOn?: TrainedOn;
  readonly isSiteAssumed?: boolean;
  /** Names of what the file holds besides that was read, or is known not to change what the dictionary computes. All other names are refused. */
  readonly known?: readonly string[];
  /** Its identity; default the SHA-256 of the file. */
  readonly sha256?: () => Promise<string>;
}

/**
 * The dictionary in a file of weights; scales are folded into them.
 *
 * @throws UserError if a tensor is missing or its shape does not fit the others', or for a tensor or number that nobody knows
 */
export function dictionaryOf(file: TensorFile | TorchFile, described: DictionarySource): Dictionary {
  const { site, names, activation, inputScale: c = 1 } = described;
  const name = file.source.name;
  const meanActive = described.meanActive ?? (activation.kind === "topk" ? activation.k : undefined);
  refuseUnknown(file, described);
  const [D, F] = matrixShape(file, names.encoder);
  checkShapes(file, described, D, F);

  const read = async (tensor: string, transposed = false) => {
    const values = await file.read(tensor, { transposed });
    checkFinite(values, tensor, name);
    return values;
  };
  const rows = async (features: ArrayLike<number>) => {
    const { tensor, transposed } = names.decoder;
    const values = await file.rows(tensor, features, { transposed });
    checkFinite(values, tensor, name);
    return scaled(values, 1 / c);
  };
  const wholeDecoder = async () => scaled(await read(names.decoder.tensor, names.decoder.transposed), 1 / c);
  const toUnits = (values: Float32Array): Float32Array => {
    if (described.unitDecoder) {
      rowLengths(values, D).forEach((length, row) => {
        for (let d = 0; d < D; d++) values[row * D + d]! /= length;
      });
    }
    return values;
  };
  const decoderBias = async () => scaled(await read(names.decoderBias), 1 / c);
  /** What codes of features first ≤ i < end are multiplied by, or undefined for 1. */
  const codeScales = async (first: number, end: number): Promise<Float32Array | undefined> => {
    const directions = async () => (end - first === F ? wholeDecoder() : rows(range(first, end)));
    const scales = described.unitDecoder ? rowLengths(await directions(), D) : undefined;
    const factors = described.codeScale === undefined ? undefined : (await read(described.codeScale)).slice(first, end);
    if (factors?.some((factor) => factor <= 0)) {
      throw new UserError(
        `tensor ${described.codeScale}: expected positive factors, got others in ${name}. SAEs of this kind are not supported.`,
      );
    }
    return scales && factors ? scales.map((scale, i) => scale * factors[i]!) : (scales ?? factors);
  };

  /** All of the encoder of features first ≤ i < end but W_enc, and the factors by which its columns are multiplied, one after another. */
  const besidesWeight = async (first: number, end: number) => {
    const own = async (tensor: string) => (await read(tensor)).slice(first, end);
    const {
      bias,
      activation: acts,
      factors,
    } = await biasAndActivation(activation, names, end - first, own, read, name);
    const scales = await codeScales(first, end);
    if (scales) {
      for (let i = 0; i < bias.length; i++) bias[i]! *= scales[i]!;
      if (acts.kind === "jumprelu") for (let i = 0; i < bias.length; i++) acts.threshold[i]! *= scales[i]!;
      factors.push(scales);
    }
    const parts = {
      bias,
      activation: acts,
      ...(described.subtractDecoderBias ? { inputBias: await decoderBias() } : {}),
      ...(described.normalization ? { normalization: described.normalization } : {}),
    };
    return { parts, factors };
  };

  const dictionary: Dictionary = {
    name,
    reads: site,
    writes: site,
    inputWidth: D,
    outputWidth: D,
    featureCount: F,
    kind: activation.kind === "gated" ? "jumprelu" : activation.kind,
    ...(described.normalization && { normalization: described.normalization }),
    ...(meanActive !== undefined && { meanActive }),
    ...(described.warnings && { warnings: described.warnings }),
    ...(described.trainedOn && { trainedOn: described.trainedOn }),
    ...(described.isSiteAssumed && { isSiteAssumed: true }),
    async encoder() {
      const weight = scaled(await read(names.encoder.tensor, names.encoder.transposed), c);
      const { parts, factors } = await besidesWeight(0, F);
      for (const factor of factors) {
        for (let at = 0; at < weight.length; at++) weight[at]! *= factor[at % F]!;
      }
      return { weight, ...parts };
    },
    async encoderPart(first, end) {
      const { tensor, transposed } = names.encoder;
      const encoderRows = await file.rows(tensor, range(first, end), { transposed: !transposed });
      checkFinite(encoderRows, tensor, name);
      scaled(encoderRows, c);
      const { parts, factors } = await besidesWeight(first, end);
      for (const factor of factors) {
        for (let i = 0; i < factor.length; i++) scaled(encoderRows.subarray(i * D, (i + 1) * D), factor[i]!);
      }
      return { rows: encoderRows, ...parts };
    },
    decoder: async () => toUnits(await wholeDecoder()),
    decoderRows: async (features) => toUnits(await rows(features)),
    decoderBias,
    sha256: described.sha256 ?? (() => sha256(file.source)),
    close: () => file.source.close(),
  };
  return described.trainedOn?.centredWeights === undefined ? dictionary : dependent(dictionary, described);
}

/** A dictionary that was trained on centred weights: what it encodes from a model as it is depends on whether the model ignores the mean. */
function dependent(dictionary: Dictionary, { normalization }: DictionarySource): Dictionary {
  const centred: Dictionary = {
    ...dictionary,
    encoder: async () => centredEncoder(await dictionary.encoder()),
    encoderPart: async (first, end) => centredPart(await dictionary.encoderPart!(first, end)),
  };
  const { encoderPart: _, ...whole } = dictionary;
  return {
    ...whole,
    forModel(ignoresMean) {
      if (!ignoresMean) return dictionary;
      if (normalization !== "constant_norm_rescale") return centred;
      throw new UserError(
        `center_writing_weights: expected none with normalize_activations constant_norm_rescale, got both for ${dictionary.name}. SAEs of this kind are not supported.`,
      );
    },
    encoder() {
      throw new UserError(
        `center_writing_weights: expected a model, whose norms decide what it means, got none for ${dictionary.name}. Use what fitDictionary(dictionary, model) returns.`,
      );
    },
  };
}

/** A number of a file, as a tensor with one element or beside the tensors; undefined if there is none of that name. */
export async function numberIn(file: TensorFile | TorchFile, name: string): Promise<number | undefined> {
  if (file.tensors.get(name)?.shape.every((n) => n === 1)) return (await file.read(name))[0];
  const value = "values" in file ? file.values.get(name) : undefined;
  return typeof value === "number" ? value : undefined;
}

type Read = (tensor: string) => Promise<Float32Array>;

/**
 * b_enc and the activation of `width` features, and factors of their columns of W_enc. Gated codes, the magnitude e^r·z + b_mag where the gate is open, are
 * those of a JumpReLU whose weights are multiplied by e^r.
 *
 * @param own reads these features' part of a tensor [F]
 * @param read reads a whole tensor
 */
async function biasAndActivation(
  source: ActivationSource,
  names: WeightNames,
  width: number,
  own: Read,
  read: Read,
  file: string,
): Promise<{ bias: Float32Array; activation: Activation; factors: Float32Array[] }> {
  if (source.kind === "gated") {
    const [gate, logScale] = [await own(source.gateBias), await own(source.logScale)];
    const bias = await own(source.magnitudeBias);
    const scale = logScale.map(Math.exp);
    checkFinite(scale, `e^${source.logScale}`, file);
    // The gate z + b_gate > 0 is open where z·e^r + b_mag > b_mag − b_gate·e^r.
    const threshold = bias.map((magnitude, i) => Math.max(magnitude - gate[i]! * scale[i]!, 0));
    return { bias, activation: { kind: "jumprelu", threshold }, factors: [scale] };
  }
  const bias = names.encoderBias === undefined ? new Float32Array(width) : await own(names.encoderBias);
  if (source.kind !== "jumprelu") return { bias, activation: source, factors: [] };
  let given = await thresholdIn(source.threshold, own, read);
  if (source.isLogarithm) {
    given = given.map(Math.exp);
    checkFinite(given, `e^${source.threshold}`, file);
  }
  const all = given.length === width ? given : new Float32Array(width).fill(given[0]!);
  return { bias, activation: { kind: "jumprelu", threshold: all.map((θ) => Math.max(θ, 0)) }, factors: [] };
}

/** Thresholds of some features, or the one of all. */
async function thresholdIn(source: string | number, own: Read, read: Read): Promise<Float32Array> {
  if (typeof source === "number") return Float32Array.of(source);
  const all = await read(source);
  return all.length === 1 ? all : own(source);
}

/** first ≤ i < end */
function range(first: number, end: number): Int32Array {
  return Int32Array.from({ length: end - first }, (_, i) => first + i);
}

/**
 * The encoder of x that gives what `encoder` gives of x less its mean: each column of W[D,F] loses its own mean, and what it then no longer sees of
 * the input's bias [D], which is not centred, goes into b[F]. Of x normalised to mean 0 it changes nothing. W and b are changed in place.
 */
function centredEncoder(encoder: Encoder): Encoder {
  const { weight, bias, inputBias } = encoder;
  const [F, D] = [bias.length, weight.length / bias.length];
  const offset = inputBias ? inputBias.reduce((sum, b) => sum + b, 0) : 0;
  for (let i = 0; i < F; i++) {
    let sum = 0;
    for (let d = 0; d < D; d++) sum += weight[d * F + i]!;
    for (let d = 0; d < D; d++) weight[d * F + i]! -= sum / D;
    bias[i]! -= (offset * sum) / D;
  }
  return encoder;
}

/** `centredEncoder` for some features. */
function centredPart(part: EncoderPart): EncoderPart {
  const { rows, bias, inputBias } = part;
  const D = rows.length / bias.length;
  const offset = inputBias ? inputBias.reduce((sum, b) => sum + b, 0) : 0;
  for (let i = 0; i < bias.length; i++) {
    let sum = 0;
    for (let d = 0; d < D; d++) sum += rows[i * D + d]!;
    for (let d = 0; d < D; d++) rows[i * D + d]! -= sum / D;
    bias[i]! -= (offset * sum) / D;
  }
  return part;
}

function scaled(values: Float32Array, factor: number): Float32Array {
  if (factor !== 1) for (let i = 0; i < values.length; i++) values[i]! *= factor;
  return values;
}

/** Lengths of the rows of a matrix [rows, columns]; a row of zeros counts as 1 long, so that it can be divided by it. */
function rowLengths(matrix: Float32Array, columns: number): Float32Array {
  return Float32Array.from({ length: matrix.length / columns }, (_, row) => {
    let sum = 0;
    for (let d = 0; d < columns; d++) sum += matrix[row * columns + d]! ** 2;
    return Math.sqrt(sum) || 1;
  });
}

function matrixShape(file: TensorFile, { tensor, transposed }: Matrix): readonly [number, number] {
  checkFormat(file, tensor);
  const shape = file.tensors.get(tensor)?.shape;
  const [rows, columns] = transposed ? (shape?.toReversed() ?? []) : (shape ?? []);
  if (shape?.length !== 2 || !rows || !columns) {
    const order = transposed ? "[features, input width]" : "[input width, features]";
    throw new UserError(
      `SAE weight ${tensor}: expected a matrix ${order}, got ${shape ? `[${shape}]` : "none"} in ${file.source.name}. Check that it is an SAE.`,
    );
  }
  return [rows, columns];
}

/** Names by which a file says that it is a transcoder: it adds a map of its input, or has a bias of another site. */
const transcoderNames = ["W_skip", "affine_skip_connection", "b_dec_out"];

/** A tensor that nobody reads, or a number beside the tensors, would be left out of the formula without a word. */
function refuseUnknown(file: TensorFile | TorchFile, { names, activation, codeScale, known = [] }: DictionarySource) {
  const used = new Set([
    ...[names.encoder.tensor, names.decoder.tensor, names.encoderBias, names.decoderBias, codeScale, ...known],
    ...(activation.kind === "jumprelu" ? [activation.threshold] : []),
    ...(activation.kind === "gated" ? [activation.gateBias, activation.logScale, activation.magnitudeBias] : []),
  ]);
  const held = [...file.tensors.keys(), ...("values" in file ? file.values.keys() : [])].filter((n) => !used.has(n));
  const name = held.find((n) => transcoderNames.includes(n)) ?? held[0];
  if (name === undefined) return refuseMetadata(file);
  const shape = file.tensors.get(name)?.shape;
  const got = shape ? `one of shape [${shape}]` : "a value of that name";
  const advice = transcoderNames.includes(name)
    ? "Transcoders are not supported."
    : "It could change what the SAE computes; save the SAE without it if it does not.";
  throw new UserError(
    `tensor ${name}: expected none in an SAE of this kind (${activation.kind}), got ${got} in ${file.source.name}. ${advice}`,
  );
}

/** What a safetensors file's own __metadata__ may say of the formula or the place, which no format keeps there. */
const formulaFields =
  /^(k|.*(activation|act_fn|architecture|threshold|scal(e|ing)|normali[sz]|hook|apply_b_dec|sae_type|transcode|skip).*)$/i;

function refuseMetadata(file: TensorFile): void {
  const field = Object.keys(file.metadata ?? {}).find((name) => formulaFields.test(name));
  if (field === undefined) return;
  const shown = field.replace(/[\s\p{Cc}]+/gu, " ").slice(0, 100);
  throw new UserError(
    `__metadata__.${shown}: expected settings beside the weights, got them within ${file.source.name}. They are not read from there, and could change what the SAE computes; save the SAE without them if they do not.`,
  );
}

function checkShapes(file: TensorFile, { names, activation, codeScale }: DictionarySource, D: number, F: number): void {
  checkShape(file, names.decoder.tensor, names.decoder.transposed ? [D, F] : [F, D]);
  if (names.encoderBias !== undefined) checkShape(file, names.encoderBias, [F]);
  checkShape(file, names.decoderBias, [D]);
  if (codeScale !== undefined) checkShape(file, codeScale, [F]);
  if (activation.kind === "topk" && !(Number.isInteger(activation.k) && activation.k >= 1 && activation.k <= F)) {
    throw new UserError(`k: expected 1 to ${F}, got ${activation.k} in ${file.source.name}. Check the SAE's settings.`);
  }
  if (activation.kind === "gated") {
    for (const tensor of [activation.gateBias, activation.logScale, activation.magnitudeBias]) {
      checkShape(file, tensor, [F]);
    }
  }
  if (activation.kind === "jumprelu" && typeof activation.threshold === "string") {
    const one = file.tensors.get(activation.threshold)?.shape.every((n) => n === 1) ?? false;
    if (!one) checkShape(file, activation.threshold, [F]);
  }
}

/** Number formats that no weight has by itself: what holds them is quantised. */
const wholeNumbers = new Set(["I64", "I32", "I16", "I8", "U8", "BOOL"]);

function checkFormat(file: TensorFile, tensor: string): void {
  const dtype = file.tensors.get(tensor)?.dtype;
  if (dtype === undefined || !wholeNumbers.has(dtype)) return;
  throw new UserError(
    `number format of SAE weight ${tensor}: expected floating point, got ${dtype} in ${file.source.name}. The weights are quantised: use the SAE that they were made from.`,
  );
}

function checkShape(file: TensorFile, tensor: string, expected: readonly number[]): void {
  checkFormat(file, tensor);
  const shape = file.tensors.get(tensor)?.shape;
  if (shape?.length !== expected.length || shape.some((n, i) => n !== expected[i])) {
    const got = shape ? `[${shape}]` : "none";
    throw new UserError(
      `SAE weight ${tensor}: expected shape [${expected}], got ${got} in ${file.source.name}. Check that the file is complete.`,
    );
  }
}
