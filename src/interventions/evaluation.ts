import { z } from "zod";
import type { Features } from "./ablation.ts";

const split = z.enum(["train", "test"]);
const size = z.int().min(0);
const interval = z.strictObject({ low: z.number(), high: z.number() }).nullable();

const features = z.record(z.string(), z.array(z.int().min(0))).describe("feature indices by site, ascending");

/** Faithfulness of one circuit. */
const pointSchema = z.strictObject({
  size: size.describe("features in the circuit"),
  f: z.number().describe("F(C): mean metric of the model that keeps the circuit alone, in logits"),
  faithfulness: z.number().describe("(F(C) − F(∅)) / (F(M) − F(∅))"),
  by_words: interval.describe(
    "its 95 % interval, resampling the words that pairs share (subtrees of the forest); null with one word",
  ),
  by_pairs: interval.describe("the same, resampling single pairs: too narrow, since pairs share words"),
  completeness: z
    .number()
    .nullable()
    .describe("(F(M∖C) − F(∅)) / (F(M) − F(∅)), errors kept; near 0 if the circuit has all that matters"),
  cases: z
    .record(z.string(), z.number())
    .describe("faithfulness by case: where one case lacks what another has too much, the pooled number hides it"),
});

const curveSchema = z.strictObject({
  group: z.string().describe("the pairs that the circuits are for"),
  split,
  ablation: z.enum(["mean", "patch", "zero"]),
  errors: z.enum(["ablated", "clean", "removed", "kept"]),
  way: z.string().describe("how features were chosen, on train alone"),
  seed: z.int().nullable().describe("of a random circuit"),
  f_model: z.number().describe("F(M)"),
  f_empty: z.number().describe("F(∅): everything ablated"),
  whole: z
    .number()
    .nullable()
    .describe("faithfulness of all features, errors treated as said: what reconstruction alone costs"),
  points: z.array(pointSchema),
  cpr: z
    .number()
    .describe("area under faithfulness over the share of features, 0 to 1 (MIB's CPR, circuit performance ratio)"),
  cmd: z.number().describe("area between faithfulness and 1 over that share (MIB's CMD, circuit–model distance)"),
});

/** What circuits of different sizes, chosen in different ways, are worth. */
export const evaluationSchema = z.strictObject({
  format: z.literal(1),
  sites: z.array(z.string()).describe("where everything outside a circuit is ablated"),
  pairs: z.array(
    z.strictObject({
      group: z.string(),
      split,
      cases: z.array(z.string()),
      pairs: z.int().min(0),
      words: z.int().min(0),
    }),
  ),
  candidates: z
    .record(z.string(), z.int().min(0))
    .describe("by group: features with a score, among which circuits are chosen"),
  circuits: z.array(
    z.strictObject({
      group: z.string(),
      way: z.string(),
      ablation: z
        .enum(["mean", "patch", "zero"])
        .nullable()
        .describe("the ablation that masks were fitted to; null where none took part"),
      seed: z.int().nullable(),
      size,
      features,
      stability: z
        .number()
        .nullable()
        .describe("mean Jaccard overlap with the circuit chosen from resampled words; null where not measured"),
    }),
  ),
  curves: z.array(curveSchema),
  transfer: z
    .strictObject({
      way: z.string(),
      size,
      ablation: z.enum(["mean", "patch", "zero"]),
      groups: z.array(z.string()),
      faithfulness: z
        .array(z.array(z.number()))
        .describe("row: the group a circuit was chosen for; column: the group it is measured on, test pairs"),
    })
    .nullable(),
});

/** What is found for one group of pairs. */
export const groupEvaluationSchema = evaluationSchema
  .pick({ pairs: true, circuits: true, curves: true })
  .extend({ candidates: z.int().min(0) });
export type GroupEvaluation = z.infer<typeof groupEvaluationSchema>;

/** The `evaluation` of `evaluation.json`. */
export type Evaluation = z.infer<typeof evaluationSchema>;
export type Curve = Evaluation["curves"][number];
export type CurvePoint = Curve["points"][number];

/** Features as files have them. */
export const featuresJson = (of: Features): Record<string, number[]> =>
  Object.fromEntries([...of].filter(([, list]) => list.length > 0).map(([site, list]) => [site, [...list]]));

/** Features as files have them, read back. */
export const featuresOf = (json: Readonly<Record<string, readonly number[]>>): Features =>
  new Map(Object.entries(json));

/**
 * Areas over the share of all candidates that a circuit holds, by trapezoids through (0, 0), the points and (1, faithfulness of the whole).
 *
 * @returns cpr: under faithfulness; cmd: between faithfulness and 1
 */
export function areas(
  points: readonly { readonly size: number; readonly faithfulness: number }[],
  all: number,
  whole: number,
): { readonly cpr: number; readonly cmd: number } {
  const inside = points.filter(({ size: n }) => n > 0 && n < all).sort((a, b) => a.size - b.size);
  const line = [[0, 0], ...inside.map((p) => [p.size / all, p.faithfulness]), [1, whole]] as [number, number][];
  let [cpr, cmd] = [0, 0];
  for (let i = 1; i < line.length; i++) {
    const [[x0, y0], [x1, y1]] = [line[i - 1]!, line[i]!];
    cpr += ((x1 - x0) * (y0 + y1)) / 2;
    cmd += (x1 - x0) * meanDistanceTo1(y0, y1);
  }
  return { cpr, cmd };
}

/** Mean of |1 − y| where y goes in a straight line from a to b, which may cross 1. */
function meanDistanceTo1(a: number, b: number): number {
  const [p, q] = [1 - a, 1 - b];
  if (p * q >= 0) return (Math.abs(p) + Math.abs(q)) / 2;
  return (p * p + q * q) / (2 * (Math.abs(p) + Math.abs(q)));
}
