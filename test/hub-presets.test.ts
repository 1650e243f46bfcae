import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, test, vi } from "vitest";
import { chooseSites } from "../src/analysis/sites.ts";
import { writeSafetensors } from "../src/bytes/safetensors.ts";
import { closeDictionaries } from "../src/dictionaries/open.ts";
import { modelPreset, modelPresets, saeBytes, saePreset, saePresets } from "../src/hub/presets.ts";
import { silent } from "../src/hub/pull.ts";
import { type ChooseSites, openHubDictionaries } from "../src/hub/resolve.ts";
import { parseHubPath } from "../src/hub/wants.ts";
import type { Model } from "../src/models/model.ts";
import { compareSites, parseSite } from "../src/site.ts";
import { HubServer } from "./hub-server.ts";
import { makeZip } from "./make-zip.ts";

const F = 2;

/** An array of equal numbers as numpy writes it. */
function npy(shape: readonly number[], value: number): Uint8Array {
  const text = `{'descr': '<f4', 'fortran_order': False, 'shape': (${shape.join(", ")},), }`;
  const padded = text.padEnd(128 - 10 - 1, " ");
  const header = Buffer.from(`\x93NUMPY\x01\x00${String.fromCharCode(118, 0)}${padded}\n`, "latin1");
  const numbers = new Float32Array(shape.reduce((product, n) => product * n, 1)).fill(value);
  return Buffer.concat([header, new Uint8Array(numbers.buffer)]);
}

function npz(D: number, value: number): Uint8Array {
  const arrays = { W_enc: [D, F], W_dec: [F, D], b_enc: [F], b_dec: [D], threshold: [F] };
  return makeZip(Object.entries(arrays).map(([name, shape]) => [`${name}.npy`, npy(shape, value)]));
}

/** The two files of an SAE in SAELens' layout. */
function saeLens(folder: string, D: number, config: object): Record<string, Uint8Array | string> {
  const tensors = new Map([
    ["W_enc", { shape: [D, F], data: Float32Array.from({ length: D * F }, (_, i) => i % 3) }],
    ["W_dec", { shape: [F, D], data: new Float32Array(F * D) }],
    ["b_enc", { shape: [F], data: new Float32Array(F) }],
    ["b_dec", { shape: [D], data: new Float32Array(D) }],
  ]);
  return {
    [`${folder}/cfg.json`]: JSON.stringify({ d_in: D, d_sae: F, activation_fn_str: "relu", ...config }),
    [`${folder}/sae_weights.safetensors`]: writeSafetensors(tensors),
  };
}

/** The files of a Gemma Scope 2 SAE; without a place there is no config.json. */
function gemmaScope2(folder: string, D: number, point?: string): Record<string, Uint8Array | string> {
  const shapes = { w_enc: [D, F], w_dec: [F, D], b_enc: [F], b_dec: [D], threshold: [F] };
  const tensors = Object.entries(shapes).map(([name, shape]) => {
    return [name, { shape, data: new Float32Array(shape.reduce((a, b) => a * b)).fill(folder.length) }] as const;
  });
  const config = {
    hf_hook_point_in: point,
    hf_hook_point_out: point,
    architecture: "jump_relu",
    width: F,
    type: "sae",
  };
  return {
    [`${folder}/params.safetensors`]: writeSafetensors(new Map(tensors)),
    ...(point === undefined ? {} : { [`${folder}/config.json`]: JSON.stringify(config) }),
  };
}

const model = (layers: number, width: number, heads = width) =>
  ({
    layers,
    sites: { embed: width, attn_z: heads, attn_out: width, mlp_out: width, resid_post: width },
  }) as unknown as Model;
const gemma2 = model(26, 2304, 2048);

let home: string;
let hub: HubServer;
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-presets-"));
  hub = await new HubServer({}).start();
  for (const name of ["HF_TOKEN", "HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"]) vi.stubEnv(name, "");
  vi.stubEnv("HF_HOME", home);
  vi.stubEnv("HF_ENDPOINT", hub.url);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await hub.stop();
  await rm(home, { recursive: true, force: true });
});

async function opened(source: string, choose: ChooseSites, of: Model, name: string) {
  const dictionaries = await openHubDictionaries(source, choose, of, name, silent);
  const facts = await Promise.all(
    [...dictionaries].map(async ([site, d]) => {
      const encoder = await (d.forModel?.(true) ?? d).encoder();
      return [site, { width: d.inputWidth, encoder }] as const;
    }),
  );
  await closeDictionaries(dictionaries);
  return new Map(facts);
}

const files = () => hub.downloads.map(({ path }) => path.split("/").slice(5).join("/")).sort();

describe("a preset", () => {
  it("of Gemma Scope fetches the canonical SAEs of the chosen sites, of all that the repositories hold", async () => {
    hub.repos.set("google/gemma-scope-2b-pt-res", {
      files: {
        "layer_20/width_16k/average_l0_71/params.npz": npz(2304, 1),
        "layer_20/width_16k/average_l0_38/params.npz": "another",
        "layer_20/width_65k/average_l0_114/params.npz": "wider",
        "layer_21/width_16k/average_l0_70/params.npz": npz(2304, 2),
        "layer_22/width_16k/average_l0_72/params.npz": "not wanted",
      },
    });
    hub.repos.set("google/gemma-scope-2b-pt-att", {
      files: {
        "layer_20/width_16k/average_l0_62/params.npz": npz(2048, 3),
        "layer_21/width_16k/average_l0_65/params.npz": npz(2048, 4),
      },
    });
    const choose: ChooseSites = (there) => chooseSites(there, ["resid_post", "attn_z"], new Set([20, 21]));
    const found = await opened("gemma-scope-2b-pt-16k", choose, gemma2, "gemma-2-2b");
    expect([...found].map(([site, { width }]) => [site, width]).sort()).toEqual([
      ["attn_z.20", 2048],
      ["attn_z.21", 2048],
      ["resid_post.20", 2304],
      ["resid_post.21", 2304],
    ]);
    expect(files()).toEqual([
      "layer_20/width_16k/average_l0_62/params.npz",
      "layer_20/width_16k/average_l0_71/params.npz",
      "layer_21/width_16k/average_l0_65/params.npz",
      "layer_21/width_16k/average_l0_70/params.npz",
    ]);
    await hub.stop();
    expect(await opened("gemma-scope-2b-pt-16k", choose, gemma2, "./gemma-2-2b")).toEqual(found);
  });

  it("names the file that its repository has not", async () => {
    hub.repos.set("google/gemma-scope-2b-pt-res", { files: { "README.md": "" } });
    const work = opened("gemma-scope-2b-pt-res-16k", (there) => there.slice(3, 5), gemma2, "gemma-2-2b");
    await expect(work).rejects.toThrow(
      /^hub file layer_3\/width_16k\/average_l0_59\/params\.npz: expected one in google\/gemma-scope-2b-pt-res, got none\./,
    );
  });

  it("of Gemma 2B knows the factor that the file of block 12 lacks", async () => {
    const folder = "gemma_2b_blocks.12.hook_resid_post_16384";
    hub.repos.set("jbloom/Gemma-2b-Residual-Stream-SAEs", {
      files: saeLens(folder, 2048, {
        hook_point: "blocks.12.hook_resid_post",
        normalize_activations: "expected_average_only_in",
      }),
    });
    const found = await opened("gemma-2b-res-jb", () => ["resid_post.12"], model(18, 2048), "gemma-2b");
    expect(found.get("resid_post.12")!.encoder.weight[1]).toBeCloseTo(0.21381938399317255, 6);
  });

  it("of GPT-2 lies at the end of the block before, and takes the stream less its mean", async () => {
    hub.repos.set("jbloom/GPT2-Small-SAEs-Reformatted", {
      files: saeLens("blocks.6.hook_resid_pre", 768, { hook_point: "blocks.6.hook_resid_pre" }),
    });
    const found = await opened("gpt2-res-jb", () => ["resid_post.5"], model(12, 768), "gpt2");
    const { weight } = found.get("resid_post.5")!.encoder;
    const sum = weight.filter((_, at) => at % F === 0).reduce((total, w) => total + w, 0);
    expect(weight[1]).not.toBe(1);
    expect(Math.abs(sum)).toBeLessThan(1e-3);
  });

  it("of Gemma Scope 2 fetches params.safetensors, and config.json where there is one", async () => {
    const path = (kind: string, layer: number, variant = "16k_l0_big") => `${kind}/layer_${layer}_width_${variant}`;
    hub.repos.set("google/gemma-scope-2-270m-pt", {
      files: {
        ...gemmaScope2(path("resid_post_all", 4), 640, "model.layers.4.output"),
        ...gemmaScope2(path("attn_out_all", 4), 1024, "model.layers.4.self_attn.o_proj.input"),
        ...gemmaScope2(path("mlp_out_all", 4), 640),
        ...gemmaScope2(path("resid_post_all", 4, "16k_l0_small"), 640, "not wanted"),
        ...gemmaScope2(path("transcoder_all", 4), 640, "not wanted"),
        [`${path("resid_post_all", 5)}/params.safetensors`]: "not wanted",
      },
    });
    const choose: ChooseSites = (there) => chooseSites(there, null, new Set([4]));
    const found = await opened("gemma-scope-2-270m-pt-16k", choose, model(18, 640, 1024), "gemma-3-270m");
    expect([...found].map(([site, { width }]) => [site, width]).sort()).toEqual([
      ["attn_z.4", 1024],
      ["mlp_out.4", 640],
      ["resid_post.4", 640],
    ]);
    expect(files()).toEqual([
      "attn_out_all/layer_4_width_16k_l0_big/config.json",
      "attn_out_all/layer_4_width_16k_l0_big/params.safetensors",
      "mlp_out_all/layer_4_width_16k_l0_big/params.safetensors",
      "resid_post_all/layer_4_width_16k_l0_big/config.json",
      "resid_post_all/layer_4_width_16k_l0_big/params.safetensors",
    ]);
    await hub.stop();
    expect(await opened("gemma-scope-2-270m-pt-16k", choose, model(18, 640, 1024), "gemma-3-270m")).toEqual(found);
  });

  it("for another model is refused by width, by depth, and by name", async () => {
    const all: ChooseSites = (there) => there;
    const refused = /^SAEs: expected some of .*, got gemma-2b-res-jb, of gemma-2b\. /;
    for (const [of, name] of [
      [model(18, 2304), "./mine"],
      [model(17, 2048), "./mine"],
      [model(22, 2048), "tinyllama"],
      [model(22, 2048), "TinyLlama/TinyLlama-1.1B-Chat-v1.0@main"],
    ] as const) {
      await expect(opened("gemma-2b-res-jb", all, of, name)).rejects.toThrow(refused);
    }
    expect(hub.asked).toEqual([]);
  });
});

describe("the presets", () => {
  test("have names of their own that mean nothing else", () => {
    const names = [...modelPresets, ...saePresets].map(({ name }) => name);
    expect(new Set([...names, "demo", "dummy"]).size).toBe(names.length + 2);
    for (const name of names) expect(parseHubPath(name)).toBeUndefined();
  });

  test("of SAEs belong to a preset of a model, one per site, at sites of the width that they say", () => {
    for (const preset of saePresets) {
      expect(modelPreset(preset.model)?.name).toBe(preset.model);
      const sites = preset.saes.map(({ site }) => site);
      expect(new Set(sites).size).toBe(sites.length);
      expect(sites.map((site) => parseSite(site).kind).every((kind) => preset.inputWidth[kind] !== undefined)).toBe(
        true,
      );
      for (const { repo, path, files: all } of preset.saes) {
        expect(all).toContain(path);
        expect(parseHubPath(`${repo}/${path}`)).toMatchObject({ id: repo, inner: path });
      }
    }
  });

  test("name default SAEs that are for their model", () => {
    for (const { name, repo, saes } of modelPresets) {
      if (saes !== null) expect(saePreset(saes)?.model).toBe(name);
      expect(modelPreset(repo)?.name).toBe(name);
      expect(modelPreset(`${repo}@main`)?.name).toBe(name);
    }
    expect(modelPreset("gemma-2-2b")?.saes).toBe("gemma-scope-2b-pt-res-16k");
  });

  test("of Gemma Scope 2 and Qwen-Scope cover all blocks of their models, with files of the size that is published", () => {
    const sites = (name: string) => saePreset(name)!.saes.map(({ site }) => site);
    expect(sites("gemma-scope-2-270m-pt-16k")).toHaveLength(3 * 18);
    expect(sites("gemma-scope-2-1b-pt-att-16k").at(-1)).toBe("attn_z.25");
    expect(sites("gemma-scope-2-4b-pt-16k")).toHaveLength(3 * 34);
    expect(saePreset("gemma-scope-2-4b-pt-res-16k")!.saes[33]).toMatchObject({
      site: "resid_post.33",
      repo: "google/gemma-scope-2-4b-pt",
      files: ["resid_post_all/layer_33_width_16k_l0_big/params.safetensors"],
    });
    expect(sites("qwen-scope-1.7b-base-l0-100")).toHaveLength(28);
    expect(saePreset("qwen-scope-8b-base-l0-50")!.saes[35]).toMatchObject({
      site: "resid_post.35",
      repo: "Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50",
      files: ["layer35.sae.pt"],
    });
    // The thresholds and the file's header are the rest.
    expect(151_131_000 - 4 * 16384 - saeBytes(1152, 16384)).toBeLessThan(1000);
  });

  test("of Gemma Scope cover all 26 blocks, and their size is that of the published files", () => {
    const { saes } = saePreset("gemma-scope-2b-pt-res-16k")!;
    expect(saes.map(({ site }) => site).sort(compareSites)).toEqual(
      Array.from({ length: 26 }, (_, layer) => `resid_post.${layer}`),
    );
    // The archive's own headers are the rest.
    expect(302_131_416 - saeBytes(2304, 16384)).toBeLessThan(2000);
    expect(302_131_416 - saeBytes(2304, 16384)).toBeGreaterThan(0);
  });
});

describe("a folder of the hub", () => {
  const all: ChooseSites = (there) => there;

  it("with * in its name stands for all layers of one kind", async () => {
    const folders = [0, 1].flatMap((layer) =>
      ["small", "big"].map((l0) => [`resid_post_all/layer_${layer}_width_16k_l0_${l0}`, layer] as const),
    );
    hub.repos.set("google/gemma-scope-2-270m-it", {
      files: {
        ...Object.assign({}, ...folders.map(([path, layer]) => gemmaScope2(path, 640, `model.layers.${layer}.output`))),
        ...gemmaScope2("transcoder_all/layer_0_width_16k_l0_small", 640, "another"),
        "clt/width_262k_l0_medium_affine/params_layer_0.safetensors": "another",
      },
    });
    const repo = "google/gemma-scope-2-270m-it";
    const one = await opened(`${repo}/resid_post_all/layer_*_width_16k_l0_small`, all, model(18, 640), "./mine");
    expect([...one.keys()]).toEqual(["resid_post.0", "resid_post.1"]);
    expect(files().filter((path) => !path.includes("small"))).toEqual([]);
    await expect(opened(`${repo}/resid_post_all`, all, model(18, 640), "./mine")).rejects.toThrow(
      /^SAEs: expected one for resid_post\.0, got .*small.* and .*big.* \* stands for any part/,
    );
    await expect(opened(`${repo}/transcoder_all/layer_0*`, all, model(18, 640), "./mine")).rejects.toThrow(
      /^SAE: expected one that reads and writes one site, got a transcoder/,
    );
  });

  it("of circuit-tracer's transcoders is refused before anything is fetched", async () => {
    hub.repos.set("mwhanna/qwen3-0.6b-transcoders-lowl0", { files: { "config.yaml": "", "layer_0.safetensors": "" } });
    await expect(opened("mwhanna/qwen3-0.6b-transcoders-lowl0", all, model(2, 8), "./mine")).rejects.toThrow(
      /^SAE: expected one that reads and writes one site, got a transcoder/,
    );
    expect(files()).toEqual([]);
  });

  it("of Qwen-Scope tells k by the repository's name", async () => {
    const bytes = readFileSync("test/fixtures/dictionaries/SAE-Res-Qwen3-tiny-L0_4/layer1.sae.pt");
    hub.repos.set("Qwen/SAE-Res-Qwen3-tiny-L0_3", { files: { "layer0.sae.pt": bytes, "layer1.sae.pt": bytes } });
    const choose: ChooseSites = (there) => chooseSites(there, null, new Set([1]));
    const found = await opened("Qwen/SAE-Res-Qwen3-tiny-L0_3", choose, model(2, 8), "./mine");
    expect([...found.keys()]).toEqual(["resid_post.1"]);
    expect(found.get("resid_post.1")!.encoder.activation).toEqual({ kind: "topk", k: 3 });
    expect(files()).toEqual(["layer1.sae.pt"]);
  });
});

describe("a path on the hub", () => {
  test.each([
    ["google/gemma-2-2b", { id: "google/gemma-2-2b", inner: "", revision: "main" }],
    ["a/b@refs/pr/1", { id: "a/b", inner: "", revision: "refs/pr/1" }],
    ["a/b/c/d.npz@v1", { id: "a/b", inner: "c/d.npz", revision: "v1" }],
    ["a/b/", { id: "a/b", inner: "", revision: "main" }],
  ])("%s", (text, expected) => expect(parseHubPath(text)).toEqual(expected));

  test.each(["gpt2", "./a/b", "../a/b", "/a/b", "~/a/b", "C:\\a\\b", "a\\b/c", ""])("is none: %s", (text) =>
    expect(parseHubPath(text)).toBeUndefined(),
  );

  test.each(["a/..", "a/b--c", "a/b@", "a/b@../x", "a/b@a b"])("cannot be one: %s", (text) =>
    expect(() => parseHubPath(text)).toThrow(/^(hub repository|revision): expected/),
  );
});
