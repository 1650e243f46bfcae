import type { Check } from "../src/circuit/checks.ts";
import { type EdgeOptions, edges } from "../src/circuit/edges.ts";
import type { MethodInput } from "../src/effects/method.ts";
import type { SiteName } from "../src/site.ts";

/** Edges by target, then source, then feature, summed over groups: `error` and `token` as keys of their own. */
export type Found = Map<string, Map<SiteName, Map<number | "error" | "token", number>>>;

export async function edgesOf(given: MethodInput, options: EdgeOptions): Promise<{ found: Found; checks: Check[] }> {
  const found: Found = new Map();
  let checks: Check[] = [];
  const onChecks = (all: readonly Check[]) => {
    checks = [...all];
  };
  for await (const { blocks } of edges(given, { ...options, onChecks })) {
    for (const { target, source, features, values, error, token } of blocks) {
      const key = `${target.site}/${target.feature}`;
      const bySource = found.get(key) ?? new Map();
      found.set(key, bySource);
      const sums = bySource.get(source) ?? new Map();
      bySource.set(source, sums);
      const add = (name: number | "error" | "token", value: number) => sums.set(name, (sums.get(name) ?? 0) + value);
      features.forEach((feature, i) => {
        add(feature, values[i]!);
      });
      add("error", error);
      if (token !== undefined) add("token", token);
    }
  }
  return { found, checks };
}
