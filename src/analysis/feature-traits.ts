import type { Capture } from "../capture/capture.ts";
import { type Floats, newFloats } from "../capture/hooks.ts";
import { logitPieces } from "../capture/logits.ts";
import { histogramOf } from "../contexts/site-contexts.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { type CodeReader, codeRow, type SparseCodes } from "../dictionaries/encode.ts";
import { codesAt, type KeptCodes } from "../effects/kept-codes.ts";
import { StoppedError } from "../errors.ts";
import { compile, float32, releaseAll, type Session } from "../graph/session.ts";
import { input } from "../graph/tensor.ts";
import type { LoadedModel } from "../models/weights.ts";
import type { Watch } from "../progress.ts";
import { isOutside, type OutsideText } from "../prompts/outside.ts";
import { parseSite, type SiteName } from "../site.ts";
import { placesOfLargest } from "../stats.ts";

/** Tokens with the logits that a direction adds to them, the strongest first. */
export interface TokenLogits {
  readonly token: readonly number[];
  readonly logit: readonly number[];
}

/** What a feature is on the run's prompts and in its SAE. */
export interface FeatureTraits {
  readonly site: SiteName;
  readonly feature: number;
  /** Over the different clean prefixes whose activations are kept, BOS and padding left out. */
  readonly activations: {
    readonly tokens: number;
    readonly active: number;
    readonly max: number;
    readonly histogram: ReturnType<typeof histogramOf>;
  };
  /** Null at sites that are not added to the residual stream. */
  readonly promotes: TokenLogits | null;
  readonly suppresses: TokenLogits | null;
  /** Features of the site with the most similar decoder rows. */
  readonly similar: { readonly feature: readonly number[]; readonly cosine: readonly number[] };
  /** Features of the site that are active at the same prefixes. */
  readonly together: { readonly feature: readonly number[]; readonly jaccard: readonly number[] };
  /** The code at a forward node; null where its activation is not kept. */
  codeAt(node: number): number | null;
}

export interface TraitsInput {
  readonly loaded: LoadedModel;
  readonly captured: Capture;
  readonly codes: CodeReader;
  /** Codes that are known already. */
  readonly keptCodes?: KeptCodes | undefined;
  readonly dictionaries: ReadonlyMap<SiteName, Dictionary>;
  readonly outside: OutsideText;
  /** Whether a token of the vocabulary stands for a text; padding of the matrix does not. */
  readonly hasText: (token: number) => boolean;
  /** Of streamed weights: tokens whose rows of the unembedding are read at a time; as many as `logitPieces` takes by default. */
  readonly tokensAtOnce?: number;
}

/** Tokens promoted and suppressed, and similar features, that are kept. */
const keptTokens = 10;
const keptFeatures = 5;
/** Rows of decoders that are read at once. */
const decoderRows = 4096;
/** Numbers of logits that are in memory at a time. */
const logitNumbers = 2 ** 24;

/** Why the features of a site have no tokens that they promote; null where they have. */
export function noDirectPath(site: SiteName): string | null {
  const { kind } = parseSite(site);
  if (kind === "attn_z") return "attention's output projection comes between attn_z and the residual stream";
  if (kind === "mlp_act") return "the MLP's output projection comes between mlp_act and the residual stream";
  return null;
}

/**
 * What the named features are on the run's own prompts and in their SAEs, site by site.
 *
 * @param named features by site
 * @throws StoppedError if asked to stop
 */
export async function featureTraits(
  { loaded, captured, codes, keptCodes, dictionaries, outside, hasText, tokensAtOnce }: TraitsInput,
  named: ReadonlyMap<SiteName, readonly number[]>,
  { onProgress, stopped }: Watch = {},
): Promise<FeatureTraits[]> {
  const { forest, row } = captured.plan;
  const { forward, backward } = forest;
  const kept = [...new Set(backward.clean)].filter(
    (node) => row[node]! >= 0 && !isOutside(outside, forward.token[node]!, forward.position[node]!),
  );
  const traits: Omit<FeatureTraits, "promotes" | "suppresses">[] = [];
  const directions: Float32Array[] = [];
  const products = cosineProducts();
  try {
    for (const [done, [site, features]] of [...named].entries()) {
      if (stopped?.()) throw new StoppedError();
      const dictionary = dictionaries.get(site)!;
      const sparse = await codesAt(captured, dictionary, codes, kept, keptCodes, { stopped });
      const found = codesOn(sparse, dictionary.featureCount, kept, features);
      const rows = await dictionary.decoderRows(features);
      const cosines = await similarTo(dictionary, features, rows, products);
      for (const [i, feature] of features.entries()) {
        const own = found.codes[i]!;
        const above = [...own.values()].filter((code) => code > 0);
        traits.push({
          site,
          feature,
          activations: {
            tokens: kept.length,
            active: above.length,
            max: above.reduce((max, code) => Math.max(max, code), 0),
            histogram: histogramOf(above),
          },
          similar: cosines[i]!,
          together: found.together[i]!,
          codeAt: (node) => (row[node]! < 0 ? null : (own.get(node) ?? 0)),
        });
        directions.push(rows.subarray(i * dictionary.outputWidth, (i + 1) * dictionary.outputWidth));
      }
      onProgress?.(done + 1, named.size);
    }
  } finally {
    await products.release();
  }
  const direct = traits.flatMap(({ site }, i) => (noDirectPath(site) === null ? [i] : []));
  const logits = await strongestTokens(
    loaded,
    direct.map((i) => directions[i]!),
    hasText,
    { tokens: tokensAtOnce, stopped },
  );
  const byTrait = new Map(direct.map((i, k) => [i, logits[k]!]));
  return traits.map((trait, i) => ({ ...trait, ...(byTrait.get(i) ?? { promotes: null, suppresses: null }) }));
}

/**
 * The codes of features at some forward nodes, by feature and node, 0 left out; and which features are active at the same nodes.
 *
 * @param sparse the codes of all F features at the nodes, in their order
 */
function codesOn(
  sparse: SparseCodes,
  F: number,
  nodes: readonly number[],
  features: readonly number[],
): { readonly codes: readonly Map<number, number>[]; readonly together: FeatureTraits["together"][] } {
  const place = new Map(features.map((feature, i) => [feature, i]));
  const found = features.map(() => new Map<number, number>());
  const active = new Int32Array(F);
  const both = features.map(() => new Int32Array(F));
  for (const [r, node] of nodes.entries()) {
    const { features: here, values } = codeRow(sparse, r);
    const own: number[] = [];
    for (let k = 0; k < here.length; k++) {
      active[here[k]!]!++;
      const i = place.get(here[k]!);
      if (i === undefined) continue;
      own.push(i);
      found[i]!.set(node, values[k]!);
    }
    for (const i of own) for (const other of here) both[i]![other]!++;
  }
  const jaccard = new Float64Array(F);
  const together = features.map((feature, i) => {
    takeJaccard(jaccard, both[i]!, active, feature);
    const top = placesOfLargest(jaccard, keptFeatures).filter((f) => jaccard[f]! > 0);
    return { feature: top, jaccard: top.map((f) => jaccard[f]!) };
  });
  return { codes: found, together };
}

/** to[f]: of the places at which f or the feature is active, the share at which both are; 0 of the feature with itself. */
function takeJaccard(to: Float64Array, both: Int32Array, active: Int32Array, feature: number): void {
  for (let f = 0; f < both.length; f++)
    to[f] = both[f] === 0 ? 0 : both[f]! / (active[feature]! + active[f]! - both[f]!);
  to[feature] = 0;
}

type Products = ReturnType<typeof cosineProducts>;

/** Products of rows with rows, a[S,D] · b[n,D]ᵀ; one session for each D. */
function cosineProducts() {
  const sessions = new Map<number, Promise<Session<string, "y">>>();
  return {
    async of(a: Float32Array, b: Float32Array, D: number): Promise<Float32Array> {
      const session =
        sessions.get(D) ??
        compile({ y: input("a", "float32", ["S", D]).matmul(input("b", "float32", ["n", D]), { transB: true }) });
      sessions.set(D, session);
      const { y } = await (await session).run({ a: float32(a, a.length / D, D), b: float32(b, b.length / D, D) });
      return y.data as Float32Array;
    },
    async release() {
      await releaseAll(sessions.values());
    },
  };
}

/** For each of some features, those of the same SAE whose decoder rows have the largest cosines with its own. */
async function similarTo(
  dictionary: Dictionary,
  features: readonly number[],
  rows: Float32Array,
  products: Products,
): Promise<FeatureTraits["similar"][]> {
  const { featureCount: F, outputWidth: D } = dictionary;
  const cosines = features.map(() => new Float32Array(F));
  const own = toUnit(rows.slice(), D);
  for (let first = 0; first < F; first += decoderRows) {
    const n = Math.min(decoderRows, F - first);
    const others = await dictionary.decoderRows(Int32Array.from({ length: n }, (_, i) => first + i));
    const found = await products.of(own, toUnit(others, D), D);
    for (const [i, all] of cosines.entries()) all.set(found.subarray(i * n, (i + 1) * n), first);
  }
  return cosines.map((all, i) => {
    all[features[i]!] = Number.NEGATIVE_INFINITY;
    const top = placesOfLargest(all, Math.min(keptFeatures, F - 1));
    return { feature: top, cosine: top.map((f) => all[f]!) };
  });
}

/** Makes rows length 1 where they are; those of length 0 stay. Four rows are summed side by side, each in its own order: a sum waits for itself. */
function toUnit(rows: Float32Array, D: number): Float32Array {
  const count = rows.length / D;
  const lengths = new Float64Array(count);
  let row = 0;
  for (; row + 4 <= count; row += 4) {
    const at = row * D;
    let [a, b, c, e] = [0, 0, 0, 0];
    for (let d = at; d < at + D; d++) {
      a += rows[d]! ** 2;
      b += rows[d + D]! ** 2;
      c += rows[d + 2 * D]! ** 2;
      e += rows[d + 3 * D]! ** 2;
    }
    lengths.set([Math.sqrt(a), Math.sqrt(b), Math.sqrt(c), Math.sqrt(e)], row);
  }
  for (; row < count; row++) {
    let squares = 0;
    for (let d = row * D; d < (row + 1) * D; d++) squares += rows[d]! ** 2;
    lengths[row] = Math.sqrt(squares);
  }
  divideRows(rows, lengths, D);
  return rows;
}

function divideRows(rows: Float32Array, by: Float64Array, D: number): void {
  for (let row = 0; row < by.length; row++) {
    const length = by[row]!;
    if (length > 0) for (let d = row * D; d < (row + 1) * D; d++) rows[d]! /= length;
  }
}

/** Long enough that what a norm adds to the mean square against division by 0 does not show. */
const longScale = 1024;

/**
 * The tokens whose logits some directions of the residual stream raise and lower the most: U·(w ∘ d), d without its mean where the model takes it out. The
 * final norm's scale is left out, so the unit is logits per unit of code and of 1/scale.
 */
async function strongestTokens(
  loaded: LoadedModel,
  directions: readonly Float32Array[],
  hasText: (token: number) => boolean,
  { tokens: atOnce, stopped }: { readonly tokens: number | undefined } & Watch,
): Promise<{ readonly promotes: TokenLogits; readonly suppresses: TokenLogits }[]> {
  const { model } = loaded;
  const D = model.width;
  const scales = directions.map((d) => scaleOf(d, model.ignoresMean));
  const x = newFloats(loaded.dtype, directions.length * D);
  // The norm divides by the scale of what it is given, whatever that is.
  for (const [i, d] of directions.entries()) {
    const factor = scales[i]! > 0 ? longScale / scales[i]! : 0;
    x.set(
      d.map((value) => factor * value),
      i * D,
    );
  }
  /** Of each direction, up and down, the strongest tokens of every piece so far and what they get; pieces in order. */
  const found = directions.map(() => signs.map(() => ({ tokens: [] as number[], values: [] as number[] })));
  const options = { of: "direction", numbers: logitNumbers, ...(atOnce !== undefined && { tokens: atOnce }) } as const;
  for await (const { from, first, tokens: T, logits } of logitPieces(loaded, x, options)) {
    if (stopped?.()) throw new StoppedError();
    const texts = Int32Array.from({ length: T }, (_, i) => first + i).filter(hasText);
    const own = new Float64Array(texts.length);
    for (let i = 0; i * T < logits.length; i++) {
      for (const [s, sign] of signs.entries()) {
        takeScaled(own, logits, i * T - first, texts, sign * scales[from + i]!);
        const best = found[from + i]![s]!;
        for (const k of placesOfLargest(own, keptTokens)) {
          best.tokens.push(texts[k]!);
          best.values.push(own[k]!);
        }
      }
    }
  }
  return found.map((both) => {
    const [promotes, suppresses] = both.map(({ tokens, values }, s): TokenLogits => {
      const places = placesOfLargest(Float64Array.from(values), keptTokens);
      return { token: places.map((k) => tokens[k]!), logit: places.map((k) => signs[s]! * values[k]!) };
    });
    return { promotes: promotes!, suppresses: suppresses! };
  });
}

const signs = [1, -1] as const;

/** to[k] = factor · values[at + places[k]] */
function takeScaled(to: Float64Array, values: Floats, at: number, places: Int32Array, factor: number): void {
  for (let k = 0; k < places.length; k++) to[k] = values[at + places[k]!]! * factor;
}

/** √mean(d²), of d without its mean where that is ignored. */
function scaleOf(d: Float32Array, ignoresMean: boolean): number {
  let [sum, squares] = [0, 0];
  for (const value of d) sum += value;
  const mean = ignoresMean ? sum / d.length : 0;
  for (const value of d) squares += (value - mean) ** 2;
  return Math.sqrt(squares / d.length);
}
