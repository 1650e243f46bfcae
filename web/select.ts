import type { Score } from "../src/circuit/ranking.ts";
import type { Split } from "../src/prompts/pairs.ts";
import type { ReportData } from "../src/report/data.ts";
import { parseSite, siteKinds } from "../src/site.ts";

/** The splits of a run, train first. */
export function splitsOf(data: ReportData): Split[] {
  return (["train", "test"] as const).filter((split) => data.importance.some((row) => row.split === split));
}

/** Kinds of sites in the order of computation. */
export function kindsOf(sites: readonly string[]): string[] {
  const kinds = new Set(sites.map((site) => parseSite(site).kind as string));
  return siteKinds.filter((kind) => kinds.has(kind));
}

/** The kind to show first: the residual stream where there is one. */
export function firstKind(sites: readonly string[]): string {
  const kinds = kindsOf(sites);
  return kinds.includes("resid_post") ? "resid_post" : (kinds[0] ?? "");
}

/** Sites of one kind, by layer, each once. */
export function sitesOfKind(sites: readonly string[], kind: string): string[] {
  const found = [...new Set(sites)].filter((site) => parseSite(site).kind === kind);
  return found.sort((a, b) => parseSite(a).layer - parseSite(b).layer);
}

/** Sites as kinds with their layers, `embed; resid_post 0–5, 8`. */
export function layersOf(sites: readonly string[]): string {
  const kinds = kindsOf(sites).map((kind) => {
    if (kind === "embed") return kind;
    const ranges: [first: number, last: number][] = [];
    for (const { layer } of sitesOfKind(sites, kind).map(parseSite)) {
      const open = ranges.at(-1);
      if (open !== undefined && layer === open[1] + 1) open[1] = layer;
      else ranges.push([layer, layer]);
    }
    return `${kind} ${ranges.map(([a, b]) => (a === b ? a : `${a}–${b}`)).join(", ")}`;
  });
  return kinds.join("; ");
}

/** What a score is counted in. */
export const unitOf: Record<Score, string> = {
  effect: "logits per pair",
  gradient: "logits per unit of code",
  "gradient-activation": "logits per pair",
};

/** What a score is called in running text. */
export const nameOf: Record<Score, string> = {
  effect: "effect",
  gradient: "gradient score",
  "gradient-activation": "gradient × activation score",
};
