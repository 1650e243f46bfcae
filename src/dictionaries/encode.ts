import { threadCount } from "#session";
import { type Loops, openLoops } from "../graph/loops/loops.ts";
import { putOnDevice } from "../graph/on-device.ts";
import { compile, float32, releaseAll, type Session, type SessionOptions, type Value } from "../graph/session.ts";
import type { Dim } from "../graph/shape.ts";
import { input, numbers, scalar, type Tensor, type TypedData, where } from "../graph/tensor.ts";
import { steps, type Watch } from "../progress.ts";
import type { Activation, Dictionary, Encoder, EncoderPart, Normalization } from "./dictionary.ts";
import { boundsAreFast, expectedGain, mostCandidates, openWide, WideEncoder, type WideSessions } from "./wide.ts";

/** Codes with their zeros left out: row r has features[offsets[r]..offsets[r+1]) in ascending order, with their values. */
export interface SparseCodes {
  readonly rows: number;
  readonly offsets: Int32Array;
  readonly features: Int32Array;
  readonly values: Float32Array | Float64Array;
}

/** The codes of one row: features in ascending order, with their values. */
export interface CodeRow {
  readonly features: Int32Array;
  readonly values: Float32Array | Float64Array;
}

/** The active features of one row and their codes; views, no copies. */
export function codeRow({ offsets, features, values }: SparseCodes, row: number): CodeRow {
  const [from, to] = [offsets[row]!, offsets[row + 1]!];
  return { features: features.subarray(from, to), values: values.subarray(from, to) };
}

/** The entries of one dense row [F] that are not 0. */
export function sparseRow(dense: Float32Array | Float64Array): CodeRow {
  const features: number[] = [];
  for (let i = 0; i < dense.length; i++) if (dense[i] !== 0) features.push(i);
  return {
    features: Int32Array.from(features),
    values: dense.slice(0, features.length).map((_, i) => dense[features[i]!]!),
  };
}

/** Weights of an encoder as tensors of a graph. */
export interface EncoderTensors {
  readonly weight: Tensor;
  readonly bias: Tensor;
  readonly inputBias?: Tensor | undefined;
  readonly threshold?: Tensor | undefined;
}

/** What an encoder computes, apart from its weights: encoders with the same rule and shapes share a graph. */
export interface CodeRule {
  readonly kind: Activation["kind"];
  /** How many codes TopK keeps; 0 for the others. */
  readonly k: number;
  readonly normalization: Normalization | "none";
}

/** The part of an encoder that a graph of codes depends on, besides its sizes and weights. */
export function codeRule({ activation, normalization }: Omit<Encoder, "weight">): CodeRule {
  const k = activation.kind === "topk" ? activation.k : 0;
  return { kind: activation.kind, k, normalization: normalization ?? "none" };
}

/** Traced codes: x[N,D] → f[N,F], as `Encoder` defines them. */
export function traceCodes(x: Tensor, w: EncoderTensors, { kind, k, normalization }: CodeRule): Tensor {
  if (normalization !== "none") {
    const { normalized, scale } = traceNormalization(x, normalization);
    return traceCodes(normalized, w, { kind, k, normalization: "none" }).mul(scale);
  }
  const z = tracePreActivations(x, w);
  const zero = scalar(0, z.dtype);
  switch (kind) {
    case "relu":
      return z.relu();
    case "jumprelu":
      return where(z.greater(w.threshold!), z, zero);
    case "topk":
      return where(z.greaterOrEqual(z.kthLargest(k)), z.relu(), zero);
    case "identity":
      return z;
  }
}

/** x[N,D] → z[N,F] */
function tracePreActivations(x: Tensor, { weight, bias, inputBias }: EncoderTensors): Tensor {
  return (inputBias ? x.sub(inputBias) : x).matmul(weight).add(bias);
}

/** x[N,D] → what is encoded, [N,D], and σ[N,1]. */
function traceNormalization(x: Tensor, kind: Normalization): { normalized: Tensor; scale: Tensor } {
  if (kind === "constant_norm_rescale") {
    const scale = x.mul(x).mean(-1).sqrt();
    return { normalized: x.div(scale), scale };
  }
  const D = x.shape.at(-1) as number;
  const centred = x.sub(x.mean(-1));
  const scale = centred
    .mul(centred)
    .sum(-1)
    .mul(1 / (D - 1))
    .sqrt();
  return { normalized: centred.div(scale.add(1e-5)), scale };
}

/** What an encoder's graph looks like, its weights left out. */
export interface EncoderForm {
  readonly rule: CodeRule;
  readonly hasInputBias: boolean;
}

/** What encoders have in common that share a graph: the rule, and whether they have an input bias. */
export function encoderForm(encoder: Encoder): EncoderForm {
  return { rule: codeRule(encoder), hasInputBias: encoder.inputBias !== undefined };
}

/** An encoder's weights as inputs of a graph; `named` tells those of several encoders apart. `encoderValues` has their values by plain names. */
export function encoderTensors(
  { rule, hasInputBias }: EncoderForm,
  D: number,
  F: Dim,
  dtype: "float32" | "float64",
  named: (part: string) => string = (part) => part,
): EncoderTensors {
  return {
    weight: input(named("weight"), dtype, [D, F]),
    bias: input(named("bias"), dtype, [F]),
    inputBias: hasInputBias ? input(named("input_bias"), dtype, [D]) : undefined,
    threshold: rule.kind === "jumprelu" ? input(named("threshold"), dtype, [F]) : undefined,
  };
}

/** The values of `encoderTensors`. */
export function encoderValues(
  { weight, bias, inputBias, activation }: Encoder,
  dtype: "float32" | "float64",
): Record<string, Value> {
  const F = bias.length;
  const value = (data: Float32Array, ...shape: number[]): Value => ({ dtype, data: numbersOf(data, dtype), shape });
  return {
    weight: value(weight, weight.length / F, F),
    bias: value(bias, F),
    ...(inputBias && { input_bias: value(inputBias, inputBias.length) }),
    ...(activation.kind === "jumprelu" && { threshold: value(activation.threshold, F) }),
  };
}

/** Float32 numbers in the type that is computed in; not copied where they have it. */
function numbersOf(data: Float32Array | Float64Array, dtype: "float32" | "float64"): TypedData {
  return dtype === "float64" ? numbers(data, dtype) : data;
}

/** Encodes with the dictionaries of a run, one at a time; dictionaries of one shape share a session. */
export interface CodeReader {
  /** x[rows,D] at the dictionary's site → its codes. @throws StoppedError if asked to stop */
  encode(dictionary: Dictionary, x: Float32Array | Float64Array, watch?: Watch): Promise<SparseCodes>;
  /** Ends its sessions. */
  release(): Promise<void>;
}

/** Rows encoded at once: enough for the product to be efficient, few enough that the dense codes stay small. */
export const chunkRows = 256;

/** Where codes are found by bounds (wide.ts) instead of by a dense product; on the CPU and in float32 alone, and to the same bits. */
export interface WideLimits {
  /** From so many bytes of W_enc on, for any number of rows: weights of a part are in memory at a time. */
  readonly bytes: number;
  /** Where bounds should be so many times as fast, by `expectedGain`; given up where they turn out to be slower. */
  readonly gain: number;
  /** For tests: features at a time, the largest whole number of a weight, and the share of codes from which on the dense product is faster. */
  readonly block?: number;
  readonly most?: number;
  readonly mostCandidates?: number;
}

export const wideLimits: WideLimits = { bytes: 2 ** 31, gain: 1.3 };

type Sizes = Pick<Dictionary, "kind" | "featureCount" | "inputWidth" | "meanActive">;

/** Whether codes are found by bounds for memory's sake, so that the encoder is never in memory as a whole. */
export function isWide({ kind, featureCount: F, inputWidth: D }: Sizes, { bytes } = wideLimits): boolean {
  return kind !== "identity" && 4 * D * F >= bytes;
}

/** Whether it is tried if they are found faster by bounds. */
export function mayPay(dictionary: Sizes, rows: number, threads: number, { gain } = wideLimits): boolean {
  return dictionary.kind !== "identity" && expectedGain(dictionary, rows, threads) >= gain;
}

/** How codes are computed. */
export interface CodeOptions extends SessionOptions {
  /** float64 for checks; codes then come as float64. */
  readonly dtype?: "float32" | "float64";
  readonly wide?: WideLimits;
}

/** Computes codes of dictionaries, one dictionary after another; its sessions are kept until `release`. */
export function codeReader(options: CodeOptions = {}): CodeReader {
  const { dtype = "float32", wide = wideLimits } = options;
  const sessions = new Map<string, Promise<Session<string, string>>>();
  const loops = openLoops();
  // One at a time: all of them work in the memory of the loops.
  let last: Promise<unknown> = Promise.resolve();
  let wideSessions: Promise<WideSessions> | undefined;
  /** Dictionaries of which too many codes may be active for bounds to be faster. */
  const slow = new WeakSet<Dictionary>();
  const sessionOf = <O extends string>(key: string, make: () => Promise<Session<string, O>>) => {
    const session = sessions.get(key) ?? make();
    sessions.set(key, session);
    return session as Promise<Session<string, O>>;
  };

  const openedWide = () => {
    wideSessions ??= openWide(options);
    return wideSessions;
  };

  /** x as the encoder's product takes it, and σ of each row where it is normalised. */
  const inputsOf = async (part: EncoderPart, x: Float32Array, D: number) => {
    const { inputBias } = part;
    const { normalization } = codeRule(part);
    if (normalization === "none") {
      if (!inputBias) return { x };
      return { x: x.map((value, at) => value - inputBias[at % D]!) };
    }
    const session = await sessionOf(JSON.stringify(["normalized", normalization, inputBias !== undefined, D]), () => {
      const { normalized, scale } = traceNormalization(input("x", "float32", ["N", D]), normalization);
      return compile(
        { inputs: inputBias ? normalized.sub(input("input_bias", "float32", [D])) : normalized, scale },
        options,
      );
    });
    const bias = inputBias && { input_bias: float32(inputBias, D) };
    const out = await session.run({ x: float32(x, x.length / D, D), ...bias });
    return { x: out.inputs.data as Float32Array, scale: out.scale.data as Float32Array };
  };

  const encodeWide = async (
    dictionary: Dictionary,
    x: Float32Array,
    mostCandidates: number,
    watch: Watch,
  ): Promise<SparseCodes | undefined> => {
    const D = dictionary.inputWidth;
    const rows = x.length / D;
    let scales: Float32Array | undefined;
    const encoder = new WideEncoder(loops, await openedWide(), wide.block, wide.most);
    const part = async (one: EncoderPart) => {
      const { x: inputs, scale } = await inputsOf(one, x, D);
      scales = scale;
      return inputs;
    };
    const found = await encoder.find(dictionary, rows, part, { ...watch, mostCandidates });
    if (!found) return undefined;
    const sparse = new SparseBuilder(rows, "float32");
    for (const [r, { features, values }] of found.entries()) {
      const scale = scales?.[r];
      const codes = Float32Array.from(values, (value) => (scale === undefined ? value : value * scale));
      sparse.addFound(Int32Array.from(features), codes);
    }
    return sparse.finish();
  };

  const encode = async (dictionary: Dictionary, x: Float32Array | Float64Array, watch: Watch): Promise<SparseCodes> => {
    const rows = x.length / dictionary.inputWidth;
    if (dtype === "float32" && (options.device ?? "cpu") === "cpu") {
      const one = x as Float32Array;
      if (isWide(dictionary, wide)) return (await encodeWide(dictionary, one, 1, watch))!;
      const threads = threadCount(options.threads);
      if (!slow.has(dictionary) && mayPay(dictionary, rows, threads, wide)) {
        const D = dictionary.inputWidth;
        const most = wide.mostCandidates ?? mostCandidates(D, threads);
        const isFast = await boundsAreFast(loops, await openedWide(), D);
        const codes = isFast ? await encodeWide(dictionary, one, most, watch) : undefined;
        if (codes) return codes;
        slow.add(dictionary);
      }
    }
    const encoder = await dictionary.encoder();
    const [D, F] = [dictionary.inputWidth, dictionary.featureCount];
    const form = encoderForm(encoder);
    const { rule } = form;
    // The loops look for what is above a threshold, of which signed codes have none.
    const inPlace = dtype === "float32" && F % 16 === 0 && rule.kind !== "identity";
    const values = encoderValues(encoder, dtype);
    const key = JSON.stringify([form, D, F]);
    const session = await sessionOf(key, () => {
      const x = input("x", dtype, ["N", D]);
      const tensors = encoderTensors(form, D, F, dtype);
      return compile(
        { f: inPlace && isCompared(rule) ? tracePreActivations(x, tensors) : traceCodes(x, tensors, rule) },
        options,
      );
    });
    const sparse = new SparseBuilder(rows, dtype);
    const thresholds =
      encoder.activation.kind === "jumprelu" && isCompared(rule) ? encoder.activation.threshold : new Float32Array(F);
    const dense = inPlace ? new InPlace(loops, Math.min(rows, chunkRows), thresholds) : undefined;
    const step = steps(watch, rows);
    // A single product has no use for weights that stay.
    const stay = rows > chunkRows ? await putOnDevice(values, options) : undefined;
    try {
      for (let at = 0, n = 0; at < rows; at += n) {
        step(at);
        // Of one row alone the runtime sums in another order; codes should not depend on where a row stands.
        n = rows - at === chunkRows + 1 ? chunkRows - 1 : Math.min(chunkRows, rows - at);
        const part: Value = { dtype, data: numbersOf(x.subarray(at * D, (at + n) * D), dtype), shape: [n, D] };
        const { f } = await session.run({ ...values, ...stay?.values, x: part }, dense && { f: dense.room(n) });
        if (dense) for (let r = 0; r < n; r++) sparse.addFound(...dense.row(r));
        else sparse.add(f.data as Float32Array | Float64Array, n, F);
      }
    } finally {
      stay?.release();
    }
    return sparse.finish();
  };
  return {
    encode(dictionary, x, watch = {}) {
      const codes = last.then(() => encode(dictionary, x, watch));
      last = codes.catch(() => {});
      return codes;
    },
    async release() {
      await releaseAll(sessions.values());
      sessions.clear();
      await (await wideSessions)?.release();
      wideSessions = undefined;
    },
  };
}

/** Whether codes are the pre-activations above a threshold, so that comparing can be left to the loop that looks for what is not 0. */
function isCompared({ kind, normalization }: CodeRule): boolean {
  return (kind === "relu" || kind === "jumprelu") && normalization === "none";
}

/** Dense codes, or what is compared with thresholds to give them, in the memory of the loops that find those above. */
class InPlace {
  readonly #loops: Loops;
  readonly #F: number;
  /** Where the thresholds lie, behind the codes; behind them the features of a row and their values. */
  readonly #thresholds: number;

  /** @param thresholds [F] */
  constructor(loops: Loops, rows: number, thresholds: Float32Array) {
    const F = thresholds.length;
    this.#loops = loops;
    this.#F = F;
    this.#thresholds = 4 * F * rows;
    loops.reserve(4 * F * (rows + 3));
    new Float32Array(loops.memory.buffer, this.#thresholds, F).set(thresholds);
  }

  /** Room for the first n rows. */
  room(n: number): Value {
    return { dtype: "float32", data: new Float32Array(this.#loops.memory.buffer, 0, n * this.#F), shape: [n, this.#F] };
  }

  row(r: number): [features: Int32Array, values: Float32Array] {
    const { memory, above } = this.#loops;
    const bytes = 4 * this.#F;
    const [features, values] = [this.#thresholds + bytes, this.#thresholds + 2 * bytes];
    const count = above(r * bytes, this.#F, this.#thresholds, features, values);
    return [new Int32Array(memory.buffer, features, count), new Float32Array(memory.buffer, values, count)];
  }
}

/** Collects the entries of dense rows that are not 0. */
class SparseBuilder {
  readonly #offsets: Int32Array;
  readonly #dtype: "float32" | "float64";
  #features = new Int32Array(1024);
  #values: Float32Array | Float64Array;
  #row = 0;
  #size = 0;

  constructor(rows: number, dtype: "float32" | "float64") {
    this.#offsets = new Int32Array(rows + 1);
    this.#dtype = dtype;
    this.#values = this.#floats(1024);
  }

  add(dense: Float32Array | Float64Array, rows: number, width: number): void {
    for (let r = 0; r < rows; r++) {
      if (this.#size + width > this.#features.length) this.#grow(width);
      for (let i = 0, at = r * width; i < width; i++, at++) {
        const value = dense[at]!;
        if (value !== 0) {
          this.#features[this.#size] = i;
          this.#values[this.#size++] = value;
        }
      }
      this.#offsets[++this.#row] = this.#size;
    }
  }

  /** Adds a row by its features, in ascending order, and their values. */
  addFound(features: Int32Array, values: Float32Array): void {
    if (this.#size + features.length > this.#features.length) this.#grow(features.length);
    this.#features.set(features, this.#size);
    this.#values.set(values, this.#size);
    this.#size += features.length;
    this.#offsets[++this.#row] = this.#size;
  }

  finish(): SparseCodes {
    return {
      rows: this.#row,
      offsets: this.#offsets,
      features: this.#features.slice(0, this.#size),
      values: this.#values.slice(0, this.#size),
    };
  }

  #grow(width: number): void {
    const capacity = Math.max(2 * this.#features.length, this.#size + width);
    const features = new Int32Array(capacity);
    const values = this.#floats(capacity);
    features.set(this.#features);
    values.set(this.#values);
    this.#features = features;
    this.#values = values;
  }

  #floats(n: number): Float32Array | Float64Array {
    return this.#dtype === "float64" ? new Float64Array(n) : new Float32Array(n);
  }
}
