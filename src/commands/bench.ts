import { cpus } from "node:os";
import { defaultExamples, defaultTask } from "../analysis/options.ts";
import { noPairs, usablePairs } from "../analysis/pairs.ts";
import { captureAll } from "../capture/capture.ts";
import { readingHooks } from "../capture/hooks.ts";
import { openRunner } from "../capture/run.ts";
import type { Runner } from "../capture/runner.ts";
import type { Check } from "../circuit/checks.ts";
import { StoppedError } from "../errors.ts";
import { prefixForest } from "../forest/forest.ts";
import {
  computedRows,
  type Pack,
  type Plan,
  planCapture,
  planMetric,
  type RowCost,
  rowCounts,
} from "../forest/packs.ts";
import type { Device } from "../graph/runtime.ts";
import { compile, float32 } from "../graph/session.ts";
import { constant, input, type Tensor } from "../graph/tensor.ts";
import { type Model, parameterCount } from "../models/model.ts";
import { heldWeights, type LoadedModel, loadedModel, streamedWeights } from "../models/weights.ts";
import { checkRuntime } from "../open/device.ts";
import { type OpenJob, openJob, openSaes } from "../open/open.ts";
import { readPairText } from "../open/pairs.ts";
import type { Reporter } from "../progress.ts";
import type { PromptPair, TokenPair } from "../prompts/pairs.ts";
import { importPairs } from "../prompts/read-pairs.ts";
import { Random } from "../random.ts";
import { siteName } from "../site.ts";
import { median, sum } from "../stats.ts";
import { versions } from "../storage/package.ts";
import { compareOnDevice } from "./check-device.ts";

export interface BenchRequest {
  readonly model_name: string;
  readonly allow_config_field?: readonly string[];
  /** A file of pairs to time besides the default ones; null for none. Its words are taken as tokens, whatever the tokenizer. */
  readonly pairs: string | null;
  readonly seed: number;
  /** Default: cpu. */
  readonly device?: Device | undefined;
}

/** The merged forest against example by example, on one set of pairs. Medians of several runs, taken in turn. */
export interface ForestBench {
  readonly set: string;
  readonly pairs: number;
  /** Tokens of example by example: clean forward and backward, patch forward. */
  readonly tokens: number;
  /** Forward and backward nodes of the forest. */
  readonly nodes: number;
  readonly node_ratio: number;
  /** Rows that the sessions compute: repeated ancestors and padding included; a row of a backward pack counts twice. */
  readonly forest_rows: number;
  /** `forest_rows` over those that are needed: each forward node once forward, each backward node once back. */
  readonly row_ratio: number;
  readonly example_rows: number;
  readonly forest_seconds: number;
  readonly example_seconds: number;
  readonly time_ratio: number;
}

export interface BenchResult {
  readonly machine: { readonly cpu: string; readonly cores: number };
  readonly versions: Readonly<Record<string, string>>;
  readonly model: string;
  readonly device: Device;
  /** How far the device's numbers are from the CPU's in float64, with random directions for SAEs; none of the CPU. */
  readonly parity: readonly Check[];
  /** GFLOP/s of onnxruntime's matrix product, the best of several sizes. */
  readonly gemm_peak: number;
  /** GFLOP/s over the products of one block of the model, forward and backward, at the pack's number of rows. */
  readonly gemm_own_shapes: number;
  /** One pack of the model's passes against the floating-point operations that it needs at least. */
  readonly passes: readonly {
    /** The whole model; of a model whose weights are streamed one block, the reading of weights included, backward with forward computed again. */
    readonly pass: "forward" | "forward + backward" | "block forward" | "block backward";
    readonly nodes: number;
    /** GFLOP: linear layers of the nodes, attention of each node to its ancestors alone. */
    readonly floor_gflop: number;
    readonly seconds: number;
    readonly gflops: number;
    readonly share_of_own_shapes: number;
    readonly share_of_peak: number;
  }[];
  /** On a device of the pairs that are given alone. */
  readonly forest: readonly ForestBench[];
  readonly peak_rss_bytes: number;
}

/** How much is measured. */
export interface BenchEffort {
  /** Turns of which the median counts, of matrix products and passes. */
  readonly repeats: number;
  /** Sizes N, K, M of the matrix products of which the fastest counts. */
  readonly sizes: readonly (readonly [N: number, K: number, M: number])[];
  /** Turns of the forest and of example by example. */
  readonly forestRepeats: number;
  /** Pairs per split and case. */
  readonly examples: number;
}

const usualEffort: BenchEffort = {
  repeats: 15,
  sizes: [
    [512, 512, 2048],
    [1024, 1024, 1024],
    [1024, 2304, 4608],
  ],
  forestRepeats: 3,
  examples: defaultExamples,
};

/** Measures the machine, the model's passes against their floor, and the forest against example by example (`sfc bench`). */
export async function bench(
  request: BenchRequest,
  reporter: Reporter,
  effort: BenchEffort = usualEffort,
): Promise<BenchResult> {
  // A wrong path ends it now, not after minutes of measuring.
  const extra = request.pairs === null ? null : await pairsOf(request.pairs, request.seed);
  reporter.begin("machine", 1);
  await checkRuntime(request.device ?? "cpu", reporter);
  const { model_name, allow_config_field, seed } = request;
  const options = {
    ...noPairs,
    model_name,
    ...(allow_config_field && { allow_config_field: [...allow_config_field] }),
    task: defaultTask,
    num_examples: effort.examples,
    seed,
  };
  await using opened = await openJob(options, reporter, { saes: false });
  for (const warning of opened.warnings) reporter.line(warning);
  const result = await measure(request, extra, opened, reporter, effort);
  reporter.end();
  return result;
}

async function measure(
  request: BenchRequest,
  extra: readonly PromptPair[] | null,
  opened: OpenJob,
  reporter: Reporter,
  effort: BenchEffort,
): Promise<BenchResult> {
  const { pairs, seed, device = "cpu" } = request;
  const { model, checkpoint } = opened;
  const peak = await gemmPeak(seed, device, reporter, effort);
  reporter.begin("model", 1);
  const { kept } = usablePairs(opened.source, opened, { num_examples: effort.examples }, reporter);
  const sites = Array.from({ length: model.layers }, (_, layer) =>
    (["attn_out", "mlp_out", "resid_post"] as const).map((kind) => siteName({ kind, layer })),
  ).flat();
  const plan = planCapture(prefixForest(kept), { wanted: "changed" });
  const streamed = parameterCount(model) > mostHeld;
  const weights = streamed ? streamedWeights(checkpoint) : await heldWeights(model, checkpoint);
  const loaded = loadedModel(model, weights, { device });
  const about = await described(request, await parityOf(loaded, opened, kept, seed, reporter));
  reporter.begin("passes", 1);
  if (streamed) {
    const own = await ownShapesRate(model, plan, seed, device, reporter);
    const timed = await timeBlocks(loaded, plan, own, peak, reporter, effort);
    return { ...about, ...timed, forest: [], peak_rss_bytes: peakRss() };
  }
  const openPasses = () => openRunner(loaded, { hooks: readingHooks(sites) });
  const passes = openPasses();
  const full = plan.packs.find((p) => p.kind === "backward")!;
  const own = await ownShapes(model, full.node.length, seed, device);
  const forwardFloor = floorFlops(model, full);
  const [ownSeconds, ...passSeconds] = await inTurn(
    effort.repeats,
    [own.run, () => passes.run([{ pack: { ...full, kind: "forward" } }]), () => passes.run([{ pack: full }])],
    reporter,
  );
  await own.release();
  const ownRate = own.flops / ownSeconds! / 1e9;
  const nodes = full.node.reduce((sum, node) => sum + (node >= 0 ? 1 : 0), 0);
  const timed = (["forward", "forward + backward"] as const).map((pass, i) => {
    const floor = forwardFloor * (pass === "forward" ? 1 : 2 + attentionShare(model, full));
    const seconds = passSeconds[i]!;
    const gflops = floor / seconds / 1e9;
    const shares = { share_of_own_shapes: gflops / ownRate, share_of_peak: gflops / peak };
    return { pass, nodes, floor_gflop: floor / 1e9, seconds, gflops, ...shares };
  });
  await passes.release();
  // What the forest saves is the same on any device, and takes minutes on a slow one.
  const sets: [string, readonly TokenPair[]][] = device === "cpu" ? [["default pairs", kept]] : [];
  if (pairs !== null && extra !== null) sets.push([pairs.split("/").at(-1)!, wordsAsTokens(extra, model.vocabulary)]);
  if (sets.length > 0) reporter.begin("forest", sets.length);
  const forest: ForestBench[] = [];
  for (const [name, list] of sets) {
    forest.push(await benchForest(name, list, openPasses(), reporter, effort, model));
    reporter.set(forest.length);
  }
  return {
    ...about,
    gemm_peak: peak,
    gemm_own_shapes: ownRate,
    passes: timed,
    forest,
    peak_rss_bytes: peakRss(),
  };
}

/** Parameters above which blocks are measured instead of the whole model. */
const mostHeld = 2 ** 27;

async function described(
  { model_name: model, device = "cpu" }: BenchRequest,
  parity: readonly Check[],
): Promise<Pick<BenchResult, "machine" | "versions" | "model" | "device" | "parity">> {
  return {
    device,
    parity,
    machine: { cpu: cpus()[0]?.model ?? "unknown", cores: cpus().length },
    versions: await versions(),
    model,
  };
}

/** How far a device's numbers are from the CPU's, with random directions for SAEs. */
async function parityOf(
  loaded: LoadedModel,
  opened: OpenJob,
  pairs: readonly TokenPair[],
  seed: number,
  reporter: Reporter,
): Promise<readonly Check[]> {
  if (loaded.device === "cpu") return [];
  const dictionaries = await openSaes(opened, { sae_source: "dummy", layers: null, sites: null, seed }, reporter);
  return compareOnDevice({ loaded, dictionaries, pairs }, undefined, reporter);
}

const peakRss = () => process.resourceUsage().maxRSS * 1024;

async function ownShapesRate(
  model: Model,
  plan: Plan,
  seed: number,
  device: Device,
  reporter: Reporter,
): Promise<number> {
  const own = await ownShapes(model, plan.packs[0]!.node.length, seed, device);
  const [seconds] = await inTurn(5, [own.run], reporter);
  await own.release();
  return own.flops / seconds! / 1e9;
}

/**
 * One pack through all blocks of a model whose weights are streamed, forward and back: the median block. The peak is measured again afterwards, and
 * the better one counts.
 */
async function timeBlocks(
  loaded: LoadedModel,
  plan: Plan,
  ownRate: number,
  peakBefore: number,
  reporter: Reporter,
  effort: BenchEffort,
): Promise<Pick<BenchResult, "gemm_peak" | "gemm_own_shapes" | "passes">> {
  const { model, device = "cpu" } = loaded;
  const pack = plan.packs.find((p) => p.kind === "backward")!;
  const L = model.layers;
  reporter.begin("blocks", 2 * L);
  let last = performance.now();
  const steps: number[] = [];
  const onProgress = (done: number, total: number) => {
    const now = performance.now();
    steps.push((now - last) / 1000);
    last = now;
    reporter.set(done, total);
  };
  await captureAll(loaded, [{ ...plan, packs: [pack] }], {
    sites: ["embed"],
    onProgress,
    stopped: reporter.stopped,
  });
  const peak = Math.max(peakBefore, await gemmPeak(1, device, reporter, effort));
  const nodes = pack.node.reduce((sum, node) => sum + (node >= 0 ? 1 : 0), 0);
  const forwardFloor = floorFlops(model, pack) / L;
  const passes = (["block forward", "block backward"] as const).map((pass, i) => {
    // The first block of each direction waits for its weights and its session.
    const seconds = median(steps.slice(i * L + 1, (i + 1) * L))!;
    const floor = forwardFloor * (i === 0 ? 1 : 2 + attentionShare(model, pack));
    const gflops = floor / seconds / 1e9;
    const shares = { share_of_own_shapes: gflops / ownRate, share_of_peak: gflops / peak };
    return { pass, nodes, floor_gflop: floor / 1e9, seconds, gflops, ...shares };
  });
  return { gemm_peak: peak, gemm_own_shapes: ownRate, passes };
}

/** Runs both forms in turn, so that a change of the machine's speed meets both. */
export async function benchForest(
  set: string,
  pairs: readonly TokenPair[],
  passes: Runner,
  reporter: Reporter,
  { forestRepeats }: Pick<BenchEffort, "forestRepeats">,
  model?: RowCost,
): Promise<ForestBench> {
  const forest = prefixForest(pairs);
  const plan = planCapture(forest, { wanted: "changed", model, beside: "cheaper" });
  const { tileSize, packs: merged } = plan;
  const separate = exampleByExample(pairs, tileSize);
  const all = (packs: readonly Pack[]) => async () => {
    for (const pack of packs) {
      if (reporter.stopped()) throw new StoppedError("Stopped.");
      await passes.run([{ pack }]);
    }
  };
  const works = [all(merged), all(separate)];
  const [forestSeconds, exampleSeconds] = (await inTurn(forestRepeats, works, reporter)) as [number, number];
  await passes.release();
  const tokens = pairs.reduce((sum, { clean, patch }) => sum + 2 * clean.length + patch.length, 0);
  const nodes = forest.forward.size + forest.backward.size;
  const rows = rowCounts(plan);
  return {
    set,
    pairs: pairs.length,
    tokens,
    nodes,
    node_ratio: tokens / nodes,
    forest_rows: rows.computed,
    row_ratio: rows.computed / rows.needed,
    example_rows: sum(separate.map(computedRows)),
    forest_seconds: forestSeconds,
    example_seconds: exampleSeconds,
    time_ratio: exampleSeconds / forestSeconds,
  };
}

/** Packs that compute every pair by itself, in full: the clean prompt forward and backward, the patch prompt forward; no padding within a tile. */
function exampleByExample(pairs: readonly TokenPair[], tileSize: number): Pack[] {
  const clean = planCapture(prefixForest(pairs, { merge: "none" }), { wanted: "none", tileSize });
  const swapped = pairs.map((pair) => ({ ...pair, clean: pair.patch, patch: pair.clean }));
  const patch = planMetric(prefixForest(swapped, { merge: "none" }), { tileSize });
  return [...clean.packs.filter((pack) => pack.kind === "backward"), ...patch.packs];
}

/** Floating-point operations of a forward pass over a pack's nodes: linear layers, and attention to ancestors alone. */
export function floorFlops(model: Model, pack: Pack): number {
  const nodes = pack.node.reduce((sum, node) => sum + (node >= 0 ? 1 : 0), 0);
  return nodes * model.flopsPerToken + attentionFlops(model, pack);
}

function attentionFlops(model: Model, pack: Pack): number {
  const seen = pack.positions.reduce((sum, position, row) => sum + (pack.node[row]! >= 0 ? position + 1 : 0), 0);
  return seen * model.attentionFlops;
}

/** Attention's share of the forward floor: backward takes it twice, linear layers once. */
function attentionShare(model: Model, pack: Pack): number {
  return attentionFlops(model, pack) / floorFlops(model, pack);
}

/** GFLOP/s of onnxruntime's product with a constant matrix, the best of some sizes, as many as there is time for. */
async function gemmPeak(
  seed: number,
  device: Device,
  reporter: Reporter,
  { repeats, sizes }: BenchEffort,
): Promise<number> {
  let best = 0;
  const end = performance.now() + mostMeasured;
  for (const [N, K, M] of sizes) {
    if (performance.now() > end) break;
    const products = await compileProducts([[K, M]], N, seed, device);
    const [seconds] = await inTurn(repeats, [products.run], reporter);
    await products.release();
    best = Math.max(best, products.flops / seconds! / 1e9);
  }
  return best;
}

/** The products of the linear layers of the model's first block, forward and backward. */
function ownShapes(model: Model, N: number, seed: number, device: Device): Promise<Products> {
  const shapes = [...model.parameters]
    .filter(([name, shape]) => /\.0\./.test(name) && shape.length === 2)
    .map(([, [out, inner]]) => [inner!, out!] as const);
  return compileProducts(shapes, N, seed, device);
}

interface Products {
  /** Floating-point operations of a run. */
  readonly flops: number;
  run(): Promise<unknown>;
  release(): Promise<void>;
}

/** Times that each product is taken in a row, fewer where the matrices would not fit into one graph. */
const mostLinks = 4;
const largestGraph = 1e9;

/**
 * Products [N,K]·[K,M] and back, [N,M]·[M,K], with constant right sides, all in one graph: chains of them, so that the time goes into products and not
 * into results that leave the session.
 */
async function compileProducts(
  shapes: readonly (readonly [number, number])[],
  N: number,
  seed: number,
  device: Device,
): Promise<Products> {
  const random = new Random(`${seed}/gemm`);
  const matrix = (n: number) => Float32Array.from({ length: n }, () => random.uniform() - 0.5);
  const outputs: Record<string, Tensor> = {};
  const inputs = new Map<number, Tensor>();
  let flops = 0;
  const bytes = 8 * shapes.reduce((sum, [K, M]) => sum + K * M, 0);
  const links = Math.min(mostLinks, Math.max(1, Math.floor(largestGraph / bytes)));
  shapes.forEach(([K, M], i) => {
    const x = inputs.get(K) ?? input(`x${K}`, "float32", [N, K]);
    inputs.set(K, x);
    let y = x;
    for (let link = 0; link < links; link++) {
      y = y.matmul(constant(matrix(K * M), "float32", [K, M])).matmul(constant(matrix(M * K), "float32", [M, K]));
      flops += 4 * N * K * M;
    }
    outputs[`y${i}`] = y;
  });
  const session = await compile(outputs, { device }, { embedConstants: true });
  const values = Object.fromEntries([...inputs.keys()].map((K) => [`x${K}`, float32(matrix(N * K), N, K)]));
  return { flops, run: () => session.run(values), release: () => session.release() };
}

/** Milliseconds after which nothing more is begun: software in place of a graphics card takes seconds for a product. */
const mostMeasured = 30_000;

/**
 * Median time of each work in seconds, the works taken in turn so that a change of the machine's speed meets all of them; the first turn does not count.
 * Of slow works there are fewer turns.
 *
 * @throws StoppedError between two works
 */
async function inTurn(
  turns: number,
  works: readonly (() => Promise<unknown>)[],
  reporter: Reporter,
): Promise<number[]> {
  const times = works.map((): number[] => []);
  const end = performance.now() + mostMeasured;
  for (let turn = -1; turn < turns && (turn < 1 || performance.now() < end); turn++) {
    for (const [i, work] of works.entries()) {
      if (reporter.stopped()) throw new StoppedError("Stopped.");
      const start = performance.now();
      await work();
      if (turn >= 0) times[i]!.push((performance.now() - start) / 1000);
    }
  }
  return times.map((seconds) => median(seconds)!);
}

async function pairsOf(path: string, seed: number): Promise<readonly PromptPair[]> {
  return importPairs(await readPairText(path), path, { seed }).pairs;
}

/** One token per word, BOS in front: a pair's shape as in the field's word-per-token counts, whatever the tokenizer. */
function wordsAsTokens(pairs: readonly PromptPair[], vocabulary: number): TokenPair[] {
  const ids = new Map<string, number>();
  const id = (word: string) => {
    const known = ids.get(word) ?? 1 + (ids.size % (vocabulary - 1));
    ids.set(word, known);
    return known;
  };
  const tokens = (text: string) => [0, ...text.trim().split(/\s+/).map(id)];
  return pairs.map((pair) => ({
    pair,
    clean: tokens(pair.clean_prefix),
    patch: tokens(pair.patch_prefix ?? pair.clean_prefix),
    cleanAnswer: id(pair.clean_answer.trim()),
    patchAnswer: id(pair.patch_answer.trim()),
  }));
}
