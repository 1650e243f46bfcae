import { type SiteKind, type SiteName, siteName } from "../site.ts";

/** A model that is known by a short name. */
export interface ModelPreset {
  readonly name: string;
  /** Its repository on the hub. */
  readonly repo: string;
  /** Parameters, in words. */
  readonly parameters: string;
  /** Whether its licence has to be accepted on the hub first. */
  readonly gated: boolean;
  /** The preset of SAEs that is used where none is named; null if there is none. */
  readonly saes: string | null;
}

/** An SAE of a preset. */
export interface PresetSae {
  readonly site: SiteName;
  readonly repo: string;
  /** The file that its format is known by. */
  readonly path: string;
  /** All its files. */
  readonly files: readonly string[];
  /** Files that are fetched as well where the repository has them. */
  readonly optional?: readonly string[];
  /** Settings that its cfg.json lacks. */
  readonly settings?: Readonly<Record<string, unknown>>;
}

/** SAEs that are known by a short name, at most one per site. */
export interface SaePreset {
  readonly name: string;
  /** Name of the preset of the model that they were trained on. */
  readonly model: string;
  /** F, the number of features of each. */
  readonly features: number;
  /** D of their sites, by kind. */
  readonly inputWidth: Readonly<Partial<Record<SiteKind, number>>>;
  readonly saes: readonly PresetSae[];
}

/** Models that are known by a short name. TinyLlama is its chat model 1.0, in bfloat16; its steps of pretraining can be had by their hub paths. */
export const modelPresets: readonly ModelPreset[] = [
  preset("smollm2-135m", "HuggingFaceTB/SmolLM2-135M", "135 M"),
  preset("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped", "70 M", "pythia-70m-deduped-sm"),
  preset("gpt2", "openai-community/gpt2", "124 M", "gpt2-res-jb"),
  preset("tinyllama", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "1.1 B"),
  { ...preset("gemma-3-270m", "google/gemma-3-270m", "270 M", "gemma-scope-2-270m-pt-res-16k"), gated: true },
  { ...preset("gemma-3-1b", "google/gemma-3-1b-pt", "1 B", "gemma-scope-2-1b-pt-res-16k"), gated: true },
  { ...preset("gemma-3-4b", "google/gemma-3-4b-pt", "4.3 B", "gemma-scope-2-4b-pt-res-16k"), gated: true },
  { ...preset("mistral-7b", "mistralai/Mistral-7B-v0.1", "7.2 B"), gated: true },
  preset("qwen3-0.6b", "Qwen/Qwen3-0.6B", "0.6 B"),
  preset("qwen3-1.7b-base", "Qwen/Qwen3-1.7B-Base", "1.7 B", "qwen-scope-1.7b-base-l0-50"),
  preset("qwen3-8b-base", "Qwen/Qwen3-8B-Base", "8.2 B", "qwen-scope-8b-base-l0-50"),
  { ...preset("gemma-2b", "google/gemma-2b", "2.5 B", "gemma-2b-res-jb"), gated: true },
  { ...preset("gemma-2-2b", "google/gemma-2-2b", "2.6 B", "gemma-scope-2b-pt-res-16k"), gated: true },
];

function preset(name: string, repo: string, parameters: string, saes: string | null = null): ModelPreset {
  return { name, repo, parameters, gated: false, saes };
}

/** The model preset of a name: its own, or that of its repository, with a revision or without. */
export function modelPreset(name: string): ModelPreset | undefined {
  return modelPresets.find((known) => known.name === name || known.repo === name.split("@")[0]);
}

/** The SAE preset of a name. */
export function saePreset(name: string): SaePreset | undefined {
  return saePresets.find((known) => known.name === name);
}

/**
 * The average number of active features (L0) of each block's canonical Gemma Scope SAE: the one nearest to 100, by which its folder is called.
 * From the list of releases of SAELens (`gemma-scope-2b-pt-res-canonical` and likewise).
 */
const canonicalL0 = {
  res: {
    "16k": [
      105, 102, 141, 59, 124, 68, 70, 69, 71, 73, 77, 80, 82, 84, 84, 78, 78, 77, 74, 73, 71, 70, 72, 75, 73, 116,
    ],
    "65k": [
      73, 121, 77, 89, 89, 105, 107, 107, 111, 118, 128, 70, 72, 75, 73, 127, 128, 125, 116, 115, 114, 111, 116, 123,
      124, 93,
    ],
  },
  mlp: {
    "16k": [
      119, 105, 95, 95, 85, 114, 133, 60, 136, 88, 110, 98, 108, 112, 97, 80, 72, 68, 106, 109, 109, 113, 121, 128, 73,
      126,
    ],
    "65k": [
      72, 127, 134, 68, 66, 86, 101, 115, 110, 77, 95, 88, 96, 98, 89, 72, 66, 136, 88, 88, 88, 86, 92, 102, 128, 107,
    ],
  },
  att: {
    "16k": [
      104, 79, 93, 117, 116, 135, 61, 99, 129, 127, 70, 80, 85, 92, 71, 98, 71, 79, 72, 122, 62, 65, 106, 73, 96, 77,
    ],
    "65k": [
      75, 98, 125, 83, 87, 99, 112, 96, 112, 107, 67, 75, 79, 87, 66, 90, 129, 70, 123, 106, 102, 118, 112, 140, 77, 63,
    ],
  },
} as const;

/** Gemma Scope's releases by kind of site: attention SAEs read the heads' outputs, 8 heads of 256. */
const gemmaScopeSites = {
  res: { kind: "resid_post", inputWidth: 2304 },
  mlp: { kind: "mlp_out", inputWidth: 2304 },
  att: { kind: "attn_z", inputWidth: 2048 },
} as const;

type Release = keyof typeof canonicalL0;
type Width = keyof (typeof canonicalL0)[Release];

/** Gemma Scope (arXiv:2408.05147) on Gemma 2 2B, pretrained. */
function gemmaScope(name: string, releases: readonly Release[], width: Width): SaePreset {
  return {
    name,
    model: "gemma-2-2b",
    features: width === "16k" ? 16384 : 65536,
    inputWidth: Object.fromEntries(releases.map((r) => [gemmaScopeSites[r].kind, gemmaScopeSites[r].inputWidth])),
    saes: releases.flatMap((release) =>
      canonicalL0[release][width].map((l0, layer) => {
        const path = `layer_${layer}/width_${width}/average_l0_${l0}/params.npz`;
        const site = siteName({ kind: gemmaScopeSites[release].kind, layer });
        return { site, repo: `google/gemma-scope-2b-pt-${release}`, path, files: [path] };
      }),
    ),
  };
}

/** Models that Gemma Scope 2 has SAEs of: layers, D, and what goes into the output projection, 4 or 8 heads of 256. */
const gemma3 = {
  "270m": { layers: 18, width: 640, heads: 1024 },
  "1b": { layers: 26, width: 1152, heads: 1024 },
  "4b": { layers: 34, width: 2560, heads: 2048 },
} as const;

/** Gemma Scope 2's kinds, by the names of ours in a preset, with their folders of SAEs at all layers. */
const gemmaScope2Folders = {
  res: { kind: "resid_post", folder: "resid_post_all" },
  mlp: { kind: "mlp_out", folder: "mlp_out_all" },
  att: { kind: "attn_z", folder: "attn_out_all" },
} as const;

/**
 * Gemma Scope 2 on Gemma 3, pretrained: those with 16,384 features at all layers, with the larger of their two L0 (60 to 120, from the first layer
 * to the last). Names from the list of releases of SAELens.
 */
function gemmaScope2(size: keyof typeof gemma3, kinds: readonly (keyof typeof gemmaScope2Folders)[]): SaePreset {
  const { layers, width, heads } = gemma3[size];
  const name = ["gemma-scope-2", size, "pt", ...(kinds.length === 1 ? kinds : []), "16k"].join("-");
  return {
    name,
    model: `gemma-3-${size}`,
    features: 16384,
    inputWidth: Object.fromEntries(
      kinds.map((k) => [gemmaScope2Folders[k].kind, gemmaScope2Folders[k].kind === "attn_z" ? heads : width]),
    ),
    saes: kinds.flatMap((k) =>
      blocks(layers).map((layer) => {
        const { kind, folder } = gemmaScope2Folders[k];
        const inner = `${folder}/layer_${layer}_width_16k_l0_big`;
        const path = `${inner}/params.safetensors`;
        const optional = [`${inner}/config.json`];
        return {
          site: siteName({ kind, layer }),
          repo: `google/gemma-scope-2-${size}-pt`,
          path,
          files: [path],
          optional,
        };
      }),
    ),
  };
}

/** Models that Qwen-Scope has SAEs of, among those that can be run: layers, D, and thousands of features. */
const qwen3 = {
  "1.7b": { repo: "Qwen3-1.7B-Base-W32K", layers: 28, width: 2048, features: 32 },
  "8b": { repo: "Qwen3-8B-Base-W64K", layers: 36, width: 4096, features: 64 },
} as const;

/** Qwen-Scope's TopK SAEs of k codes, one file for each block. */
function qwenScope(size: keyof typeof qwen3, k: 50 | 100): SaePreset {
  const { repo, layers, width, features } = qwen3[size];
  return {
    name: `qwen-scope-${size}-base-l0-${k}`,
    model: `qwen3-${size}-base`,
    features: 1024 * features,
    inputWidth: { resid_post: width },
    saes: blocks(layers).map((layer) => {
      const path = `layer${layer}.sae.pt`;
      return { site: `resid_post.${layer}`, repo: `Qwen/SAE-Res-${repo}-L0_${k}`, path, files: [path] };
    }),
  };
}

/** An SAE in SAELens' layout: two files in a folder. */
function saeLens(site: SiteName, repo: string, folder: string, settings?: PresetSae["settings"]): PresetSae {
  const path = `${folder}/sae_weights.safetensors`;
  return { site, repo, path, files: [`${folder}/cfg.json`, path], ...(settings ? { settings } : {}) };
}

function blocks(count: number): number[] {
  return Array.from({ length: count }, (_, layer) => layer);
}

/** dictionary_learning's SAEs of Pythia 70M (arXiv:2403.19647), converted to SAELens' layout. */
const pythia = (kind: "att" | "mlp" | "res") => `ctigges/pythia-70m-deduped__${kind}-sm_processed`;

/** Joseph Bloom's SAEs of GPT-2, trained on a residual stream whose mean over the width is taken out (TransformerLens' `center_writing_weights`). */
const gpt2ResJb = "jbloom/GPT2-Small-SAEs-Reformatted";
const centred = { model_from_pretrained_kwargs: { center_writing_weights: true } };

/** OpenAI's TopK SAEs of GPT-2 (arXiv:2406.04093), converted to SAELens' layout. */
const gpt2V5 = (place: string) => `jbloom/GPT2-Small-OAI-v5-32k-${place}-SAEs`;

const gemma2bResJb = "jbloom/Gemma-2b-Residual-Stream-SAEs";

/** SAEs that are known by a short name. */
export const saePresets: readonly SaePreset[] = [
  gemmaScope("gemma-scope-2b-pt-res-16k", ["res"], "16k"),
  gemmaScope("gemma-scope-2b-pt-mlp-16k", ["mlp"], "16k"),
  gemmaScope("gemma-scope-2b-pt-att-16k", ["att"], "16k"),
  gemmaScope("gemma-scope-2b-pt-16k", ["att", "mlp", "res"], "16k"),
  gemmaScope("gemma-scope-2b-pt-res-65k", ["res"], "65k"),
  gemmaScope("gemma-scope-2b-pt-mlp-65k", ["mlp"], "65k"),
  gemmaScope("gemma-scope-2b-pt-att-65k", ["att"], "65k"),
  gemmaScope("gemma-scope-2b-pt-65k", ["att", "mlp", "res"], "65k"),
  gemmaScope2("270m", ["res"]),
  gemmaScope2("270m", ["mlp"]),
  gemmaScope2("270m", ["att"]),
  gemmaScope2("270m", ["att", "mlp", "res"]),
  gemmaScope2("1b", ["res"]),
  gemmaScope2("1b", ["mlp"]),
  gemmaScope2("1b", ["att"]),
  gemmaScope2("1b", ["att", "mlp", "res"]),
  gemmaScope2("4b", ["res"]),
  gemmaScope2("4b", ["mlp"]),
  gemmaScope2("4b", ["att"]),
  gemmaScope2("4b", ["att", "mlp", "res"]),
  qwenScope("1.7b", 50),
  qwenScope("1.7b", 100),
  qwenScope("8b", 50),
  qwenScope("8b", 100),
  {
    name: "gemma-2b-res-jb",
    model: "gemma-2b",
    features: 16384,
    inputWidth: { resid_post: 2048 },
    saes: [
      saeLens("resid_post.0", gemma2bResJb, "gemma_2b_blocks.0.hook_resid_post_16384_anthropic"),
      saeLens("resid_post.6", gemma2bResJb, "gemma_2b_blocks.6.hook_resid_post_16384_anthropic_fast_lr"),
      saeLens("resid_post.10", gemma2bResJb, "gemma_2b_blocks.10.hook_resid_post_16384"),
      // SAELens keeps this number in its list of releases.
      saeLens("resid_post.12", gemma2bResJb, "gemma_2b_blocks.12.hook_resid_post_16384", {
        norm_scaling_factor: 0.21381938399317255,
      }),
      saeLens("resid_post.17", gemma2bResJb, "gemma_2b_blocks.17.hook_resid_post_16384"),
    ],
  },
  {
    name: "gpt2-res-jb",
    model: "gpt2",
    features: 24576,
    inputWidth: { embed: 768, resid_post: 768 },
    saes: [
      saeLens("embed", gpt2ResJb, "blocks.0.hook_resid_pre", centred),
      ...blocks(11).map((layer) =>
        saeLens(`resid_post.${layer}`, gpt2ResJb, `blocks.${layer + 1}.hook_resid_pre`, centred),
      ),
      saeLens("resid_post.11", gpt2ResJb, "blocks.11.hook_resid_post", centred),
    ],
  },
  {
    name: "gpt2-v5-32k",
    model: "gpt2",
    features: 32768,
    inputWidth: { attn_out: 768, mlp_out: 768, resid_post: 768 },
    saes: blocks(12).flatMap((layer) => [
      saeLens(`attn_out.${layer}`, gpt2V5("attn-out"), `v5_32k_layer_${layer}`),
      saeLens(`mlp_out.${layer}`, gpt2V5("mlp-out"), `v5_32k_layer_${layer}`),
      saeLens(`resid_post.${layer}`, gpt2V5("resid-post"), `v5_32k_layer_${layer}.pt`),
    ]),
  },
  {
    name: "pythia-70m-deduped-sm",
    model: "pythia-70m-deduped",
    features: 32768,
    inputWidth: { embed: 512, attn_out: 512, mlp_out: 512, resid_post: 512 },
    saes: [
      saeLens("embed", pythia("res"), "e-res-sm"),
      ...blocks(6).flatMap((layer) => [
        saeLens(`attn_out.${layer}`, pythia("att"), `${layer}-att-sm`),
        saeLens(`mlp_out.${layer}`, pythia("mlp"), `${layer}-mlp-sm`),
        saeLens(`resid_post.${layer}`, pythia("res"), `${layer}-res-sm`),
      ]),
    ],
  },
];

/** Bytes of float32 weights of an SAE with D inputs and F features, nearly all of its files. */
export function saeBytes(inputWidth: number, features: number): number {
  return 4 * (2 * inputWidth * features + 2 * features + inputWidth);
}
