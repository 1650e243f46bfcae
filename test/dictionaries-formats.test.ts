import { cpSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openFile, openFolder } from "../src/bytes/file.node.ts";
import { type Folder, memoryFolder } from "../src/bytes/folder.ts";
import { memorySource } from "../src/bytes/memory.ts";
import { openNpz } from "../src/bytes/npz.ts";
import { openSafetensors, writeSafetensors } from "../src/bytes/safetensors.ts";
import type { TensorFile } from "../src/bytes/tensor-file.ts";
import { readZip } from "../src/bytes/zip.ts";
import { codeReader } from "../src/dictionaries/encode.ts";
import { siteOfModule } from "../src/dictionaries/hooks.ts";
import { closeDictionaries, listDictionaries, openDictionaries, openDictionary } from "../src/dictionaries/open.ts";
import { apply, largestGap } from "./apply-dictionary.ts";
import { makeZip } from "./make-zip.ts";

const fixtures = "test/fixtures/dictionaries";
const [D, F] = [8, 24];

/** [what is opened, key of what its library computes, site, kind] */
const formats: [string, string, string, string][] = [
  ["sae-lens/gated/sae_weights.safetensors", "sae-lens/gated", "resid_post.1", "jumprelu"],
  ["sae-lens/topk/sae_weights.safetensors", "sae-lens/topk", "resid_post.1", "topk"],
  ["sae-lens/topk-decoder-norm/sae_weights.safetensors", "sae-lens/topk-decoder-norm", "resid_post.1", "topk"],
  ["sae-lens/layer-norm/sae_weights.safetensors", "sae-lens/layer-norm", "resid_post.1", "relu"],
  ["sae-lens/constant-norm/sae_weights.safetensors", "sae-lens/constant-norm", "resid_post.1", "jumprelu"],
  ["sae-lens/topk-layer-norm/sae_weights.safetensors", "sae-lens/topk-layer-norm", "resid_post.1", "topk"],
  ["sae-lens/average-norm/sae_weights.safetensors", "sae-lens/average-norm", "resid_post.1", "jumprelu"],
  ["sae-lens/average-decoder-norm/sae_weights.safetensors", "sae-lens/average-decoder-norm", "resid_post.1", "topk"],
  ["sae-lens/batchtopk/sae_weights.safetensors", "sae-lens/batchtopk", "resid_post.1", "jumprelu"],
  ["sae-lens/earlier-topk/sae_weights.safetensors", "sae-lens/earlier-topk", "resid_post.1", "topk"],
  ["sae-lens/earlier-scaled/sae_weights.safetensors", "sae-lens/earlier-scaled", "resid_post.1", "relu"],
  ["sae-lens/scaled-jumprelu/sae_weights.safetensors", "sae-lens/scaled-jumprelu", "mlp_out.0", "jumprelu"],
  ["dictionary-learning/standard/ae.pt", "dictionary-learning/standard", "resid_post.1", "relu"],
  ["dictionary-learning/attn_out_layer0/10_24/ae.pt", "dictionary-learning/standard", "attn_out.0", "relu"],
  ["dictionary-learning/april/ae.pt", "dictionary-learning/april", "resid_post.1", "relu"],
  ["dictionary-learning/gated/ae.pt", "dictionary-learning/gated", "mlp_out.0", "jumprelu"],
  ["dictionary-learning/topk/ae.pt", "dictionary-learning/topk", "attn_out.1", "topk"],
  ["dictionary-learning/batchtopk/ae.pt", "dictionary-learning/batchtopk", "resid_post.1", "jumprelu"],
  ["dictionary-learning/matryoshka/ae.pt", "dictionary-learning/matryoshka", "resid_post.1", "jumprelu"],
  ["dictionary-learning/jumprelu/ae.pt", "dictionary-learning/jumprelu", "resid_post.1", "jumprelu"],
  ["sparsify/layers.1.mlp/sae.safetensors", "sparsify/layers.1.mlp", "mlp_out.1", "topk"],
  [
    "llama-scope/Llama3_1-8B-Base-L1M-8x/hyperparams.json",
    "llama-scope/Llama3_1-8B-Base-L1M-8x",
    "mlp_out.1",
    "jumprelu",
  ],
  ["openai/resid_delta_mlp_v4/autoencoders/1.pt", "openai/resid_delta_mlp_v4/autoencoders/1", "mlp_out.1", "relu"],
  [
    "openai/resid_post_mlp_v5_32k/autoencoders/1.pt",
    "openai/resid_post_mlp_v5_32k/autoencoders/1",
    "resid_post.1",
    "topk",
  ],
  [
    "gemma-scope-2b-pt-att/layer_1/width_16k/average_l0_71/params.npz",
    "gemma-scope-2b-pt-att/layer_1/width_16k/average_l0_71/params",
    "attn_z.1",
    "jumprelu",
  ],
  ["plain/layer_1.npz", "plain/layer_1", "resid_post.1", "jumprelu"],
  ["plain/layer_2.pt", "plain/layer_2", "resid_post.2", "jumprelu"],
  ["plain/layer_0.pt", "dictionary-learning/standard", "resid_post.0", "relu"],
  ["plain/layer_3.npz", "plain/layer_3", "resid_post.3", "jumprelu"],
  ["plain/layer_4.pt", "plain/layer_4", "resid_post.4", "topk"],
  ["plain/layer_5.npz", "plain/layer_5", "resid_post.5", "topk"],
  ["plain/layer_6.npz", "plain/layer_6", "resid_post.6", "jumprelu"],
  ["plain/layer_7.pt", "plain/layer_7", "resid_post.7", "jumprelu"],
  ["circuit-tracer/jumprelu/layer_1.safetensors", "circuit-tracer/jumprelu/layer_1", "resid_post.1", "jumprelu"],
  ["circuit-tracer/topk/layer_0.safetensors", "circuit-tracer/topk/layer_0", "mlp_out.0", "topk"],
  ...(
    [
      ["resid_post_all/layer_1", "resid_post.1"],
      ["attn_out/layer_0", "attn_z.0"],
      ["mlp_out/layer_1", "mlp_out.1"],
    ] as const
  ).map(([folder, site]): [string, string, string, string] => {
    const path = `gemma-scope-2-tiny-pt/${folder}_width_16k_l0_small/params`;
    return [`${path}.safetensors`, path, site, "jumprelu"];
  }),
  [
    "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6/params.npz",
    "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6/params",
    "embed",
    "jumprelu",
  ],
  ["SAE-Res-Qwen3-tiny-L0_4/layer1.sae.pt", "SAE-Res-Qwen3-tiny-L0_4/layer1.sae", "resid_post.1", "topk"],
  ["sae-lens/log-threshold/sae_weights.safetensors", "sae-lens/log-threshold", "resid_post.1", "jumprelu"],
];

const circuitTracer = /^circuit-tracer/;

let root: Folder;
let expected: TensorFile;
let x: Float32Array;
beforeAll(async () => {
  root = await openFolder(fixtures);
  expected = await openSafetensors(await openFile(`${fixtures}/expected.safetensors`));
  x = await expected.read("x");
});
afterAll(() => expected.source.close());

describe("codes and reconstructions are those of the library:", () => {
  test.each(formats)("%s", async (path, key, site, kind) => {
    const dictionary = await openDictionary(root, path);
    expect(dictionary).toMatchObject({
      reads: site,
      writes: site,
      kind,
      inputWidth: D,
      outputWidth: D,
      featureCount: F,
    });
    const { codes, reconstruction, margins } = await apply(dictionary, x);
    const byDefinition = largestGap(codes, await expected.read(`${key}/codes`), margins);
    expect(byDefinition.gap).toBeLessThan(1e-5);
    expect(byDefinition.leftOut).toBeLessThanOrEqual(1e-5 * codes.length);
    expect(largestGap(reconstruction, await expected.read(`${key}/reconstruction`)).gap).toBeLessThan(1e-5);

    const reader = codeReader({ threads: 1 });
    const sparse = await reader.encode(dictionary, x);
    await reader.release();
    const dense = new Float32Array(codes.length);
    for (let row = 0; row < sparse.rows; row++) {
      for (let i = sparse.offsets[row]!; i < sparse.offsets[row + 1]!; i++) {
        dense[row * F + sparse.features[i]!] = sparse.values[i]!;
      }
    }
    expect(largestGap(dense, await expected.read(`${key}/codes`), margins).gap).toBeLessThan(1e-5);

    const [decoder, some] = [await dictionary.decoder(), await dictionary.decoderRows([23, 0, 5])];
    for (const [n, row] of [23, 0, 5].entries()) {
      expect(some.subarray(n * D, (n + 1) * D)).toEqual(decoder.subarray(row * D, (row + 1) * D));
    }
    await dictionary.close();
  });
});

test("one session serves dictionaries of one rule and shape only", async () => {
  const reader = codeReader({ threads: 1 });
  for (const [path, key] of formats) {
    const dictionary = await openDictionary(root, path);
    const { values } = await reader.encode(dictionary, x);
    const codes = (await expected.read(`${key}/codes`)).filter((code) => code !== 0);
    expect(largestGap(values, codes).gap).toBeLessThan(1e-5);
    await dictionary.close();
  }
  await reader.release();
});

describe("a folder", () => {
  test("gives the dictionaries of all formats in it, each of its site", async () => {
    const copy = mkdtempSync(join(tmpdir(), "sfc-formats-"));
    afterAll(() => rmSync(copy, { recursive: true, force: true }));
    for (const path of [
      "plain/layer_1.npz",
      "plain/layer_2.pt",
      "gemma-scope-2b-pt-att",
      "sparsify/layers.1.mlp",
      "dictionary-learning/topk",
      "dictionary-learning/gated",
    ]) {
      cpSync(`${fixtures}/${path}`, join(copy, path), { recursive: true });
    }
    const dictionaries = await openDictionaries(await openFolder(copy));
    expect([...dictionaries.keys()]).toEqual([
      "mlp_out.0",
      "attn_z.1",
      "attn_out.1",
      "mlp_out.1",
      "resid_post.1",
      "resid_post.2",
    ]);
    await closeDictionaries(dictionaries);
  });

  test("without any says what was looked for", async () => {
    await expect(openDictionaries(memoryFolder("empty", { "readme.txt": new Uint8Array(1) }))).rejects.toThrow(
      /^SAEs: expected one of SAELens folders .*params\.npz; .*params\.safetensors; .*layer0\.sae\.pt; layer_0\.safetensors, \.npz or \.pt; .*ae\.pt; Llama Scope .*; sparsify .*; OpenAI.*, got none of them in empty\. Check the folder\.$/,
    );
    await expect(openDictionary(memoryFolder("here", {}), "weights.bin")).rejects.toThrow(
      /^SAE: expected one of .*, got here\/weights\.bin\. Give it a name of its format\.$/,
    );
  });
});

test("a Gemma Scope layer costs the decoder rows that are used", async () => {
  const path = "gemma-scope-2b-pt-att/layer_1/width_16k/average_l0_71/params.npz";
  let bytes = 0;
  const counting: Folder = {
    ...root,
    async open(inner) {
      const source = await root.open(inner);
      return (
        source && {
          ...source,
          read: (offset, length) => {
            bytes += length;
            return source.read(offset, length);
          },
        }
      );
    },
  };
  const dictionary = await openDictionary(counting, path);
  // Compares the checksums too.
  await dictionary.sha256();
  bytes = 0;
  await dictionary.decoderRows([3, 4]);
  expect(bytes).toBe(2 * D * 4);
  await dictionary.close();
});

describe("an SAE of a stream whose weights were centred takes x less its mean:", () => {
  test.each(["gated", "topk", "topk-decoder-norm", "average-norm", "earlier-scaled", "layer-norm"])(
    "%s",
    async (name) => {
      const path = `${fixtures}/sae-lens/${name}`;
      const config = JSON.parse(readFileSync(`${path}/cfg.json`, "utf8"));
      const open = (change: object) =>
        openDictionary(
          memoryFolder("f", {
            "cfg.json": new TextEncoder().encode(JSON.stringify({ ...config, ...change })),
            "sae_weights.safetensors": readFileSync(`${path}/sae_weights.safetensors`),
          }),
          "sae_weights.safetensors",
        );
      const kwargs = { model_from_pretrained_kwargs: { center_writing_weights: true } };
      const place = config.metadata ? { metadata: { ...config.metadata, ...kwargs } } : kwargs;
      // A mean that is not small.
      const shifted = x.map((value) => value + 1);
      const centred = shifted.map((value, at) => {
        const row = shifted.subarray(at - (at % D), at - (at % D) + D);
        return value - row.reduce((sum, v) => sum + v, 0) / D;
      });
      const expectedCodes = await apply(await open({}), centred);
      const dictionary = await open(place);
      const { codes } = await apply(dictionary.forModel!(true), shifted);
      expect(largestGap(codes, Float32Array.from(expectedCodes.codes), expectedCodes.margins).gap).toBeLessThan(1e-5);
      const plain = await apply(await open({}), shifted);
      expect((await apply(dictionary.forModel!(false), shifted)).codes).toEqual(plain.codes);
      expect(() => dictionary.encoder()).toThrow("center_writing_weights: expected a model");
    },
  );
});

test("dictionaries are told by the names of files that are not there yet", async () => {
  const list = (paths: string[], folder = "hub") =>
    listDictionaries(paths, folder).map(({ path, files, site }) => [path, site ?? null, files.length]);
  expect(
    list([
      "README.md",
      "a/cfg.json",
      "a/sae_weights.safetensors",
      "layer_3/width_16k/average_l0_7/params.npz",
      "layer_4.pt",
      "b/ae.pt",
      "l/hyperparams.json",
      "l/checkpoints/final.safetensors",
    ]),
  ).toEqual([
    ["a/sae_weights.safetensors", null, 2],
    ["layer_3/width_16k/average_l0_7/params.npz", "resid_post.3", 1],
    ["layer_4.pt", "resid_post.4", 1],
    ["b/ae.pt", null, 1],
    ["l/hyperparams.json", null, 2],
  ]);
  const path = "layer_1/width_16k/average_l0_71/params.npz";
  expect(list([path], "models--google--gemma-scope-2b-pt-att")).toEqual([[path, "attn_z.1", 1]]);
  for (const [path] of formats) {
    // Settings that say more than the name may lie beside.
    const beside = circuitTracer.test(path) ? [path.replace(/[^/]+$/, "config.yaml")] : [];
    const [listed] = listDictionaries([path, ...beside], fixtures);
    const dictionary = await openDictionary(root, path);
    expect(listed!.site ?? dictionary.writes).toBe(dictionary.writes);
    await dictionary.close();
  }
  const two = await openDictionaries(root, undefined, ["plain/layer_1.npz", "dictionary-learning/gated/ae.pt"]);
  expect([...two.keys()]).toEqual(["mlp_out.0", "resid_post.1"]);
  await closeDictionaries(two);
});

describe("what cannot be used is refused by name:", () => {
  const read = (path: string) => readFileSync(`${fixtures}/${path}`);
  const json = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));
  const changed = (path: string, change: Record<string, unknown>) =>
    json({ ...(JSON.parse(read(path).toString()) as object), ...change });
  const files = (path: string, names: readonly string[], change: Record<string, Uint8Array>, folder = "f") =>
    memoryFolder(folder, { ...Object.fromEntries(names.map((name) => [name, read(`${path}/${name}`)])), ...change });

  const saeLens = (name: string, change: Record<string, unknown>) =>
    files(`sae-lens/${name}`, ["cfg.json", "sae_weights.safetensors"], {
      "cfg.json": changed(`sae-lens/${name}/cfg.json`, change),
    });
  const learning = (name: string, trainer: Record<string, unknown>) =>
    files(`dictionary-learning/${name}`, ["ae.pt"], { "config.json": json({ trainer: { layer: 1, ...trainer } }) });
  const llama = (change: Record<string, unknown>) => {
    const path = "llama-scope/Llama3_1-8B-Base-L1M-8x";
    return files(path, ["checkpoints/final.safetensors"], {
      "hyperparams.json": changed(`${path}/hyperparams.json`, change),
    });
  };
  const sparsify = (change: Record<string, unknown>, folder = "layers.1.mlp") =>
    files(
      "sparsify/layers.1.mlp",
      ["sae.safetensors"],
      { "cfg.json": changed("sparsify/layers.1.mlp/cfg.json", change) },
      folder,
    );
  const npz = "gemma-scope-2b-pt-att/layer_1/width_16k/average_l0_71/params.npz";
  const one = (path: string, from: string) => memoryFolder("f", { [path]: read(from) });
  const weights = "sae_weights.safetensors";

  test.each<[string, () => Folder, string, RegExp]>([
    [
      "SAELens transcoders",
      () => saeLens("topk", { architecture: "transcoder" }),
      weights,
      /^architecture: .*"transcoder"/,
    ],
    ["signed TopK", () => saeLens("topk", { architecture: "abstopk" }), weights, /^architecture: .*"abstopk"/],
    ["k above F", () => saeLens("topk", { k: 25 }), weights, /^k: expected 1 to 24, got 25/],
    ["k that is no number", () => saeLens("topk", { k: "many" }), weights, /^k: expected 1 to 24, got NaN/],
    [
      "an average norm that the file does not tell",
      () => saeLens("average-norm", { norm_scaling_factor: undefined }),
      weights,
      /^normalize_activations: expected none, or a positive norm_scaling_factor .*got "expected_average_only_in" in f\/cfg\.json/,
    ],
    [
      "whitening",
      () => saeLens("topk", { normalize_activations: "covariance_whitening" }),
      weights,
      /^normalize_activations: .*got "covariance_whitening"/,
    ],
    [
      "scaling of an SAE that was not finetuned",
      () => saeLens("earlier-scaled", { finetuning_scaling_factor: false }),
      weights,
      /^scaling_factor: expected ones/,
    ],
    [
      "an unknown class of dictionary_learning",
      () => learning("standard", { dict_class: "CrossCoder" }),
      "ae.pt",
      /^dict_class: .*got CrossCoder/,
    ],
    [
      "another place of dictionary_learning",
      () => learning("standard", { submodule_name: "mlp_in_layer_3" }),
      "ae.pt",
      /^submodule_name: .*got "mlp_in_layer_3"/,
    ],
    [
      "topk or batchtopk without config.json",
      () => one("resid_out_layer1/ae.pt", "dictionary-learning/topk/ae.pt"),
      "resid_out_layer1/ae.pt",
      /^dict_class: expected AutoEncoderTopK or BatchTopKSAE in a config\.json, got none/,
    ],
    [
      "dictionary_learning without a site",
      () => one("x/ae.pt", "dictionary-learning/standard/ae.pt"),
      "x/ae.pt",
      /^SAE: expected config\.json with a layer, or a folder such as resid_out_layer3/,
    ],
    [
      "another k",
      () => learning("topk", { dict_class: "AutoEncoderTopK", k: 5 }),
      "ae.pt",
      /^trainer\.k: expected 4, .*got 5/,
    ],
    [
      "Llama Scope transcoders",
      () => llama({ hook_point_in: "blocks.1.ln2.hook_normalized" }),
      "hyperparams.json",
      /^hook_point_out: expected .*no transcoder.*got "blocks\.1\.hook_mlp_out"/,
    ],
    [
      "Llama Scope with another activation",
      () => llama({ act_fn: "topk" }),
      "hyperparams.json",
      /^act_fn: .*got "topk"/,
    ],
    [
      "Llama Scope without an average norm",
      () => llama({ dataset_average_activation_norm: undefined }),
      "hyperparams.json",
      /^dataset_average_activation_norm\.in: expected a positive number, got none/,
    ],
    [
      "sparsify transcoders",
      () => sparsify({ transcode: true }),
      "sae.safetensors",
      /^transcode: expected false, got true/,
    ],
    [
      "groupmax",
      () => sparsify({ activation: "groupmax" }),
      "sae.safetensors",
      /^activation: expected topk, got "groupmax"/,
    ],
    [
      "sparsify in a folder of another name",
      () => sparsify({}, "mine"),
      "sae.safetensors",
      /^SAE: .*\(layers\.5\), got mine/,
    ],
    [
      "OpenAI's SAEs inside the MLP",
      () => one("mlp_post_act/autoencoders/1.pt", "openai/resid_delta_mlp_v4/autoencoders/1.pt"),
      "mlp_post_act/autoencoders/1.pt",
      /^SAE: expected a folder resid_delta_attn, .*got "mlp_post_act"/,
    ],
    [
      "Gemma Scope transcoders",
      () => one("gemma-scope-2b-pt-transcoders/layer_1/width_16k/average_l0_7/params.npz", npz),
      "gemma-scope-2b-pt-transcoders/layer_1/width_16k/average_l0_7/params.npz",
      /^SAE: .*got a transcoder in /,
    ],
    [
      "Gemma Scope without its folders",
      () => one("params.npz", npz),
      "params.npz",
      /^SAE: expected a folder layer_<block>/,
    ],
    [
      "a .pt of before PyTorch 1.6",
      () => memoryFolder("f", { "layer_1.pt": Uint8Array.of(0x80, 2, 0x8a, 10, 0x6c, 0xfc) }),
      "layer_1.pt",
      /^zip archive: .*PyTorch 1\.6/,
    ],
    [
      "Fortran order",
      () => one("layer_1.npz", "refused/fortran.npz"),
      "layer_1.npz",
      /W_enc\.npy: expected rows .*Fortran/,
    ],
    [
      "compressed",
      () => one("layer_1.npz", "refused/compressed.npz"),
      "layer_1.npz",
      /expected stored bytes, got compressed/,
    ],
    ["objects", () => one("layer_1.npz", "refused/objects.npz"), "layer_1.npz", /^number format of array W_enc\.npy: /],
    [
      "os.system",
      () => one("layer_1.pt", "refused/system.pt"),
      "layer_1.pt",
      /^pickle: .*got posix\.system, which is not allowed/,
    ],
    [
      "a module",
      () => one("layer_1.pt", "refused/module.pt"),
      "layer_1.pt",
      /^pickle: .*got torch\.nn\.modules.*not allowed/,
    ],
  ])("%s", async (_, folder, path, message) => {
    const error = await openDictionary(folder(), path).catch((e: unknown) => e as Error);
    expect(error).toMatchObject({ name: "UserError", message: expect.stringMatching(message) });
    expect((error as Error).message).not.toContain("\n");
  });

  test("magnitudes of a gated SAE that overflow", async () => {
    const file = await openSafetensors(memorySource("x", read(`sae-lens/gated/${weights}`)));
    const tensors = await Promise.all(
      [...file.tensors].map(async ([name, { shape }]) => [name, { shape, data: await file.read(name) }] as const),
    );
    new Map(tensors).get("r_mag")!.data[3] = 100;
    const folder = files("sae-lens/gated", ["cfg.json"], { [weights]: writeSafetensors(new Map(tensors)) });
    const dictionary = await openDictionary(folder, weights);
    await expect(dictionary.encoder()).rejects.toThrow("tensor e^r_mag: expected finite numbers, got Infinity at 3");
  });

  test("W_skip of a transcoder", async () => {
    const skip = writeSafetensors(new Map([["W_skip", { shape: [D, D], data: new Float32Array(D * D) }]]));
    const folder = files("sparsify/layers.1.mlp", ["cfg.json"], { "sae.safetensors": skip }, "layers.1");
    await expect(openDictionary(folder, "sae.safetensors")).rejects.toThrow("tensor W_skip: expected none in an SAE");
  });

  test("a weight that is not a number", async () => {
    const good = read("plain/layer_1.npz");
    const { offset } = (await openNpz(memorySource("x", good))).tensors.get("W_dec")!;
    new DataView(good.buffer, good.byteOffset).setFloat32(offset + 20, Number.NaN, true);
    const members = [...(await readZip(memorySource("x", good))).values()];
    const bytes = makeZip(members.map((m) => [m.name, good.subarray(m.offset, m.offset + m.length)]));
    const dictionary = await openDictionary(memoryFolder("f", { "layer_1.npz": bytes }), "layer_1.npz");
    const message = "tensor W_dec: expected finite numbers, got NaN at 5 in f/layer_1.npz.";
    await expect(dictionary.decoder()).rejects.toThrow(message);
    await expect(dictionary.decoderRows([0])).rejects.toThrow(message);
    await expect(dictionary.decoderRows([1])).resolves.toHaveLength(D);
  });
});

test("modules mean the sites that their outputs are", () => {
  expect(
    ["layers.5", "gpt_neox.layers.0", "h.2", "layers.3.mlp", "layers.4.attention", "embed_tokens"].map(siteOfModule),
  ).toEqual(["resid_post.5", "resid_post.0", "resid_post.2", "mlp_out.3", "attn_out.4", "embed"]);
  expect(siteOfModule("layers.5.mlp.act")).toBeUndefined();
});
