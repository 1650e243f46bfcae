import { describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { capture } from "../src/capture/capture.ts";
import { readingHooks } from "../src/capture/hooks.ts";
import { openRunner } from "../src/capture/run.ts";
import type { Runner } from "../src/capture/runner.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { type PlanOptions, planCapture } from "../src/forest/packs.ts";
import { modelFromConfig } from "../src/models/architectures.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { heldWeights, loadedModel } from "../src/models/weights.ts";
import type { TokenPair } from "../src/prompts/pairs.ts";
import { Random } from "../src/random.ts";
import type { SiteName } from "../src/site.ts";

const seed = "20261123";
const fixtures = new URL("fixtures/", import.meta.url).pathname;

/** The fixtures' windows are 4 tokens wide. Prompts of up to 11 tokens, drawn from few, so that most prefixes are shared beyond the window. */
function pairs(): TokenPair[] {
  const random = new Random(`${seed}/pairs`);
  return Array.from({ length: 25 }, () => {
    const T = 5 + random.below(7);
    const draw = () => [1, ...Array.from({ length: T - 1 }, (_, t) => 4 + random.below(t < 6 ? 2 : 3))];
    const prefixes = { clean_prefix: "", patch_prefix: "", clean_answer: "", patch_answer: "" };
    return {
      pair: { ...prefixes, case: random.pick(["a", "b"]), split: "train" },
      clean: draw(),
      patch: draw(),
      cleanAnswer: 10 + random.below(2),
      patchAnswer: 12 + random.below(2),
    };
  });
}

/**
 * Rows of activations and summed gradients, by site and prefix, and metric values by pair: comparable between a forest and single examples.
 */
class Rows {
  readonly #x = new Map<string, ArrayLike<number>>();
  readonly #g = new Map<string, Float64Array>();
  readonly #m = new Map<string, readonly number[]>();

  async add(
    { model, weights, sites }: Opened,
    examples: readonly TokenPair[],
    options: Partial<PlanOptions> = {},
    runner?: Runner,
  ) {
    const forest = prefixForest(examples);
    const plan = planCapture(forest, { wanted: "clean", ...options });
    const result = await capture(loadedModel(model, weights, { dtype: "float64" }), plan, {
      sites,
      ...(runner && { runner }),
    });
    const { backward } = forest;
    const names: string[] = [];
    for (let node = 0; node < backward.size; node++) {
      const parent = backward.parent[node]!;
      const prefix = parent < 0 ? backward.groups[backward.group[node]!]!.case : names[parent];
      names.push(`${prefix} ${backward.token[node]}:${backward.patchToken[node]}`);
    }
    for (const site of sites) {
      const { width, x, g } = await result.site(site);
      for (let node = 0; node < backward.size; node++) {
        const key = `${site} ${names[node]}`;
        const row = plan.row[backward.clean[node]!]!;
        this.#x.set(key, x.slice(row * width, (row + 1) * width));
        const sum = this.#g.get(key) ?? new Float64Array(width);
        this.#g.set(
          key,
          sum.map((value, d) => value + g[node * width + d]!),
        );
      }
    }
    examples.forEach((p, i) => {
      const end = forest.endIndexOfPair[i]!;
      const key = `${p.pair.case} ${p.clean} ${p.patch} ${p.cleanAnswer} ${p.patchAnswer}`;
      this.#m.set(`${key} clean`, [result.cleanMetric[end]!]);
      this.#m.set(`${key} patch`, [result.patchMetric[end]!]);
    });
    return this;
  }

  /** Largest difference of x, g and m, each over its largest value. */
  gap(other: Rows): number {
    const of = (a: ReadonlyMap<string, ArrayLike<number>>, b: ReadonlyMap<string, ArrayLike<number>>) => {
      expect(new Set([...a.keys(), ...b.keys()]).size).toBe(a.size);
      let [worst, scale] = [0, 0];
      for (const [key, row] of a) {
        for (let d = 0; d < row.length; d++) {
          worst = Math.max(worst, Math.abs(row[d]! - b.get(key)![d]!));
          scale = Math.max(scale, Math.abs(row[d]!));
        }
      }
      expect(scale).toBeGreaterThan(0);
      return worst / scale;
    };
    return Math.max(of(this.#x, other.#x), of(this.#g, other.#g), of(this.#m, other.#m));
  }
}

type Opened = Awaited<ReturnType<typeof openWith>>;

async function openWith(name: string, change: object = {}) {
  const checkpoint = await openCheckpoint(await openFolder(`${fixtures}${name}`));
  const model = modelFromConfig({ ...checkpoint.config, ...change }, name);
  const sites: SiteName[] = ["embed"];
  for (let l = 0; l < model.layers; l++) {
    sites.push(`attn_z.${l}`, `attn_out.${l}`, `mlp_out.${l}`, `resid_post.${l}`);
  }
  const weights = await heldWeights(model, checkpoint, "float64");
  await checkpoint.close();
  return { model, weights, sites };
}

describe.each(["gemma2", "gemma3_text", "qwen2", "qwen3", "mistral"])(
  "windowed attention on the prefix forest, %s",
  async (name) => {
    const examples = pairs();
    const model = await openWith(name);
    const separate = new Rows();
    const loaded = loadedModel(model.model, model.weights, { dtype: "float64" });
    const passes = openRunner(loaded, { hooks: readingHooks(model.sites) });
    for (const example of examples) await separate.add(model, [example], { tileSize: 11 }, passes);

    it.each([
      ["in tiles of the default size", {}],
      ["in tiles just large enough for the longest prompt", { tileSize: 11 }],
      ["in odd tiles, one per pack", { tileSize: 17, nodes: 17 }],
      ["three pairs per pack", { batchSize: 3 }],
      ["forward nodes beside small tiles", { beside: "always" as const, tileSize: 12, nodes: 24 }],
    ])(`activations and summed gradients equal example by example, %s (seed ${seed})`, async (_, options) => {
      expect((await new Rows().add(model, examples, options)).gap(separate)).toBeLessThan(1e-9);
    });

    it("they differ without the window, and with one that is wider by a token", async () => {
      for (const sliding_window of [5, 64]) {
        const other = await new Rows().add(await openWith(name, { sliding_window }), examples);
        expect(other.gap(separate)).toBeGreaterThan(1e-3);
      }
    });
  },
);
