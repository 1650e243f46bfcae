import type { Dictionary, Encoder } from "./dictionary.ts";

/** A dictionary whose weights are read once and stay in memory, for work that asks for them again and again. */
export interface HeldDictionary extends Dictionary {
  /** What it holds by now, in bytes. */
  heldBytes(): number;
}

/** Has a dictionary keep what it reads. Whoever asks gets the same arrays, and must not change them. */
export function heldDictionary(dictionary: Dictionary): HeldDictionary {
  let bytes = 0;
  const once = <T>(read: () => Promise<T>, sizeOf: (value: T) => number) => {
    let held: Promise<T> | undefined;
    return () => {
      held ??= read().then(
        (value) => {
          bytes += sizeOf(value);
          return value;
        },
        (error) => {
          held = undefined;
          throw error;
        },
      );
      return held;
    };
  };
  const bytesOf = (array: Float32Array) => array.byteLength;
  const encoder = once(() => dictionary.encoder(), encoderBytes);
  const decoder = once(() => dictionary.decoder(), bytesOf);
  const decoderBias = once(() => dictionary.decoderBias(), bytesOf);
  return {
    ...dictionary,
    encoder,
    decoder,
    decoderBias,
    async decoderRows(features) {
      const D = dictionary.outputWidth;
      const all = await decoder();
      const rows = new Float32Array(features.length * D);
      for (let i = 0; i < features.length; i++) rows.set(all.subarray(features[i]! * D, (features[i]! + 1) * D), i * D);
      return rows;
    },
    heldBytes: () => bytes,
  };
}

function encoderBytes({ weight, bias, inputBias, activation }: Encoder): number {
  const threshold = activation.kind === "jumprelu" ? activation.threshold.byteLength : 0;
  return weight.byteLength + bias.byteLength + (inputBias?.byteLength ?? 0) + threshold;
}
