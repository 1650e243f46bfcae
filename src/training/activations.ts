import { compile, type Session, type SessionOptions } from "../graph/session.ts";
import type { Tensor } from "../graph/tensor.ts";
import { contextInputs, forward, type Model, type Weights } from "../models/model.ts";
import { parseSite, type SiteName } from "../site.ts";
import { contextValues } from "./loss.ts";
import type { Scale } from "./sae.ts";
import type { TextSource } from "./text.ts";

/** Activations of several sites of one model on one text, without those of BOS. */
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

/** How many rows are run through the model at once, and into how many batches their tokens are dealt out. */
const rowsAtOnce = 64;
const batchesAtOnce = 4;
/** Pieces of text from which means and deviations are taken. */
const scalePieces = 8;

/**
 * Activations of a model on rows of text. The tokens of 64 rows are dealt out to four batches in turn, so that neighbouring tokens, which are
 * alike, fall into different batches.
 */
export async function activationSource(
  model: Model,
  weights: Weights,
  sites: readonly SiteName[],
  text: TextSource,
  length: number,
  options: SessionOptions = {},
): Promise<ActivationSource> {
  const session = await compile(activationGraph(model, weights, sites, length), options);
  let held: { readonly piece: number; readonly activations: ReadonlyMap<SiteName, Float32Array> } | undefined;
  const widths = sites.map((site) => ({ site, width: model.sites[parseSite(site).kind]! }));
  return {
    sites: widths,
    async scales() {
      const sums = new Map(widths.map(({ site, width }) => [site, new Moments(width)]));
      for (let i = 0; i < scalePieces; i++) {
        const activations = await run(session, sites, text, `scale/${i}`, length);
        for (const [site, values] of activations) sums.get(site)!.add(values);
      }
      return new Map([...sums].map(([site, sum]) => [site, sum.scale()]));
    },
    async batch(n) {
      const piece = Math.floor(n / batchesAtOnce);
      if (held?.piece !== piece) {
        held = { piece, activations: await run(session, sites, text, piece, length) };
      }
      const { activations } = held;
      return new Map(
        widths.map(({ site, width }) => [site, every(activations.get(site)!, width, n % batchesAtOnce, batchesAtOnce)]),
      );
    },
    close: () => session.release(),
  };
}

/** Activations of a piece of text, without the first token of each row. */
async function run(
  session: Session,
  sites: readonly SiteName[],
  text: TextSource,
  piece: string | number,
  length: number,
): Promise<Map<SiteName, Float32Array>> {
  const results = await session.run(contextValues(text.rows(piece, rowsAtOnce, length)));
  return new Map(sites.map((site) => [site, withoutFirst(results[site]!.data as Float32Array, rowsAtOnce, length)]));
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
