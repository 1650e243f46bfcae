import { z } from "zod";
import type { SiteName } from "../site.ts";
import type { SiteEdges } from "./edges.ts";

const check = z.object({
  name: z.string(),
  site: z.string().nullable(),
  gap: z.number(),
  scale: z.number(),
  tolerance: z.number(),
  passed: z.boolean(),
});

const node = z.int().min(0).optional();

/**
 * Edges into all targets of a site, summed over cases, in logits; those from features outside a circuit are part of the remainder. Summed over nodes, too,
 * unless they are resolved at both ends.
 */
export const edgeSumsSchema = z.strictObject({
  target: z.string(),
  into: z.array(
    z.strictObject({
      feature: z.union([z.int(), z.literal("error"), z.literal("metric")]),
      node,
      effect: z.number(),
      remainder: z.number(),
      from: z.array(
        z.strictObject({
          source: z.string(),
          node,
          through: z.enum(["identity", "attention", "mlp", "block"]),
          features: z.array(z.int()),
          values: z.array(z.number()),
          error: z.number(),
          token: z.number().nullable(),
        }),
      ),
    }),
  ),
  checks: z.array(check),
});

export type EdgeSums = z.infer<typeof edgeSumsSchema>;

/**
 * Sums the blocks of one target site.
 *
 * @param found all of its edges, by source
 * @param isKept whether a source feature is among the circuit's
 * @param byNode whether the nodes of both ends are kept apart, of edges that are resolved so
 */
export function sumEdges(
  target: SiteName | "metric",
  found: readonly SiteEdges[],
  isKept: (site: SiteName, feature: number) => boolean,
  checks: EdgeSums["checks"],
  byNode = false,
): EdgeSums {
  const into = new Map<string, EdgeSums["into"][number]>();
  const seen = new Set<string>();
  for (const { source, through, blocks } of found) {
    for (const { target: of, group, node, sourceNode, effect, remainder, features, values, error, token } of blocks) {
      const [at, start] = byNode ? [node, sourceNode] : [];
      const target = `${of.feature} ${at ?? ""}`;
      const own = into.get(target) ?? { feature: of.feature, node: at, effect: 0, remainder: 0, from: [] };
      into.set(target, own);
      const key = `${of.feature} ${group.split} ${group.case} ${node ?? ""}`;
      if (!seen.has(key)) {
        seen.add(key);
        own.effect += effect;
        own.remainder += remainder;
      }
      let from = own.from.find((one) => one.source === source && one.node === start);
      if (from === undefined) {
        from = {
          source,
          node: start,
          through,
          features: [],
          values: [],
          error: 0,
          token: token === undefined ? null : 0,
        };
        own.from.push(from);
      }
      from.error += error;
      if (token !== undefined) from.token! += token;
      for (const [i, feature] of features.entries()) {
        if (!isKept(source, feature)) {
          own.remainder += values[i]!;
          continue;
        }
        const place = from.features.indexOf(feature);
        if (place >= 0) from.values[place]! += values[i]!;
        else {
          from.features.push(feature);
          from.values.push(values[i]!);
        }
      }
    }
  }
  return { target, into: [...into.values()], checks };
}

/** The sums as edges again, of one group of pairs. */
export function edgesOfSums({ target, into }: EdgeSums): SiteEdges[] {
  const group = { split: "train", case: "" } as const;
  return into.flatMap(({ feature, node, effect, remainder, from }) =>
    from.map(
      ({ source, node: sourceNode, through, features, values, error, token }): SiteEdges => ({
        target,
        source,
        through,
        blocks: [
          {
            target: { site: target, feature },
            ...(node !== undefined && { node }),
            ...(sourceNode !== undefined && { sourceNode }),
            group,
            source,
            features: Int32Array.from(features),
            values: Float64Array.from(values),
            error,
            ...(token !== null && { token }),
            effect,
            remainder,
          },
        ],
      }),
    ),
  );
}
