import { compile, type SessionOptions } from "../graph/session.ts";
import type { Tensor } from "../graph/tensor.ts";
import { contextInputs, forward, type Model, type Weights } from "../models/model.ts";
import { parseSite, type SiteName } from "../site.ts";
import { rowContext } from "./loss.ts";
import type { TextSource } from "./text.ts";

/** Mean of a site's activations [D], and the root mean square of what is left when it is subtracted. */
export interface Scale {
  readonly mean: Float32Array;
  readonly deviation: number;
}

/** Activations of several sites of one model on one text, without those of the first token of each row. */
export interface ActivationSource {
  readonly sites: readonly { readonly site: SiteName; readonly width: number }[];
  /** Means and deviations of the sites, from the beginning of a text of their own. */
  scales(): Promise<ReadonlyMap<SiteName, Scale>>;
  /** The n-th batch of tokens: each site's activations [N,D]. Batches are asked for in order. */
  batch(n: number): Promise<ReadonlyMap<SiteName, Float32Array>>;
  close(): Promise<void>;
}

/** The graph of a forward pass over rows of T tokens whose outputs are the activations [N,D] of sites, by name. */
export function activationGraph(
  model: Model,
  w: Weights,
  sites: readonly SiteName[],
  length: number,
): Record<SiteName, Tensor> {
  const found = new Map<SiteName, Tensor>();
  forward(model, w, contextInputs(length, "float32", true), (site, x) => {
    found.set(site, x);
    return x;
  });
  return Object.fromEntries(sites.map((site) => [site, found.get(site)!]));
}

/** How many rows a piece of text has, and into how many batches their tokens are dealt out. */
const rowsOfPiece = 64;
const batchesOfPiece = 4;
/** Few enough tokens for a pass that what the blocks compute stays in the processor's cache, in models of this size. */
const tokensOfPass = 1024;
/** Pieces of text from which means and deviations are taken. */
const scalePieces = 8;
/**
 * Activations so many times as long as the median belong to attention sinks: the first token of a row, and now and then a line break or a full stop
 * (arXiv:2402.17762). In SmolLM2 they are one token in 1,500, and 96 % of the variance.
 */
const sinkFactor = 20;

/** Reads pieces of text with a model. */
export interface ActivationReader {
  /** Each site's activations of a piece, [N,D], without the first token of each row. */
  read(piece: string | number): Promise<ReadonlyMap<SiteName, Float32Array>>;
  close(): Promise<void>;
}

/** A reader of rows of text. The first token of each row is left out: it is BOS, or, where the tokenizer has none, an attention sink like it. */
export async function activationReader(
  model: Model,
  weights: Weights,
  sites: readonly SiteName[],
  text: TextSource,
  length: number,
  options: SessionOptions = {},
): Promise<ActivationReader> {
  const session = await compile(activationGraph(model, weights, sites, length), options);
  const rowsOfPass = Math.max(1, Math.min(rowsOfPiece, Math.floor(tokensOfPass / length)));
  return {
    async read(piece) {
      const { tokens } = text.rows(piece, rowsOfPiece, length);
      const found = new Map<SiteName, Float32Array>();
      for (let row = 0; row < rowsOfPiece; row += rowsOfPass) {
        const count = Math.min(rowsOfPass, rowsOfPiece - row);
        const some = tokens.subarray(row * (length + 1), (row + count) * (length + 1));
        const results = await session.run(rowContext({ count, length, tokens: some }));
        for (const site of sites) {
          const values = withoutFirst(results[site]!.data as Float32Array, count, length);
          const size = values.length / count;
          if (!found.has(site)) found.set(site, new Float32Array(rowsOfPiece * size));
          found.get(site)!.set(values, row * size);
        }
      }
      return found;
    },
    close: () => session.release(),
  };
}

/**
 * A reader that goes on with the next piece while its user works on the one before, which is worth while if the other reads in a thread of its own.
 *
 * @param pieces how many numbered pieces there are, so that it does not read one more
 */
export function readAhead(reader: ActivationReader, pieces: number): ActivationReader {
  let next: { readonly piece: number; readonly activations: ReturnType<ActivationReader["read"]> } | undefined;
  return {
    async read(piece) {
      const activations = await (next?.piece === piece ? next.activations : reader.read(piece));
      if (typeof piece === "number" && piece + 1 < pieces) {
        next = { piece: piece + 1, activations: reader.read(piece + 1) };
        // Whoever asks for the piece gets the error.
        next.activations.catch(() => {});
      }
      return activations;
    },
    close: () => reader.close(),
  };
}

/** How many pieces of text so many batches take. */
export function piecesOf(batches: number): number {
  return Math.ceil(batches / batchesOfPiece);
}

/** How many tokens a batch has. */
export function tokensOfBatch(length: number): number {
  return (rowsOfPiece * (length - 1)) / batchesOfPiece;
}

/**
 * Activations in batches. The tokens of 64 rows are dealt out to four batches in turn, so that neighbouring tokens, which are alike, fall into
 * different batches. Attention sinks are left out; for that, the scales are taken before the first batch.
 */
export function activationBatches(
  model: Model,
  sites: readonly SiteName[],
  reader: ActivationReader,
): ActivationSource {
  let held: { readonly piece: number; readonly activations: ReadonlyMap<SiteName, Float32Array> } | undefined;
  const widths = sites.map((site) => ({ site, width: model.sites[parseSite(site).kind]! }));
  const limits = new Map<SiteName, number>();
  return {
    sites: widths,
    async scales() {
      const sums = new Map(widths.map(({ site, width }) => [site, new Moments(width)]));
      for (let i = 0; i < scalePieces; i++) {
        const activations = await reader.read(`scale/${i}`);
        for (const { site, width } of widths) {
          const values = activations.get(site)!;
          if (!limits.has(site)) limits.set(site, sinkLimit(values, width));
          sums.get(site)!.add(withoutSinks(values, width, limits.get(site)!));
        }
      }
      return new Map([...sums].map(([site, sum]) => [site, sum.scale()]));
    },
    async batch(n) {
      const piece = Math.floor(n / batchesOfPiece);
      if (held?.piece !== piece) held = { piece, activations: await reader.read(piece) };
      const { activations } = held;
      return new Map(
        widths.map(({ site, width }) => {
          const values = every(activations.get(site)!, width, n % batchesOfPiece, batchesOfPiece);
          return [site, withoutSinks(values, width, limits.get(site)!)];
        }),
      );
    },
    close: () => reader.close(),
  };
}

/** Rows [B·T,D] of activations without the first of each T. */
export function withoutFirst(values: Float32Array, rows: number, length: number): Float32Array {
  const D = values.length / (rows * length);
  const out = new Float32Array(rows * (length - 1) * D);
  for (let b = 0; b < rows; b++) {
    out.set(values.subarray((b * length + 1) * D, (b + 1) * length * D), b * (length - 1) * D);
  }
  return out;
}

/** The length beyond which a row of x[N,D] is an attention sink's. */
export function sinkLimit(values: Float32Array, width: number): number {
  const lengths = lengthsOf(values, width).sort();
  return sinkFactor * lengths[Math.floor(lengths.length / 2)]!;
}

/** The rows that are no longer than `limit`. */
export function withoutSinks(values: Float32Array, width: number, limit: number): Float32Array {
  const out = new Float32Array(values.length);
  let at = 0;
  lengthsOf(values, width).forEach((length, row) => {
    if (length > limit) return;
    out.set(values.subarray(row * width, (row + 1) * width), at);
    at += width;
  });
  return out.subarray(0, at);
}

/** The Euclidean length of each row of x[N,D]. */
function lengthsOf(values: Float32Array, width: number): Float32Array {
  const squares = new Float32Array(values.length / width);
  for (let i = 0; i < values.length; i++) squares[Math.floor(i / width)]! += values[i]! * values[i]!;
  return squares.map(Math.sqrt);
}

/** Rows first, first + step, first + 2·step, … */
function every(values: Float32Array, width: number, first: number, step: number): Float32Array {
  const rows = values.length / width;
  const count = Math.floor((rows - first + step - 1) / step);
  const out = new Float32Array(count * width);
  for (let i = 0; i < count; i++) {
    const from = (first + i * step) * width;
    out.set(values.subarray(from, from + width), i * width);
  }
  return out;
}

/** Running mean and variance of rows. */
export class Moments {
  readonly #sum: Float64Array;
  #squares = 0;
  #rows = 0;

  constructor(width: number) {
    this.#sum = new Float64Array(width);
  }

  add(values: Float32Array): void {
    const D = this.#sum.length;
    for (let i = 0; i < values.length; i++) {
      this.#sum[i % D]! += values[i]!;
      this.#squares += values[i]! * values[i]!;
    }
    this.#rows += values.length / D;
  }

  get rows(): number {
    return this.#rows;
  }

  mean(): Float32Array {
    return Float32Array.from(this.#sum, (s) => s / this.#rows);
  }

  /** Σ‖x − mean‖² over all rows. */
  variation(): number {
    return this.#squares - this.#sum.reduce((sum, s) => sum + s * s, 0) / this.#rows;
  }

  scale(): Scale {
    return { mean: this.mean(), deviation: Math.sqrt(this.variation() / (this.#rows * this.#sum.length)) };
  }
}
