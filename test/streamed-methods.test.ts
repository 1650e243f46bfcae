import { afterAll, describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import type { Floats, Hook, Job } from "../src/capture/hooks.ts";
import { runModel } from "../src/capture/run.ts";
import { streamBefore } from "../src/capture/stream-sites.ts";
import { effectsOf } from "../src/effects/dispatch.ts";
import { type MethodInput, methodNames } from "../src/effects/method.ts";
import { type Merge, prefixForest } from "../src/forest/forest.ts";
import { type Pack, planCapture } from "../src/forest/packs.ts";
import { keptSessions } from "../src/graph/kept-sessions.ts";
import { constant, input } from "../src/graph/tensor.ts";
import { modelFromConfig } from "../src/models/architectures.ts";
import { type Checkpoint, openCheckpoint } from "../src/models/checkpoint.ts";
import { heldWeights, type LoadedModel, loadedModel, streamedWeights } from "../src/models/weights.ts";
import type { TokenPair } from "../src/prompts/pairs.ts";
import { Random } from "../src/random.ts";
import { parseSite, type SiteName } from "../src/site.ts";
import { randomDictionary } from "./random-dictionary.ts";

const seed = "20261126/streamed-methods";
const F = 40;
const sites: SiteName[] = ["embed", "attn_out.0", "resid_post.0", "attn_z.1", "mlp_act.1", "mlp_out.1", "resid_post.1"];

const opened: Checkpoint[] = [];
afterAll(async () => {
  for (const checkpoint of opened) await checkpoint.close();
});

async function openBoth(name: string, given?: "float32"): Promise<{ held: LoadedModel; streamed: LoadedModel }> {
  const checkpoint = await openCheckpoint(await openFolder(new URL(`fixtures/${name}`, import.meta.url).pathname));
  opened.push(checkpoint);
  const model = modelFromConfig(checkpoint.config, name);
  const dtype = given ?? (checkpoint.config.hidden_act === "gelu" ? "float32" : "float64");
  return {
    held: loadedModel(model, await heldWeights(model, checkpoint, dtype), { dtype }),
    streamed: loadedModel(model, streamedWeights(checkpoint), { dtype }),
  };
}

function somePairs(count: number): TokenPair[] {
  const random = new Random(`${seed}/pairs`);
  return Array.from({ length: count }, (_, i) => {
    const rest = Array.from({ length: 2 + (i % 3) }, () => 4 + random.below(3));
    const [clean, patch] = i % 2 === 0 ? [8, 9 + (i % 4 === 0 ? 0 : 1)] : [9, 8];
    const texts = { clean_prefix: "", patch_prefix: "", clean_answer: "", patch_answer: "" };
    return {
      pair: { ...texts, case: i % 2 === 0 ? "one" : "two", split: "train" as const },
      clean: [1, clean, ...rest],
      patch: [1, patch, ...rest],
      cleanAnswer: 20 + (i % 2),
      patchAnswer: 22 + (i % 3),
    };
  });
}

/** Effects by site, node and feature. */
async function effects(method: (typeof methodNames)[number], given: MethodInput): Promise<Map<string, number>> {
  const found = new Map<string, number>();
  for await (const { rows } of effectsOf(method, given)) {
    rows.node.forEach((node, i) => {
      found.set(`${rows.site} ${node} ${rows.feature[i]}`, rows.effect[i]!);
    });
  }
  return found;
}

/** The largest difference, of the largest effect. Codes that differ by their last digit alone have a row or none. */
function distance(a: ReadonlyMap<string, number>, b: ReadonlyMap<string, number>): number {
  const scale = Math.max(...[...b.values()].map(Math.abs));
  const keys = new Set([...a.keys(), ...b.keys()]);
  return Math.max(...[...keys].map((key) => Math.abs((a.get(key) ?? 0) - (b.get(key) ?? 0)))) / scale;
}

/** Sequential, post-norms, parallel blocks. */
describe.each(["llama-gqa", "gemma2", "gpt_neox"])(`every method on %s (seed ${seed})`, (name) => {
  it.each(methodNames)("%s: streamed weights give what held ones give", async (method) => {
    const { held, streamed } = await openBoth(name);
    const kinds = ["relu", "jumprelu", "topk"] as const;
    const dictionaries = new Map(
      sites.map((site, i) => {
        const width = held.model.sites[parseSite(site).kind]!;
        return [site, randomDictionary(site, width, F, seed, { kind: kinds[i % 3]! })] as const;
      }),
    );
    const given = { forest: prefixForest(somePairs(6)), dictionaries, steps: 3 };
    const [expected, got] = [
      await effects(method, { ...held, ...given }),
      await effects(method, { ...streamed, ...given }),
    ];
    expect(expected.size).toBeGreaterThan(100);
    expect(distance(got, expected)).toBeLessThan(held.dtype === "float64" ? 1e-9 : 1e-5);
  });

  it.each(methodNames)("%s: held weights give the same block by block", async (method) => {
    const { held } = await openBoth(name, "float32");
    const dictionaries = new Map(
      sites.map((site) => {
        const width = held.model.sites[parseSite(site).kind]!;
        return [site, randomDictionary(site, width, F, seed, { kind: "relu" })] as const;
      }),
    );
    const given = { forest: prefixForest(somePairs(6)), dictionaries, steps: 3 };
    const kept = keptSessions(4);
    const expected = await effects(method, { ...held, ...given });
    const got = await effects(method, { ...held, ...given, byBlock: true, kept });
    await kept.release();
    expect(expected.size).toBeGreaterThan(100);
    expect(distance(got, expected)).toBeLessThan(2e-5);
  });

  it.each(["sfc", "spliced"] as const)("%s in padded batches too", async (method) => {
    const { held, streamed } = await openBoth(name);
    const width = held.model.width;
    const dictionaries = new Map([["resid_post.0", randomDictionary("resid_post.0", width, F, seed)]]);
    const given = { forest: prefixForest(somePairs(6), { merge: "none" as Merge }), dictionaries, batch: 4 };
    const expected = await effects(method, { ...held, ...given });
    const got = await effects(method, { ...streamed, ...given });
    expect(distance(got, expected)).toBeLessThan(held.dtype === "float64" ? 1e-9 : 1e-5);
  });
});

describe("hooks", () => {
  const name = "gemma2";
  const packOf = () => planCapture(prefixForest(somePairs(5)), { wanted: "changed" }).packs[0]! as Pack;
  const both = async (job: Omit<Job, "pack" | "found" | "metric">, options: Parameters<typeof runModel>[2]) => {
    const { held, streamed } = await openBoth(name);
    return Promise.all(
      [held, streamed].map(async (loaded) => {
        const found = new Map<string, Floats>();
        const take: Job = {
          ...job,
          pack: packOf(),
          metric: (values) => void found.set("metric", values.slice()),
          found({ site, kind, tensors }) {
            for (const [of, data] of Object.entries(tensors)) found.set(`${kind} ${of} ${site}`, data.slice());
            return undefined;
          },
        };
        await runModel(loaded, [take], options);
        return found;
      }),
    ) as Promise<[Map<string, Floats>, Map<string, Floats>]>;
  };
  const gap = (a: Floats, b: Floats) => {
    expect(a.length).toBe(b.length);
    const scale = Math.max(...Array.from(a, Math.abs), 1e-30);
    return Math.max(...Array.from(a, (x, i) => Math.abs(x - b[i]!))) / scale;
  };
  const expectSame = ([held, streamed]: [Map<string, Floats>, Map<string, Floats>]) => {
    expect([...streamed.keys()].sort()).toEqual([...held.keys()].sort());
    for (const [key, data] of held) expect(gap(data, streamed.get(key)!), key).toBeLessThan(1e-9);
    return held;
  };

  it("a detached site stops the gradients of those before it, in held and streamed alike", async () => {
    const read: Hook = {};
    const detach: Hook = { trace: (x) => ({ y: x.detach(), values: { x } }) };
    const plain = expectSame(await both({}, { hooks: new Map([["embed", read]]) }));
    const stopped = expectSame(
      await both(
        {},
        {
          hooks: new Map([
            ["embed", read],
            ["resid_post.0", detach],
          ]),
        },
      ),
    );
    expect(Math.max(...plain.get("gradient x embed")!.map(Math.abs))).toBeGreaterThan(1e-3);
    expect(new Set(stopped.get("gradient x embed")!.map(Math.abs))).toEqual(new Set([0]));
    // The values are the same.
    expect(gap(plain.get("metric")!, stopped.get("metric")!)).toBeLessThan(1e-12);
  });

  it("a cotangent that is put in comes out as central differences of what it is multiplied with", async () => {
    const { held } = await openBoth(name);
    const D = held.model.width;
    const N = packOf().tokens.length;
    const random = new Random(`${seed}/cotangent`);
    const cotangent = Float64Array.from({ length: N * D }, () => random.normal());
    const at = { row: 2, d: 3 };
    /** ⟨cotangent, mlp_out.1⟩ with one number of the embedding moved, the metric's weights left out. */
    const target: Hook = {
      trace: (x, { named }) => ({
        y: x,
        targets: [{ tensor: x, cotangent: input(named("cotangent"), "float64", x.shape) }],
        values: { x },
      }),
    };
    const moved = (size: number): Hook => ({
      trace: (x) => {
        const change = new Float64Array(N * D);
        change[at.row * D + at.d] = size;
        const added = x.reshape("B", N, D).add(constant(change, "float64", [N, D]));
        return { y: added.reshape(...x.shape), wrt: { x } };
      },
    });
    const inputs = (site: SiteName) =>
      site === "mlp_out.1" ? { cotangent: { dtype: "float64", data: cotangent, shape: [N, D] } as const } : {};
    const run = async (size: number) =>
      expectSame(
        await both(
          { inputs },
          {
            hooks: new Map([
              ["embed", moved(size)],
              ["mlp_out.1", target],
            ]),
          },
        ),
      );
    const total = (found: Map<string, Floats>) => {
      const weights = packOf().metric.weight;
      const weighted = (data: Floats, by: ArrayLike<number>) =>
        Array.from(data).reduce((sum, x, i) => sum + x * by[i]!, 0);
      return weighted(found.get("metric")!, weights) + weighted(found.get("value x mlp_out.1")!, cotangent);
    };
    const h = 1e-5;
    const [up, down] = [total(await run(h)), total(await run(-h))];
    const gradient = (await run(0)).get("gradient x embed")![at.row * D + at.d]!;
    expect(Math.abs((up - down) / (2 * h) - gradient)).toBeLessThan(1e-6 * Math.max(1, Math.abs(gradient)));
  });

  it.each(["attn_out.9", "resid_post.7"])("at %s, which the model does not have, are refused", async (site) => {
    await expect(both({}, { hooks: new Map([[site, {}]]) })).rejects.toThrow(`the model has no site ${site}`);
    const { streamed } = await openBoth(name);
    await expect(runModel(streamed, [], { hooks: new Map([[site, {}]]) })).rejects.toThrow(site);
  });

  it.each(["resid_post.0", "attn_z.0", "mlp_out.1", "embed", "resid_post.last"])(
    "an entry at %s goes on from what stood there, and gives the gradient there",
    async (text) => {
      const { held } = await openBoth(name);
      const site = text.replace("last", String(held.model.layers - 1));
      const before = streamBefore(site);
      const read = new Map<SiteName, Hook>([[site, {}], ...(before ? [[before, {}] as const] : [])]);
      const whole = expectSame(await both({}, { hooks: read }));
      const x = whole.get(`value x ${site}`)!;
      const N = packOf().tokens.length;
      const rest = expectSame(
        await both(
          {
            inputs: () => ({ x: { dtype: "float64", data: x as Float64Array, shape: [N, x.length / N] } }),
            ...(before && { before: () => whole.get(`value x ${before}`)! }),
          },
          { from: { site } },
        ),
      );
      expect(gap(whole.get("metric")!, rest.get("metric")!)).toBeLessThan(1e-12);
      expect(gap(whole.get(`gradient x ${site}`)!, rest.get(`gradient x ${site}`)!)).toBeLessThan(1e-12);
    },
  );
});
