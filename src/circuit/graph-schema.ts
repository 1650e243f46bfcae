import { z } from "zod";
import { UserError } from "../errors.ts";
import { type CircuitGraph, graphNodeKinds, graphPlaces } from "./graph.ts";

const number = z.number();
const position = z.int().min(0);
const share = z.number().nullable();

const subjectSchema = z.discriminatedUnion("kind", [
  z.object({
    kind: z.literal("pairs"),
    pairs: z.int().min(0),
    cases: z.array(z.string()),
    split: z.enum(["train", "test"]).nullable(),
  }),
  z.object({ kind: z.literal("pair"), clean: z.array(z.string()), patch: z.array(z.string()) }),
  z.object({ kind: z.literal("prompt"), tokens: z.array(z.string()) }),
]);

/** A circuit's graph as `graph.json` holds it: the fields of `CircuitGraph`, which says what they mean. */
export const graphSchema = z.object({
  nodes: z.array(
    z.object({
      id: z.string(),
      kind: z.enum(graphNodeKinds),
      site: z.string().optional(),
      feature: z.int().min(0).optional(),
      position: position.optional(),
      token: z.string().optional(),
      tokenId: z.int().min(0).optional(),
      label: z.string().optional(),
      effect: number,
      activation: number.optional(),
      patchActivation: number.optional(),
      probability: number.optional(),
      remainder: number.optional(),
      influence: number.optional(),
      cumulative: number.optional(),
    }),
  ),
  edges: z.array(z.object({ source: z.string(), target: z.string(), value: number })),
  about: z.object({
    model: z.string(),
    layers: z.int().min(1),
    dictionaries: z.array(z.object({ site: z.string(), source: z.string(), sha256: z.string().optional() })),
    subject: subjectSchema,
    metric: z.string(),
    method: z.string(),
    jacobian: z.enum(["gradient", "secant", "frozen"]),
    slope: z.enum(["clean", "secant"]),
    slopeCap: number.optional(),
    ablation: z.enum(["mean", "patch", "zero"]).optional(),
    thresholds: z.object({ nodes: number, edges: number }).optional(),
    scores: z.object({ replacement: share, completeness: share }).optional(),
  }),
});

/**
 * Reads a graph back from what `JSON.stringify` made of one.
 *
 * @throws UserError if it is none, or broken (`graphPlaces`)
 */
export function graphFrom(stored: unknown): CircuitGraph {
  const parsed = graphSchema.safeParse(stored);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw new UserError(`graph: expected this version's fields, got "${issue.path.join(".")}": ${issue.message}.`);
  }
  // Fields that a file lacks are left out, never undefined.
  const graph = parsed.data as CircuitGraph;
  graphPlaces(graph);
  return graph;
}
