import { UserError } from "../errors.ts";
import type { SiteName } from "../site.ts";

/**
 * What turns pre-activations z[F] into codes f[F].
 *
 * - `relu`: max(z, 0)
 * - `jumprelu`: z where z > θ, else 0 (arXiv:2407.14435). θ[F] is never negative: files may hold negative ones, but their libraries apply a ReLU
 *   as well, which is the same as max(θ, 0).
 * - `topk`: max(z, 0) of the k largest z of a token, the others 0
 */
export type Activation =
  | { readonly kind: "relu" }
  | { readonly kind: "jumprelu"; readonly threshold: Float32Array }
  | { readonly kind: "topk"; readonly k: number };

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

/**
 * A sparse autoencoder of one site: x ≈ f W_dec + b_dec, with f = encoder(x) ≥ 0 and mostly 0; with a normalisation x ≈ f W_dec + σ·b_dec, plus the
 * mean of x for `layer_norm`. Scales that a file keeps apart are folded into the weights. Opening one reads headers only; the weights are read each
 * time they are asked for, so that one dictionary at a time need be in memory.
 */
export interface Dictionary {
  /** Where it came from, for messages and reports. */
  readonly name: string;
  readonly site: SiteName;
  /** D, the length of the site's activations. */
  readonly inputWidth: number;
  /** F, the number of features. */
  readonly width: number;
  readonly kind: Activation["kind"];
  /** Mean number of active features per token, where its files tell. */
  readonly meanActive?: number;
  /** What a reader of its effects has to know, where its files leave something open. */
  readonly warning?: string;
  /** @throws UserError if a weight is not finite; so do the others that read */
  encoder(): Promise<Encoder>;
  /** W_dec[F,D], the decoder directions as rows. */
  decoder(): Promise<Float32Array>;
  /** Rows of W_dec [n,D] in the order of `features`; only they are read. */
  decoderRows(features: ArrayLike<number>): Promise<Float32Array>;
  /** b_dec[D] */
  decoderBias(): Promise<Float32Array>;
  /** Its identity: a hash of its files, or of what it was made from. */
  sha256(): Promise<string>;
  close(): Promise<void>;
}

/**
 * Refuses a dictionary that was not trained on activations of this length.
 *
 * @throws UserError naming the dictionary's file
 */
export function checkDictionary(dictionary: Dictionary, expectedInputWidth: number): void {
  if (dictionary.inputWidth !== expectedInputWidth) {
    throw new UserError(
      `SAE width: expected ${expectedInputWidth}, the model's at ${dictionary.site}, got ${dictionary.inputWidth} in ${dictionary.name}. Use SAEs of this model.`,
    );
  }
}
