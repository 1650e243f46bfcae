import { parseSite, type SiteName } from "../site.ts";

/** What Neuronpedia calls the SAEs of a preset at a site, `<model>/<layer>-<set>`; undefined for a site that it does not have. */
type Names = (site: SiteName) => string | undefined;

/** Its sets of one model by the kind of site. */
const byKind =
  (model: string, sets: Readonly<Record<string, string>>): Names =>
  (site) => {
    const { kind, layer } = parseSite(site);
    return sets[kind] === undefined ? undefined : `${model}/${kind === "embed" ? "e" : layer}-${sets[kind]}`;
  };

const gemmaScope = (width: "16k" | "65k") =>
  byKind("gemma-2-2b", {
    resid_post: `gemmascope-res-${width}`,
    mlp_out: `gemmascope-mlp-${width}`,
    attn_z: `gemmascope-att-${width}`,
  });

/** The presets whose SAEs are known to have pages. Gemma Scope 2's have, but of another L0, and so other features. */
const presets: Readonly<Record<string, Names>> = {
  "gemma-scope-2b-pt-res-16k": gemmaScope("16k"),
  "gemma-scope-2b-pt-mlp-16k": gemmaScope("16k"),
  "gemma-scope-2b-pt-att-16k": gemmaScope("16k"),
  "gemma-scope-2b-pt-16k": gemmaScope("16k"),
  "gemma-scope-2b-pt-res-65k": gemmaScope("65k"),
  "gemma-scope-2b-pt-mlp-65k": gemmaScope("65k"),
  "gemma-scope-2b-pt-att-65k": gemmaScope("65k"),
  "gemma-scope-2b-pt-65k": gemmaScope("65k"),
  "gemma-2b-res-jb": (site) =>
    // The one of block 17 has none.
    parseSite(site).layer === 17 ? undefined : byKind("gemma-2b", { resid_post: "res-jb" })(site),
  // Its SAEs are numbered by the block that reads the stream, and so one more than the block that wrote it.
  "gpt2-res-jb": (site) => `gpt2-small/${site === "embed" ? 0 : parseSite(site).layer + 1}-res-jb`,
  "gpt2-v5-32k": byKind("gpt2-small", {
    resid_post: "res_post_32k-oai",
    mlp_out: "mlp_32k-oai",
    attn_out: "att_32k-oai",
  }),
  "pythia-70m-deduped-sm": byKind("pythia-70m-deduped", {
    embed: "res-sm",
    resid_post: "res-sm",
    mlp_out: "mlp-sm",
    attn_out: "att-sm",
  }),
};

/**
 * The address of the pages of a site's features on Neuronpedia, to which `/<feature>` is added; null where none is known. Nothing is asked of it.
 *
 * @param preset the name that the SAEs were asked for by
 */
export function featurePages(preset: string | null, site: SiteName): string | null {
  const name = preset === null ? undefined : presets[preset]?.(site);
  return name === undefined ? null : `https://www.neuronpedia.org/${name}`;
}
