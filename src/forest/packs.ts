import { longestDense, type Model } from "../models/model.ts";
import type { End, PrefixForest, Tile, Tree } from "./forest.ts";
import { cutForest, isChanged } from "./forest.ts";

/** Which activations a method asks for: at the clean and patch prefix of changed nodes, at every clean prefix, at all of these, or none. */
export type Wanted = "changed" | "clean" | "both" | "none";

/**
 * The work of a capture, cut into packs. A pack is one run of a session over B tiles of n nodes each.
 *
 * Backward packs hold backward nodes and compute their clean prefixes forward and the metric's gradient backward. Forward packs hold the forward
 * nodes that are wanted and are not some backward node's clean prefix: mostly there are few, since most patch prompts are another pair's clean prompt.
 */
export interface Plan {
  readonly forest: PrefixForest;
  readonly wanted: Wanted;
  /** n: nodes per tile, of the largest where packs differ. */
  readonly tileSize: number;
  readonly packs: readonly Pack[];
  /** Row of each forward node in the activations that are kept, −1 where they are not. */
  readonly row: Int32Array;
  /** The number of these rows. */
  readonly rows: number;
}

/** One run of a session: the rows that go in, and what is read of them. */
export interface Pack {
  readonly kind: "backward" | "forward";
  /** What goes into the session. N = n·B rows; those beyond a tile's nodes are padding that sees only itself. */
  readonly tokens: Int32Array;
  readonly positions: Int32Array;
  /** Row of each row's parent, −1 at a root and in padding: a row sees itself and its ancestors. */
  readonly parent: Int32Array;
  readonly tiles: number;
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
  /** What the values are compared with where squared differences are asked for. */
  readonly target?: Float32Array | Float64Array;
  /** Index into the forest's ends, and which of its two values this is. */
  readonly end: Int32Array;
  readonly prompt: readonly ("clean" | "patch")[];
}

/** How a forest is cut into packs. */
export interface PlanOptions {
  readonly wanted: Wanted;
  /** Nodes per pack; a pack holds as many tiles as fit. */
  readonly nodes?: number;
  /** At most so many pairs end in one pack (`--batch_size`). */
  readonly batchSize?: number;
  /** Nodes per tile; by default those with the least work, for each kind of pack by itself. */
  readonly tileSize?: number;
  /** Whose work it will be; by default that of a narrow model, in which attention costs the most. */
  readonly model?: RowCost | undefined;
}

/** What a model's work depends on: operations of a row in matrix products, and in attention for each row of its tile. */
export type RowCost = Pick<Model, "flopsPerToken" | "attentionFlops">;

/** Nodes per pack that keep products of matrices efficient and working memory small. */
export const packNodes = 512;

/** Cuts a forest into packs. */
export function planCapture(
  forest: PrefixForest,
  { wanted, nodes = packNodes, batchSize, tileSize, model }: PlanOptions,
): Plan {
  const { forward, backward, ends } = forest;
  const { row, rows, needed, pairsAt, backwardRow, forwardRow } = rolesOf(forest, wanted);
  const maxLoad = batchSize ?? Number.POSITIVE_INFINITY;
  const cutBackward = (n: number) => cutForest(backward, n, { load: pairsAt, maxLoad });
  const cutForward = (n: number) => cutForest(forward, n, { wanted: needed });
  const packed = (kind: Pack["kind"], tree: Tree, cut: (n: number) => Tile[], describe: Describe) => {
    const n = tileSize ?? chooseTileSize(tree, (n) => cut(n).length, { nodes, model });
    const tiles = cut(n);
    const load = kind === "backward" ? pairsAt : () => 0;
    const size = evenly(tiles.length, mostTiles(nodes, n));
    // Where pairs limit a pack, packs differ too much to be filled up to one size.
    const count = batchSize === undefined ? size : undefined;
    return [...chunks(tiles, size, load, maxLoad)].map((chunk) => fillPack(kind, chunk, n, describe, ends, count));
  };
  const packs = [
    ...packed("backward", backward, cutBackward, backwardRow),
    ...packed("forward", forward, cutForward, forwardRow),
  ];
  return { forest, wanted, tileSize: largestTileOf(packs), packs, row, rows };
}

/** n of the largest tiles. */
const largestTileOf = (packs: readonly Pack[]) =>
  packs.reduce((most, { tokens, tiles }) => Math.max(most, tokens.length / tiles), 1);

/** Small plans with packs filled up to the largest of their kind, so that the same sessions serve all of them. */
export function alikePacks(plans: readonly Plan[]): Plan[] {
  const most = { backward: 0, forward: 0 };
  for (const { packs } of plans) for (const { kind, tiles } of packs) most[kind] = Math.max(most[kind], tiles);
  return plans.map((plan) => ({ ...plan, packs: plan.packs.map((pack) => filledUp(pack, most[pack.kind])) }));
}

/** A pack with padding up to so many tiles. */
function filledUp(pack: Pack, tiles: number): Pack {
  const N = (pack.tokens.length / pack.tiles) * tiles;
  const longer = (from: Int32Array, padding: number) => {
    const to = new Int32Array(N).fill(padding);
    to.set(from);
    return to;
  };
  return {
    ...pack,
    tiles,
    tokens: longer(pack.tokens, 0),
    positions: longer(pack.positions, 0),
    parent: longer(pack.parent, -1),
    node: longer(pack.node, -1),
  };
}

/**
 * The backward packs of a plan's forest with the fewest rows, for work that runs each of them many times: in small tiles more ancestors are repeated,
 * in large ones there is more padding.
 *
 * @param options largest: rows of a tile at most, where the longest prompt allows it; nodes: per pack
 */
export function tightPacks(
  { forest, wanted, tileSize }: Plan,
  { largest = tileSize, nodes }: { readonly largest?: number; readonly nodes?: number } = {},
): readonly Pack[] {
  const longest = 1 + forest.backward.position.reduce((a, b) => Math.max(a, b), 0);
  const rowsOf = (packs: readonly Pack[]) => packs.reduce((sum, { tokens }) => sum + tokens.length, 0);
  let best: readonly Pack[] = [];
  for (let n = 8 * Math.ceil(longest / 8); best.length === 0 || n <= largest; n *= 2) {
    const packs = planCapture(forest, { wanted, tileSize: n, ...(nodes && { nodes }) }).packs.filter(
      ({ kind }) => kind === "backward",
    );
    if (best.length === 0 || rowsOf(packs) < rowsOf(best)) best = packs;
    if (packs.length === 0) break;
  }
  return best;
}

/**
 * The work as the field does it, in padded batches: each prompt a tile by itself, as long as the longest of its batch; pairs sorted by length, so
 * that there is little padding. The clean prompts of a batch are one pack, the patch prompts another.
 *
 * @param forest one in which nothing is merged
 * @param batch pairs per batch
 */
export function planBatches(
  forest: PrefixForest,
  { wanted, batch }: { readonly wanted: Wanted; readonly batch: number },
): Plan {
  const { forward, backward, ends, endNodeOfPair } = forest;
  if (backward.weight.some((pairs) => pairs > 1)) {
    throw new Error("batches: expected a forest in which nothing is merged");
  }
  const { row, rows, needed, backwardRow, forwardRow } = rolesOf(forest, wanted);
  const lengthOf = (pair: number) => backward.position[endNodeOfPair[pair]!]! + 1;
  const order = [...endNodeOfPair.keys()].sort((a, b) => lengthOf(a) - lengthOf(b) || a - b);
  const packs: Pack[] = [];
  let longest = 0;
  for (let from = 0; from < order.length; from += batch) {
    const pairs = order.slice(from, from + batch);
    const most = Math.max(...pairs.map(lengthOf));
    const n = most <= longestDense ? most : evenRows(most);
    longest = Math.max(longest, n);
    const last = pairs.map((pair) => endNodeOfPair[pair]!);
    packs.push(
      fillPack(
        "backward",
        last.map((node) => pathTo(backward, node)),
        n,
        backwardRow,
        ends,
      ),
    );
    const patches = last.map((node) => backward.patch[node]!).filter(needed);
    if (patches.length > 0)
      packs.push(
        fillPack(
          "forward",
          patches.map((node) => pathTo(forward, node)),
          n,
          forwardRow,
          ends,
        ),
      );
  }
  return { forest, wanted, tileSize: longest, packs, row, rows };
}

/** A node with its ancestors, all of them the tile's own. */
function pathTo(tree: Tree, node: number): Tile {
  const nodes: number[] = [];
  for (let at = node; at >= 0; at = tree.parent[at]!) nodes.push(at);
  return {
    nodes: Int32Array.from(nodes.reverse()),
    parent: Int32Array.from(nodes.keys(), (i) => i - 1),
    owned: new Uint8Array(nodes.length).fill(1),
  };
}

/** What becomes of each node: whether its activations are kept, where they are computed, and which metric values are asked for there. */
function rolesOf({ forward, backward, ends }: PrefixForest, wanted: Wanted) {
  const row = new Int32Array(forward.size).fill(-1);
  if (wanted !== "none") {
    for (let node = 0; node < backward.size; node++) {
      const changed = isChanged(backward, node);
      if (wanted !== "changed" || changed) row[backward.clean[node]!] = 0;
      if (wanted !== "clean" && changed) row[backward.patch[node]!] = 0;
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
  const backwardRow: Describe = (node) => {
    const f = backward.clean[node]!;
    return {
      token: backward.token[node]!,
      position: backward.position[node]!,
      keep: row[f]! >= 0 && computedBy[f] === node,
      clean: endsOfNode.get(node) ?? [],
      patch: computedBy[f] === node ? (endsOfPatch.get(f) ?? []) : [],
    };
  };
  const forwardRow: Describe = (node) => ({
    token: forward.token[node]!,
    position: forward.position[node]!,
    keep: row[node]! >= 0 && computedBy[node] === -1,
    clean: [],
    patch: endsOfPatch.get(node) ?? [],
  });
  return { row, rows, needed, pairsAt, backwardRow, forwardRow };
}

/** What a pack's row says of a node, with the ends whose clean and patch metric is read there. */
type Describe = (node: number) => {
  readonly token: number;
  readonly position: number;
  readonly keep: boolean;
  readonly clean: readonly number[];
  readonly patch: readonly number[];
};

/** The work of computing the metric at every end's clean prompt, forward passes alone. */
export function planMetric(
  forest: PrefixForest,
  { nodes = packNodes, tileSize }: Pick<PlanOptions, "nodes" | "tileSize"> = {},
): Plan {
  const { forward, backward, ends } = forest;
  const endsAt = grouped(ends, (end) => backward.clean[end.node]!);
  const cut = (n: number) => cutForest(forward, n, { wanted: (node) => endsAt.has(node) });
  const n = tileSize ?? chooseTileSize(forward, (n) => cut(n).length, { nodes });
  const tiles = cut(n);
  const describe: Describe = (node) => ({
    token: forward.token[node]!,
    position: forward.position[node]!,
    keep: false,
    clean: endsAt.get(node) ?? [],
    patch: [],
  });
  const size = evenly(tiles.length, mostTiles(nodes, n));
  const packs = [...chunks(tiles, size, () => 0, Number.POSITIVE_INFINITY)].map((chunk) =>
    fillPack("forward", chunk, n, describe, ends, size),
  );
  return { forest, wanted: "none", tileSize: n, packs, row: new Int32Array(forward.size).fill(-1), rows: 0 };
}

/** Tiles of n nodes that a pack of so many nodes has room for. */
const mostTiles = (nodes: number, n: number) => Math.max(1, Math.floor(nodes / n));

/** Tiles per pack, at most so many, that let packs be of one size: sessions are made for sizes. */
const evenly = (tiles: number, most: number) => Math.max(1, Math.ceil(tiles / Math.ceil(tiles / most)));

/**
 * Nodes per tile, at least as many as the longest prompt has tokens, that let all packs together have the least work: in small tiles more ancestors are
 * repeated, in large ones more is filled up, and each row's dense scores with all of its tile cost more.
 *
 * @param tiles the number of tiles of a size that the tree is cut into
 * @param nodes nodes per pack
 */
export function chooseTileSize(
  { position, size }: Tree,
  tiles: (n: number) => number,
  { nodes = packNodes, model }: Pick<PlanOptions, "nodes" | "model"> = {},
): number {
  const longest = 1 + position.reduce((a, b) => Math.max(a, b), 0);
  const even = model ? model.flopsPerToken / model.attentionFlops / scoreCost : narrowEven;
  const sizes = tileSizes(longest, size);
  const work = (n: number, count: number) => {
    const each = evenly(count, mostTiles(nodes, n));
    return Math.ceil(count / each) * each * n * (1 + n / even);
  };
  let [best, least] = [sizes[0]!, Number.POSITIVE_INFINITY];
  for (const n of sizes) {
    const found = work(n, Math.max(1, tiles(n)));
    if (found < least) [best, least] = [n, found];
  }
  return best;
}

/** What dense scores cost beside products of matrices, for as many operations: their products are small, and there are masks and exponentials. */
const scoreCost = 2;
/** With so many rows in a tile attention takes as long as a narrow model's linear layers. */
const narrowEven = 576;

/** Nodes of a tree whose cutting takes so long that few sizes are tried. */
const largeTree = 8192;

/** The sizes that a tile may have: few for large trees, which fill tiles of any size. */
function tileSizes(longest: number, nodes: number): number[] {
  if (8 * longest > longestDense) {
    const least = evenRows(longest);
    return [1, 2, 4, 8].map((factor) => factor * least).filter((n) => n === least || n <= largestTile);
  }
  const sizes: number[] = [];
  const [unit, step] = nodes > largeTree ? [32, 1.5] : [8, 1.08];
  for (let n = longest; n <= longestDense; n = step * sizes.at(-1)!) sizes.push(unit * Math.ceil(n / unit));
  return sizes.filter((n) => n <= longestDense);
}

const largestTile = 4096;

/** At least so many rows, in a number that has many divisors: long tiles are computed in equal chunks. */
const evenRows = (rows: number) => 128 * Math.ceil(rows / 128);

/** @param count tiles of the pack; those beyond `tiles` are padding */
function fillPack(
  kind: Pack["kind"],
  tiles: readonly Tile[],
  n: number,
  describe: Describe,
  ends: readonly End[],
  count = tiles.length,
): Pack {
  const N = n * count;
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
  tiles.forEach((tile, b) => {
    for (let i = 0; i < tile.nodes.length; i++) {
      const at = b * n + i;
      if (tile.parent[i]! >= 0) parent[at] = b * n + tile.parent[i]!;
      const about = describe(tile.nodes[i]!);
      node[at] = tile.nodes[i]!;
      tokens[at] = about.token;
      positions[at] = about.position;
      if (!tile.owned[i]) continue;
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
    tiles: count,
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

/** Tiles in order, at most `size` together and at most `maxLoad` pairs. */
function* chunks(
  tiles: readonly Tile[],
  size: number,
  load: (node: number) => number,
  maxLoad: number,
): Generator<Tile[]> {
  let chunk: Tile[] = [];
  let loaded = 0;
  for (const tile of tiles) {
    const more = tile.nodes.reduce((sum, node, i) => sum + (tile.owned[i] ? load(node) : 0), 0);
    if (chunk.length === size || (chunk.length > 0 && loaded + more > maxLoad)) {
      yield chunk;
      chunk = [];
      loaded = 0;
    }
    chunk.push(tile);
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
