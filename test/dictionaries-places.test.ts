import { readFileSync } from "node:fs";
import { cp, mkdir, mkdtemp, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { memoryFolder } from "../src/bytes/folder.ts";
import type { Dictionary } from "../src/dictionaries/dictionary.ts";
import { closeDictionaries, openDictionaries, openDictionary } from "../src/dictionaries/open.ts";

const fixtures = new URL("fixtures/dictionaries/", import.meta.url).pathname;
const fixture = (path: string) => readFileSync(join(fixtures, path));

describe("a site that folders tell is the same from every folder:", () => {
  const started = process.cwd();
  let home: string;
  beforeAll(async () => {
    home = await mkdtemp(join(tmpdir(), "sfc-sites-"));
    const scope = join(home, "gemma-scope-2b-pt-att");
    await cp(join(fixtures, "gemma-scope-2b-pt-att"), scope, { recursive: true });
    await mkdir(join(home, "attn_out_layer3"));
    await cp(join(fixtures, "dictionary-learning/standard/ae.pt"), join(home, "attn_out_layer3/ae.pt"));
    await mkdir(join(home, "h.2.attn"));
    for (const file of ["cfg.json", "sae.safetensors"]) {
      await cp(join(fixtures, "sparsify/layers.1.mlp", file), join(home, "h.2.attn", file));
    }
    await symlink(scope, join(home, "scope"));
    await symlink(join(home, "attn_out_layer3"), join(home, "some"));
    await symlink(join(home, "attn_out_layer3"), join(home, "mlp_out_layer3"));
    await cp(join(scope, "layer_1"), join(home, "renamed/layer_1"), { recursive: true });
  });
  afterAll(async () => {
    process.chdir(started);
    await rm(home, { recursive: true, force: true });
  });

  /** Sites and warnings of the dictionaries in a folder, named from another. */
  async function sites(current: string, folder: string) {
    process.chdir(join(home, current));
    const found = await openDictionaries(await openFolder(folder));
    await closeDictionaries(found);
    return [[...found.keys()], [...found.values()].flatMap(({ warnings = [] }) => warnings)];
  }

  it.each([
    [".", "gemma-scope-2b-pt-att", "attn_z.1"],
    ["gemma-scope-2b-pt-att", ".", "attn_z.1"],
    ["gemma-scope-2b-pt-att/layer_1", "width_16k", "attn_z.1"],
    ["gemma-scope-2b-pt-att/layer_1", "../layer_1", "attn_z.1"],
    [".", "scope", "attn_z.1"],
    ["scope", ".", "attn_z.1"],
    ["attn_out_layer3", ".", "attn_out.3"],
    [".", "some", "attn_out.3"],
    ["h.2.attn", ".", "attn_out.2"],
    ["h.2.attn", "../h.2.attn/", "attn_out.2"],
  ])("in %s, of %s", async (current, folder, site) => {
    expect(await sites(current, folder)).toEqual([[site], []]);
  });

  it("a link and its end that do not agree are refused", async () => {
    await expect(sites(".", "mlp_out_layer3")).rejects.toThrow(
      /^SAE: expected one site, got mlp_out\.3 by the name .*\/mlp_out_layer3\/ae\.pt and attn_out\.3 by the link's end /,
    );
  });

  it("a kind that no folder tells is told of", async () => {
    expect(await sites("renamed", ".")).toEqual([
      ["resid_post.1"],
      [
        expect.stringMatching(
          /^Taken for SAEs of resid_post: params\.npz files in .*\/renamed, which do not tell the kind of site\. /,
        ),
      ],
    ]);
  });
});

describe("SAELens' settings of the place:", () => {
  const config = JSON.parse(fixture("sae-lens/gated/cfg.json").toString());
  // Tests have versions of their own.
  for (const key of ["sae_lens_version", "sae_lens_training_version"]) delete config.metadata[key];
  const weights = fixture("sae-lens/gated/sae_weights.safetensors");
  const open = (change: object, metadata: object = {}): Promise<Dictionary> => {
    const inner = { ...config.metadata, ...metadata };
    const cfg = Buffer.from(JSON.stringify({ ...config, metadata: inner, ...change }));
    return openDictionary(
      memoryFolder("f", { "cfg.json": cfg, "sae_weights.safetensors": weights }),
      "sae_weights.safetensors",
    );
  };
  const hook = { hook_name: "blocks.1.hook_mlp_out" };

  it("a layer that the hook contradicts, or one head, is refused", async () => {
    await expect(open({}, { ...hook, hook_layer: 0 })).rejects.toThrow(
      /^hook_layer: expected 1, as blocks\.1\.hook_mlp_out says, got 0/,
    );
    await expect(open({}, { ...hook, hook_head_index: 0 })).rejects.toThrow(/^hook_head_index: expected none/);
    await expect(open({}, { ...hook, hf_hook_name: "model.layers.1" })).rejects.toThrow(/^hf_hook_name: /);
    expect((await open({}, { ...hook, hook_layer: 1, hook_head_index: null })).writes).toBe("mlp_out.1");
  });

  it("what they say of model and texts is kept", async () => {
    const said = { ...hook, model_name: "tiny", prepend_bos: false, context_size: 77 };
    expect((await open({}, said)).trainedOn).toEqual({ model: "tiny", bos: false, contextSize: 77 });
    expect((await open({}, { hook_name: "model.layers.1.mlp" })).trainedOn?.module).toEqual({
      name: "model.layers.1.mlp",
      isSure: true,
    });
  });

  // decoderesearch/SAELens#279: from then on models are loaded without centring.
  const early = { lr: 0.0004, train_batch_size: 4096 };
  it.each([
    [early, { centredWeights: "byDefault", bos: true }],
    [{ ...early, sae_lens_training_version: "3.19.1" }, { centredWeights: "byDefault" }],
    [{ ...early, sae_lens_training_version: "3.19.2" }, { centredWeights: undefined }],
    [{ ...early, sae_lens_training_version: "4.0.1" }, { centredWeights: undefined }],
    [{ ...early, model_class_name: "HookedMamba" }, { centredWeights: undefined }],
    [{ ...early, model_from_pretrained_kwargs: { center_writing_weights: false } }, { centredWeights: undefined }],
    [{ model_from_pretrained_kwargs: { center_writing_weights: true } }, { centredWeights: "asked" }],
    [{}, { centredWeights: undefined }],
  ])("whether weights were centred: %j", async (settings, expected) => {
    expect({ centredWeights: undefined, ...(await open(settings, hook)).trainedOn }).toMatchObject(expected);
  });

  it("an early training's SAE is the same by path as with the setting that its preset adds", async () => {
    const asked = { ...early, model_from_pretrained_kwargs: { center_writing_weights: true } };
    const encoders = [early, asked].map(async (settings) => (await open(settings, hook)).forModel!(true).encoder());
    const [byPath, byPreset] = await Promise.all(encoders);
    expect(byPath).toEqual(byPreset);
    expect(byPath!.weight).not.toEqual((await (await open({}, hook)).encoder()).weight);
  });

  it("heads are not centred; those of early trainings had no biases of values", async () => {
    const heads = { hook_name: "blocks.1.attn.hook_z" };
    const asked = { model_from_pretrained_kwargs: { center_writing_weights: true } };
    expect((await open(asked, heads)).trainedOn?.centredWeights).toBeUndefined();
    expect((await open(early, heads)).trainedOn).toMatchObject({ foldedValueBiases: "byDefault" });
  });
});

describe("dictionary_learning's names of modules:", () => {
  const ae = fixture("dictionary-learning/standard/ae.pt");
  const open = (trainer: object) =>
    openDictionary(
      memoryFolder("f", { "ae.pt": ae, "config.json": Buffer.from(JSON.stringify({ trainer })) }),
      "ae.pt",
    );
  it.each([
    ["model.layers.0.mlp", "mlp_out.0", true],
    ["gpt_neox.layers.2.attention", "attn_out.2", true],
    ["mlp_layer_4", "mlp_out.4", true],
    ["mlp_out_layer_4", "mlp_out.4", false],
  ])("%s", async (name, site, isSure) => {
    expect(await open({ submodule_name: name })).toMatchObject({
      writes: site,
      trainedOn: { module: { name, isSure } },
    });
  });

  it("a layer that they contradict is refused", async () => {
    await expect(open({ submodule_name: "mlp_layer_4", layer: 3 })).rejects.toThrow(
      /^(trainer\.)?layer: expected 4, as mlp_layer_4 says, got 3/,
    );
  });
});
