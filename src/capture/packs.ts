import type { Block, End, PrefixForest } from "../prompts/forest.ts";
import { cutForest, isChanged } from "../prompts/forest.ts";

/** Which activations a method asks for: at the clean and patch prefix of changed nodes, at every clean prefix, or none. */
export type Wanted = "changed" | "clean" | "none";

/**
 * The work of a capture, cut into packs. A pack is one run of a session over B blocks of n nodes each.
 *
 * Backward packs hold backward nodes and compute their clean prefixes forward and the metric's gradient backward. Forward packs hold the forward
 * nodes that are wanted and are not some backward node's clean prefix: mostly there are few, since most patch prompts are another pair's clean prompt.
 */
export interface Plan {
  readonly forest: PrefixForest;
  readonly wanted: Wanted;
  /** n: nodes per block. */
  readonly block: number;
  readonly packs: readonly Pack[];
  /** Row of each forward node in the activations that are kept, −1 where they are not. */
  readonly row: Int32Array;
  /** The number of these rows. */
  readonly rows: number;
}

export interface Pack {
  readonly kind: "backward" | "forward";
  /** What goes into the session. N = n·B rows; those beyond a block's nodes are padding that sees only itself. */
  readonly tokens: Int32Array;
  readonly positions: Int32Array;
  /** Row of each row's parent, −1 at a root and in padding: a row sees itself and its ancestors. */
  readonly parent: Int32Array;
  readonly blocks: number;
  /** Node of each row: of the backward or of the forward forest by kind; −1 in padding. */
  readonly node: Int32Array;
  /** Rows whose activations are kept, each forward node in one pack alone. */
  readonly keep: Int32Array;
  readonly metric: MetricRows;
}

/** Metric values to compute, P of them. A weight of 0 asks for the value without its gradient. */
export interface MetricRows {
  readonly row: Int32Array;
  readonly cleanAnswer: Int32Array;
  readonly patchAnswer: Int32Array;
  readonly weight: Float32Array;
  /** Index into the forest's ends, and which of its two values this is. */
  readonly end: Int32Array;
  readonly prompt: readonly ("clean" | "patch")[];
}

export interface PlanOptions {
  readonly wanted: Wanted;
  /** Nodes per pack; a pack holds as many blocks as fit. */
  readonly nodes?: number;
  /** At most so many pairs end in one pack (`--batch_size`). */
  readonly batchSize?: number;
  /** Nodes per block; by default from the longest prompt. */
  readonly block?: number;
}

/** Nodes per pack that keep products of matrices efficient and working memory small. */
const defaultNodes = 512;

/**
 * Cuts a forest into packs.
 *
 * A block holds several times the longest prompt: long enough that few ancestors are repeated, short enough that the dense scores within a block
 * stay cheaper than the linear layers.
 */
export function planCapture(
  forest: PrefixForest,
  { wanted, nodes = defaultNodes, batchSize, block }: PlanOptions,
): Plan {
  const { forward, backward, ends } = forest;
  const n = block ?? blockSize(forest);

  const row = new Int32Array(forward.size).fill(-1);
  if (wanted !== "none") {
    for (let node = 0; node < backward.size; node++) {
      if (wanted === "clean") row[backward.clean[node]!] = 0;
      else if (isChanged(backward, node)) row[backward.clean[node]!] = row[backward.patch[node]!] = 0;
    }
  }
  let rows = 0;
  row.forEach((kept, node) => {
    if (kept === 0) row[node] = rows++;
  });

  // The backward node that computes a forward node, if any does.
  const computedBy = new Int32Array(forward.size).fill(-1);
  for (let node = backward.size - 1; node >= 0; node--) computedBy[backward.clean[node]!] = node;

  const endsOfNode = grouped(ends, (end) => end.node);
  const endsOfPatch = grouped(ends, (end) => backward.patch[end.node]!);
  const needed = (node: number) => computedBy[node] === -1 && (row[node]! >= 0 || endsOfPatch.has(node));

  const pairsAt = (node: number) => (endsOfNode.get(node) ?? []).reduce((sum, e) => sum + ends[e]!.weight, 0);
  const maxLoad = batchSize ?? Number.POSITIVE_INFINITY;
  const backwardBlocks = cutForest(backward, n, { load: pairsAt, maxLoad });
  const forwardBlocks = cutForest(forward, n, { wanted: needed });

  const packs: Pack[] = [];
  const perPack = Math.max(1, Math.floor(nodes / n));
  for (const blocks of chunks(backwardBlocks, perPack, pairsAt, maxLoad)) {
    packs.push(
      fillPack(
        "backward",
        blocks,
        n,
        (node) => {
          const f = backward.clean[node]!;
          return {
            token: backward.token[node]!,
            position: backward.position[node]!,
            keep: row[f]! >= 0 && computedBy[f] === node,
            clean: endsOfNode.get(node) ?? [],
            patch: computedBy[f] === node ? (endsOfPatch.get(f) ?? []) : [],
          };
        },
        ends,
      ),
    );
  }
  for (const blocks of chunks(forwardBlocks, perPack, () => 0, maxLoad)) {
    packs.push(
      fillPack(
        "forward",
        blocks,
        n,
        (node) => ({
          token: forward.token[node]!,
          position: forward.position[node]!,
          keep: row[node]! >= 0,
          clean: [],
          patch: endsOfPatch.get(node) ?? [],
        }),
        ends,
      ),
    );
  }
  return { forest, wanted, block: n, packs, row, rows };
}

/** The work of computing the metric at every end's clean prompt, forward passes alone. */
export function planMetric(
  forest: PrefixForest,
  { nodes = defaultNodes, block }: Pick<PlanOptions, "nodes" | "block"> = {},
): Plan {
  const { forward, backward, ends } = forest;
  const n = block ?? blockSize(forest);
  const endsAt = grouped(ends, (end) => backward.clean[end.node]!);
  const blocks = cutForest(forward, n, { wanted: (node) => endsAt.has(node) });
  const packs = [...chunks(blocks, Math.max(1, Math.floor(nodes / n)), () => 0, Number.POSITIVE_INFINITY)].map(
    (chunk) =>
      fillPack(
        "forward",
        chunk,
        n,
        (node) => ({
          token: forward.token[node]!,
          position: forward.position[node]!,
          keep: false,
          clean: endsAt.get(node) ?? [],
          patch: [],
        }),
        ends,
      ),
  );
  return { forest, wanted: "none", block: n, packs, row: new Int32Array(forward.size).fill(-1), rows: 0 };
}

/** A power of two, at least 64 and six to eleven times the longest prompt. */
function blockSize({ forward }: PrefixForest): number {
  const longest = 1 + forward.position.reduce((a, b) => Math.max(a, b), 0);
  return Math.max(64, 2 ** Math.round(Math.log2(8 * longest)));
}

function fillPack(
  kind: Pack["kind"],
  blocks: readonly Block[],
  n: number,
  describe: (node: number) => {
    token: number;
    position: number;
    keep: boolean;
    clean: readonly number[];
    patch: readonly number[];
  },
  ends: readonly End[],
): Pack {
  const N = n * blocks.length;
  const [tokens, positions, node] = [new Int32Array(N), new Int32Array(N), new Int32Array(N).fill(-1)];
  const parent = new Int32Array(N).fill(-1);
  const keep: number[] = [];
  const metric = {
    row: [] as number[],
    cleanAnswer: [] as number[],
    patchAnswer: [] as number[],
    weight: [] as number[],
  };
  const end: number[] = [];
  const prompt: ("clean" | "patch")[] = [];
  const ask = (at: number, e: number, which: "clean" | "patch") => {
    const { cleanAnswer, patchAnswer, weight } = ends[e]!;
    metric.row.push(at);
    metric.cleanAnswer.push(cleanAnswer);
    metric.patchAnswer.push(patchAnswer);
    metric.weight.push(which === "clean" ? weight : 0);
    end.push(e);
    prompt.push(which);
  };
  blocks.forEach((block, b) => {
    for (let i = 0; i < block.nodes.length; i++) {
      const at = b * n + i;
      if (block.parent[i]! >= 0) parent[at] = b * n + block.parent[i]!;
      const about = describe(block.nodes[i]!);
      node[at] = block.nodes[i]!;
      tokens[at] = about.token;
      positions[at] = about.position;
      if (!block.owned[i]) continue;
      if (about.keep) keep.push(at);
      for (const e of about.clean) ask(at, e, "clean");
      for (const e of about.patch) ask(at, e, "patch");
    }
  });
  return {
    kind,
    tokens,
    positions,
    parent,
    blocks: blocks.length,
    node,
    keep: Int32Array.from(keep),
    metric: {
      row: Int32Array.from(metric.row),
      cleanAnswer: Int32Array.from(metric.cleanAnswer),
      patchAnswer: Int32Array.from(metric.patchAnswer),
      weight: Float32Array.from(metric.weight),
      end: Int32Array.from(end),
      prompt,
    },
  };
}

/** Blocks in order, at most `size` together and at most `maxLoad` pairs. */
function* chunks(
  blocks: readonly Block[],
  size: number,
  load: (node: number) => number,
  maxLoad: number,
): Generator<Block[]> {
  let chunk: Block[] = [];
  let loaded = 0;
  for (const block of blocks) {
    const more = block.nodes.reduce((sum, node, i) => sum + (block.owned[i] ? load(node) : 0), 0);
    if (chunk.length === size || (chunk.length > 0 && loaded + more > maxLoad)) {
      yield chunk;
      chunk = [];
      loaded = 0;
    }
    chunk.push(block);
    loaded += more;
  }
  if (chunk.length > 0) yield chunk;
}

function grouped(ends: readonly End[], key: (end: End) => number): Map<number, number[]> {
  const groups = new Map<number, number[]>();
  ends.forEach((end, e) => {
    const k = key(end);
    const group = groups.get(k);
    if (group) group.push(e);
    else groups.set(k, [e]);
  });
  return groups;
}
