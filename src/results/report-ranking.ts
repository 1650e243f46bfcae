import { exactMiss, kindsBeside, type Ranking } from "../circuit/ranking.ts";
import type { ExactSample, SiteImportance, TopFeatures } from "../report/data.ts";
import { roundAll, rounded } from "../stats.ts";
import type { Manifest } from "./manifest.ts";

/** What every site contributes, as the report has it. */
export function importanceOf(ranking: Ranking): SiteImportance[] {
  return (["train", "test"] as const).flatMap((split) =>
    ranking.sites.flatMap(({ site, splits }) => {
      const row = splits[split];
      if (row === undefined) return [];
      const errorShare = row.error_share === null ? null : rounded(row.error_share);
      const explained = row.explained === null ? null : rounded(row.explained);
      return [{ split, site, importance: rounded(row.importance), errorShare, explained, leftOut: row.left_out }];
    }),
  );
}

/** The strongest features as the tables have them. */
export type FoundFeatures = Omit<TopFeatures, "exact" | "beside" | "spread" | "stability10">;

/** The features with what they do when patched by themselves, which is known over all cases together, and what they are first-order and secant. */
export function withExactValues(
  features: readonly FoundFeatures[],
  ranking: Ranking,
  { options }: Manifest,
): Omit<TopFeatures, "spread" | "stability10">[] {
  type Exact = NonNullable<Ranking["sites"][number]["splits"]["train"]>["top"][number]["exact"];
  const found = new Map<string, NonNullable<Exact>>();
  for (const { site, splits } of ranking.sites) {
    for (const [split, { top }] of Object.entries(splits)) {
      for (const { feature, exact } of top) if (exact) found.set(`${split} ${site}/${feature}`, exact);
    }
  }
  const kinds = kindsBeside(String(options.method ?? "analytic"));
  return features.map((group) => {
    const column = (kind: "effect" | "first_order" | "secant") =>
      group.feature.map((feature) => {
        const exact = group.case === "" ? found.get(`${group.split} ${group.site}/${feature}`) : undefined;
        const value = exact?.[kind] ?? null;
        return value === null ? null : rounded(value);
      });
    const beside = kinds.map((kind) => ({
      kind: kind === "secant" ? ("secant" as const) : ("first-order" as const),
      effect: column(kind),
    }));
    return {
      ...group,
      exact: column("effect"),
      beside: beside.filter(({ effect }) => effect.some((value) => value !== null)),
    };
  });
}

/** The features with how much effects and ranks would change with other words, which is known over all cases together. */
export function withSpread(
  features: readonly Omit<TopFeatures, "spread" | "stability10">[],
  { sites }: Ranking,
): TopFeatures[] {
  return features.map((group) => {
    const ranked = group.case === "" ? sites.find(({ site }) => site === group.site)?.splits[group.split] : undefined;
    const byFeature = new Map(ranked?.top.map((row) => [row.feature, row]));
    const spread = group.feature.map((feature) => {
      const { by_words = null, by_pairs = null, ranks = null, in_top_10 = null } = byFeature.get(feature) ?? {};
      return by_words && by_pairs && ranks && in_top_10 !== null ? { by_words, by_pairs, ranks, in_top_10 } : null;
    });
    return { ...group, spread, stability10: ranked?.stability_10 ?? null };
  });
}

/** The sample on which the strongest features were patched, and how far the method is from it; null where none was. */
export function exactSample(ranking: Ranking): ExactSample | null {
  const miss = exactMiss(ranking);
  if (miss === null || ranking.exact === null) return null;
  const { split, pairs, of } = ranking.exact;
  return roundAll({ split, pairs, of, ...miss });
}

/** The strongest features over all cases together, as the ranking lists them, with all that it knows of them. */
export function rankedFeatures(ranking: Ranking, manifest: Manifest): TopFeatures[] {
  const found = ranking.sites.flatMap(({ site, splits }) =>
    (["train", "test"] as const).flatMap((split): FoundFeatures[] => {
      const row = splits[split];
      if (row === undefined) return [];
      const column = (of: "feature" | "effect" | "nodes_active") => row.top.map((one) => one[of]);
      const [feature, effect, nodes] = [column("feature"), column("effect"), column("nodes_active")];
      return [{ split, case: "", site, feature, effect, nodes, error: row.error }];
    }),
  );
  return withSpread(withExactValues(found, ranking, manifest), ranking);
}
