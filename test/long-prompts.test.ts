import { afterAll, describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { type Capture, capture } from "../src/capture/capture.ts";
import { forestCheckPlans, forestGaps } from "../src/capture/forest-check.ts";
import { readingHooks } from "../src/capture/hooks.ts";
import { pieceGraphs } from "../src/capture/piece-graphs.ts";
import { effectsOf } from "../src/effects/dispatch.ts";
import type { MethodName } from "../src/effects/method.ts";
import { sitesToContinueFrom } from "../src/effects/rest.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { type Pack, planBatches, planCapture, planMetric } from "../src/forest/packs.ts";
import { bodyOf } from "../src/graph/chunks.ts";
import type { Body } from "../src/graph/ops.ts";
import { topological } from "../src/graph/reverse.ts";
import type { Tensor } from "../src/graph/tensor.ts";
import { modelFromConfig } from "../src/models/architectures.ts";
import { type Checkpoint, openCheckpoint } from "../src/models/checkpoint.ts";
import { rowsPerChunk } from "../src/models/layers.ts";
import { longestDense } from "../src/models/model.ts";
import { heldWeights, loadedModel, streamedWeights } from "../src/models/weights.ts";
import type { TokenPair } from "../src/prompts/pairs.ts";
import { Random } from "../src/random.ts";
import type { SiteName } from "../src/site.ts";
import { randomDictionary } from "./random-dictionary.ts";

const seed = "20261126/long";
const opened: Checkpoint[] = [];
afterAll(async () => {
  for (const checkpoint of opened) await checkpoint.close();
});

async function open(name: string, dtype: "float32" | "float64" = "float64", change: object = {}) {
  const checkpoint = await openCheckpoint(await openFolder(new URL(`fixtures/${name}`, import.meta.url).pathname));
  opened.push(checkpoint);
  const model = modelFromConfig({ ...checkpoint.config, ...change }, name);
  return { checkpoint, model, weights: await heldWeights(model, checkpoint, dtype) };
}

/** Pairs of about T tokens that share the first `shared`, in two cases, one prompt in three a prefix of the others' length. */
function pairs(count: number, T: number, shared: number): TokenPair[] {
  const random = new Random(`${seed}/${count}/${T}`);
  const common = [1, ...Array.from({ length: shared }, () => 4 + random.below(30))];
  const prefixes = { clean_prefix: "", patch_prefix: "", clean_answer: "", patch_answer: "" };
  return Array.from({ length: count }, (_, i) => {
    const rest = Array.from({ length: T - shared - 2 - (i % 3) }, () => 4 + random.below(3));
    return {
      pair: { ...prefixes, case: i % 2 === 0 ? "a" : "b", split: "train" },
      clean: [...common, 8 + (i % 2), ...rest],
      patch: [...common, 9 - (i % 2), ...rest],
      cleanAnswer: 10 + (i % 2),
      patchAnswer: 12,
    };
  });
}

/** Largest difference of x, g and the metric over all sites, each over its largest value. */
async function gap(a: Capture, b: Capture): Promise<number> {
  let worst = 0;
  const compare = (x: ArrayLike<number>, y: ArrayLike<number>) => {
    let [difference, scale] = [0, 0];
    for (let i = 0; i < x.length; i++) {
      difference = Math.max(difference, Math.abs(x[i]! - y[i]!));
      scale = Math.max(scale, Math.abs(x[i]!));
    }
    expect(x.length).toBe(y.length);
    expect(scale).toBeGreaterThan(0);
    worst = Math.max(worst, Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference / scale);
  };
  for (const site of a.sites) {
    const [p, q] = [await a.site(site), await b.site(site)];
    compare(p.x, q.x);
    compare(p.g, q.g);
  }
  compare(a.cleanMetric, b.cleanMetric);
  return worst;
}

const names = [
  ...["llama-gqa", "llama-mqa-headdim", "mistral", "gemma2", "gemma3_text", "gemma3", "qwen2", "qwen3", "gpt2"],
  "gpt_neox",
];

describe.each(names)(`attention chunk by chunk, %s (seed ${seed})`, (name) => {
  const erf = name === "gpt_neox";
  const [dtype, tolerance] = erf ? (["float32", 1e-5] as const) : (["float64", 1e-10] as const);
  const forest = prefixForest(pairs(12, 24, 9));
  const planOf = (tileSize: number) => planCapture(forest, { wanted: "both", tileSize });

  it("gives what attention to all at once gives, held and streamed", async () => {
    const { model, weights, checkpoint } = await open(name, dtype);
    const sites = ["embed", "attn_z.0", "resid_post.0", "attn_out.1", "mlp_out.1"];
    const dense = await capture(loadedModel(model, weights, { dtype }), planOf(128), { sites });
    // In more than two chunks for one model of each kind: with and without windows, and without rotary positions.
    const tileSize = ["llama-gqa", "gemma2", "gpt2"].includes(name) ? 1280 : 640;
    expect(tileSize).toBeGreaterThan(longestDense);
    if (tileSize === 1280) expect(rowsPerChunk(tileSize, model.heads)).toBeLessThan(tileSize / 2);
    for (const held of [true, false]) {
      const loaded = loadedModel(model, held ? weights : streamedWeights(checkpoint), { dtype });
      expect(await gap(dense, await capture(loaded, planOf(tileSize), { sites }))).toBeLessThan(tolerance);
    }
  });
});

it.each(["gemma2", "gemma3_text", "qwen2", "qwen3", "mistral"])(
  "windows of %s make a difference chunk by chunk",
  async (name) => {
    const plan = planCapture(prefixForest(pairs(12, 24, 9)), { wanted: "both", tileSize: 640 });
    const [own, wider] = [await open(name), await open(name, "float64", { sliding_window: 5 })];
    const [a, b] = [own, wider].map(({ model, weights }) =>
      capture(loadedModel(model, weights, { dtype: "float64" }), plan, { sites: ["embed"] }),
    );
    expect(await gap(await a!, await b!)).toBeGreaterThan(1e-4);
  },
);

describe("methods, with attention chunk by chunk", () => {
  const sites: SiteName[] = ["resid_post.0", "attn_z.1"];

  it.each<MethodName>(["analytic", "analytic-ig", "sfc", "sfc-ig", "spliced", "exact"])(
    "%s gives what it gives with attention to all at once",
    async (method) => {
      const { model, weights } = await open("gemma2");
      const forest = prefixForest(pairs(5, 8, 2));
      const dictionaries = new Map(
        sites.map((site) => {
          const width = site.startsWith("attn_z") ? model.sites.attn_z! : model.width;
          return [site, randomDictionary(site, width, 24, seed, { kind: "jumprelu" })] as const;
        }),
      );
      const effects = async (tileSize: number) => {
        const plan = planCapture(forest, { wanted: method === "analytic" ? "changed" : "both", tileSize });
        const captured = await capture(loadedModel(model, weights, { dtype: "float64" }), plan, {
          sites: sitesToContinueFrom(sites),
        });
        // These two begin with the plan of what is captured only if it is the one they want.
        const own =
          method === "sfc" || method === "spliced" ? { ...captured, plan: { ...plan, wanted: "changed" } } : captured;
        const found = new Map<string, number>();
        const given = { model, weights, forest, dictionaries, dtype: "float64" as const, steps: 2 };
        for await (const { rows } of effectsOf(method, { ...given, captured: own as Capture })) {
          rows.node.forEach((node, i) => {
            found.set(`${rows.site} ${node} ${rows.feature[i]}`, rows.effect[i]!);
          });
        }
        return found;
      };
      const [dense, chunks] = [await effects(64), await effects(640)];
      expect(dense.size).toBeGreaterThan(50);
      expect([...chunks.keys()].sort()).toEqual([...dense.keys()].sort());
      const scale = Math.max(...[...dense.values()].map(Math.abs));
      for (const [key, effect] of dense) expect(Math.abs(chunks.get(key)! - effect)).toBeLessThan(1e-9 * scale);
    },
  );
});

describe("long prompts", () => {
  /** The most numbers that any one tensor of a graph has, those of its bodies included. */
  function largest(outputs: readonly Tensor[]): number {
    let most = 0;
    const bodies = new Set<Body<Tensor>>();
    for (const { shape, source } of topological(outputs)) {
      const size = shape.map((dim) => Number(String(dim).replace(/\*?B$/, "") || 1)).reduce((a, b) => a * b, 1);
      most = Math.max(most, size);
      if (source.kind === "op" && source.op === "Scan") bodies.add(bodyOf(source.attributes));
    }
    for (const { stacked, summed } of bodies) most = Math.max(most, largest([...stacked, ...summed]));
    return most;
  }

  it.each(["llama-gqa", "gemma3_text"])(
    "no tensor of %s has a number for every two tokens and every head",
    async (name) => {
      const { checkpoint } = await open(name);
      const heads = { num_attention_heads: 16, num_key_value_heads: 4, head_dim: 8 };
      const model = modelFromConfig({ ...checkpoint.config, ...heads }, name);
      const sizes = [2048, 4096].map((tileSize) => {
        const hooks = readingHooks(["attn_z.0"]);
        const graphs = pieceGraphs(model, tileSize, "float32", { hooks });
        return (["forward", "backward"] as const).map((way) => largest(Object.values(graphs.block(0, way).outputs)));
      });
      // One chunk's scores, whatever the length.
      expect(sizes).toEqual([2048, 4096].map((tileSize) => Array(2).fill(rowsPerChunk(tileSize, 16) * tileSize * 16)));
      expect(sizes.flat().every((size) => size <= 2 ** 20)).toBe(true);
    },
  );

  it("are planned in tiles that hold little besides them, and in larger ones where they share much", () => {
    const rows = (packs: readonly Pack[]) => packs.reduce((sum, { tokens }) => sum + tokens.length, 0);
    const apart = planCapture(prefixForest(pairs(4, 1500, 0)), { wanted: "changed" });
    expect(apart.tileSize).toBe(1536);
    expect(rows(apart.packs)).toBeLessThan(1.1 * 8 * 1500);
    const alike = planCapture(prefixForest(pairs(60, 1500, 1450)), { wanted: "changed" });
    expect(alike.tileSize).toBeGreaterThan(1536);
    expect(rows(alike.packs)).toBeLessThan(20_000);
    expect(planMetric(prefixForest(pairs(4, 5000, 0))).tileSize).toBe(5120);
    // Short ones stay in tiles of several times their length.
    expect(planCapture(prefixForest(pairs(12, 24, 9)), { wanted: "changed" }).tileSize).toBe(152);
  });

  it("of a batch are padded to a size that can be computed in chunks", () => {
    const forest = prefixForest(pairs(4, 1501, 0), { merge: "none" });
    const { packs } = planBatches(forest, { wanted: "changed", batch: 2 });
    for (const { tokens, tiles } of packs) expect(rowsPerChunk(tokens.length / tiles, 32)).toBeGreaterThan(10);
  });

  it("of 700 tokens: the forest gives what separate examples give", async () => {
    const { model, weights } = await open("llama-gqa", "float32");
    const plans = forestCheckPlans(pairs(3, 700, 400));
    const sites = ["resid_post.0", "attn_z.1"];
    const [merged, separate] = await Promise.all(
      plans.map((plan) => capture(loadedModel(model, weights), plan, { sites })),
    );
    for (const { gap: worst, scale } of await forestGaps(merged!, separate!)) expect(worst / scale).toBeLessThan(1e-5);
  });
});
