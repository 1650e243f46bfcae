import { setTimeout } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import * as ort from "onnxruntime-node";
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { BlockReader } from "../src/capture/block-reader.ts";
import { captureAll } from "../src/capture/capture.ts";
import type { Dictionary } from "../src/dictionaries/dictionary.ts";
import { codeReader } from "../src/dictionaries/encode.ts";
import { effectsOf, needsOf } from "../src/effects/dispatch.ts";
import type { MethodName } from "../src/effects/method.ts";
import { StoppedError } from "../src/errors.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { planCapture } from "../src/forest/packs.ts";
import { constantValue, putOnDevice } from "../src/graph/on-device.ts";
import { compile, float32, int64, type Value } from "../src/graph/session.ts";
import { constant, constantData, input } from "../src/graph/tensor.ts";
import { modelFromConfig } from "../src/models/architectures.ts";
import { type Checkpoint, openCheckpoint } from "../src/models/checkpoint.ts";
import type { Model } from "../src/models/model.ts";
import { heldWeights, type LoadedModel, loadedModel, streamedWeights } from "../src/models/weights.ts";
import type { TokenPair } from "../src/prompts/pairs.ts";
import { Random } from "../src/random.ts";
import type { SiteName } from "../src/site.ts";
import { randomDictionary } from "./random-dictionary.ts";

const seed = 20261127;
const device = "webgpu";

/** How often which numbers were sent to the device, since the test began. */
const sent = new Map<string, number>();
/** What sessions have left on the device since then and is not given back, and bytes of its graphs. */
const left = new Set<ort.Tensor>();
let graphs = 0;
/** Arrays for which the device has room, and its sessions that are open but for those that copy. */
let [room, open] = [Number.POSITIVE_INFINITY, 0];

// The CPU stands for the device: what a session leaves there is a tensor of the CPU, known by its identity.
beforeAll(() => {
  const create = ort.InferenceSession.create.bind(ort.InferenceSession) as (
    model: Uint8Array,
    options: ort.InferenceSession.SessionOptions,
  ) => Promise<ort.InferenceSession>;
  const there = new WeakSet<ort.Tensor>();
  const stay = (tensor: ort.Tensor) => {
    there.add(tensor);
    left.add(tensor);
    tensor.dispose = () => {
      expect(there.delete(tensor), "given back twice").toBe(true);
      left.delete(tensor);
    };
  };
  vi.spyOn(ort.InferenceSession, "create").mockImplementation((async (
    model: Uint8Array,
    { preferredOutputLocation, ...options }: ort.InferenceSession.SessionOptions,
  ) => {
    if (options.executionProviders![0] !== device) return create(model, options);
    graphs += model.length;
    const onCpu = { executionProviders: ["cpu"], graphOptimizationLevel: "disabled" } as const;
    const session = await create(model, { ...options, ...onCpu });
    const run = session.run.bind(session) as (feeds: Feeds) => Promise<Feeds>;
    session.run = (async (feeds: Feeds) => {
      for (const tensor of Object.values(feeds)) {
        if (there.has(tensor)) continue;
        expect(tensor.size, "what was given back is used").toBe((tensor.data as Float32Array).length);
        sent.set(keyOf(tensor), (sent.get(keyOf(tensor)) ?? 0) + 1);
      }
      if (preferredOutputLocation === "gpu-buffer" && left.size >= room)
        throw new Error("Failed to allocate memory\nat somewhere");
      const results = await run(feeds);
      if (preferredOutputLocation === "gpu-buffer") Object.values(results).forEach(stay);
      return results;
    }) as never;
    if (preferredOutputLocation === undefined) {
      open++;
      const release = session.release.bind(session);
      session.release = async () => {
        open--;
        await release();
      };
    }
    return session;
  }) as never);
});
afterAll(() => {
  vi.restoreAllMocks();
});
beforeEach(() => {
  sent.clear();
  left.clear();
  graphs = 0;
  [room, open] = [Number.POSITIVE_INFINITY, 0];
});

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

type Feeds = Record<string, ort.Tensor>;

const keyOf = ({ data }: Pick<ort.Tensor, "data">) => {
  const { buffer, byteOffset, byteLength } = data as Float32Array;
  return Buffer.from(buffer, byteOffset, byteLength).toString("latin1");
};
const timesSent = (data: Value["data"]) => sent.get(keyOf({ data: data as Float32Array })) ?? 0;

const random = (key: string, n: number) => {
  const draws = new Random(`${seed}/${key}`);
  return Float32Array.from({ length: n }, () => draws.normal());
};

describe("constants of graphs", () => {
  it("are sent once for all sessions and runs of a device that keeps numbers", async () => {
    const numbers = random("weight", 128 * 128);
    const weight = constant(numbers, "float32", [128, 128]);
    const x = input("x", "float32", ["N", 128]);
    const outputs = [x.matmul(weight), x.matmul(weight, { transB: true }), x.add(1).matmul(weight)];
    for (const y of outputs) {
      const [there, here] = [await compile({ y }, { device }), await compile({ y })];
      for (const n of [2, 3]) {
        const rows = float32(random(`rows ${n}`, n * 128), n, 128);
        expect((await there.run({ x: rows })).y.data).toEqual((await here.run({ x: rows })).y.data);
      }
      await there.release();
      await here.release();
    }
    expect(timesSent(numbers)).toBe(1);
    expect(graphs).toBeLessThan(4000);
  });

  it("of one array in two shapes are both right", async () => {
    const numbers = random("two shapes", 64 * 128);
    const shapes = [
      [64, 128],
      [128, 64],
    ] as const;
    const values = await Promise.all(
      shapes.map((shape) => constantValue(constant(numbers, "float32", shape), { device })),
    );
    expect(values.map(({ onDevice: at }) => at!.dims)).toEqual(shapes);
  });

  it("leave the device when nothing uses their array any more", async () => {
    const used = async () => {
      const weight = constant(random("collected", 64 * 128), "float32", [64, 128]);
      const session = await compile({ y: input("x", "float32", ["N", 64]).matmul(weight) }, { device });
      await session.run({ x: float32(new Float32Array(64), 1, 64) });
      collect();
      await setTimeout(10);
      expect(left.size).toBe(1);
      await session.release();
    };
    await used();
    for (let tries = 0; left.size > 0 && tries < 100; tries++) {
      collect();
      await setTimeout(10);
    }
    expect(left.size).toBe(0);
  });

  it("are part of each graph where the device cannot keep them, and sent where they are no float32", async () => {
    const numbers = Float64Array.from(random("float64", 128 * 128));
    const x = input("x", "float64", ["N", 128]);
    const session = await compile({ y: x.matmul(constant(numbers, "float64", [128, 128])) }, { device });
    const rows: Value = { dtype: "float64", data: new Float64Array(128).fill(1), shape: [1, 128] };
    for (const _ of [1, 2]) await session.run({ x: rows });
    await session.release();
    expect([timesSent(numbers), left.size]).toEqual([2, 0]);
    for (const other of ["cuda", "coreml", "dml"] as const) {
      const opened = vi.mocked(ort.InferenceSession.create);
      opened.mockImplementationOnce((async () => ({})) as never);
      await compile(
        { y: input("x", "float32", [2, 128]).matmul(constant(new Float32Array(128 * 128), "float32", [128, 128])) },
        { device: other },
      );
      expect((opened.mock.calls.at(-1)![0] as unknown as Uint8Array).length).toBeGreaterThan(4 * 128 * 128);
    }
  });
});

describe("values that are put on a device", () => {
  const large = () => float32(random("large", 5000), 50, 100);

  it("stay until they are released; small ones and whole numbers are as they were given, and all on a CPU", async () => {
    const values = {
      a: large(),
      b: float32(random("b", 4096), 4096),
      few: float32(random("few", 16), 16),
      at: int64(new Int32Array(5000), 5000),
    };
    const { values: there, release } = await putOnDevice(values, { device });
    expect([there.few, there.at]).toEqual([values.few, values.at]);
    expect([there.a.onDevice!.dims, there.b.onDevice!.dims, left.size]).toEqual([[50, 100], [4096], 2]);
    release();
    release();
    expect(left.size).toBe(0);
    expect((await putOnDevice(values, {})).values).toEqual(values);
  });

  it("that find no room are refused in one line, and those before them given back", async () => {
    const values = { a: large(), b: float32(random("b", 8192), 2, 4096) };
    const tooLarge = float32(random("c", 8192), 2, 2, 2048);
    room = 2;
    await expect(putOnDevice({ ...values, tooLarge }, { device })).rejects.toThrow(
      /^--device webgpu: expected room for an array of \[2, 2, 2048\] on it, got: Failed to allocate memory\. Use --weights streamed, or --device cpu\.$/,
    );
    expect(left.size).toBe(0);
  });

  it("say what the runtime says where there is no such device, and are tried again", async () => {
    const value = float32(random("rank 5", 4096), 2, 2, 2, 2, 256);
    vi.mocked(ort.InferenceSession.create).mockImplementationOnce((async () => {
      throw new Error("/onnxruntime_src/onnxruntime/core/x.cc:136 void f() Failed to get a WebGPU adapter");
    }) as never);
    await expect(putOnDevice({ value }, { device })).rejects.toThrow(/^\/onnx.*Failed to get a WebGPU adapter$/);
    const { release } = await putOnDevice({ value }, { device });
    expect(left.size).toBe(1);
    release();
  });

  it("that find no room leave no session open, in the graph of which they are constants", async () => {
    const x = input("x", "float32", ["N", 128]);
    const weights = ["first", "second"].map((key) => constant(random(key, 128 * 128), "float32", [128, 128]));
    room = 1;
    await expect(compile({ y: x.matmul(weights[0]!).matmul(weights[1]!) }, { device })).rejects.toThrow(
      "expected room",
    );
    expect(open).toBe(0);
    room = 2;
    const session = await compile({ y: x.matmul(weights[0]!).matmul(weights[1]!) }, { device });
    expect(open).toBe(1);
    await session.release();
  });
});

describe("a dictionary's encoder", () => {
  it("is sent once for all rows, and given back", async () => {
    const dictionary = randomDictionary("resid_post.0", 32, 160, "encoder");
    const x = random("activations", 700 * 32);
    const [there, here] = [codeReader({ device }), codeReader()];
    const [got, expected] = [await there.encode(dictionary, x), await here.encode(dictionary, x)];
    expect(got).toEqual(expected);
    expect(timesSent((await dictionary.encoder()).weight)).toBe(1);
    expect(left.size).toBe(0);
    await there.release();
    await here.release();
  });
});

describe("a model's weights", () => {
  const pairs = Array.from({ length: 60 }, (_, i): TokenPair => {
    const draws = new Random(`${seed}/pair ${i}`);
    const token = () => draws.below(60);
    const prefixes = { clean_prefix: "", patch_prefix: "", clean_answer: "", patch_answer: "" };
    const clean = Array.from({ length: 4 + draws.below(24) }, token);
    const patch = clean.with(draws.below(clean.length), token());
    return {
      pair: { ...prefixes, case: "a", split: "train" },
      clean,
      patch,
      cleanAnswer: token(),
      patchAnswer: token(),
    };
  });
  const sites: SiteName[] = ["embed", "mlp_out.0", "resid_post.1"];
  let checkpoint: Checkpoint;
  let model: Model;
  let dictionaries: ReadonlyMap<SiteName, Dictionary>;
  beforeAll(async () => {
    checkpoint = await openCheckpoint(await openFolder(new URL("../models/demo", import.meta.url).pathname));
    model = modelFromConfig(checkpoint.config, "demo");
    dictionaries = new Map(sites.map((site) => [site, randomDictionary(site, model.width, 160, "model")]));
  });
  afterAll(() => checkpoint.close());

  it("that are read from files are sent once, until others are taken", async () => {
    const names = [...model.parameters.keys()].filter((one) => one.includes("layers.1.mlp"));
    const [there, here] = [new BlockReader(model, checkpoint, { device }), new BlockReader(model, checkpoint)];
    const expected = await here.inputs(names);
    const values = await there.inputs(names);
    for (const [name, { data, shape }] of Object.entries(expected)) {
      const got = values[name]!.onDevice!;
      expect([got.dims, [...(got.data as Float32Array)]]).toEqual([shape, [...(data as Float32Array)]]);
    }
    expect(await there.inputs(names)).toBe(values);
    expect([sent.size, left.size]).toEqual([names.length, names.length]);
    // Others are read behind them, and take their place.
    const take = await there.read(names.slice(0, 1));
    expect(left.size).toBe(names.length);
    await take();
    expect(left.size).toBe(1);
    expect(await there.inputs(names)).not.toBe(values);
    // Where there is room for one alone, nothing is given.
    room = 1;
    await there.read(names.slice(0, 1)).then((one) => one());
    await expect(there.inputs(names)).rejects.toThrow("expected room");
    expect(left.size).toBe(0);
    room = names.length;
    expect(Object.keys(await there.inputs(names))).toHaveLength(names.length);
    there.release();
    expect(left.size).toBe(0);
  });

  const effects = async (loaded: LoadedModel, method: MethodName, stopped = () => false, of = dictionaries) => {
    const forest = prefixForest(pairs);
    const { wanted, sites: needed } = needsOf(method, sites, model.layers);
    const plan = planCapture(forest, { wanted, tileSize: 32, model });
    const [captured] = await captureAll(loaded, [plan], { sites: needed, stopped });
    const found = new Map<SiteName, Float64Array>();
    const input = { ...loaded, forest, captured: captured!, dictionaries: of, stopped };
    for await (const { rows } of effectsOf(method, input)) found.set(rows.site, rows.effect);
    return { found, packs: plan.packs.length };
  };

  it.each(["held", "streamed"] as const)(
    "are given back wherever the work ends: stopped, without room, without a session, with a number that is none: %s",
    async (way) => {
      const weights = way === "held" ? await heldWeights(model, checkpoint) : streamedWeights(checkpoint);
      const loaded = loadedModel(model, weights, { device });
      const create = vi.mocked(ort.InferenceSession.create);
      const opened = create.mock.calls.length;
      let asked = 0;
      await effects(loaded, "spliced", () => ++asked < 0);
      const [sessions, stay] = [create.mock.calls.length - opened, left.size];
      if (way === "held") expect(stay).toBeGreaterThan(0);
      else expect(stay).toBe(0);
      const spread = (n: number) => Array.from({ length: 8 }, (_, i) => 1 + Math.floor((i * n) / 8));

      for (const at of spread(asked)) {
        let left = at;
        await expect(effects(loaded, "spliced", () => --left < 0)).rejects.toThrow(StoppedError);
      }
      let refused = 0;
      for (const more of [0, 1, 2, 3, 5, 8]) {
        room = stay + more;
        await effects(loaded, "spliced").catch((error) => {
          expect(error.message).toContain("expected room");
          refused++;
        });
        room = Number.POSITIVE_INFINITY;
      }
      expect(refused).toBeGreaterThan(1);
      const usual = create.getMockImplementation()!;
      for (const at of spread(sessions)) {
        let left = at;
        create.mockImplementation(((...given: Parameters<typeof usual>) => {
          if (--left === 0) throw new Error("no session");
          return usual(...given);
        }) as typeof usual);
        await expect(effects(loaded, "spliced")).rejects.toThrow("no session");
        create.mockImplementation(usual);
      }
      expect(left.size).toBe(stay);
      if (way === "held") return;
      const broken: Checkpoint = {
        ...checkpoint,
        stored: (name, ...more) =>
          name.includes("layers.2.mlp") ? Promise.reject(new Error("no number")) : checkpoint.stored(name, ...more),
      };
      await expect(effects(loadedModel(model, streamedWeights(broken), { device }), "spliced")).rejects.toThrow(
        "no number",
      );
      expect(left.size).toBe(0);
    },
  );

  it("that find no room while an SAE is read are told by whoever waits for them, and by nobody else", async () => {
    const slow = new Map(
      [...dictionaries].map(([site, dictionary]) => [
        site,
        { ...dictionary, encoder: () => setTimeout(100).then(() => dictionary.encoder()) },
      ]),
    );
    const held = loadedModel(model, await heldWeights(model, checkpoint), { device });
    room = 0;
    await expect(effects(held, "spliced", undefined, slow)).rejects.toThrow("expected room");
  });

  it.each(["analytic", "spliced"] as const)(
    "are sent once where they are held, once for each way through a block where they are streamed: %s",
    async (method) => {
      const name = [...model.parameters.keys()].find((one) => one.includes("layers.1.mlp.up_proj"))!;
      const shape = model.parameters.get(name)!;
      const held = await heldWeights(model, checkpoint);
      const large = [...model.parameters.values()].filter((one) => one.length > 1 && one[0]! * one[1]! >= 4096);
      const here = await effects(loadedModel(model, held), method);
      const data = constantData(held(name));
      for (const weights of [held, streamedWeights(checkpoint)]) {
        sent.clear();
        left.clear();
        const there = await effects(loadedModel(model, weights, { device }), method);
        for (const [site, expected] of here.found) {
          const got = there.found.get(site)!;
          expect(got.length).toBe(expected.length);
          const scale = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
          for (const [i, value] of expected.entries()) expect(Math.abs(got[i]! - value)).toBeLessThan(1e-5 * scale);
        }
        const passes = method === "analytic" ? 1 : 2;
        expect(timesSent(data)).toBe(weights === held ? 1 : 2 * passes);
        // Held weights stay for the next work; nothing else does.
        expect(left.size).toBe(weights === held ? large.length : 0);
      }
      expect(here.packs).toBeGreaterThan(4);
      expect(held(name).shape).toEqual(shape);
    },
  );
});
