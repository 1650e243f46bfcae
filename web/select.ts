import type { Score } from "../src/circuit/ranking.ts";
import type { Split } from "../src/prompts/pairs.ts";
import type { ReportData } from "../src/report/data.ts";
import { parseSite, type SiteName, siteKinds } from "../src/site.ts";
import { useSelection } from "./selection.tsx";

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

/**
 * The kind of sites that a part shows, which is that of the chosen site where the part has it, and how to choose another: its site at the same
 * layer, or its first.
 */
export function useKind(sites: readonly SiteName[]): [kind: string, setKind: (kind: string) => void] {
  const { selection, select } = useSelection();
  const { site } = selection;
  const chosen = site === null ? null : parseSite(site);
  const kind = chosen !== null && kindsOf(sites).includes(chosen.kind) ? chosen.kind : firstKind(sites);
  const setKind = (next: string) => {
    const found = sitesOfKind(sites, next);
    select({ site: found.find((one) => parseSite(one).layer === chosen?.layer) ?? found[0] ?? null });
  };
  return [kind, setKind];
}

/** The chosen split where a part has it, else its first. */
export function useSplit(splits: readonly Split[]): [split: Split, setSplit: (split: Split) => void] {
  const { selection, select } = useSelection();
  const split = splits.find((one) => one === selection.split) ?? splits[0] ?? "train";
  return [split, (next) => select({ split: next })];
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
