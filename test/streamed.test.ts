import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { type Folder, memoryFolder } from "../src/bytes/folder.ts";
import { memorySource } from "../src/bytes/memory.ts";
import { openSafetensors, writeSafetensors } from "../src/bytes/safetensors.ts";
import { BlockReader } from "../src/capture/block-reader.ts";
import { type Capture, capture, captureAll, runMetric } from "../src/capture/capture.ts";
import { type Hook, type Hooks, readingHooks } from "../src/capture/hooks.ts";
import { pieceGraphs } from "../src/capture/piece-graphs.ts";
import { memoryStore, type Store } from "../src/capture/store.ts";
import { StoppedError } from "../src/errors.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { type Plan, planCapture, planMetric } from "../src/forest/packs.ts";
import { keptSessions } from "../src/graph/kept-sessions.ts";
import { writeOnnx } from "../src/graph/onnx.ts";
import type { KeptSessions } from "../src/graph/runtime.ts";
import { sameGraph } from "../src/graph/same-graph.ts";
import { sessionPool } from "../src/graph/session.ts";
import { times } from "../src/graph/shape.ts";
import { constantData, input, type Tensor } from "../src/graph/tensor.ts";
import { modelFromConfig } from "../src/models/architectures.ts";
import { type Checkpoint, openCheckpoint } from "../src/models/checkpoint.ts";
import type { Model } from "../src/models/model.ts";
import { heldWeights, loadedModel, streamedWeights } from "../src/models/weights.ts";
import type { TokenPair } from "../src/prompts/pairs.ts";
import { Random } from "../src/random.ts";
import type { SiteName } from "../src/site.ts";

const seed = 20261124;
const fixtures = new URL("fixtures/", import.meta.url).pathname;
const names = [
  ...["llama-mha", "llama-gqa", "llama-mqa-headdim", "llama-scaled", "llama-bias", "llama-yarn", "mistral"],
  ...["mistral-yarn", "qwen2", "qwen3", "qwen3-bias", "gemma", "gemma-untied", "gemma2", "gemma2-untied"],
  ...["gemma3_text", "gemma3_text-untied", "gemma3", "gpt2", "gpt2-scaled", "gpt_neox", "gpt_neox-sequential"],
  "gpt_neox-relu",
];

/** The fixtures' figures come from transformers in float64 (test/oracles/make_models.py). */
describe.each(names)("%s, streamed, gives what transformers gives", (name) => {
  it.for(["float32", "float64"] as const)("activations and ∂m/∂x at every site, %s", async (dtype, { skip }) => {
    const { model, checkpoint } = await open(name);
    skip(dtype === "float64" && checkpoint.config.hidden_act === "gelu", "onnxruntime has no erf in float64");
    const expected = JSON.parse(await readFile(`${fixtures}${name}/expected.json`, "utf8"));
    const tensors = await openSafetensors(
      memorySource("expected", await readFile(`${fixtures}${name}/expected.safetensors`)),
    );
    const tolerance = dtype === "float32" ? 1e-5 : 2e-7;
    const plans = expected.prompts.map((prompt: { tokens: number[]; clean_answer: number; patch_answer: number }) =>
      planCapture(
        prefixForest([
          pairOf(
            prompt.tokens,
            prompt.tokens.map((t) => (t + 1) % 60),
            prompt.clean_answer,
            prompt.patch_answer,
          ),
        ]),
        { wanted: "clean", tileSize: 64 },
      ),
    );
    const results = await captureAll(loadedModel(model, streamedWeights(checkpoint), { dtype }), plans, {
      sites: expected.sites,
    });
    for (const [p, result] of results.entries()) {
      expect(Math.abs(result.cleanMetric[0]! - expected.prompts[p].metric)).toBeLessThan(tolerance * 10);
      for (const site of expected.sites) {
        const { x, g } = await result.site(site);
        expect(relativeGap(x, await tensors.read(`p${p}/x/${site}`)), `x at ${site}`).toBeLessThan(tolerance);
        expect(relativeGap(g, await tensors.read(`p${p}/g/${site}`)), `g at ${site}`).toBeLessThan(tolerance);
      }
    }
  });
});

describe(`a forest of many packs (seed ${seed})`, () => {
  const random = new Random(seed);
  const pairs = Array.from({ length: 60 }, () => {
    const T = 4 + random.below(6);
    const draw = () => [1, ...Array.from({ length: T - 1 }, () => 4 + random.below(20))];
    return pairOf(draw(), draw(), 30 + random.below(3), 33 + random.below(3));
  });
  const plan = planCapture(prefixForest(pairs), { wanted: "changed", nodes: 64 });
  let model: Model;
  let checkpoint: Checkpoint;
  let sites: SiteName[];
  let held: Capture;

  beforeAll(async () => {
    ({ model, checkpoint } = await open("gemma2"));
    sites = allSites(model);
    held = await capture(
      loadedModel(model, await heldWeights(model, checkpoint, "float64"), { dtype: "float64" }),
      plan,
      { sites },
    );
  });

  it("gives what held weights give, however it is cut into waves", async () => {
    expect(plan.packs.length).toBeGreaterThan(3);
    expect(new Set(plan.packs.map(({ kind }) => kind)).size).toBe(2);
    for (const waveRows of [64, 128, 8192]) {
      const options = { sites, waveRows } as const;
      await expectSame(
        await capture(loadedModel(model, streamedWeights(checkpoint), { dtype: "float64" }), plan, options),
        held,
        1e-12,
      );
    }
  });

  it("gives the same with forward nodes beside the tiles", async () => {
    const beside = planCapture(plan.forest, { wanted: "changed", nodes: 64, beside: "always" });
    expect(beside.packs.every((pack) => pack.beside !== undefined)).toBe(true);
    for (const waveRows of [64, 8192]) {
      const loaded = loadedModel(model, streamedWeights(checkpoint), { dtype: "float64" });
      await expectSame(await capture(loaded, beside, { sites, waveRows }), held, 1e-12);
    }
  });

  it.each<[string, SiteName[], number]>([
    ["the residual stream after the last block alone: no block backward", ["resid_post.last"], 0],
    ["the residual stream after block 0: all blocks but that one", ["resid_post.0"], 1],
    ["a site in block 0: all blocks", ["attn_z.0"], 2],
    ["the embedding: all blocks", ["embed"], 2],
  ])("goes back no further than it has to for %s", async (_, wanted, code) => {
    const chosen = wanted.map((site) => site.replace("last", String(model.layers - 1)));
    const backward = [0, model.layers - 1, model.layers][code]!;
    let steps = 0;
    let total = 0;
    const onProgress = (done: number, of: number) => {
      steps++;
      expect(done).toBeLessThanOrEqual(of);
      total = of;
    };
    const result = await capture(loadedModel(model, streamedWeights(checkpoint), { dtype: "float64" }), plan, {
      sites: chosen,
      onProgress,
    });
    expect(steps).toBe(model.layers + backward);
    expect(total).toBe((model.layers + backward) * plan.packs.length);
    await expectSame(result, held, 1e-12, chosen);
  });

  it("keeps no more than the rows of the sites when it is done", async () => {
    const { store, parts } = watchedStore();
    await capture(loadedModel(model, streamedWeights(checkpoint), { dtype: "float64" }), plan, {
      sites,
      store,
      waveRows: 128,
    });
    expect([...parts].filter((part) => part.includes("stream"))).toEqual([]);
  });

  it("goes on after an interruption at a save, to the same bits", async () => {
    const options = { sites, waveRows: 256 } as const;
    const whole = watchedStore();
    const expected = await capture(loadedModel(model, streamedWeights(checkpoint), { dtype: "float64" }), plan, {
      ...options,
      store: whole.store,
    });
    const saves = whole.saved();
    expect(saves).toBeGreaterThan(20);
    for (let cut = 1; cut < saves; cut += 6) {
      const { store, saved } = watchedStore(cut);
      await expect(
        capture(loadedModel(model, streamedWeights(checkpoint), { dtype: "float64" }), plan, { ...options, store }),
      ).rejects.toThrow("cut");
      const result = await capture(loadedModel(model, streamedWeights(checkpoint), { dtype: "float64" }), plan, {
        ...options,
        store,
      });
      await expectSame(result, expected, 0);
      // What had been saved is not made again, but for what the part that was cut belongs to.
      expect(saved() - cut, `after ${cut} of ${saves} saves`).toBeLessThanOrEqual(saves - cut + 3);
    }
  });

  it("computes again what was damaged meanwhile, whichever part it is, to the same bits", async () => {
    const options = { sites, waveRows: 1024 } as const;
    const whole = watchedStore();
    const expected = await capture(loadedModel(model, streamedWeights(checkpoint), { dtype: "float64" }), plan, {
      ...options,
      store: whole.store,
    });
    const saves = whole.saved();
    for (const cut of [3, saves >> 1, saves - 3, saves - 1]) {
      const before = watchedStore(cut);
      await expect(
        capture(loadedModel(model, streamedWeights(checkpoint), { dtype: "float64" }), plan, {
          ...options,
          store: before.store,
        }),
      ).rejects.toThrow("cut");
      // Parts of one kind differ in their numbers: the first and the last of each.
      const parts = [...before.parts].sort();
      const kind = (part: string) => part.replace(/\d+/g, "#");
      const isEnd = (part: string, i: number) =>
        [parts[i - 1], parts[i + 1]].some((other) => other === undefined || kind(other) !== kind(part));
      for (const damaged of parts.filter(isEnd)) {
        const { store, parts: left } = watchedStore(cut);
        await capture(loadedModel(model, streamedWeights(checkpoint), { dtype: "float64" }), plan, {
          ...options,
          store,
        }).catch(() => {});
        await store.remove(damaged);
        const result = await capture(loadedModel(model, streamedWeights(checkpoint), { dtype: "float64" }), plan, {
          ...options,
          store,
        });
        await expectSame(result, expected, 0);
        expect([...left].sort()).toEqual([...whole.parts].sort());
      }
    }
  });

  it("does nothing again for what is done, but for a wave of which a part was damaged", async () => {
    const options = { sites, waveRows: 256 } as const;
    const { store, parts, saved } = watchedStore();
    const expected = await capture(loadedModel(model, streamedWeights(checkpoint), { dtype: "float64" }), plan, {
      ...options,
      store,
    });
    const saves = saved();
    await capture(loadedModel(model, streamedWeights(checkpoint), { dtype: "float64" }), plan, { ...options, store });
    expect(saved()).toBe(saves);
    for (const part of [...parts].filter((name) => name.startsWith("wave-000"))) {
      const before = saved();
      await store.remove(part);
      await expectSame(
        await capture(loadedModel(model, streamedWeights(checkpoint), { dtype: "float64" }), plan, {
          ...options,
          store,
        }),
        expected,
        0,
      );
      expect(saved() - before, part).toBeGreaterThan(0);
      expect(saved() - before, part).toBeLessThan(saves / 2);
    }
  });

  it("stops when asked to, and keeps what is done", async () => {
    const { store, parts } = watchedStore();
    let steps = 0;
    const onProgress = () => void steps++;
    const stopped = () => steps >= 2;
    const options = { sites, store, stopped, onProgress } as const;
    await expect(
      capture(loadedModel(model, streamedWeights(checkpoint), { dtype: "float64" }), plan, options),
    ).rejects.toThrow(StoppedError);
    expect(parts.size).toBeGreaterThan(3);
  });

  it("replaces activations at any site, the embedding too, as held weights do", async () => {
    const forest = prefixForest(pairs);
    const plain = await metricWith({});
    for (const site of ["embed", "attn_z.1", "mlp_out.0", "resid_post.0"]) {
      // The hook sees the tokens themselves: those from 12 up get another activation.
      const hook: Hook = {
        trace: (x, { context: { tokens, tileSize } }) => ({
          y: x.add(tokens.cast("float64").greater(11).cast("float64").reshape(times(tileSize, "B"), 1).mul(3)),
        }),
      };
      const got = await metricWith({ hooks: new Map([[site, hook]]) });
      expect(relativeGap(got, plain)).toBeGreaterThan(1e-3);
    }

    async function metricWith(options: { hooks?: Hooks }): Promise<Float64Array> {
      const got = await runMetric(
        loadedModel(model, streamedWeights(checkpoint), { dtype: "float64" }),
        planMetric(forest),
        options,
      );
      const expected = await runMetric(
        loadedModel(model, await heldWeights(model, checkpoint, "float64"), { dtype: "float64" }),
        planMetric(forest),
        options,
      );
      expect(relativeGap(got, expected)).toBeLessThan(1e-12);
      return got;
    }
  });
});

describe("16-bit checkpoints", () => {
  it.each(["BF16", "F16"] as const)("%s is widened block by block", async (dtype) => {
    for (const name of ["gemma2", "gpt2"]) {
      const { model, checkpoint } = await open(name, (folder) => rounded(folder, dtype));
      const sites = allSites(model);
      const pairs = [pairOf([1, 5, 9, 12], [1, 6, 9, 13], 20, 21), pairOf([1, 5, 8, 12], [1, 5, 9, 12], 20, 22)];
      const plan = planCapture(prefixForest(pairs), { wanted: "changed" });
      const held = await capture(
        loadedModel(model, await heldWeights(model, checkpoint, "float64"), { dtype: "float64" }),
        plan,
        {
          sites,
        },
      );
      expect(checkpoint.storedType([...model.parameters.keys()].at(-1)!)).toBe(
        dtype === "F16" ? "float16" : "bfloat16",
      );
      const reader = new BlockReader(model, checkpoint);
      for (const names of [[...model.parameters.keys()].slice(1, 4), [...model.parameters.keys()].slice(-3)]) {
        const values = await (await reader.read(names))();
        for (const [i, weight] of names.entries())
          expect(values[`w${i}`]!.data).toEqual(await checkpoint.tensor(weight, model.parameters.get(weight)!));
      }
      await expectSame(
        await capture(loadedModel(model, streamedWeights(checkpoint), { dtype: "float64" }), plan, {
          sites,
        }),
        held,
        1e-12,
      );
    }
  });

  it("are widened into the memory of the reader before, where sessions are kept and it reads no more", async () => {
    const { model, checkpoint } = await open("gemma2", (folder) => rounded(folder, "BF16"));
    const names = [...model.parameters.keys()].slice(1, 4);
    const kept = keptSessions(1);
    const memoryOf = async (reader: BlockReader) => (await reader.inputs(names)).w0!.data.buffer;
    const read = (options: { kept?: KeptSessions }) => new BlockReader(model, checkpoint, options);
    const [first, alone] = [read({ kept }), read({})];
    const memory = await memoryOf(first);
    expect(await memoryOf(alone)).not.toBe(memory);
    alone.release();
    const beside = read({ kept });
    expect(await memoryOf(beside)).not.toBe(memory);
    first.release();
    const next = read({ kept });
    expect(await memoryOf(next)).toBe(memory);
    // What is still being read would be written into it.
    const late = next.read(names);
    next.release();
    await late;
    expect(await memoryOf(read({ kept }))).not.toBe(memory);
  });

  it.each([0, 1])("may have blocks in float32 between those in 16 bits, from block %i on", async (parity) => {
    const { model, checkpoint } = await open("gemma3_text", (folder) =>
      mixed(folder, (name) => Number(/\.(\d+)\./.exec(name)?.[1] ?? 0) % 2 === parity),
    );
    const types = [0, 1].map((layer) => checkpoint.storedType(`model.layers.${layer}.mlp.up_proj.weight`));
    expect(types).toEqual(parity === 0 ? ["float32", "bfloat16"] : ["bfloat16", "float32"]);
    const sites = allSites(model);
    const pairs = [pairOf([1, 5, 9, 12], [1, 6, 9, 13], 20, 21), pairOf([1, 5, 8, 12], [1, 5, 9, 12], 20, 22)];
    const plan = planCapture(prefixForest(pairs), { wanted: "changed" });
    const held = await capture(loadedModel(model, await heldWeights(model, checkpoint)), plan, { sites });
    await expectSame(await capture(loadedModel(model, streamedWeights(checkpoint)), plan, { sites }), held, 1e-5);
  });

  it("with norms in float32 between weights in 16 bits takes the memory of one block to read into, and gives the norms as they are", async () => {
    const { model, checkpoint } = await open("gemma3_text", (folder) => mixed(folder, (name) => name.includes("norm")));
    const into = new Set<ArrayBufferLike>();
    const watched: Checkpoint = {
      ...checkpoint,
      stored(name, shape, bytes) {
        into.add(bytes!.buffer);
        return checkpoint.stored(name, shape, bytes);
      },
    };
    const reader = new BlockReader(model, watched);
    const held = await heldWeights(model, checkpoint);
    const names = [...model.parameters.keys()].filter((name) => name.includes("layers.0."));
    expect(new Set(names.map((name) => checkpoint.storedType(name)))).toEqual(new Set(["bfloat16", "float32"]));
    // What comes before the blocks may have no weights, and what comes after them a norm alone.
    for (const of of [[], names, ["model.norm.weight"], names, names]) {
      const take = await reader.read(of);
      const given = Object.values(await take());
      for (const [i, name] of of.entries()) expect(given[i]!.data).toEqual(constantData(held(name)));
    }
    expect(into.size).toBe(1);
    reader.release();
  });

  it("are read one after another, and what was read before the last ones cannot be taken", async () => {
    const { model, checkpoint } = await open("llama-mha", (folder) => rounded(folder, "BF16"));
    const names = [...model.parameters.keys()].filter((name) => name.includes("layers.0.mlp"));
    const reader = new BlockReader(model, checkpoint);
    const first = reader.read(names);
    await expect(reader.read(names)).rejects.toThrow("internal: blocks are read one after another");
    const take = await first;
    const last = await reader.read(names.slice(1));
    expect(take).toThrow("internal: another block was read since");
    expect(Object.keys(await last())).toHaveLength(names.length - 1);
    reader.release();
  });

  it.each([
    ["BF16", "model.layers.1.mlp.up_proj.weight", 0x7fc0, "NaN"],
    ["BF16", "model.layers.0.self_attn.k_proj.weight", 0xff80, "-Infinity"],
    ["F16", "model.layers.1.post_attention_layernorm.weight", 0x7c00, "Infinity"],
    ["BF16", "model.embed_tokens.weight", 0x7f81, "NaN"],
  ] as const)("%s with a number in %s that is none: an error that names it", async (dtype, tensor, bits, text) => {
    for (const place of [0, 1, 2, "last"] as const) {
      const { model, checkpoint } = await open("llama-mha", async (folder) => {
        const made = await rounded(folder, dtype);
        return withBits(made, tensor, place, bits);
      });
      const plan = planCapture(prefixForest([pairOf([1, 0, 4, 79], [1, 79, 5, 0], 6, 7)]), { wanted: "clean" });
      await expect(
        capture(loadedModel(model, streamedWeights(checkpoint), { dtype: "float64" }), plan, { sites: ["embed"] }),
      ).rejects.toThrow(
        new RegExp(
          `tensor ${tensor}(, row (0|79))?: expected finite numbers, got ${text} at \\d+ in .*model.safetensors`,
        ),
      );
    }
  });
});

/** Activations and gradients at every site are the same with streamed weights, in float64. */
async function expectStreamedAsHeld(model: Model, checkpoint: Checkpoint, plan: Plan): Promise<void> {
  const options = { sites: allSites(model) };
  const weights = await heldWeights(model, checkpoint, "float64");
  const held = await capture(loadedModel(model, weights, { dtype: "float64" }), plan, options);
  const streamed = loadedModel(model, streamedWeights(checkpoint), { dtype: "float64" });
  await expectSame(await capture(streamed, plan, options), held, 1e-12);
}

describe("shapes that could be mistaken", () => {
  const random = new Random(seed + 1);
  /** A checkpoint of random weights for a changed config. */
  const made = (name: string, change: object) =>
    open(name, async (folder) => {
      const source = (await folder.open("config.json"))!;
      const config = { ...JSON.parse(new TextDecoder().decode(await source.read(0, source.size))), ...change };
      await source.close();
      const tensors = new Map(
        [...modelFromConfig(config, name).parameters].map(([weight, shape]) => {
          const size = shape.reduce((a, b) => a * b, 1);
          return [weight, { shape, data: Float32Array.from({ length: size }, () => 0.3 * random.normal()) }] as const;
        }),
      );
      return replaced(folder, writeSafetensors(tensors), config);
    });

  it.each([
    ["as many positions as tokens", "gpt2", { n_positions: 80, vocab_size: 80 }],
    ["as many hidden units as tokens", "llama-mha", { intermediate_size: 80, vocab_size: 80 }],
  ])("%s", async (_, name, change) => {
    const { model, checkpoint } = await made(name, change);
    const pairs = [pairOf([1, 50, 9, 12], [1, 60, 9, 13], 20, 21), pairOf([1, 50, 8, 12], [1, 50, 9, 12], 20, 22)];
    const plan = planCapture(prefixForest(pairs), { wanted: "changed" });
    await expectStreamedAsHeld(model, checkpoint, plan);
  });

  it("more answers at a prompt than a pack has rows", async () => {
    const { model, checkpoint } = await open("llama-mha");
    const pairs = Array.from({ length: 150 }, (_, i) => pairOf([1, 5, 9], [1, 6, 9], 2 + (i % 75), 3 + ((i * 7) % 74)));
    const asked = pairs.filter(({ cleanAnswer, patchAnswer }) => cleanAnswer !== patchAnswer);
    const plan = planCapture(prefixForest(asked), { wanted: "changed" });
    expect(plan.packs[0]!.metric.row.length).toBeGreaterThan(plan.packs[0]!.tokens.length);
    await expectStreamedAsHeld(model, checkpoint, plan);
  });
});

describe("blocks that differ in their weights alone", () => {
  it.each([
    ["llama-gqa", 1],
    ["gpt2", 1],
    ["gemma2", 2],
    ["gemma3_text", 2],
  ])("have the same graph: those of %s are %d, forward and back", async (name, kinds) => {
    const { model } = await open(name);
    const sites = Array.from({ length: model.layers }, (_, l) => `mlp_out.${l}`);
    const graphs = pieceGraphs(model, 64, "float32", { hooks: readingHooks(sites) });
    for (const way of ["forward", "backward"] as const) {
      const files = Array.from({ length: model.layers }, (_, l) =>
        Buffer.from(writeOnnx(graphs.block(l, way).outputs)).toString("base64"),
      );
      expect(new Set(files).size).toBe(kinds);
    }
  });
});

it("graphs that are equal share a session", async () => {
  const pool = sessionPool();
  const graph = (factor: number) => ({
    y: input("x", "float32", ["N", 2])
      .mul(input("w", "float32", [2]))
      .mul(factor),
  });
  const [a, b, c] = await Promise.all([graph(2), graph(2), graph(3)].map((outputs) => pool.compile(outputs)));
  expect(b).toBe(a);
  expect(c).not.toBe(a);
  await pool.release();
});

it("graphs are the same if operations, inputs, constants and what is computed once are", () => {
  const x = () => input("x", "float32", ["N", 2]);
  const same = (f: (x: Tensor) => Tensor, g: (x: Tensor) => Tensor) => sameGraph({ y: f(x()) }, { y: g(x()) });
  expect(
    same(
      (t) => t.exp().mul(2),
      (t) => t.exp().mul(2),
    ),
  ).toBe(true);
  expect(
    same(
      (t) => t.exp().mul(2),
      (t) => t.exp().mul(3),
    ),
  ).toBe(false);
  expect(
    same(
      (t) => t.mul(0),
      (t) => t.mul(-0),
    ),
  ).toBe(false);
  expect(
    same(
      (t) => t.exp(),
      (t) => t.log(),
    ),
  ).toBe(false);
  expect(
    same(
      (t) => t.sum(-1),
      (t) => t.sum(0),
    ),
  ).toBe(false);
  expect(sameGraph({ y: x() }, { z: x() })).toBe(false);
  expect(sameGraph({ y: x() }, { y: input("w", "float32", ["N", 2]) })).toBe(false);
  expect(sameGraph({ y: x() }, { y: input("x", "float64", ["N", 2]) })).toBe(false);
  const once = (t: Tensor) => {
    const e = t.exp();
    return e.add(e);
  };
  const twice = (t: Tensor) => t.exp().add(t.exp());
  expect([same(once, once), same(twice, twice), same(once, twice), same(twice, once)]).toEqual([
    true,
    true,
    false,
    false,
  ]);
});

const opened: Checkpoint[] = [];
const folders: string[] = [];
afterAll(async () => {
  for (const checkpoint of opened) await checkpoint.close();
  for (const folder of folders) await rm(folder, { recursive: true, force: true });
});

function allSites(model: Model): SiteName[] {
  const kinds = ["attn_z", "attn_out", "mlp_out", "resid_post"];
  return ["embed", ...Array.from({ length: model.layers }, (_, l) => kinds.map((kind) => `${kind}.${l}`)).flat()];
}

async function open(name: string, change: (folder: Folder) => Promise<Folder> = async (folder) => folder) {
  const checkpoint = await openCheckpoint(await change(await openFolder(`${fixtures}${name}`)));
  opened.push(checkpoint);
  return { checkpoint, model: modelFromConfig(checkpoint.config, name) };
}

function pairOf(clean: number[], patch: number[], cleanAnswer: number, patchAnswer: number): TokenPair {
  const prefixes = { clean_prefix: "", patch_prefix: "", clean_answer: "", patch_answer: "" };
  return { pair: { ...prefixes, case: "a", split: "train" }, clean, patch, cleanAnswer, patchAnswer };
}

/** A model's folder with its weights in 16 bits. */
async function rounded(folder: Folder, dtype: "BF16" | "F16"): Promise<Folder> {
  const file = await openSafetensors((await folder.open("model.safetensors"))!);
  const tensors = new Map<string, { shape: readonly number[]; data: Float32Array }>();
  for (const [name, { shape }] of file.tensors) tensors.set(name, { shape, data: await file.read(name) });
  await file.source.close();
  return replaced(folder, writeSafetensors(tensors, { dtype }));
}

/** A model's folder with some of its weights in float32 and the others in bfloat16, in two files. */
async function mixed(folder: Folder, isFloat32: (name: string) => boolean): Promise<Folder> {
  const file = await openSafetensors((await folder.open("model.safetensors"))!);
  const parts = new Map([
    ["a.safetensors", new Map<string, { shape: readonly number[]; data: Float32Array }>()],
    ["b.safetensors", new Map<string, { shape: readonly number[]; data: Float32Array }>()],
  ]);
  const weight_map: Record<string, string> = {};
  for (const [name, { shape }] of file.tensors) {
    weight_map[name] = isFloat32(name) ? "a.safetensors" : "b.safetensors";
    parts.get(weight_map[name])!.set(name, { shape, data: await file.read(name) });
  }
  await file.source.close();
  const files: Record<string, Uint8Array> = {
    "model.safetensors.index.json": new TextEncoder().encode(JSON.stringify({ weight_map })),
  };
  for (const [path, tensors] of parts)
    files[path] = writeSafetensors(tensors, { dtype: path === "a.safetensors" ? "F32" : "BF16" });
  for (const path of ["config.json", "tokenizer.json"]) {
    const source = (await folder.open(path))!;
    files[path] = await source.read(0, source.size);
    await source.close();
  }
  // On the disk: what is in memory is given as it lies there, and never read over.
  const path = await mkdtemp(join(tmpdir(), "sfc-mixed-"));
  folders.push(path);
  for (const [name, bytes] of Object.entries(files)) await writeFile(join(path, name), bytes);
  return openFolder(path);
}

async function replaced(folder: Folder, weights: Uint8Array, config?: object): Promise<Folder> {
  const files: Record<string, Uint8Array> = { "model.safetensors": weights };
  if (config) files["config.json"] = new TextEncoder().encode(JSON.stringify(config));
  for (const path of ["config.json", "tokenizer.json"].filter((name) => !files[name])) {
    const source = (await folder.open(path))!;
    files[path] = await source.read(0, source.size);
    await source.close();
  }
  return memoryFolder(folder.name, files);
}

/** Writes 16 bits over a number of a tensor, in the rows of tokens 0 and 79 of the embedding. */
async function withBits(folder: Folder, tensor: string, place: number | "last", bits: number): Promise<Folder> {
  const source = (await folder.open("model.safetensors"))!;
  const bytes = (await source.read(0, source.size)).slice();
  const { offset, length } = (await openSafetensors(source)).tensors.get(tensor)!;
  const at = offset + 2 * (place === "last" ? length / 2 - 1 : place);
  bytes[at] = bits & 255;
  bytes[at + 1] = bits >> 8;
  return replaced(folder, bytes);
}

/** A store that counts its saves and knows its parts; with `cut`, the save after so many fails. */
function watchedStore(cut = Number.POSITIVE_INFINITY) {
  const inner = memoryStore();
  const parts = new Set<string>();
  let count = 0;
  const store: Store = {
    ...inner,
    async save(part, tensors) {
      if (count === cut) {
        cut = Number.POSITIVE_INFINITY;
        throw new Error("cut");
      }
      count++;
      parts.add(part);
      await inner.save(part, new Map([...tensors].map(([name, data]) => [name, data.slice()])));
    },
    async remove(part) {
      parts.delete(part);
      await inner.remove(part);
    },
  };
  return { store, parts, saved: () => count };
}

async function expectSame(got: Capture, expected: Capture, tolerance: number, sites = expected.sites): Promise<void> {
  const close = (a: ArrayLike<number>, b: ArrayLike<number>, what: string) => {
    expect(a.length).toBe(b.length);
    expect(relativeGap(a, b), what).toBeLessThanOrEqual(tolerance);
  };
  close(got.cleanMetric, expected.cleanMetric, "m at the clean prompts");
  close(got.patchMetric, expected.patchMetric, "m at the patch prompts");
  for (const site of sites) {
    const [a, b] = [await got.site(site), await expected.site(site)];
    close(a.x, b.x, `x at ${site}`);
    close(a.g, b.g, `g at ${site}`);
  }
}

/** Largest difference over the largest expected number. */
function relativeGap(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  let [gap, scale] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    gap = Math.max(gap, Math.abs(got[i]! - expected[i]!));
    scale = Math.max(scale, Math.abs(expected[i]!));
  }
  expect(scale).toBeGreaterThan(0);
  return gap / scale;
}
