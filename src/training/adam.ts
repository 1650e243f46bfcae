export interface AdamOptions {
  /** Decay rates of the running means of gradient and squared gradient. */
  readonly beta1?: number;
  readonly beta2?: number;
  readonly epsilon?: number;
  /** Each step takes learningRate · decay · weight away, in `decayed` ranges only. */
  readonly decay?: number;
  /** [from, to) ranges that decay acts on. */
  readonly decayed?: readonly (readonly [number, number])[];
}

/** AdamW (arXiv:1711.05101) over one flat array of weights. */
export class Adam {
  readonly #mean: Float32Array;
  readonly #square: Float32Array;
  readonly #options: Required<AdamOptions>;
  #steps = 0;

  constructor(size: number, options: AdamOptions = {}) {
    this.#mean = new Float32Array(size);
    this.#square = new Float32Array(size);
    this.#options = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, decay: 0, decayed: [], ...options };
  }

  /**
   * One step: changes the weights in place.
   *
   * @param factor multiplies the gradient first, as clipping asks for
   */
  step(weights: Float32Array, gradient: Float32Array, learningRate: number, factor = 1): void {
    const { beta1, beta2, epsilon, decay, decayed } = this.#options;
    this.#steps++;
    if (decay > 0) {
      const kept = 1 - learningRate * decay;
      for (const [from, to] of decayed) for (let i = from; i < to; i++) weights[i]! *= kept;
    }
    const rate = learningRate / (1 - beta1 ** this.#steps);
    const scale = 1 / Math.sqrt(1 - beta2 ** this.#steps);
    const [mean, square] = [this.#mean, this.#square];
    for (let i = 0; i < weights.length; i++) {
      const g = gradient[i]! * factor;
      const m = beta1 * mean[i]! + (1 - beta1) * g;
      const s = beta2 * square[i]! + (1 - beta2) * g * g;
      mean[i] = m;
      square[i] = s;
      weights[i]! -= (rate * m) / (Math.sqrt(s) * scale + epsilon);
    }
  }
}

/** The Euclidean norm of a gradient. */
export function norm(gradient: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < gradient.length; i++) sum += gradient[i]! * gradient[i]!;
  return Math.sqrt(sum);
}

/**
 * A learning rate that rises from 0 to `peak` in a straight line over `warmup` steps and falls along half a cosine to `floor`·peak at the last.
 *
 * @param step 0-based
 */
export function cosineSchedule(
  step: number,
  { steps, warmup, peak, floor = 0 }: { steps: number; warmup: number; peak: number; floor?: number },
): number {
  if (step < warmup) return (peak * (step + 1)) / warmup;
  const done = (step - warmup) / Math.max(1, steps - warmup);
  return peak * (floor + (1 - floor) * 0.5 * (1 + Math.cos(Math.PI * Math.min(1, done))));
}
