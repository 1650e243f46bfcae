import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openFile, openFolder } from "../src/bytes/file.node.ts";
import { memoryFolder } from "../src/bytes/folder.ts";
import { openSafetensors, writeSafetensors } from "../src/bytes/safetensors.ts";
import type { TensorFile } from "../src/bytes/tensor-file.ts";
import { dummyDictionary } from "../src/dictionaries/dummy.ts";
import { openSaeLens, saveSaeLens } from "../src/dictionaries/formats/sae-lens.ts";
import { hookOfSite, siteOfHook } from "../src/dictionaries/hooks.ts";
import { closeDictionaries, openDictionaries } from "../src/dictionaries/open.ts";
import { Random } from "../src/random.ts";
import { apply } from "./apply-dictionary.ts";

const fixtures = "test/fixtures/dictionaries";
const [D, F] = [8, 24];

function expectClose(got: readonly number[], expected: Float32Array, what: string): void {
  expect(got.length).toBe(expected.length);
  const gap = got.reduce((most, x, i) => Math.max(most, Math.abs(x - expected[i]!)), 0);
  expect(gap, what).toBeLessThan(1e-5);
}

describe("SAEs that SAELens saved give its codes and reconstructions:", () => {
  let expected: TensorFile;
  let x: Float32Array;
  beforeAll(async () => {
    expected = await openSafetensors(await openFile(`${fixtures}/expected.safetensors`));
    x = await expected.read("x");
  });
  afterAll(() => expected.source.close());

  test.each([
    ["saes/resid_post.1", "resid_post.1", "relu"],
    ["saes/attn_out.0", "attn_out.0", "relu"],
    ["saes/mlp_out.0", "mlp_out.0", "jumprelu"],
    ["saes/by-hook", "resid_post.0", "jumprelu"],
    ["saes/attn_z.1", "attn_z.1", "jumprelu"],
    ["earlier/resid_post.1", "resid_post.1", "relu"],
  ])("%s", async (path, site, kind) => {
    const dictionary = await openSaeLens(await openFolder(`${fixtures}/${path}`));
    expect(dictionary).toMatchObject({
      reads: site,
      writes: site,
      kind,
      inputWidth: D,
      outputWidth: D,
      featureCount: F,
    });
    const { codes, reconstruction } = await apply(dictionary, x);
    expectClose(codes, await expected.read(`${path}/codes`), "codes");
    expectClose(reconstruction, await expected.read(`${path}/reconstruction`), "reconstruction");
    await dictionary.close();
  });

  test("a file layer_1.safetensors in bfloat16", async () => {
    const dictionaries = await openDictionaries(await openFolder(`${fixtures}/layers`));
    expect([...dictionaries.keys()]).toEqual(["resid_post.1"]);
    const { codes, reconstruction } = await apply(dictionaries.get("resid_post.1")!, x);
    expectClose(codes, await expected.read("layers/layer_1/codes"), "codes");
    expectClose(reconstruction, await expected.read("layers/layer_1/reconstruction"), "reconstruction");
    await closeDictionaries(dictionaries);
  });
});

describe("a folder of dictionaries", () => {
  const folder = () => openFolder(`${fixtures}/saes`);

  test("gives all of them, in order of computation", async () => {
    const dictionaries = await openDictionaries(await folder());
    expect([...dictionaries.keys()]).toEqual(["attn_out.0", "mlp_out.0", "resid_post.0", "attn_z.1", "resid_post.1"]);
    expect(dictionaries.get("mlp_out.0")?.name).toBe(`${fixtures}/saes/mlp_out.0/sae_weights.safetensors`);
    await closeDictionaries(dictionaries);
  });

  test("gives only the wanted ones, and says which is missing", async () => {
    const dictionaries = await openDictionaries(await folder(), ["resid_post.1", "mlp_out.0"]);
    expect([...dictionaries.keys()]).toEqual(["mlp_out.0", "resid_post.1"]);
    await closeDictionaries(dictionaries);
    await expect(openDictionaries(await folder(), ["resid_post.7"])).rejects.toThrow(
      `SAEs: expected one for resid_post.7, got none in ${fixtures}/saes.`,
    );
  });

  test("without any, or with two of a site, is an error that names it", async () => {
    await expect(openDictionaries(memoryFolder("empty", {}))).rejects.toThrow("got none of them in empty");
    const one = saveSaeLens(sae, { dtype: "float32", metadata });
    const two = { "a/cfg.json": one["cfg.json"], "a/sae_weights.safetensors": one["sae_weights.safetensors"] };
    const twice = memoryFolder("b", {
      ...two,
      "c/cfg.json": one["cfg.json"],
      "c/sae_weights.safetensors": one["sae_weights.safetensors"],
    });
    await expect(openDictionaries(twice)).rejects.toThrow(
      "SAEs: expected one for attn_out.2, got b/a/sae_weights.safetensors and b/c/sae_weights.safetensors. Name the folder",
    );
  });
});

describe("rows of a decoder", () => {
  test("are those of the whole one", async () => {
    const saeLens = await openSaeLens(await openFolder(`${fixtures}/saes/mlp_out.0`));
    for (const dictionary of [saeLens, dummyDictionary("resid_post.0", D, F, 1)]) {
      const decoder = await dictionary.decoder();
      const rows = await dictionary.decoderRows(Int32Array.of(23, 0, 5));
      expect(rows.length).toBe(3 * D);
      expect(rows.subarray(0, D)).toEqual(decoder.subarray(23 * D));
      expect(rows.subarray(2 * D)).toEqual(decoder.subarray(5 * D, 6 * D));
      await expect(dictionary.decoderRows([F])).rejects.toThrow(`expected 0 to ${F - 1}, got ${F}`);
    }
    await saeLens.close();
  });
});

const random = new Random("sae");
const numbers = (count: number) => Float32Array.from({ length: count }, () => random.normal());
const sae = {
  site: "attn_out.2",
  encoder: numbers(D * F),
  encoderBias: numbers(F),
  decoder: numbers(F * D),
  decoderBias: numbers(D),
  threshold: numbers(F).map(Math.abs),
  subtractDecoderBias: true,
};
const metadata = { model_name: "demo" };

describe("a saved dictionary", () => {
  test.each(["float32", "float16"] as const)("in %s reads as it was", async (dtype) => {
    const dictionary = await openSaeLens(memoryFolder("attn_out.2", saveSaeLens(sae, { dtype, metadata })));
    expect(dictionary).toMatchObject({ writes: "attn_out.2", kind: "jumprelu", inputWidth: D, featureCount: F });
    const { weight, inputBias, activation } = await dictionary.encoder();
    const digits = dtype === "float32" ? 7 : 2;
    weight.forEach((w, i) => void expect(w).toBeCloseTo(sae.encoder[i]!, digits));
    inputBias?.forEach((b, i) => void expect(b).toBeCloseTo(sae.decoderBias[i]!, digits));
    expect(activation.kind).toBe("jumprelu");
    if (dtype === "float32") expect(await dictionary.decoder()).toEqual(sae.decoder);
  });

  test("has an identity that depends on its files only", async () => {
    const files = saveSaeLens(sae, { dtype: "float32", metadata });
    const hash = async (name: string, of: Record<string, Uint8Array>) =>
      (await openSaeLens(memoryFolder(name, of))).sha256();
    expect(await hash("a", files)).toBe(await hash("b", files));
    const other = saveSaeLens({ ...sae, subtractDecoderBias: false }, { dtype: "float32", metadata });
    expect(await hash("a", other)).not.toBe(await hash("a", files));
  });

  test("has negative thresholds read as 0", async () => {
    const files = saveSaeLens({ ...sae, threshold: sae.threshold.map((θ) => -θ) }, { dtype: "float32", metadata });
    const { activation } = await (await openSaeLens(memoryFolder("x", files))).encoder();
    expect(activation).toEqual({ kind: "jumprelu", threshold: new Float32Array(F) });
  });
});

describe("what cannot be used is refused by name:", () => {
  const files = saveSaeLens(sae, { dtype: "float32", metadata });
  const config = JSON.parse(new TextDecoder().decode(files["cfg.json"])) as Record<string, unknown>;
  const json = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));
  const changed = (change: Record<string, unknown>) => ({ ...files, "cfg.json": json({ ...config, ...change }) });
  const weights = (change: Record<string, { shape: number[]; data: Float32Array } | undefined>) => {
    const held = {
      W_enc: { shape: [D, F], data: sae.encoder },
      W_dec: { shape: [F, D], data: sae.decoder },
      b_enc: { shape: [F], data: sae.encoderBias },
      b_dec: { shape: [D], data: sae.decoderBias },
      threshold: { shape: [F], data: sae.threshold },
      ...change,
    };
    const kept = Object.entries(held).flatMap(([name, tensor]) => (tensor ? [[name, tensor] as const] : []));
    return { ...files, "sae_weights.safetensors": writeSafetensors(new Map(kept)) };
  };
  const hook = (name: string) => changed({ metadata: { hook_name: name } });

  test.each<[string, Record<string, Uint8Array>, RegExp]>([
    [
      "architecture",
      changed({ architecture: "temporal" }),
      /architecture: expected standard, jumprelu, gated or topk, got "temporal" in sae\/cfg\.json/,
    ],
    ["transcoder", changed({ architecture: "jumprelu_transcoder" }), /architecture: .*got "jumprelu_transcoder"/],
    [
      "output hook",
      changed({ metadata: { ...metadata, hook_name: "blocks.0.hook_mlp_out", hook_name_out: "y" } }),
      /hook_name_out/,
    ],
    [
      "one head",
      changed({ metadata: { hook_name: "blocks.0.attn.hook_z", hook_head_index: 3 } }),
      /hook_head_index.*got 3/,
    ],
    ["activation", changed({ activation_fn_str: "topk" }), /activation_fn: expected relu or topk, got "topk"/],
    [
      "normalisation",
      changed({ normalize_activations: "covariance_whitening" }),
      /normalize_activations: expected none, .*got "covariance_whitening"/,
    ],
    ["old normalisation", changed({ normalize_activations: true }), /normalize_activations: expected none, .*got true/],
    ["place", hook("blocks.0.hook_mlp_in"), /hook_name: expected a residual stream.*got "blocks.0.hook_mlp_in"/],
    ["no place", changed({ metadata: {} }), /hook_name: expected the place/],
    [
      "scaling",
      weights({ scaling_factor: { shape: [F - 1], data: new Float32Array(F - 1).fill(2) } }),
      /scaling_factor: expected shape \[24\], got \[23\]/,
    ],
    [
      "other width",
      changed({ d_in: 16 }),
      /d_in: expected 8, as in sae\/sae_weights.safetensors, got 16 in sae\/cfg.json/,
    ],
    ["shape", weights({ W_dec: { shape: [D, F], data: sae.decoder } }), /W_dec: expected shape \[24,8\], got \[8,24\]/],
    [
      "missing tensor",
      weights({ threshold: undefined }),
      /threshold: expected shape \[24\], got none in sae\/sae_weights.safetensors/,
    ],
    ["no SAE", weights({ W_enc: undefined }), /W_enc: expected a matrix \[input width, features\], got none/],
    [
      "cut short",
      { ...files, "sae_weights.safetensors": files["sae_weights.safetensors"].slice(0, 500) },
      /in sae\/sae_weights.safetensors/,
    ],
    ["no weights", { "cfg.json": files["cfg.json"] }, /expected a file sae_weights.safetensors, got none in sae/],
    [
      "no cfg.json",
      { "sae_weights.safetensors": files["sae_weights.safetensors"] },
      /expected a file cfg.json, got none in sae/,
    ],
  ])("%s", async (_, held, message) => {
    await expect(openSaeLens(memoryFolder("sae", held))).rejects.toThrow(message);
    await expect(openSaeLens(memoryFolder("sae", held))).rejects.toThrow(/^[^\n]*$/);
  });

  test("factors of 1 change nothing", async () => {
    const held = weights({ scaling_factor: { shape: [F], data: new Float32Array(F).fill(1) } });
    await expect(openSaeLens(memoryFolder("sae", held))).resolves.toMatchObject({ writes: "attn_out.2" });
  });

  test("a folder named after another site than the hook's", async () => {
    await expect(openSaeLens(memoryFolder("saes/resid_post.2", files))).rejects.toThrow(
      'expected blocks.2.hook_resid_post, as the folder\'s name says, got "blocks.2.hook_attn_out"',
    );
  });

  test("weights that are not finite", async () => {
    const bytes = files["sae_weights.safetensors"].slice();
    new DataView(bytes.buffer).setFloat32(bytes.length - 4, Number.NaN, true);
    const dictionary = await openSaeLens(memoryFolder("sae", { ...files, "sae_weights.safetensors": bytes }));
    await expect(dictionary.encoder()).rejects.toThrow(
      "tensor threshold: expected finite numbers, got NaN at 23 in sae/",
    );
  });
});

describe("hook names", () => {
  test("of every site lead back to it", () => {
    for (const site of ["embed", "attn_z.3", "attn_out.0", "mlp_act.2", "mlp_out.12", "resid_post.25"]) {
      expect(siteOfHook(hookOfSite(site))).toBe(site);
    }
  });

  test("of the stream before a block, and of a block in a Hugging Face model, mean resid_post", () => {
    expect(siteOfHook("blocks.5.hook_resid_pre")).toBe("resid_post.4");
    expect(siteOfHook("model.layers.7")).toBe("resid_post.7");
    expect(siteOfHook("model.language_model.layers.30")).toBe("resid_post.30");
    expect(siteOfHook("transformer.h.2")).toBe("resid_post.2");
    expect(siteOfHook("model.layers.7.mlp")).toBeUndefined();
    expect(siteOfHook("hook_embed")).toBeUndefined();
  });
});

describe("a dummy dictionary", () => {
  const [D, F] = [32, 400];
  const dummy = dummyDictionary("resid_post.1", D, F, 7);

  test("says what it is", () => {
    expect(dummy.name).toBe("dummy (random unit decoder rows)");
    expect(dummy).toMatchObject({ kind: "topk", inputWidth: D, featureCount: F, writes: "resid_post.1" });
  });

  test("has decoder rows of length 1 in all directions, and their transpose as encoder", async () => {
    const decoder = await dummy.decoder();
    const { weight, bias, activation } = await dummy.encoder();
    expect(activation).toEqual({ kind: "topk", k: 32 });
    expect(bias).toEqual(new Float32Array(F));
    expect(weight[3 * F + 5]).toBe(decoder[5 * D + 3]);
    const dot = (a: number, b: number) => {
      let sum = 0;
      for (let d = 0; d < D; d++) sum += decoder[a * D + d]! * decoder[b * D + d]!;
      return sum;
    };
    let squares = 0;
    for (let i = 0; i < F; i++) {
      expect(dot(i, i)).toBeCloseTo(1, 5);
      if (i > 0) squares += dot(i, i - 1) ** 2;
    }
    // Independent directions have mean squared cosine 1/D.
    expect((squares / (F - 1)) * D).toBeGreaterThan(0.8);
    expect((squares / (F - 1)) * D).toBeLessThan(1.2);
  });

  test("is made again from its seed, and differs between seeds and sites", async () => {
    const again = dummyDictionary("resid_post.1", D, F, 7);
    expect(await again.decoder()).toEqual(await dummy.decoder());
    expect(await again.sha256()).toBe(await dummy.sha256());
    for (const other of [dummyDictionary("resid_post.1", D, F, 8), dummyDictionary("mlp_out.1", D, F, 7)]) {
      expect(await other.decoderRows([0])).not.toEqual(await dummy.decoderRows([0]));
      expect(await other.sha256()).not.toBe(await dummy.sha256());
    }
  });
});
