import type { SiteName } from "../site.ts";

/**
 * What turns pre-activations z[F] into codes f[F].
 *
 * - `relu`: max(z, 0)
 * - `jumprelu`: z where z > θ, else 0 (arXiv:2407.14435). θ[F] is never negative: files may hold negative ones, but their libraries apply a ReLU
 *   as well, which is the same as max(θ, 0).
 * - `topk`: max(z, 0) of the k largest z of a token, the others 0
 * - `identity`: z itself, signed; no file has it, see `identityDictionary`
 */
export type Activation =
  | { readonly kind: "relu" }
  | { readonly kind: "jumprelu"; readonly threshold: Float32Array }
  | { readonly kind: "topk"; readonly k: number }
  | { readonly kind: "identity" };

/**
 * How an SAE brings each token to a common scale σ before it encodes it, and back after decoding, for x of a token with D numbers:
 *
 * - `layer_norm`: σ = standard deviation of x (D − 1 in the denominator), encoded is (x − mean)/(σ + 1e-5)
 * - `constant_norm_rescale`: σ = ‖x‖/√D, encoded is x/σ
 */
export type Normalization = "layer_norm" | "constant_norm_rescale";

/**
 * z = (x − inputBias) · weight + bias, f = activation(z); with a normalisation x is normalised first, and the codes are f = σ·activation(z), so that
 * f W_dec is what the features contribute to x itself (METHOD: "SAEs normalised per token").
 *
 * A gated SAE whose gate and magnitude share W_enc is a JumpReLU SAE (arXiv:2404.16014, 3.2.1) and is given as one.
 */
export interface Encoder {
  readonly normalization?: Normalization;
  /** W_enc[D,F] */
  readonly weight: Float32Array;
  /** b_enc[F] */
  readonly bias: Float32Array;
  /** [D], subtracted from x first; absent if nothing is. */
  readonly inputBias?: Float32Array;
  readonly activation: Activation;
}

/** The encoder of some neighbouring features alone, n of them. */
export interface EncoderPart extends Omit<Encoder, "weight"> {
  /** Their columns of W_enc as rows, [n,D]. */
  readonly rows: Float32Array;
}

/** What a dictionary's files say of the activations that it was trained on, besides their site. */
export interface TrainedOn {
  /** The model's name, as whoever trained the dictionary spelt it. */
  readonly model?: string;
  /** Tokens of a text. */
  readonly contextSize?: number;
  /** Whether texts began with BOS. */
  readonly bos?: boolean;
  /**
   * The module, as transformers names it, whose output was read, whatever the model does with it before it is added to the residual stream; not
   * `isSure` if the name may also mean what is added.
   */
  readonly module?: { readonly name: string; readonly isSure: boolean };
  /**
   * Whether weights that write to the residual stream lost their mean over D, which TransformerLens does in models that ignore it; `byDefault` if the
   * files leave it to the version of the library.
   */
  readonly centredWeights?: "asked" | "byDefault";
  /** Whether values lost their bias to the output projection's, where the library's version did that unless told otherwise. */
  readonly foldedValueBiases?: "byDefault";
}

/**
 * A sparse dictionary: with f = encoder(x) ≥ 0 and mostly 0 (but for `identity`), x at the site that it reads, it gives y ≈ f W_dec + b_dec, y at the site that it writes;
 * with a normalisation y ≈ f W_dec + σ·b_dec, plus the mean of x for `layer_norm`. Of a sparse autoencoder the two sites are one and y is x. Of a
 * transcoder they are two: `fitDictionary` refuses it. So what is computed with fitted dictionaries may take x from the site that is written, and
 * effects, rankings and maps of dictionaries name that site.
 *
 * Scales that a file keeps apart are folded into the weights. Opening one reads headers only; the weights are read each time they are asked for, so
 * that one dictionary at a time need be in memory.
 */
export interface Dictionary {
  /** Where it came from, for messages and reports. */
  readonly name: string;
  /** The site whose activations are encoded. */
  readonly reads: SiteName;
  /** The site whose activations are decoded. */
  readonly writes: SiteName;
  /** D of the site that is read. */
  readonly inputWidth: number;
  /** D of the site that is written: the length of the decoder's rows. */
  readonly outputWidth: number;
  /** F, the number of features. */
  readonly featureCount: number;
  readonly kind: Activation["kind"];
  /** Its encoder's, told without its weights. */
  readonly normalization?: Normalization;
  /** Mean number of active features per token, where its files tell. */
  readonly meanActive?: number;
  /** What a reader of its effects has to know, where its files leave something open, a sentence or two each. */
  readonly warnings?: readonly string[];
  readonly trainedOn?: TrainedOn;
  /** Whether its files do not tell the kind of its site, so that it was taken for their format's usual one. */
  readonly isSiteAssumed?: boolean;
  /** Where its encoder depends on the model: the dictionary for one that ignores the residual stream's mean, or does not. */
  readonly forModel?: (ignoresMean: boolean) => Dictionary;
  /** @throws UserError if a weight is not finite, and so do the others that read; or if it depends on a model, see `fitDictionary` */
  encoder(): Promise<Encoder>;
  /**
   * The encoder of features first ≤ i < end, number for number what `encoder` has for them, without the others in memory. Dictionaries that lie in
   * memory need none.
   */
  encoderPart?(first: number, end: number): Promise<EncoderPart>;
  /** W_dec[F,D], the decoder directions as rows, D of the site that is written. */
  decoder(): Promise<Float32Array>;
  /** Rows of W_dec [S,D] in the order of `features`; only they are read. A new array, which whoever asks may change. */
  decoderRows(features: ArrayLike<number>): Promise<Float32Array>;
  /** b_dec[D] */
  decoderBias(): Promise<Float32Array>;
  /** W_skip[input width, output width] of a transcoder that adds x W_skip to what it decodes. */
  skip?(): Promise<Float32Array>;
  /** Its identity: a hash of its files, or of what it was made from. */
  sha256(): Promise<string>;
  /** Closes its files. */
  close(): Promise<void>;
}
