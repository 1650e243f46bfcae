import type { Dictionary } from "../dictionaries/dictionary.ts";
import { codeReader } from "../dictionaries/encode.ts";
import { heldDictionary } from "../dictionaries/held.ts";
import { compile, type SessionOptions } from "../graph/session.ts";
import type { Model, Weights } from "../models/model.ts";
import type { SiteName } from "../site.ts";
import { activationGraph, withoutFirst } from "../training/activations.ts";
import { rowContext } from "../training/loss.ts";
import { type ContextSizes, SiteContexts, stateBytes } from "./site-contexts.ts";

/** What is looked at, and how. */
export interface ContextsOptions extends ContextSizes, SessionOptions {
  /** T: tokens of a row. */
  readonly length: number;
  /** Place of the first token that windows may show: 1 where rows begin with BOS, else 0. */
  readonly from: number;
  /** By site, the features that are looked at; all of a site that is not named. */
  readonly features?: ReadonlyMap<SiteName, readonly number[]>;
}

/** Reads rows of text with a model and keeps where features are active. */
export interface ContextsCollector {
  readonly sites: ReadonlyMap<SiteName, SiteContexts>;
  /** Rows that are read at once; how rows are dealt out to calls bears on the last digits of codes. */
  readonly rowsAtOnce: number;
  /** Adds rows of T tokens, at most `rowsAtOnce`. */
  add(rows: readonly Int32Array[]): Promise<void>;
  close(): Promise<void>;
}

/** Few enough tokens for a pass that what the blocks compute stays in the processor's cache, in small models. */
const tokensOfPass = 1024;
/** Tokens whose activations are in memory at once, of all sites together no more bytes than this. */
const tokensAtOnce = 4096;
const activationBytes = 64 * 2 ** 20;
/** Encoders that together are no larger stay in memory; of others one at a time is read. */
const heldBytes = 256 * 2 ** 20;

type Dictionaries = ReadonlyMap<SiteName, Dictionary>;

/** Rows whose activations are in memory at once. */
function rowsAtOnceOf(dictionaries: Dictionaries, length: number): number {
  const width = sumOf(dictionaries, ({ inputWidth }) => inputWidth);
  return Math.max(1, Math.floor(Math.min(tokensAtOnce, activationBytes / (4 * width)) / length));
}

const encoderBytes = ({ inputWidth, featureCount }: Dictionary) => 4 * inputWidth * featureCount;

const sumOf = (dictionaries: Dictionaries, of: (dictionary: Dictionary) => number) =>
  [...dictionaries.values()].reduce((sum, dictionary) => sum + of(dictionary), 0);

/** Bytes that collecting takes besides the model and its passes: states, activations, and encoders. */
export function collectorBytes(
  dictionaries: Dictionaries,
  { length, features, ...sizes }: Pick<ContextsOptions, "length" | "features" | "contexts" | "window">,
): number {
  const states = sumOf(dictionaries, ({ writes, featureCount }) =>
    stateBytes(features?.get(writes)?.length ?? featureCount, sizes),
  );
  const width = sumOf(dictionaries, ({ inputWidth }) => inputWidth);
  const encoders = sumOf(dictionaries, encoderBytes);
  const largest = Math.max(...[...dictionaries.values()].map(encoderBytes));
  const activations = 8 * width * length * rowsAtOnceOf(dictionaries, length);
  return states + activations + (encoders <= heldBytes ? encoders : 2 * largest);
}

/**
 * A collector for the sites of some dictionaries. The first token of each row is not encoded: it is BOS, or, where the tokenizer has none, an attention
 * sink like it.
 *
 * @param dictionaries fitted to the model
 */
export async function contextsCollector(
  model: Model,
  weights: Weights,
  dictionaries: Dictionaries,
  { length: T, from, features, contexts, window, ...session }: ContextsOptions,
): Promise<ContextsCollector> {
  const sites = new Map(
    [...dictionaries].map(([site, { featureCount }]) => [
      site,
      new SiteContexts(featureCount, { contexts, window }, features?.get(site)),
    ]),
  );
  const holds = sumOf(dictionaries, encoderBytes) <= heldBytes;
  const encoded = new Map([...dictionaries].map(([site, d]) => [site, holds ? heldDictionary(d) : d]));
  const graph = await compile(activationGraph(model, weights, [...dictionaries.keys()], T), session);
  const codes = codeReader(session);
  const rowsOfPass = Math.max(1, Math.floor(tokensOfPass / T));
  return {
    sites,
    rowsAtOnce: rowsAtOnceOf(dictionaries, T),
    async add(rows) {
      const found = new Map<SiteName, Float32Array>();
      for (let first = 0; first < rows.length; first += rowsOfPass) {
        const some = rows.slice(first, first + rowsOfPass);
        const results = await graph.run(rowContext(rowsOf(some, T)));
        for (const [site, { inputWidth: D }] of dictionaries) {
          const values = withoutFirst(results[site]!.data as Float32Array, some.length, T);
          if (!found.has(site)) found.set(site, new Float32Array(rows.length * (T - 1) * D));
          found.get(site)!.set(values, first * (T - 1) * D);
        }
      }
      for (const [site, dictionary] of encoded) {
        const sparse = await codes.encode(dictionary, found.get(site)!);
        const own = sites.get(site)!;
        for (const [r, tokens] of rows.entries()) own.addRow(tokens, sparse, r * (T - 1), from);
      }
    },
    async close() {
      await graph.release();
      await codes.release();
    },
  };
}

/** Rows as passes take them, which have a token more for the loss. */
function rowsOf(rows: readonly Int32Array[], length: number) {
  const tokens = new Int32Array(rows.length * (length + 1));
  for (const [b, row] of rows.entries()) tokens.set(row, b * (length + 1));
  return { count: rows.length, length, tokens };
}
