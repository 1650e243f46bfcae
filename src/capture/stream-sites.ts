import { parseSite, type SiteName, siteName } from "../site.ts";
import type { Entry, Hooks } from "./hooks.ts";

/** The site of the residual stream at the input of a block, or after the last one. */
export function streamSite(layer: number): SiteName {
  return layer === 0 ? "embed" : siteName({ kind: "resid_post", layer: layer - 1 });
}

/** At the input of which block a site of the residual stream lies; undefined for a site inside a block. */
export function streamLayer(site: SiteName): number | undefined {
  const { kind, layer } = parseSite(site);
  return kind === "embed" ? 0 : kind === "resid_post" ? layer + 1 : undefined;
}

/** The site of the stream that an entry at `site` needs as `before`; undefined where it needs none. */
export function streamBefore(site: SiteName): SiteName | undefined {
  return streamLayer(site) === undefined ? streamSite(parseSite(site).layer) : undefined;
}

/** The lowest block that gradients pass for sites that are read; the number of blocks if they pass none. */
export function lowestBlock(layers: number, sites: readonly SiteName[]): number {
  return sites.reduce((low, site) => Math.min(low, streamLayer(site) ?? parseSite(site).layer), layers);
}

/** The same for hooks: what a hook makes of an activation lies in the graph of the block that the activation comes from. */
export function lowestOf(layers: number, hooks: Hooks, from: Entry | undefined): number {
  const traced = (site: SiteName) => Math.max(0, (streamLayer(site) ?? parseSite(site).layer + 1) - 1);
  let low = from ? (streamLayer(from.site) ?? parseSite(from.site).layer) : layers;
  for (const [site, { trace }] of hooks) low = Math.min(low, trace ? traced(site) : lowestBlock(layers, [site]));
  return low;
}
