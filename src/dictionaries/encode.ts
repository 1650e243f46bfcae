import { compile, type Session, type SessionOptions, type Value } from "../graph/session.ts";
import { input, numbers, scalar, type Tensor, where } from "../graph/tensor.ts";
import type { Activation, Dictionary, Encoder, Normalization } from "./dictionary.ts";

/** Codes with their zeros left out: row r has features[offsets[r]..offsets[r+1]) in ascending order, with their values. */
export interface SparseCodes {
  readonly rows: number;
  readonly offsets: Int32Array;
  readonly features: Int32Array;
  readonly values: Float32Array | Float64Array;
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

export function codeRule({ activation, normalization }: Encoder): CodeRule {
  const k = activation.kind === "topk" ? activation.k : 0;
  return { kind: activation.kind, k, normalization: normalization ?? "none" };
}

/** Traced codes: x[N,D] → f[N,F], as `Encoder` defines them. */
export function traceCodes(x: Tensor, w: EncoderTensors, { kind, k, normalization }: CodeRule): Tensor {
  if (normalization !== "none") {
    const { normalized, scale } = traceNormalization(x, normalization);
    return traceCodes(normalized, w, { kind, k, normalization: "none" }).mul(scale);
  }
  const z = (w.inputBias ? x.sub(w.inputBias) : x).matmul(w.weight).add(w.bias);
  const zero = scalar(0, z.dtype);
  switch (kind) {
    case "relu":
      return z.relu();
    case "jumprelu":
      return where(z.greater(w.threshold!), z, zero);
    case "topk":
      return where(z.greaterOrEqual(z.kthLargest(k)), z.relu(), zero);
  }
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

/** Encodes with the dictionaries of a run, one at a time; dictionaries of one shape share a session. */
export interface CodeReader {
  /** x[rows,D] at the dictionary's site → its codes. */
  encode(dictionary: Dictionary, x: Float32Array | Float64Array): Promise<SparseCodes>;
  release(): Promise<void>;
}

/** Rows encoded at once: enough for the product to be efficient, few enough that the dense codes stay small. */
export const chunkRows = 512;

/** @param dtype float64 for checks; codes then come as float64 */
export function codeReader(options: SessionOptions & { readonly dtype?: "float32" | "float64" } = {}): CodeReader {
  const { dtype = "float32" } = options;
  const sessions = new Map<string, Promise<Session<string, "f">>>();
  return {
    async encode(dictionary, x) {
      const encoder = await dictionary.encoder();
      const { weight, bias, inputBias, activation } = encoder;
      const [D, F] = [dictionary.inputWidth, dictionary.width];
      const rule = codeRule(encoder);
      const key = JSON.stringify([rule, D, F, inputBias !== undefined]);
      let session = sessions.get(key);
      if (!session) {
        const vector = (name: string, size: number) => input(name, dtype, [size]);
        const tensors = {
          weight: input("weight", dtype, [D, F]),
          bias: vector("bias", F),
          inputBias: inputBias && vector("input_bias", D),
          threshold: activation.kind === "jumprelu" ? vector("threshold", F) : undefined,
        };
        session = compile({ f: traceCodes(input("x", dtype, ["N", D]), tensors, rule) }, options);
        sessions.set(key, session);
      }
      const value = (data: Float32Array | Float64Array, ...shape: number[]): Value => ({
        dtype,
        data: dtype === "float64" ? numbers(data, dtype) : data,
        shape,
      });
      const weights = {
        weight: value(weight, D, F),
        bias: value(bias, F),
        ...(inputBias && { input_bias: value(inputBias, D) }),
        ...(activation.kind === "jumprelu" && { threshold: value(activation.threshold, F) }),
      };
      const rows = x.length / D;
      const sparse = new SparseBuilder(rows, dtype);
      for (let at = 0; at < rows; at += chunkRows) {
        const n = Math.min(chunkRows, rows - at);
        const { f } = await (await session).run({ ...weights, x: value(x.subarray(at * D, (at + n) * D), n, D) });
        sparse.add(f.data as Float32Array | Float64Array, n, F);
      }
      return sparse.finish();
    },
    async release() {
      for (const session of sessions.values()) await (await session).release();
      sessions.clear();
    },
  };
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
