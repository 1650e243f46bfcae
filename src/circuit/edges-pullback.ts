import type { Capture, SiteCapture } from "../capture/capture.ts";
import { type Floats, floatValue, type Hook, type Job, newFloats } from "../capture/hooks.ts";
import { openRunner } from "../capture/run.ts";
import type { Runner, Watch } from "../capture/runner.ts";
import { streamSite } from "../capture/stream-sites.ts";
import { cleanRow, patchRow } from "../effects/rest.ts";
import { cutForest, isChanged, type Tile } from "../forest/forest.ts";
import { chooseTileSize, type Pack } from "../forest/packs.ts";
import { input } from "../graph/tensor.ts";
import type { LoadedModel } from "../models/weights.ts";
import { parseSite, type SiteName, siteName } from "../site.ts";
import type { Step } from "./paths.ts";

/**
 * The places of cotangents: row r belongs to column[r], a target, at the backward node node[r]. Rows of a column follow one another, their nodes in
 * ascending order, so that parents come before children.
 */
export interface CotangentRows {
  readonly column: Int32Array;
  readonly node: Int32Array;
}

/** Products of cotangents with the transposed Jacobians of sublayers. */
export interface Pullback {
  /**
   * Jᵀv at the rows' nodes, summed for each column: a row gets what comes to its node from all rows of its column. Nodes of which a column has no row
   * get nothing.
   *
   * @param v cotangents [R, width of step.from]
   * @returns [R, width of where the step leads]
   */
  apply(step: Step, rows: CotangentRows, v: Floats): Promise<Floats>;
}

/** Rows of a run of attention or of an MLP, so many that products are efficient and working memory small. */
export const packRows = 512;

/**
 * Products with sublayers of a model, at the clean prompts or averaged over points on the way from the clean to the patch input of each sublayer.
 *
 * @param captured with the streams and attn_out of all layers, at every clean prefix and at the patch prefixes of changed ones
 * @param points 0 is the clean input, 1 the patch input; the Jacobians at all of them are averaged
 */
export function openPullback(
  loaded: LoadedModel,
  captured: Capture,
  points: readonly number[],
  watch: Pick<Watch, "stopped"> = {},
): Pullback {
  return {
    async apply(step, rows, v) {
      const { site: stream, hooks } = hooksOf(step);
      const runner = openRunner(loaded, { from: { site: stream }, until: step.layer, hooks });
      try {
        return await pullBack(loaded, captured, points, runner, step, rows, v, watch);
      } finally {
        await runner.release();
      }
    },
  };
}

/** What a step is in terms of a run: it begins at the stream, and a cotangent is given to the site where it comes from. */
function hooksOf({ sublayer, layer, from }: Step): { site: SiteName; hooks: Map<SiteName, Hook> } {
  const start: Hook = {
    trace: (x, { named }) => ({
      y: x.detach(),
      targets: [{ tensor: x, cotangent: input(named("cotangent"), x.dtype, x.shape) }],
    }),
  };
  // No gradient comes from above.
  const end: Hook = { trace: (x) => ({ y: x.detach() }) };
  const given: Hook = {
    trace(x, { named }) {
      const path = input(named("path"), x.dtype, x.shape);
      return { y: path, wrt: { path } };
    },
  };
  const hooks = new Map([
    [from, start],
    [siteName({ kind: "resid_post", layer }), end],
  ]);
  // What attention gives is given, so that rows need no ancestors.
  if (sublayer === "mlp") hooks.set(siteName({ kind: "attn_out", layer }), given);
  if (sublayer === "projection") hooks.set(siteName({ kind: "attn_z", layer }), given);
  return { site: streamSite(layer), hooks };
}

async function pullBack(
  { model, dtype }: LoadedModel,
  captured: Capture,
  points: readonly number[],
  runner: Runner,
  { sublayer, layer, from }: Step,
  rows: CotangentRows,
  v: Floats,
  watch: Pick<Watch, "stopped">,
): Promise<Floats> {
  const stream = streamSite(layer);
  const inside =
    sublayer === "attention" ? undefined : siteName({ kind: sublayer === "mlp" ? "attn_out" : "attn_z", layer });
  const [x, path] = [await captured.site(stream), inside === undefined ? undefined : await captured.site(inside)];
  const widthFrom = model.sites[parseSite(from).kind]!;
  // Attention's output reaches the MLP by the stream, whose gradient is all that counts.
  const to = sublayer === "projection" ? { site: inside, name: "path" } : { site: stream, name: "x" };
  const widthTo = sublayer === "projection" ? path!.width : model.width;
  const found = newFloats(dtype, rows.node.length * widthTo);
  const K = points.length;
  const { n, tiles } = inside ? tilesOfRows(rows, v, widthFrom) : tilesOfTrees(captured, rows, v, widthFrom);
  const perPack = Math.max(1, Math.floor(packRows / (n * K)));
  const packs = Math.max(1, Math.ceil(tiles.length / perPack));
  const size = Math.ceil(tiles.length / packs);
  const jobs = Array.from({ length: tiles.length === 0 ? 0 : packs }, (_, p): Job => {
    const chunk = tiles.slice(p * size, (p + 1) * size);
    const pack = packOf(captured, chunk, n, size, K);
    return {
      pack,
      inputs(site) {
        if (site === from)
          return {
            cotangent: floatValue(cotangentsOf(chunk, n, size, K, v, widthFrom), pack.tokens.length, widthFrom),
          };
        if (site === stream) return { x: pathValue(captured, pack, x, points, n) };
        return path && site === inside ? { path: pathValue(captured, pack, path, points, n) } : {};
      },
      found({ site, tensors }) {
        if (site === to.site) addRows(found, tensors[to.name]!, chunk, n, K, widthTo);
        return undefined;
      },
    };
  });
  await runner.run(jobs, watch);
  return found;
}

/** A piece of the work: nodes, parents before children, and of each its row among the cotangents; −1 where it has none. */
interface RowTile {
  readonly node: Int32Array;
  /** Places in the tile; −1 at roots. */
  readonly parent: Int32Array;
  readonly row: Int32Array;
  /** 1 where the row's cotangent counts here; a node can be repeated in other tiles as an ancestor. */
  readonly owned: Uint8Array;
}

const isZero = (v: Floats, row: number, D: number) => {
  for (let d = row * D; d < (row + 1) * D; d++) if (v[d] !== 0) return false;
  return true;
};

/** Rows by themselves, as an MLP takes them. */
function tilesOfRows({ node }: CotangentRows, v: Floats, D: number): { n: number; tiles: RowTile[] } {
  const n = 16;
  const used: number[] = [];
  node.forEach((_, row) => {
    if (!isZero(v, row, D)) used.push(row);
  });
  const tiles: RowTile[] = [];
  for (let at = 0; at < used.length; at += n) {
    const row = Int32Array.from(used.slice(at, at + n));
    tiles.push({
      row,
      node: row.map((r) => node[r]!),
      parent: new Int32Array(row.length).fill(-1),
      owned: new Uint8Array(row.length).fill(1),
    });
  }
  return { n, tiles };
}

/** Rows with all ancestors of their nodes, as attention takes them: a tree for each column, all cut into tiles. */
function tilesOfTrees(
  { plan }: Capture,
  { column, node }: CotangentRows,
  v: Floats,
  D: number,
): { n: number; tiles: RowTile[] } {
  const { backward } = plan.forest;
  const nodes: number[] = [];
  const parents: number[] = [];
  const rowOf: number[] = [];
  for (let from = 0; from < node.length; ) {
    let to = from;
    while (to < node.length && column[to] === column[from]) to++;
    const rows = new Map<number, number>();
    for (let row = from; row < to; row++) rows.set(node[row]!, row);
    const place = new Map<number, number>();
    const put = (at: number): number => {
      const known = place.get(at);
      if (known !== undefined) return known;
      const parent = backward.parent[at]! < 0 ? -1 : put(backward.parent[at]!);
      parents.push(parent);
      rowOf.push(rows.get(at) ?? -1);
      place.set(at, nodes.push(at) - 1);
      return nodes.length - 1;
    };
    for (let row = from; row < to; row++) put(node[row]!);
    from = to;
  }
  const tree = {
    size: nodes.length,
    parent: Int32Array.from(parents),
    position: Int32Array.from(nodes, (at) => backward.position[at]!),
  };
  const wanted = (at: number) => rowOf[at]! >= 0 && !isZero(v, rowOf[at]!, D);
  const n = chooseTileSize(tree, (size) => cutForest(tree, size, { wanted }).length);
  const tiles = cutForest(tree, n, { wanted }).map(
    ({ nodes: places, parent, owned }: Tile): RowTile => ({
      node: places.map((at) => nodes[at]!),
      parent,
      row: places.map((at) => rowOf[at]!),
      owned,
    }),
  );
  return { n, tiles };
}

/** The row of a pack at which copy k of a tile's place stands: a tile's copies are tiles side by side. */
const rowIn = (tile: number, k: number, K: number, n: number, at: number) => (tile * K + k) * n + at;

/** A pack of `size` tiles of n nodes, each K times; tiles beyond those given are padding. */
function packOf({ plan }: Capture, tiles: readonly RowTile[], n: number, size: number, K: number): Pack {
  const { backward } = plan.forest;
  const N = size * K * n;
  const [tokens, positions] = [new Int32Array(N), new Int32Array(N)];
  const [parent, node] = [new Int32Array(N).fill(-1), new Int32Array(N).fill(-1)];
  tiles.forEach((tile, t) => {
    for (let k = 0; k < K; k++) {
      tile.node.forEach((at, i) => {
        const row = rowIn(t, k, K, n, i);
        tokens[row] = backward.token[at]!;
        positions[row] = backward.position[at]!;
        node[row] = at;
        if (tile.parent[i]! >= 0) parent[row] = rowIn(t, k, K, n, tile.parent[i]!);
      });
    }
  });
  const none = new Int32Array(0);
  return {
    kind: "backward",
    tokens,
    positions,
    parent,
    tiles: size * K,
    node,
    keep: none,
    metric: { row: none, cleanAnswer: none, patchAnswer: none, weight: new Float32Array(0), end: none, prompt: [] },
  };
}

/** The cotangents of a pack's rows, each copy's a K-th. */
function cotangentsOf(tiles: readonly RowTile[], n: number, size: number, K: number, v: Floats, D: number): Floats {
  const out = new (v.constructor as new (n: number) => Floats)(size * K * n * D);
  tiles.forEach(({ row, owned }, t) => {
    row.forEach((r, i) => {
      if (r < 0 || !owned[i]) return;
      const own = v.subarray(r * D, (r + 1) * D);
      for (let k = 0; k < K; k++) {
        const at = rowIn(t, k, K, n, i) * D;
        out.set(own, at);
        if (K > 1) for (let d = at; d < at + D; d++) out[d]! /= K;
      }
    });
  });
  return out;
}

/** x_clean + α(x_patch − x_clean) [N,D] at a pack's rows, α by the copy that a row belongs to. */
function pathValue(captured: Capture, pack: Pack, { x, width: D }: SiteCapture, points: readonly number[], n: number) {
  const out = new (x.constructor as new (n: number) => Floats)(pack.node.length * D);
  const { backward } = captured.plan.forest;
  pack.node.forEach((node, row) => {
    if (node < 0) return;
    const [clean, at] = [cleanRow(captured, node) * D, row * D];
    const α = points[Math.floor(row / n) % points.length]!;
    if (α === 0 || !isChanged(backward, node)) {
      out.set(x.subarray(clean, clean + D), at);
      return;
    }
    const patch = patchRow(captured, node) * D;
    for (let d = 0; d < D; d++) out[at + d] = x[clean + d]! + α * (x[patch + d]! - x[clean + d]!);
  });
  return floatValue(out, pack.node.length, D);
}

/** found[row] += what was found at the row's place in each copy. */
function addRows(found: Floats, from: Floats, tiles: readonly RowTile[], n: number, K: number, D: number): void {
  tiles.forEach(({ row }, t) => {
    for (let i = 0; i < row.length; i++) {
      if (row[i]! < 0) continue;
      for (let k = 0, to = row[i]! * D; k < K; k++) {
        const at = rowIn(t, k, K, n, i) * D;
        for (let d = 0; d < D; d++) found[to + d]! += from[at + d]!;
      }
    }
  });
}
