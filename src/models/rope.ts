import { rotaryFrequencies, type Turning } from "./layers.ts";

/** Rotary positions as a config describes them. */
export interface Rope {
  /** `default` (no scaling) or the name of a scaled form. */
  readonly type: string;
  readonly base: number;
  /** The form's own numbers; those that may be absent and are, are left out. */
  readonly numbers: Readonly<Record<string, number>>;
  /** Whether the ends of yarn's ramp are rounded outwards to whole pairs of axes. */
  readonly truncate: boolean;
}

/** A number's default, `required`, or `optional` for one that may be absent. */
type Given = number | "required" | "optional";

/**
 * The forms that can be computed, as transformers names them, with their numbers. dynamic and longrope, whose frequencies depend on the prompt's
 * length, are none of them.
 *
 * @param maxLength the model's `max_position_embeddings`, which stands for the original context where that is absent
 */
export function ropeForms(maxLength: number): Readonly<Record<string, Readonly<Record<string, Given>>>> {
  const factor = "required";
  const original_max_position_embeddings = maxLength;
  return {
    default: {},
    linear: { factor },
    llama3: { factor, low_freq_factor: "required", high_freq_factor: "required", original_max_position_embeddings },
    yarn: {
      ...{ factor, original_max_position_embeddings, beta_fast: 32, beta_slow: 1 },
      ...{ attention_factor: "optional", mscale: "optional", mscale_all_dim: "optional" },
    },
  };
}

/** How R of a head's axes turn with the position. */
export function turning(rope: Rope, R: number): Turning {
  const { factor } = rope.numbers as { factor: number };
  const plain = rotaryFrequencies(R, rope.base);
  /** Each frequency divided by `factor`, but for the share of it that stays as it is. */
  const scaled = (stays: (frequency: number, pair: number) => number) =>
    plain.map((frequency, pair) => {
      const share = Math.min(1, Math.max(0, stays(frequency, pair)));
      return frequency * (share + (1 - share) / factor);
    });
  switch (rope.type) {
    case "linear":
      return { frequencies: scaled(() => 0), scale: 1 };
    case "llama3":
      return { frequencies: scaled(llama3Share(rope)), scale: 1 };
    case "yarn":
      return { frequencies: scaled(yarnShare(rope, R)), scale: yarnScale(rope) };
    default:
      return { frequencies: plain, scale: 1 };
  }
}

/**
 * Llama 3.1's share (arXiv:2407.21783): none of the frequencies that turn fewer than `low_freq_factor` times within the original context, all of
 * those that turn more than `high_freq_factor` times, and linear between the two.
 */
function llama3Share({ numbers }: Rope): (frequency: number) => number {
  const { low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: length } = numbers;
  return (frequency) => ((length! * frequency) / (2 * Math.PI) - low!) / (high! - low!);
}

/**
 * YaRN's share (arXiv:2309.00071): linear in the number of the pair of axes, from all at the pair that turns `beta_fast` times within the original
 * context to none at the one that turns `beta_slow` times.
 */
function yarnShare({ base, numbers, truncate }: Rope, R: number): (frequency: number, pair: number) => number {
  const { beta_fast: fast, beta_slow: slow, original_max_position_embeddings: length } = numbers;
  const pairOf = (turns: number) => (R * Math.log(length! / (turns * 2 * Math.PI))) / (2 * Math.log(base));
  const [first, last] = truncate
    ? [Math.floor(pairOf(fast!)), Math.ceil(pairOf(slow!))]
    : [pairOf(fast!), pairOf(slow!)];
  const from = Math.max(0, first);
  const to = Math.min(R - 1, last);
  // transformers' way around a division by 0.
  const width = from === to ? 0.001 : to - from;
  return (_, pair) => 1 - (pair - from) / width;
}

/** What YaRN multiplies queries and keys by: `attention_factor`, else 1 + ln(factor)/10, or a quotient of two such numbers. */
function yarnScale({ numbers: { factor, attention_factor, mscale, mscale_all_dim } }: Rope): number {
  const scale = (slope: number) => (factor! <= 1 ? 1 : 0.1 * slope * Math.log(factor!) + 1);
  return attention_factor ?? (mscale && mscale_all_dim ? scale(mscale) / scale(mscale_all_dim) : scale(1));
}
