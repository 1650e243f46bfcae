import { longestDense, type Model } from "../models/model.ts";
import { steps, type Watch } from "../progress.ts";
import { sum } from "../stats.ts";
import type { End, PrefixForest, Tile, Tree } from "./forest.ts";
import { cutForest, depthFirst, isChanged } from "./forest.ts";

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
  /**
   * Forward nodes beside a backward pack's tiles, m to each: they see the tile's rows besides their own, so that no ancestors are repeated for them, and
   * no gradient reaches them. Their `parent` is a place in their tile: below n among the tile's rows, from n on among their own.
   */
  readonly beside?: Pack | undefined;
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
  /** Whether forward nodes lie beside backward packs: never by default, since only captures know of them; or where that is less work. */
  readonly beside?: "never" | "cheaper" | "always";
  /** Whose work it will be; by default that of a narrow model, in which attention costs the most. */
  readonly model?: RowCost | undefined;
  /** Asked during the work; true ends it with a StoppedError. */
  readonly stopped?: Watch["stopped"];
}

/** What a model's work depends on: operations of a row in matrix products, and in attention for each row of its tile. */
export type RowCost = Pick<Model, "flopsPerToken" | "attentionFlops">;

/** Nodes per pack that keep products of matrices efficient and working memory small. */
export const packNodes = 512;

/** Cuts a forest into packs. */
export function planCapture(
  forest: PrefixForest,
  { wanted, nodes = packNodes, batchSize, tileSize, model, beside = "never", stopped }: PlanOptions,
): Plan {
  const { forward, backward, ends } = forest;
  const { row, rows, needed, pairsAt, backwardRow, forwardRow } = rolesOf(forest, wanted);
  const maxLoad = batchSize ?? Number.POSITIVE_INFINITY;
  const cutBackward = (n: number) => cutForest(backward, n, { load: pairsAt, maxLoad, stopped });
  const cutForward = (n: number) => cutForest(forward, n, { wanted: needed, stopped });
  const packed = (kind: Pack["kind"], n: number, tiles: readonly Tile[], describe: Describe) => {
    const load = kind === "backward" ? pairsAt : () => 0;
    const size = evenly(tiles.length, mostTiles(nodes, n));
    // Where pairs limit a pack, packs differ too much to be filled up to one size.
    const count = batchSize === undefined ? size : undefined;
    const step = steps({ stopped }, tiles.length);
    return [...chunks(tiles, size, load, maxLoad)].map((chunk, i) => {
      step(i);
      return fillPack(kind, chunk, n, describe, ends, count);
    });
  };
  const sizesOf = (tree: Tree, cut: (n: number) => Tile[]) =>
    tileSize === undefined ? bestTileSizes(tree, (n) => cut(n).length, { nodes, model }) : [tileSize];
  const backwardSizes = sizesOf(backward, cutBackward);
  const backwardOf = (n: number) => packed("backward", n, cutBackward(n), backwardRow);
  const n = sizesOf(forward, cutForward)[0]!;
  const choices = [[...backwardOf(backwardSizes[0]!), ...packed("forward", n, cutForward(n), forwardRow)]];
  if (beside !== "never") {
    const short = backwardSizes.filter((size) => size <= longestDense / 2).slice(0, triedSizes);
    const joined = short.flatMap((size) => {
      const found = besidePacks(forest, backwardOf(size), needed, forwardRow, stopped);
      return found ? [found] : [];
    });
    if (beside === "always" && joined.length > 0) choices.length = 0;
    for (const packs of joined) choices.push(packs);
  }
  const even = evenOf(model);
  const work = choices.map((list) => sum(list.map((pack) => packWork(pack, even))));
  const packs = choices[work.indexOf(Math.min(...work))]!;
  return { forest, wanted, tileSize: largestTileOf(packs), packs, row, rows };
}

/**
 * The rows that a plan computes, padding and repeated ancestors included, and those that it needs: each forward node once forward, each backward node once
 * back. A row of a backward pack goes both ways.
 */
export function rowCounts({ forest, wanted, packs }: Pick<Plan, "forest" | "wanted" | "packs">): {
  readonly computed: number;
  readonly needed: number;
} {
  const { needed } = rolesOf(forest, wanted);
  const clean = new Set(forest.backward.clean);
  const others = forest.forward.token.reduce((count, _, node) => count + Number(needed(node)), 0);
  return { computed: sum(packs.map(computedRows)), needed: clean.size + others + forest.backward.size };
}

/** What goes into the model, pack by pack, as JSON: by it a kept capture and a plan of shards know their packs again. */
export const packsJson = (plans: readonly Pick<Plan, "packs">[]) =>
  plans.map(({ packs }) =>
    packs.map(({ kind, tokens, node, beside }) => [kind, [...tokens], [...node], [...(beside?.node ?? [])]]),
  );

/** The rows that a pack computes, those that go both ways twice. */
export const computedRows = ({ kind, tokens, beside }: Pack): number =>
  (kind === "backward" ? 2 : 1) * tokens.length + (beside?.tokens.length ?? 0);

/** What going through a pack takes, back too where it does, in rows of linear layers. */
function packWork({ kind, tokens, tiles, beside }: Pack, even: number): number {
  const n = tokens.length / tiles;
  const own = (kind === "backward" ? 2 : 1) * tokens.length * (1 + n / even);
  return beside ? own + beside.tokens.length * (1 + (n + beside.tokens.length / tiles) / even) : own;
}

/** Sizes of backward tiles beside which forward nodes are tried. */
const triedSizes = 6;
/** Tiles that are looked at for a place beside them. */
const triedTiles = 16;

/**
 * Backward packs with the forward nodes that are needed beside their tiles: each beside one that has its nearest ancestor on the backward side, and in
 * equal numbers. Undefined where tiles are too long for that, or there are no such nodes.
 */
function besidePacks(
  { forward, backward, ends }: PrefixForest,
  packs: readonly Pack[],
  needed: (node: number) => boolean,
  describe: Describe,
  stopped: Watch["stopped"],
): Pack[] | undefined {
  const tiles: { readonly place: Map<number, number>; readonly beside: Map<number, number>; owned: Set<number> }[] = [];
  const tilesWith = new Map<number, number[]>();
  for (const { node, tiles: count } of packs) {
    const n = node.length / count;
    for (let b = 0; b < count; b++) {
      const place = new Map<number, number>();
      for (let i = 0; i < n; i++) {
        if (node[b * n + i]! < 0) continue;
        const clean = backward.clean[node[b * n + i]!]!;
        if (place.has(clean)) continue;
        place.set(clean, i);
        const list = tilesWith.get(clean);
        if (list) list.push(tiles.length);
        else tilesWith.set(clean, [tiles.length]);
      }
      tiles.push({ place, beside: new Map(), owned: new Set() });
    }
  }
  if (tiles.length === 0) return undefined;
  const all = [...tiles.keys()];
  const wanted = [...depthFirst(forward)].filter(needed).map((node) => {
    const chain: number[] = [];
    let at = node;
    for (; at >= 0 && !tilesWith.has(at); at = forward.parent[at]!) chain.unshift(at);
    return { node, chain, having: at < 0 ? all : tilesWith.get(at)! };
  });
  if (wanted.length === 0) return undefined;
  // Those that have the least choice come first.
  wanted.sort((a, b) => a.having.length - b.having.length);
  const fair = Math.ceil(wanted.length / tiles.length) + 1;
  const step = steps({ stopped }, wanted.length);
  for (const [k, { node, chain, having }] of wanted.entries()) {
    step(k);
    const few = Math.min(triedTiles, having.length);
    // Neighbours are tried first where those before them lie.
    const first = having.length > few ? Math.floor((k / wanted.length) * having.length) : 0;
    let best: { readonly t: number; readonly missing: number; readonly load: number } | undefined;
    for (let i = 0; i < few; i++) {
      const t = having[(first + i) % having.length]!;
      const { beside } = tiles[t]!;
      const missing = chain.reduce((sum, one) => sum + (beside.has(one) ? 0 : 1), 0);
      const load = beside.size + missing;
      const isBetter =
        !best ||
        (load <= fair && best.load <= fair ? missing < best.missing : load < best.load) ||
        (missing === best.missing && load < best.load);
      if (isBetter) best = { t, missing, load };
    }
    const { beside, owned } = tiles[best!.t]!;
    for (const one of chain) if (!beside.has(one)) beside.set(one, beside.size);
    owned.add(node);
  }
  const m = 4 * Math.ceil(Math.max(...tiles.map(({ beside }) => beside.size)) / 4);
  let first = 0;
  const filled = steps({ stopped }, packs.length);
  return packs.map((pack, p) => {
    filled(p);
    const n = pack.node.length / pack.tiles;
    const own = tiles.slice(first, first + pack.tiles).map(({ place, beside, owned }): Tile => {
      const nodes = Int32Array.from(beside.keys());
      const parent = nodes.map((node) => {
        const up = forward.parent[node]!;
        return up < 0 ? -1 : beside.has(up) ? n + beside.get(up)! : place.get(up)!;
      });
      return { nodes, parent, owned: Uint8Array.from(nodes, (node) => Number(owned.has(node))) };
    });
    first += pack.tiles;
    return { ...pack, beside: fillPack("forward", own, m, describe, ends, pack.tiles, true) };
  });
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

  const ending = new Float64Array(backward.size);
  for (const { node, weight } of ends) ending[node]! += weight;
  const pairsAt = (node: number) => ending[node]!;
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
  { nodes = packNodes, tileSize, stopped }: Pick<PlanOptions, "nodes" | "tileSize" | "stopped"> = {},
): Plan {
  const { forward, backward, ends } = forest;
  const endsAt = grouped(ends, (end) => backward.clean[end.node]!);
  const cut = (n: number) => cutForest(forward, n, { wanted: (node) => endsAt.has(node), stopped });
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
 * Sizes of tiles, all large enough for the longest prompt, those first that let all packs together have the least work: in small tiles more ancestors
 * are repeated, in large ones more is filled up, and each row's dense scores with all of its tile cost more.
 *
 * @param tiles the number of tiles of a size that the tree is cut into
 * @param nodes nodes per pack
 */
function bestTileSizes(
  { position, size }: Tree,
  tiles: (n: number) => number,
  { nodes = packNodes, model }: Pick<PlanOptions, "nodes" | "model">,
): number[] {
  const longest = 1 + position.reduce((a, b) => Math.max(a, b), 0);
  const even = evenOf(model);
  const work = (n: number) => {
    const count = Math.max(1, tiles(n));
    const each = evenly(count, mostTiles(nodes, n));
    return Math.ceil(count / each) * each * n * (1 + n / even);
  };
  const all = tileSizes(longest, size);
  // Tiles of long prompts may be larger than a pack, and so may one that just holds the longest prompt; no other is.
  const most = Math.max(isLong(longest) ? largestTile : nodes, all[0]!);
  const sizes = all.filter((n) => n <= most).map((n) => ({ n, work: work(n) }));
  return sizes.sort((a, b) => a.work - b.work).map(({ n }) => n);
}

/** The nodes per tile with which a tree takes the least work. */
export function chooseTileSize(
  tree: Tree,
  tiles: (n: number) => number,
  options: Pick<PlanOptions, "nodes" | "model"> = {},
): number {
  return bestTileSizes(tree, tiles, options)[0]!;
}

/** Rows in a tile with which attention takes as many operations as the linear layers. */
const evenOf = (model: RowCost | undefined) => (model ? model.flopsPerToken / model.attentionFlops : narrowEven);

/** The same of the embedded model. */
const narrowEven = 1152;

/** Nodes of a tree whose cutting takes so long that few sizes are tried. */
const largeTree = 8192;

/** The sizes that a tile may have: few for large trees, which fill tiles of any size. */
function tileSizes(longest: number, nodes: number): number[] {
  if (isLong(longest)) {
    const least = evenRows(longest);
    return [1, 2, 4, 8].map((factor) => factor * least).filter((n) => n === least || n <= largestTile);
  }
  const sizes: number[] = [];
  const [unit, step] = nodes > largeTree ? [32, 1.5] : [4, 1.06];
  for (let n = longest; n <= longestDense; n = step * sizes.at(-1)!) sizes.push(unit * Math.ceil(n / unit));
  return sizes.filter((n) => n <= longestDense);
}

const largestTile = 4096;

/** Whether prompts are so long that attention is computed in chunks in tiles that hold several. */
const isLong = (longest: number) => 8 * longest > longestDense;

/** At least so many rows, in a number that has many divisors: long tiles are computed in equal chunks. */
const evenRows = (rows: number) => 128 * Math.ceil(rows / 128);

/**
 * @param count tiles of the pack; those beyond `tiles` are padding
 * @param inTile whether parents are told by their places in the tile
 */
function fillPack(
  kind: Pack["kind"],
  tiles: readonly Tile[],
  n: number,
  describe: Describe,
  ends: readonly End[],
  count = tiles.length,
  inTile = false,
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
      if (tile.parent[i]! >= 0) parent[at] = tile.parent[i]! + (inTile ? 0 : b * n);
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
