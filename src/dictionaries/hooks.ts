import { UserError } from "../errors.ts";
import { parseSite, type SiteName, siteName } from "../site.ts";

/** Thrown where neither a dictionary's files nor the path tell its site, or a number of its formula: another path to it may tell. */
export class UnplacedError extends UserError {}

/** Modules beside the model of text, whose blocks are called like its own. */
export const otherTower = /(?:^|[._])(?:vision|visual|image|audio|speech|encoder)/;

/**
 * The site that a SAELens hook name means, or undefined if it is none of ours: TransformerLens names (`blocks.3.hook_resid_post`), and the path of
 * a block in a Hugging Face model (`model.layers.3`), whose output is the residual stream after it.
 */
export function siteOfHook(hook: string): SiteName | undefined {
  if (otherTower.test(hook)) return undefined;
  const block = /^(?:[a-z_]+\.)*(?:layers|h)\.(\d+)$/.exec(hook);
  if (block) return siteName({ kind: "resid_post", layer: Number(block[1]) });

  const [, layerText, point] = /^blocks\.(\d+)\.(.+)$/.exec(hook) ?? [];
  const layer = Number(layerText);
  switch (point) {
    case "hook_resid_post":
      return siteName({ kind: "resid_post", layer });
    case "hook_resid_pre":
      return layer === 0 ? "embed" : siteName({ kind: "resid_post", layer: layer - 1 });
    case "hook_attn_out":
      return siteName({ kind: "attn_out", layer });
    case "hook_mlp_out":
      return siteName({ kind: "mlp_out", layer });
    case "mlp.hook_post":
      return siteName({ kind: "mlp_act", layer });
    case "attn.hook_z":
      return siteName({ kind: "attn_z", layer });
    default:
      return undefined;
  }
}

/**
 * What to say of files that do not tell the kind of their site, and are taken for SAEs of resid_post.
 *
 * @param files what they are called
 * @param path of one of them
 * @param levels how many folders up those lie that all of its set have in common
 * @param advice what would tell
 */
export function assumedResidPost(files: string, path: string, levels: number, advice: string) {
  const where = path.split("/").slice(0, -levels).join("/") || "this folder";
  return {
    isSiteAssumed: true,
    warnings: [`Taken for SAEs of resid_post: ${files} in ${where}, which do not tell the kind of site. ${advice}`],
  } as const;
}

/**
 * The site that a module's output is, by its path in a Hugging Face model, or undefined: `layers.3` and `h.3` are blocks, `layers.3.mlp` and
 * `layers.3.attention` what they add to the stream, `embed_tokens` the embedding. In some models something follows the module before that
 * (`TrainedOn.module`).
 */
export function siteOfModule(path: string): SiteName | undefined {
  if (otherTower.test(path)) return undefined;
  const block = /^(?:[a-z_]+\.)*(?:layers|h)[._](\d+)(?:\.(mlp|attention|self_attn|attn))?$/.exec(path);
  if (block) {
    const kind = block[2] === undefined ? "resid_post" : block[2] === "mlp" ? "mlp_out" : "attn_out";
    return siteName({ kind, layer: Number(block[1]) });
  }
  return /^(?:[a-z_]+\.)*(?:embed_tokens|embed_in|wte)$/.test(path) ? "embed" : undefined;
}

/** The TransformerLens name of a site, as SAELens writes it. */
export function hookOfSite(site: SiteName): string {
  const { kind, layer } = parseSite(site);
  const points = {
    embed: "hook_resid_pre",
    attn_z: "attn.hook_z",
    attn_out: "hook_attn_out",
    mlp_act: "mlp.hook_post",
    mlp_out: "hook_mlp_out",
    resid_post: "hook_resid_post",
  };
  return `blocks.${layer}.${points[kind]}`;
}
