import { type Floats, floatValue, type Hook, type Inputs, type Place } from "../capture/hooks.ts";
import { floatsOf } from "../capture/pack-inputs.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { type EncoderForm, encoderForm, encoderTensors, encoderValues, traceCodes } from "../dictionaries/encode.ts";
import type { Picked } from "../dictionaries/pick.ts";
import { type Dim, times } from "../graph/shape.ts";
import { input } from "../graph/tensor.ts";

/**
 * What stands at a site instead of x[N,D], x being what the changed model computes there:
 *
 *     y = stay·x + offset + live·(f_S(x)·W_S + whole·f(x)·W_dec)
 *
 * Every intervention on features has this form. Of the dictionary only the columns and rows of S take part, unless the term with all features is asked for.
 */
export interface Replacement {
  /** The features S; `rows` are W_S[S,D], their directions times whatever factor the intervention gives them. */
  readonly picked: Picked;
  /** The factor of the term with all features, 1 or −1; only where the hook was made with `whole`. */
  readonly whole?: number;
  /** [N]: 1 where x itself stays, 0 where it goes. */
  readonly stay: Floats;
  /** [N]: 1 where features count, 0 at tokens that are no text. */
  readonly live: Floats;
  /** [N,D] */
  readonly offset: Floats;
}

/** A hook that puts `Replacement`s in place of a site's activations; their values come with each job, from `replacementInputs`. */
export async function replacingHook(
  dictionary: Dictionary,
  dtype: "float32" | "float64",
  { whole = false }: { readonly whole?: boolean } = {},
): Promise<Hook> {
  const form = encoderForm(await dictionary.encoder());
  const { inputWidth, outputWidth: D, featureCount: F } = dictionary;
  return {
    trace(x, { context: { tileSize }, named }) {
      const N = times(tileSize, "B");
      const row = (name: string) => input(named(name), dtype, [N, 1]);
      const S = pickedSize(form, F, named);
      let changed = traceCodes(x, encoderTensors(form, inputWidth, S, dtype, named), form.rule).matmul(
        input(named("rows"), dtype, [S, D]),
      );
      if (whole) {
        const all = encoderTensors(form, inputWidth, F, dtype, (name) => named(wholeName(name)));
        const decoded = traceCodes(x, all, form.rule).matmul(input(named(wholeName("rows")), dtype, [F, D]));
        changed = changed.add(decoded.mul(input(named("whole"), dtype, [])));
      }
      const y = x
        .mul(row("stay"))
        .add(input(named("offset"), dtype, [N, D]))
        .add(changed.mul(row("live")));
      return { y };
    },
    ...(whole && { weights: () => wholeInputs(dictionary, dtype) }),
  };
}

/** What a job gives to a hook of `replacingHook`. */
export function replacementInputs(
  { picked, whole, stay, live, offset }: Replacement,
  weights: Inputs = pickedInputs(picked, offset instanceof Float64Array ? "float64" : "float32"),
): Inputs {
  const [N, D] = [stay.length, picked.width];
  return {
    ...weights,
    stay: floatValue(stay, N, 1),
    live: floatValue(live, N, 1),
    offset: floatValue(offset, N, D),
    ...(whole !== undefined && { whole: floatValue(new (offset.constructor as new (n: number[]) => Floats)([whole])) }),
  };
}

/** The weights of picked features as a graph gets them; where none is picked, one that is never active. */
export function pickedInputs({ encoder, rows, width: D, count }: Picked, dtype: "float32" | "float64"): Inputs {
  const nothing = (n: number) => new Float32Array(n);
  const { activation } = encoder;
  const one =
    count > 0
      ? encoder
      : {
          ...encoder,
          weight: nothing(D),
          bias: nothing(1),
          activation: activation.kind === "jumprelu" ? { ...activation, threshold: nothing(1) } : activation,
        };
  const S = Math.max(1, count);
  return { ...encoderValues(one, dtype), rows: floatsOf(count > 0 ? rows : nothing(D), dtype, S, D) };
}

/** S: features differ from job to job, but of TopK it is always all of them. */
export const pickedSize = ({ rule }: EncoderForm, F: number, named: Place["named"]): Dim =>
  rule.kind === "topk" ? F : named("S");

const wholeName = (name: string) => `whole_${name}`;

/** All weights of a dictionary, for the term with all features. */
async function wholeInputs(dictionary: Dictionary, dtype: "float32" | "float64"): Promise<Inputs> {
  const values = encoderValues(await dictionary.encoder(), dtype);
  const { outputWidth: D, featureCount: F } = dictionary;
  return Object.fromEntries(
    Object.entries({ ...values, rows: floatsOf(await dictionary.decoder(), dtype, F, D) }).map(([name, value]) => [
      wholeName(name),
      value,
    ]),
  );
}
