import type { Dictionary } from "../dictionaries/dictionary.ts";
import { codeRule, type EncoderTensors, traceCodes } from "../dictionaries/encode.ts";
import { StoppedError, UserError } from "../errors.ts";
import { compile, type Session, type SessionOptions } from "../graph/session.ts";
import { constant, input, scalar, type Tensor, where } from "../graph/tensor.ts";
import { type Context, contextInputs, type Model, type Tap, type Weights } from "../models/model.ts";
import { compareSites, parseSite, type SiteName } from "../site.ts";
import { activationReader, Moments, sinkLimit, withoutFirst, withoutSinks } from "./activations.ts";
import { rowContext, targetLoss, targetValues } from "./loss.ts";
import type { TextSource } from "./text.ts";

/** How good an SAE is on held-out text, its site alone replaced; the first token of each row (BOS) and other attention sinks stay as they are. */
export interface DictionaryQuality {
  readonly site: SiteName;
  readonly features: number;
  /** How many tokens were looked at, and how many of them for the losses. */
  readonly tokens: number;
  readonly lossTokens: number;
  /** 1 − Σ‖x − x̂‖² / Σ‖x − x̄‖² */
  readonly varianceExplained: number;
  /** Mean number of features that are not 0 per token. */
  readonly activeFeatures: number;
  /** Share of features that are 0 on every token. */
  readonly silent: number;
  /** Mean loss of the model in nats: as it is, with the site's reconstruction, and with the site's mean. */
  readonly loss: number;
  readonly lossReconstructed: number;
  readonly lossAblated: number;
  /** (ablated − reconstructed) / (ablated − plain); 1: nothing is lost. */
  readonly lossRecovered: number;
}

/** Few enough that the logits of a pass stay in the processor's cache. */
const rowsAtOnce = 16;

/**
 * Measures SAEs on held-out text, one model pass for all of them and then two passes per SAE from its block on: with the reconstruction in the
 * activation's place (the error dropped), and with the activation's mean over the text.
 *
 * @param tokens how many tokens, rounded up to whole runs, but no more than the text has; BOS does not count
 * @param options.lossTokens how many of them, the first, for the losses, which take two more passes per SAE; all by default
 * @throws StoppedError if `signal` is aborted
 */
export async function evaluateDictionaries(
  model: Model,
  weights: Weights,
  dictionaries: readonly Dictionary[],
  text: TextSource,
  length: number,
  tokens: number,
  onProgress: (done: number, total: number) => void = () => {},
  { signal, lossTokens = tokens, ...options }: SessionOptions & { signal?: AbortSignal; lossTokens?: number } = {},
): Promise<DictionaryQuality[]> {
  const held = await Promise.all(dictionaries.map(holdDictionary));
  held.sort((a, b) => compareSites(a.site, b.site));
  const tokensOfRun = rowsAtOnce * (length - 1);
  const most = Math.max(1, Math.floor(text.distinct(length) / rowsAtOnce));
  const runsFor = (wanted: number) => Math.min(most, Math.ceil(wanted / tokensOfRun));
  const runs = runsFor(tokens);
  const lossRuns = Math.min(runs, runsFor(lossTokens));
  const layers = [...new Set(held.map(({ site }) => parseSite(site).layer))];
  const total = runs + lossRuns * layers.length;
  let done = 0;
  const eachRun = async (
    count: number,
    session: Session,
    use: (results: Awaited<ReturnType<Session["run"]>>) => void,
  ) => {
    for (let i = 0; i < count; i++) {
      if (signal?.aborted) throw new StoppedError("Stopped.");
      const rows = text.rows(i, rowsAtOnce, length);
      use(await session.run({ ...rowContext(rows), targets: targetValues(rows) }));
      onProgress(++done, total);
    }
    await session.release();
  };

  const sites = held.map(({ site }) => site);
  const reader = await activationReader(model, weights, sites, text, length, options);
  const sample = await reader.read(0);
  await reader.close();
  const limits = new Map(held.map(({ site, width }) => [site, sinkLimit(sample.get(site)!, width)]));

  const codes = new Map(
    held.map((dictionary) => [dictionary.site, new CodeSums(dictionary, limits.get(dictionary.site)!)]),
  );
  await eachRun(runs, await compile(codeGraph(model, weights, held, limits, length), options), (results) => {
    for (const sums of codes.values()) sums.add(results, length);
  });

  const losses = new Map<string, number>();
  for (const layer of layers) {
    const here = held.filter(({ site }) => parseSite(site).layer === layer);
    const means = new Map([...codes].map(([site, sums]) => [site, sums.mean()]));
    const graph = spliceGraph(model, weights, here, means, limits, length);
    await eachRun(lossRuns, await compile(graph, options), (results) => {
      for (const name of Object.keys(graph)) {
        const key = name === "plain" ? `plain ${layer}` : name;
        losses.set(key, (losses.get(key) ?? 0) + Number(results[name]!.data[0]) / (lossRuns * tokensOfRun));
      }
    });
  }
  return held.map(({ site, features }) => {
    const loss = losses.get(`plain ${parseSite(site).layer}`)!;
    const [lossReconstructed, lossAblated] = [losses.get(`${site} reconstructed`)!, losses.get(`${site} ablated`)!];
    return {
      site,
      features,
      tokens: runs * tokensOfRun,
      lossTokens: lossRuns * tokensOfRun,
      ...codes.get(site)!.quality(),
      loss,
      lossReconstructed,
      lossAblated,
      lossRecovered: (lossAblated - lossReconstructed) / (lossAblated - loss),
    };
  });
}

/** A dictionary whose weights are in memory, as traced computation. */
interface HeldDictionary {
  readonly site: SiteName;
  readonly features: number;
  readonly width: number;
  /** x[N,D] → f[N,F] */
  encode(x: Tensor): Tensor;
  /** f[N,F] → x̂[N,D] */
  decode(f: Tensor): Tensor;
}

async function holdDictionary(dictionary: Dictionary): Promise<HeldDictionary> {
  const { writes: site, inputWidth, outputWidth: D, featureCount: F } = dictionary;
  const encoder = await dictionary.encoder();
  const { weight, bias, inputBias, activation, normalization } = encoder;
  if (normalization) {
    throw new UserError(
      `normalize_activations: expected none, got ${normalization} in ${dictionary.name}. SAEs normalised per token cannot be evaluated.`,
    );
  }
  const hold = (data: Float32Array, ...shape: number[]) => constant(data, "float32", shape);
  const [decoder, decoderBias] = [hold(await dictionary.decoder(), F, D), hold(await dictionary.decoderBias(), D)];
  const tensors: EncoderTensors = {
    weight: hold(weight, inputWidth, F),
    bias: hold(bias, F),
    inputBias: inputBias && hold(inputBias, inputWidth),
    threshold: activation.kind === "jumprelu" ? hold(activation.threshold, F) : undefined,
  };
  return {
    site,
    features: F,
    width: D,
    encode: (x) => traceCodes(x, tensors, codeRule(encoder)),
    decode: (f) => f.matmul(decoder).add(decoderBias),
  };
}

/** Per site: the activations, the squared error of each token, and how many tokens and codes are active; 0 for BOS and sinks in the last two. */
function codeGraph(
  model: Model,
  w: Weights,
  dictionaries: readonly HeldDictionary[],
  limits: ReadonlyMap<SiteName, number>,
  length: number,
): Record<string, Tensor> {
  const context = contextInputs(length, "float32", true);
  const outputs: Record<string, Tensor> = {};
  const tap: Tap = (site, x) => {
    const dictionary = dictionaries.find((d) => d.site === site);
    if (dictionary) {
      const f = dictionary.encode(x);
      const error = x.sub(dictionary.decode(f));
      outputs[`${site} activations`] = x;
      const counted = ordinary(x, context, limits.get(site)!);
      outputs[`${site} errors`] = error.mul(error).sum(-1).mul(counted);
      outputs[`${site} active`] = f.greater(0).cast("float32").mul(counted).sum(0);
    }
    return x;
  };
  let x = tap("embed", model.embed(w, context));
  for (let layer = 0; layer < model.layers; layer++) x = model.block(w, layer, x, context, tap);
  return outputs;
}

/** 1 for every token but the first of its row, as a column [N,1]. */
function afterFirst({ positions }: Context): Tensor {
  return positions.greater(0).cast("float32").reshape(positions.shape[0]!, 1);
}

/** 1 for every token of x[N,D] but the first of its row and attention sinks, as a column [N,1]. */
function ordinary(x: Tensor, context: Context, limit: number): Tensor {
  const short = scalar(limit ** 2, "float32").greater(x.mul(x).sum(-1));
  return short.cast("float32").mul(afterFirst(context));
}

/** The sums of one site over the text, without BOS and attention sinks. */
class CodeSums {
  readonly #site: SiteName;
  readonly #width: number;
  readonly #limit: number;
  readonly #moments: Moments;
  readonly #active: Float64Array;
  #error = 0;

  constructor({ site, width, features }: HeldDictionary, limit: number) {
    this.#site = site;
    this.#width = width;
    this.#limit = limit;
    this.#moments = new Moments(width);
    this.#active = new Float64Array(features);
  }

  add(results: Awaited<ReturnType<Session["run"]>>, length: number): void {
    const values = (name: string) => results[`${this.#site} ${name}`]!.data as Float32Array;
    const activations = withoutFirst(values("activations"), rowsAtOnce, length);
    this.#moments.add(withoutSinks(activations, this.#width, this.#limit));
    for (const e of withoutFirst(values("errors"), rowsAtOnce, length)) this.#error += e;
    values("active").forEach((n, i) => {
      this.#active[i]! += n;
    });
  }

  mean(): Float32Array {
    return this.#moments.mean();
  }

  quality(): Pick<DictionaryQuality, "varianceExplained" | "activeFeatures" | "silent"> {
    return {
      varianceExplained: 1 - this.#error / this.#moments.variation(),
      activeFeatures: this.#active.reduce((sum, n) => sum + n, 0) / this.#moments.rows,
      silent: this.#active.filter((n) => n === 0).length / this.#active.length,
    };
  }
}

/**
 * Sums of the losses of all tokens but each row's first, [1,1]: `plain`, and for every dictionary, all of one layer, `<site> reconstructed` and
 * `<site> ablated`. The blocks before the layer are computed once for all.
 */
function spliceGraph(
  model: Model,
  w: Weights,
  dictionaries: readonly HeldDictionary[],
  means: ReadonlyMap<SiteName, Float32Array>,
  limits: ReadonlyMap<SiteName, number>,
  length: number,
): Record<string, Tensor> {
  const context = contextInputs(length, "float32", true);
  const targets = input("targets", "int64", context.tokens.shape);
  const layer = parseSite(dictionaries[0]!.site).layer;
  const counted = afterFirst(context);
  const plain: Tap = (_, x) => x;
  const lossFrom = (x: Tensor, tap: Tap) => {
    for (let l = layer; l < model.layers; l++) x = model.block(w, l, x, context, tap);
    return targetLoss(model, w, x, targets).mul(counted).sum();
  };
  let before = model.embed(w, context);
  for (let l = 0; l < layer; l++) before = model.block(w, l, before, context, plain);

  const outputs: Record<string, Tensor> = { plain: lossFrom(before, plain) };
  for (const dictionary of dictionaries) {
    const { site } = dictionary;
    const mean = constant(means.get(site)!, "float32", [1, dictionary.width]);
    const splice = (replace: (x: Tensor) => Tensor) => {
      const tap: Tap = (s, x) =>
        s === site ? where(ordinary(x, context, limits.get(site)!).greater(0), replace(x), x) : x;
      // The site `embed` is the input of block 0, not a place inside it.
      return lossFrom(tap("embed", before), tap);
    };
    outputs[`${site} reconstructed`] = splice((x) => dictionary.decode(dictionary.encode(x)));
    outputs[`${site} ablated`] = splice((x) => mean.expandLike(x));
  }
  return outputs;
}
