import type { JumpReluWeights } from "../dictionaries/formats/sae-lens.ts";
import { StoppedError } from "../errors.ts";
import { gradients } from "../graph/reverse.ts";
import { compile, float32, type Session, type SessionOptions } from "../graph/session.ts";
import { input, type Tensor } from "../graph/tensor.ts";
import { Random } from "../random.ts";
import type { SiteName } from "../site.ts";
import type { ActivationSource, Scale } from "./activations.ts";
import { Adam } from "./adam.ts";
import { copyGradients, gradientName, type Layout, layoutOf, parameterInputs, parameterValues } from "./parameters.ts";

/** Everything that decides what the SAE of a site becomes, besides its activations. */
export interface DictionaryRecipe {
  readonly seed: number;
  /** F, as a multiple of the site's width D. */
  readonly expansion: number;
  readonly steps: number;
  /** Mean number of active features per token that is steered to. */
  readonly activeFeatures: number;
  readonly learningRate: number;
}

/** The share of steps in which each token keeps its k largest codes; afterwards a code is kept if it is above the threshold. */
const topkShare = 0.75;
/** The share of steps at the end in which the learning rate falls to 0. */
const decayShare = 0.3;
/** How fast the threshold follows: it is multiplied by exp(rate · (active/wanted − 1)) in each step. */
const steering = 0.03;
/**
 * After so many steps without being active, a feature's bias rises in each step until it is: by `nudge` times the lowest threshold so far. Not by
 * the threshold of the moment, for higher biases raise that one, and the two drive each other up without end.
 */
const silentSteps = 30;
const nudge = 0.015;

/** What came of a training step: mean squared error as a share of the variance, and active features per token. */
export interface DictionaryProgress {
  readonly site: SiteName;
  readonly step: number;
  readonly unexplained: number;
  readonly activeFeatures: number;
  /** Features that have not been active in the last `silentSteps` steps. */
  readonly silent: number;
}

/**
 * Trains SAEs of several sites side by side on one stream of activations; each site's result depends on its own activations alone.
 *
 * Activations are shifted and scaled to mean 0 and mean square 1 first, which is folded into the weights at the end. Decoder rows have length 1.
 * For the first three quarters each token keeps its k largest codes (TopK, arXiv:2406.04093) while one threshold is steered to where as many are
 * above it on average; then the codes above that threshold are kept (JumpReLU, arXiv:2407.14435). One threshold for all features, moved by
 * steering and not by gradients. Features that stay silent have their bias raised until they are active: an auxiliary loss on the error would
 * have next to no gradient when nearly all is explained.
 *
 * @throws StoppedError if `signal` is aborted
 */
export async function trainDictionaries(
  source: ActivationSource,
  recipe: DictionaryRecipe,
  onStep: (progress: DictionaryProgress) => void = () => {},
  { signal, ...options }: SessionOptions & { signal?: AbortSignal } = {},
): Promise<JumpReluWeights[]> {
  const scales = await source.scales();
  const trainers = source.sites.map(({ site, width }) => new Trainer(site, width, recipe, scales.get(site)!));
  const sessions = new Map<string, Session>();
  const sessionOf = async (width: number, topk: boolean) => {
    const key = `${width}/${topk}`;
    const made = sessions.get(key) ?? (await compile(dictionaryGraph(width, recipe, topk), options));
    sessions.set(key, made);
    return made;
  };
  try {
    for (let step = 0; step < recipe.steps; step++) {
      if (signal?.aborted) throw new StoppedError("Stopped; nothing was written.");
      const batch = await source.batch(step);
      for (const trainer of trainers) {
        const session = await sessionOf(trainer.width, step < topkShare * recipe.steps);
        onStep(await trainer.step(session, batch.get(trainer.site)!, step));
      }
    }
  } finally {
    for (const session of sessions.values()) await session.release();
  }
  return trainers.map((trainer) => trainer.result());
}

/**
 * One step's graph. Inputs: x[N,D], `threshold` [], `weight` [] = 1/(N·D), and the parameters W_enc[D,F], b_enc[F], W_dec[F,D], b_dec[D]. Outputs:
 * `loss` [1,1] = mean squared error, `active` [1,F] = on how many tokens a feature was kept, `above` [1,1] = how many codes are above the
 * threshold, and a gradient per parameter.
 */
export function dictionaryGraph(
  width: number,
  { expansion, activeFeatures }: DictionaryRecipe,
  topk: boolean,
  dtype: "float32" | "float64" = "float32",
): Record<string, Tensor> {
  const parameters = parameterInputs(dictionaryLayout(width, expansion), dtype);
  const p = (name: string) => parameters.get(name)!;
  const x = input("x", dtype, ["N", width]);
  const threshold = input("threshold", dtype, []);
  const z = x.matmul(p("W_enc")).add(p("b_enc"));
  const above = z.greater(threshold).cast(dtype);
  const kept = topk ? z.greaterOrEqual(z.kthLargest(activeFeatures)).cast(dtype).mul(z.greater(0).cast(dtype)) : above;
  const reconstruction = z.mul(kept).matmul(p("W_dec")).add(p("b_dec"));
  const error = x.sub(reconstruction);
  const loss = error
    .mul(error)
    .sum()
    .mul(input("weight", dtype, []));
  const found = gradients(loss, [...parameters.values()]);
  return {
    loss,
    active: kept.sum(0),
    above: above.sum(),
    ...Object.fromEntries([...parameters.keys()].map((name, i) => [gradientName(name), found[i]!])),
  };
}

function dictionaryLayout(width: number, expansion: number): Layout {
  const F = width * expansion;
  return layoutOf([
    ["W_enc", [width, F]],
    ["b_enc", [F]],
    ["W_dec", [F, width]],
    ["b_dec", [width]],
  ]);
}

/** An SAE in training. */
class Trainer {
  readonly site: SiteName;
  readonly width: number;
  readonly #recipe: DictionaryRecipe;
  readonly #scale: Scale;
  readonly #layout: Layout;
  readonly #flat: Float32Array;
  readonly #gradient: Float32Array;
  readonly #adam: Adam;
  /** Steps since each feature was last active. */
  readonly #idle: Uint32Array;
  #threshold = 1;
  #lowestThreshold = Number.POSITIVE_INFINITY;

  constructor(site: SiteName, width: number, recipe: DictionaryRecipe, scale: Scale) {
    this.site = site;
    this.width = width;
    this.#recipe = recipe;
    this.#scale = scale;
    this.#layout = dictionaryLayout(width, recipe.expansion);
    this.#flat = new Float32Array(this.#layout.size);
    this.#gradient = new Float32Array(this.#layout.size);
    // Rare tokens with activations ten times the usual give rare large gradients; with a longer memory of squares each of them kicks too hard.
    this.#adam = new Adam(this.#layout.size, { beta2: 0.99 });
    this.#idle = new Uint32Array(width * recipe.expansion);
    this.#initialise(new Random(`${recipe.seed}/dictionary/${site}`));
  }

  /** Random unit decoder rows, the encoder their transpose. */
  #initialise(random: Random): void {
    const [encoder, decoder] = [this.#parameter("W_enc"), this.#parameter("W_dec")];
    const F = this.#idle.length;
    for (let i = 0; i < decoder.length; i++) decoder[i] = random.normal();
    this.#normaliseRows();
    for (let i = 0; i < F; i++) {
      for (let j = 0; j < this.width; j++) encoder[j * F + i] = decoder[i * this.width + j]!;
    }
  }

  async step(session: Session, activations: Float32Array, step: number): Promise<DictionaryProgress> {
    const N = activations.length / this.width;
    const results = await session.run({
      x: float32(this.#normalised(activations), N, this.width),
      threshold: float32(Float32Array.of(this.#threshold)),
      weight: float32(Float32Array.of(1 / (N * this.width))),
      ...parameterValues(this.#layout, this.#flat),
    });
    copyGradients(this.#layout, results, this.#gradient);
    this.#adam.step(this.#flat, this.#gradient, this.#learningRate(step));
    this.#normaliseRows();

    const above = (results.above!.data[0] as number) / N;
    const wanted = this.#recipe.activeFeatures;
    this.#threshold *= Math.exp(steering * Math.max(-1, Math.min(1, above / wanted - 1)));
    this.#lowestThreshold = Math.min(this.#lowestThreshold, this.#threshold);
    const counts = results.active!.data as Float32Array;
    const silent = this.#wake(counts);
    return {
      site: this.site,
      step: step + 1,
      unexplained: results.loss!.data[0] as number,
      activeFeatures: counts.reduce((sum, n) => sum + n, 0) / N,
      silent,
    };
  }

  /** Counts the features that stay silent and raises their biases. */
  #wake(counts: Float32Array): number {
    const bias = this.#parameter("b_enc");
    let silent = 0;
    for (let i = 0; i < counts.length; i++) {
      this.#idle[i] = counts[i]! > 0 ? 0 : this.#idle[i]! + 1;
      if (this.#idle[i]! < silentSteps) continue;
      silent++;
      bias[i]! += nudge * this.#lowestThreshold;
    }
    return silent;
  }

  #learningRate(step: number): number {
    const left = (this.#recipe.steps - step) / this.#recipe.steps;
    const warm = Math.min(1, (step + 1) / 50);
    return this.#recipe.learningRate * warm * Math.min(1, left / decayShare);
  }

  #normalised(activations: Float32Array): Float32Array {
    const { mean, deviation } = this.#scale;
    const out = new Float32Array(activations.length);
    for (let i = 0; i < out.length; i++) out[i] = (activations[i]! - mean[i % this.width]!) / deviation;
    return out;
  }

  #normaliseRows(): void {
    const decoder = this.#parameter("W_dec");
    const D = this.width;
    for (let at = 0; at < decoder.length; at += D) {
      let sum = 0;
      for (let j = at; j < at + D; j++) sum += decoder[j]! * decoder[j]!;
      const factor = 1 / Math.sqrt(sum);
      for (let j = at; j < at + D; j++) decoder[j]! *= factor;
    }
  }

  #parameter(name: string): Float32Array {
    const { offset, size } = this.#layout.entries.find((entry) => entry.name === name)!;
    return this.#flat.subarray(offset, offset + size);
  }

  /**
   * The SAE of the activations as they are: with (x − μ)/s in place of x, z·s = x W_enc + (s·b_enc − μ W_enc), so codes and threshold are s times
   * those in training and W_dec stays as it is.
   */
  result(): JumpReluWeights {
    const { mean, deviation: s } = this.#scale;
    const [D, F] = [this.width, this.#idle.length];
    const encoder = this.#parameter("W_enc").slice();
    const encoderBias = this.#parameter("b_enc").map((b) => s * b);
    for (let j = 0; j < D; j++) for (let i = 0; i < F; i++) encoderBias[i]! -= mean[j]! * encoder[j * F + i]!;
    return {
      site: this.site,
      encoder,
      encoderBias,
      decoder: this.#parameter("W_dec").slice(),
      decoderBias: this.#parameter("b_dec").map((b, j) => s * b + mean[j]!),
      threshold: new Float32Array(F).fill(s * this.#threshold),
      subtractDecoderBias: false,
    };
  }
}
