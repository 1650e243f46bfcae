import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readingHooks } from "../src/capture/hooks.ts";
import { openRunner } from "../src/capture/run.ts";
import { bench, benchForest, floorFlops } from "../src/commands/bench.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { planCapture } from "../src/forest/packs.ts";
import { postingReporter } from "../src/progress.ts";
import { tokenPair, toyModel } from "./toy-model.ts";

const reporter = postingReporter(
  () => {},
  () => false,
);
const toy = toyModel(
  Array.from({ length: 60 }, () => [1, 0, 0, 1]),
  new Map(),
  3,
);

describe("what sfc bench counts, by hand", () => {
  it("the floor: linear layers of every node, attention of each to itself and its ancestors", () => {
    // Two prompts 1 5 9 and 1 5 10: depths 1, 2, 3 and 3.
    const pairs = [tokenPair([1, 5, 9], [1, 6, 9], [20, 21]), tokenPair([1, 5, 10], [1, 6, 10], [20, 21])];
    const { packs } = planCapture(prefixForest(pairs), { wanted: "none" });
    const pack = packs.find(({ kind }) => kind === "backward")!;
    // A block has four matrices of 4 × 4 and three of 2 × 4; a product takes two operations. Attention: q·k and p·v, 2·2·4 a token seen.
    const linear = 3 * 2 * (4 * 16 + 3 * 8);
    const attention = 3 * 16;
    expect(floorFlops(toy.model, pack)).toBe(4 * linear + (1 + 2 + 3 + 3) * attention);
  });

  it("tokens, nodes and rows of the forest and of example by example", async () => {
    // 30 pairs that differ in their last token alone: 1 5 t to 1 6 t.
    const pairs = Array.from({ length: 30 }, (_, i) => tokenPair([1, 5, 10 + i], [1, 6, 10 + i], [20, 21]));
    const passes = openRunner(toy.loaded, { hooks: readingHooks(["resid_post.0"]) });
    const result = await benchForest("thirty", pairs, passes, reporter, { forestRepeats: 1 });
    // Forward nodes 1, 5, 6 and 30 after each of the two; backward nodes 1, 5 to 6, and 30. A clean prompt is passed twice, a patch prompt once.
    const [tokens, nodes] = [30 * 9, 63 + 32];
    expect(result).toMatchObject({ set: "thirty", pairs: 30, tokens, nodes, node_ratio: tokens / nodes });
    // A tile of 32 rows holds the backward nodes; beside it are 6 and the 30 behind it, 31 rows filled up to 32: 2·32 + 32. By themselves, 30 prompts of
    // three tokens take three such tiles: 2·96 + 96.
    expect([result.forest_rows, result.example_rows]).toEqual([96, 288]);
    expect(result.row_ratio).toBe(96 / nodes);
    expect(result.forest_seconds).toBeGreaterThan(0);
    expect(result.time_ratio).toBe(result.example_seconds / result.forest_seconds);
  });
});

describe("sfc bench of the embedded model, a short one", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "sfc-bench-"));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  it("has rates that are operations over seconds, and shares that are rates over rates", async () => {
    const file = join(folder, "mine.jsonl");
    const pair = { clean_prefix: "a b c", patch_prefix: "a d c", clean_answer: "e", patch_answer: "f", case: "x" };
    await writeFile(file, `${JSON.stringify(pair)}\n`);
    const request = { model_name: "demo", pairs: file, seed: 1 };
    const effort = { repeats: 1, sizes: [[8, 16, 32]], forestRepeats: 1, examples: 1 } as const;
    const result = await bench(request, reporter, effort);
    expect(result.model).toBe("demo");
    const [forward, both] = result.passes;
    expect([forward!.pass, both!.pass]).toEqual(["forward", "forward + backward"]);
    for (const pass of result.passes) {
      expect(pass.gflops).toBeCloseTo(pass.floor_gflop / pass.seconds, 6);
      expect(pass.share_of_peak).toBeCloseTo(pass.gflops / result.gemm_peak, 6);
      expect(pass.share_of_own_shapes).toBeCloseTo(pass.gflops / result.gemm_own_shapes, 6);
    }
    // Linear layers of one node: per block 192·192 twice, 64·192 twice, 512·192 three times. Backward takes them once more, attention twice.
    const linear = (6 * 2 * (2 * 192 * 192 + 2 * 64 * 192 + 3 * 512 * 192) * forward!.nodes) / 1e9;
    const attention = forward!.floor_gflop - linear;
    expect(attention / linear).toBeGreaterThan(0);
    // Prompts of at most 16 tokens: 4·192 a block and token seen.
    expect(attention).toBeLessThan((6 * 4 * 192 * 16 * forward!.nodes) / 1e9);
    expect(both!.floor_gflop).toBeCloseTo(2 * linear + 3 * attention, 9);
    const [, mine] = result.forest;
    // Four tokens with the first that is put in front; two of them are shared by both prompts.
    expect(mine).toMatchObject({ set: "mine.jsonl", pairs: 1, tokens: 12, nodes: 6 + 4 });
    expect(result.forest[0]!.set).toBe("default pairs");
  });
});
