import { UsageError, UserError } from "../errors.ts";
import { compareSites, parseSite, type Site, type SiteKind, type SiteName, siteName } from "../site.ts";

/**
 * The sites to look at among those that have dictionaries, in order of computation: kind and layer together, `embed`, which has no layer, by name
 * only.
 *
 * @param kinds those of `--sites`, or null; each must have a dictionary, and with `layers` one in each of them
 * @param layers those of `--layers`, or null; each must have a dictionary
 * @throws UserError naming what has none
 */
export function chooseSites(
  there: readonly SiteName[],
  kinds: readonly SiteKind[] | null,
  layers: ReadonlySet<number> | null,
): SiteName[] {
  const chosen = there.filter((site) => {
    const { kind, layer } = parseSite(site);
    if (kind === "embed") return kinds?.includes("embed") ?? false;
    return (layers?.has(layer) ?? true) && (kinds?.includes(kind) ?? true);
  });
  const missing = wantedPlaces(kinds, layers).find(({ has }) => !chosen.some((site) => has(parseSite(site))));
  if (missing !== undefined) {
    throw new UserError(
      `SAEs: expected one for ${missing.name}, got only ${there.join(", ")}. Choose other --sites or --layers, or another --sae_source.`,
      { code: "not_found" },
    );
  }
  return chosen.sort(compareSites);
}

/** What has to have a dictionary, as the flags name it: a site, a kind, or a block. */
function wantedPlaces(
  kinds: readonly SiteKind[] | null,
  layers: ReadonlySet<number> | null,
): { readonly name: string; has(site: Site): boolean }[] {
  const blocks = layers === null ? null : [...layers];
  if (kinds === null) {
    if (blocks === null) return [{ name: "a site in a block", has: ({ kind }) => kind !== "embed" }];
    return blocks.map((block) => ({ name: `a site in block ${block}`, has: ({ layer }) => layer === block }));
  }
  return kinds.flatMap((wanted) => {
    if (blocks === null || wanted === "embed") return { name: wanted, has: ({ kind }: Site) => kind === wanted };
    return blocks.map((block) => ({
      name: siteName({ kind: wanted, layer: block }),
      has: ({ kind, layer }: Site) => kind === wanted && layer === block,
    }));
  });
}

/** `0-3,5` as layers. @throws UsageError if it is not of that form; UserError if there is no such layer */
export function parseLayers(text: string, layers: number): ReadonlySet<number> {
  const chosen = new Set<number>();
  for (const part of text.split(",")) {
    const match = /^\s*(\d+)(?:\s*-\s*(\d+))?\s*$/.exec(part);
    const [from, to] = [Number(match?.[1]), Number(match?.[2] ?? match?.[1])];
    if (!match || from > to) {
      throw new UsageError(`--layers: expected blocks like 0-3,5, got "${text}". Blocks are counted from 0.`);
    }
    if (to >= layers) {
      throw new UsageError(
        `--layers: expected blocks 0 to ${layers - 1}, got ${to}. This model has ${layers} of them.`,
      );
    }
    for (let layer = from; layer <= to; layer++) chosen.add(layer);
  }
  return chosen;
}
