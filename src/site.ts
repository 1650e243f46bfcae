import { UsageError, UserError } from "./errors.ts";

/**
 * The kinds of places in a model where activations are read, in the order in which a block computes them (METHOD: "Sites and their gradients").
 *
 * - `embed`: the input of block 0
 * - `attn_z`: the heads' outputs side by side, before the output projection
 * - `attn_out`, `mlp_out`: what is added to the residual stream
 * - `mlp_act`: the MLP's neurons, behind nonlinearity and gate, before the output projection (`mlp.hook_post` in TransformerLens)
 * - `resid_post`: the residual stream after a block
 */
export const siteKinds = ["embed", "attn_z", "attn_out", "mlp_act", "mlp_out", "resid_post"] as const;

/** One of `siteKinds`. */
export type SiteKind = (typeof siteKinds)[number];

/** A place in a model: a kind and a 0-based block (0 for `embed`). */
export interface Site {
  readonly kind: SiteKind;
  readonly layer: number;
}

/** `embed`, or `resid_post.3`: the spelling used in files, flags and reports. */
export type SiteName = string;

/** The name of a site, `embed` or `<kind>.<layer>`. */
export function siteName(site: Site): SiteName {
  return site.kind === "embed" ? "embed" : `${site.kind}.${site.layer}`;
}

/** Whether this is the name of a site. */
export function isSite(name: string): boolean {
  const [kind = "", layer = ""] = name.split(".", 2);
  return (
    name === "embed" || (kind !== "embed" && isSiteKind(kind) && name === `${kind}.${layer}` && /^\d+$/.test(layer))
  );
}

/** @throws UserError if the name is not `embed` or `<kind>.<layer>` */
export function parseSite(name: SiteName): Site {
  if (name === "embed") return { kind: "embed", layer: 0 };
  const [kind, layer] = name.split(".") as [SiteKind, string];
  if (!isSite(name)) {
    throw new UserError(`site: expected <kind>.<layer> with kind one of ${siteKinds.join(", ")}, got "${name}".`);
  }
  return { kind, layer: Number(layer) };
}

/** Whether this names a kind of site. */
export function isSiteKind(kind: string): kind is SiteKind {
  return (siteKinds as readonly string[]).includes(kind);
}

/**
 * The kinds in a list like `resid_post,mlp_out`, in its order.
 *
 * @param sites those of a model; by default there are all kinds
 * @throws UsageError naming `--sites` if it has another
 */
export function parseKinds(text: string, sites?: Readonly<Partial<Record<SiteKind, number>>>): SiteKind[] {
  const known = siteKinds.filter((kind) => sites === undefined || sites[kind] !== undefined);
  return text.split(",").map((part) => {
    const kind = known.find((one) => one === part.trim());
    if (kind !== undefined) return kind;
    throw new UsageError(`--sites: expected kinds out of ${known.join(", ")}, got "${text}". Put commas between them.`);
  });
}

/** Order of computation: by layer, then by kind; `embed` first. */
export function compareSites(a: SiteName, b: SiteName): number {
  const [x, y] = [parseSite(a), parseSite(b)];
  const place = (s: Site) => (s.kind === "embed" ? -1 : s.layer * siteKinds.length + siteKinds.indexOf(s.kind));
  return place(x) - place(y);
}
