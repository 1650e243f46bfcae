import type { Capture } from "../capture/capture.ts";
import type { Floats, Job } from "../capture/hooks.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { type CodeReader, codeReader, codeRow, type SparseCodes } from "../dictionaries/encode.ts";
import { StoppedError } from "../errors.ts";
import type { BackwardNodes, PrefixForest } from "../forest/forest.ts";
import type { MetricRows, Pack } from "../forest/packs.ts";
import { openLoops } from "../graph/loops/loops.ts";
import type { Watch } from "../progress.ts";
import type { SiteName } from "../site.ts";
import { analyticEffects } from "./analytic.ts";
import { forEachDifference } from "./code-effects.ts";
import { type Directions, directionsOf } from "./directions.ts";
import { shareFrom } from "./estimate.ts";
import { captureForRest } from "./integrated.ts";
import type { KeptCodes } from "./kept-codes.ts";
import type { Method, MethodInput, SiteEffects } from "./method.ts";
import { type Continuation, cleanRow, openContinuation, patchRow, rowsValue } from "./rest.ts";
import { errorFeature, RowBuilder } from "./rows.ts";

/** Rows that go through the model together. */
const packRows = 512;

/**
 * The method `exact`: at each node by itself each feature takes its patch value, x + Δf·d, and the metric is computed again from that site on; the
 * effect is its change, summed over the pairs that pass through the node. The error is patched likewise, x + Δε. It is what the linear methods
 * approximate.
 *
 * A patch changes its node and the nodes below it, so these alone are computed again. Many patches share a tile: copies of a node's subtree hang
 * under one copy of its ancestors, which they see unpatched.
 */
export const exactMethod: Method = async function* (given) {
  const captured = await captureForRest(given);
  const codes = codeReader(given);
  try {
    const subtrees = new Subtrees(captured.plan.forest, captured.plan.tileSize);
    const wanted = await wantedFeatures(given, captured, codes);
    const errors = given.patchErrors ?? true;
    const known = new Map<Dictionary, NodePatches[]>();
    const patchesOf = async (dictionary: Dictionary) => {
      const features = wanted.get(dictionary.writes);
      const patches =
        known.get(dictionary) ?? (await patchesAt(captured, dictionary, codes, features, errors, given.keptCodes));
      // Those of a few features take little memory, and the SAE is not read again.
      if (features && !errors) known.set(dictionary, patches);
      return patches;
    };
    const perRow = given.model.flopsPerToken + captured.plan.tileSize * given.model.attentionFlops;
    let [patches, flops] = [0, 0];
    for (const dictionary of given.dictionaries.values()) {
      for (const { node, changes } of await patchesOf(dictionary)) {
        patches += changes.length;
        flops += changes.length * subtrees.rows(node) * perRow * shareFrom(given.model, dictionary.writes);
      }
    }
    given.onWork?.({ patches, flops });
    const step = progress(given, patches);
    for (const dictionary of given.dictionaries.values()) {
      const at = await patchesOf(dictionary);
      yield await exactEffects(given, captured, dictionary, at, subtrees, step);
    }
  } finally {
    await codes.release();
  }
};

/** Counts patches. */
function progress({ onProgress, stopped }: MethodInput, total: number) {
  let done = 0;
  return (patches: number) => {
    if (stopped?.()) throw new StoppedError();
    done += patches;
    onProgress?.(done, total);
  };
}

/** The features to patch by site; a site without an entry is patched in full. */
async function wantedFeatures(
  { features, dictionaries }: MethodInput,
  captured: Capture,
  codes: CodeReader,
): Promise<ReadonlyMap<SiteName, ReadonlySet<number>>> {
  const wanted = new Map<SiteName, ReadonlySet<number>>();
  if (features === undefined) return wanted;
  const loops = openLoops();
  for (const [site, dictionary] of dictionaries) {
    if (features instanceof Map) {
      wanted.set(site, new Set(features.get(site) ?? []));
    } else if ("top" in features) {
      const { rows } = await analyticEffects(captured, dictionary, codes, loops);
      wanted.set(site, new Set(strongest(rows, features.top)));
    }
  }
  return wanted;
}

/** The features with the largest |Σ effect|. */
function strongest(rows: { readonly feature: Int32Array; readonly effect: Float64Array }, count: number): number[] {
  const sums = new Map<number, number>();
  rows.feature.forEach((feature, i) => {
    if (feature !== errorFeature) sums.set(feature, (sums.get(feature) ?? 0) + rows.effect[i]!);
  });
  const order = [...sums].sort(([f, a], [h, b]) => Math.abs(b) - Math.abs(a) || f - h);
  return order.slice(0, count).map(([feature]) => feature);
}

/** One feature's change at a node. The error's has no codes. */
interface Change {
  readonly feature: number;
  readonly fClean: number;
  readonly fPatch: number;
}

/** The patches at a node: the error's first, if it is patched, then those of the features that are asked for, in ascending order. */
interface NodePatches {
  readonly node: number;
  readonly changes: readonly Change[];
  /** Δx[D] less what all features make of it; undefined where the error is not patched. */
  readonly deltaError: Float64Array | undefined;
  /** Those of the features that are patched. */
  readonly directions: Directions;
}

async function patchesAt(
  captured: Capture,
  dictionary: Dictionary,
  reader: CodeReader,
  wanted: ReadonlySet<number> | undefined,
  errors: boolean,
  kept?: KeptCodes,
): Promise<NodePatches[]> {
  const { x, width: D } = await captured.site(dictionary.writes);
  const { plan } = captured;
  const all = [...Array(plan.rows).keys()];
  const sparse: SparseCodes = kept?.at(dictionary.writes, plan, all) ?? (await reader.encode(dictionary, x));
  kept?.keep(dictionary.writes, plan, sparse, all);
  const needed = wanted && !errors ? sparse.features.filter((feature) => wanted.has(feature)) : sparse.features;
  const directions = await directionsOf(dictionary, needed);
  return Array.from(captured.activeNodes(dictionary.writes), (node) => {
    const [clean, patch] = [cleanRow(captured, node), patchRow(captured, node)];
    const deltaError = errors
      ? Float64Array.from({ length: D }, (_, d) => x[patch * D + d]! - x[clean * D + d]!)
      : undefined;
    const changes: Change[] = errors ? [{ feature: errorFeature, fClean: Number.NaN, fPatch: Number.NaN }] : [];
    forEachDifference({ clean: codeRow(sparse, clean), patch: codeRow(sparse, patch) }, (feature, fClean, fPatch) => {
      if (deltaError) takeOut(deltaError, fPatch - fClean, directions, feature);
      if (!wanted || wanted.has(feature)) changes.push({ feature, fClean, fPatch });
    });
    return { node, changes, deltaError, directions };
  });
}

/** rest[D] −= factor · d_i */
function takeOut(rest: Float64Array, factor: number, { data, start }: Directions, feature: number): void {
  const at = start[feature]!;
  for (let d = 0; d < rest.length; d++) rest[d]! -= factor * data[at + d]!;
}

/** delta · d_i[D] */
function changeAlong({ data, start }: Directions, feature: number, delta: number, D: number): Float64Array {
  const change = new Float64Array(D);
  const at = start[feature]!;
  for (let d = 0; d < D; d++) change[d] = delta * data[at + d]!;
  return change;
}

async function exactEffects(
  given: MethodInput,
  captured: Capture,
  dictionary: Dictionary,
  patches: readonly NodePatches[],
  subtrees: Subtrees,
  step: (patches: number) => void,
): Promise<SiteEffects> {
  const { writes: site, outputWidth: D } = dictionary;
  const rest = await openContinuation(given, captured, { site });
  const rows = new RowBuilder(site);
  const queue = new PatchQueue(rest, captured, subtrees, { stopped: given.stopped });
  try {
    for (const { node, changes, deltaError, directions } of patches) {
      if (changes.length === 0) continue;
      // The metric without a patch, computed in the same way, so that what is left of the difference is the patch's.
      const base = { m: 0 };
      const patched = changes.map(() => ({ m: 0 }));
      const finish = () => {
        changes.forEach(({ feature, fClean, fPatch }, i) => {
          rows.add(node, feature, fClean, fPatch, Number.NaN, patched[i]!.m - base.m);
        });
        step(changes.length);
      };
      await queue.add(node, undefined, base);
      for (const [i, { feature, fClean, fPatch }] of changes.entries()) {
        const change = feature === errorFeature ? deltaError : changeAlong(directions, feature, fPatch - fClean, D);
        await queue.add(node, change, patched[i]!);
      }
      queue.after(finish);
    }
    await queue.flush();
  } finally {
    await rest.runner.release();
  }
  return { rows: rows.finish() };
}

/** As much of a node's subtree as fits into a tile with its ancestors: the node itself first, parents before children. */
interface Fragment {
  readonly nodes: readonly number[];
  /** Of each node its parent's place in `nodes`; −1 for the patched node, whose parent is its last ancestor. */
  readonly parent: readonly number[];
  /** Whether the node's ends are counted here; in other fragments it is repeated as an ancestor. */
  readonly owned: readonly boolean[];
}

/** The subtrees of the backward nodes, cut into fragments. */
class Subtrees {
  readonly backward: BackwardNodes;
  readonly ends: PrefixForest["ends"];
  readonly tileSize: number;
  readonly endsAt = new Map<number, number[]>();
  readonly #children: number[][];
  readonly #fragments = new Map<number, Fragment[]>();

  constructor({ backward, ends }: PrefixForest, tileSize: number) {
    this.backward = backward;
    this.ends = ends;
    this.tileSize = tileSize;
    this.#children = Array.from({ length: backward.size }, () => []);
    for (let node = 0; node < backward.size; node++) {
      const parent = backward.parent[node]!;
      if (parent >= 0) this.#children[parent]!.push(node);
    }
    ends.forEach(({ node }, e) => {
      this.endsAt.set(node, [...(this.endsAt.get(node) ?? []), e]);
    });
  }

  /** The node's ancestors, the root first. */
  ancestors(node: number): number[] {
    const path: number[] = [];
    for (let at = this.backward.parent[node]!; at >= 0; at = this.backward.parent[at]!) path.push(at);
    return path.reverse();
  }

  /** Rows that one patch of a node takes. */
  rows(node: number): number {
    return this.fragments(node).reduce((sum, { nodes }) => sum + nodes.length, 0);
  }

  fragments(node: number): readonly Fragment[] {
    const known = this.#fragments.get(node);
    if (known) return known;
    const room = this.tileSize - this.backward.position[node]!;
    const made: { nodes: number[]; parent: number[]; owned: boolean[] }[] = [];
    let place = new Map<number, number>();
    /** Puts a node and those of its ancestors up to the patched one that are missing into the fragment at hand, or into a new one. */
    const put = (at: number) => {
      const missing: number[] = [];
      const collect = () => {
        missing.length = 0;
        for (let up = at; !place.has(up); up = this.backward.parent[up]!) {
          missing.push(up);
          if (up === node) break;
        }
      };
      collect();
      if (made.length === 0 || place.size + missing.length > room) {
        made.push({ nodes: [], parent: [], owned: [] });
        place = new Map();
        collect();
      }
      const fragment = made.at(-1)!;
      for (const one of missing.reverse()) {
        place.set(one, fragment.nodes.push(one) - 1);
        fragment.parent.push(one === node ? -1 : place.get(this.backward.parent[one]!)!);
        fragment.owned.push(one === at);
      }
    };
    const stack = [node];
    while (stack.length > 0) {
      const at = stack.pop()!;
      put(at);
      stack.push(...this.#children[at]!.toReversed());
    }
    this.#fragments.set(node, made);
    return made;
  }
}

/** Fills packs with patched copies of subtrees and runs them; the weighted metric of each copy's ends is added to its patch. */
class PatchQueue {
  readonly #rest: Continuation;
  readonly #captured: Capture;
  readonly #subtrees: Subtrees;
  readonly #watch: Watch;
  readonly #tiles: number;
  #x: Floats;
  #node: Int32Array;
  #parent: Int32Array;
  /** Rows of the tile at hand, and where its unpatched ancestors are. */
  #tile = 0;
  #used = 0;
  #place = new Map<number, number>();
  #asked: { row: number; end: number; to: { m: number } }[] = [];
  #after: (() => void)[] = [];
  /** Whether no pack was full before the one at hand. */
  #isFirst = true;
  readonly #jobs: Job[] = [];

  constructor(rest: Continuation, captured: Capture, subtrees: Subtrees, watch: Watch) {
    this.#watch = watch;
    this.#rest = rest;
    this.#captured = captured;
    this.#subtrees = subtrees;
    this.#tiles = Math.max(1, Math.floor(packRows / subtrees.tileSize));
    const N = this.#tiles * subtrees.tileSize;
    this.#x = new (rest.captured.x.constructor as new (n: number) => Floats)(N * rest.captured.width);
    this.#node = new Int32Array(N).fill(-1);
    this.#parent = new Int32Array(N).fill(-1);
  }

  /** Adds Σ weight·m over the ends below a node to `to`, once the pack has run, with the change made to the node's activation. */
  async add(node: number, change: Float64Array | undefined, to: { m: number }): Promise<void> {
    const { endsAt, tileSize } = this.#subtrees;
    for (const { nodes, parent, owned } of this.#subtrees.fragments(node)) {
      const ancestors = this.#subtrees.ancestors(node);
      const missing = () => ancestors.filter((at) => !this.#place.has(at));
      if (this.#used + missing().length + nodes.length > tileSize) {
        if (this.#tile + 1 < this.#tiles) this.#next();
        else await this.#full();
      }
      for (const at of missing())
        this.#place.set(at, this.#row(at, this.#place.get(this.#subtrees.backward.parent[at]!) ?? -1));
      const above = ancestors.length === 0 ? -1 : this.#place.get(ancestors.at(-1)!)!;
      const first = this.#tile * tileSize + this.#used;
      nodes.forEach((at, i) => {
        const row = this.#row(at, i === 0 ? above : first + parent[i]!);
        if (i === 0 && change) for (let d = 0; d < change.length; d++) this.#x[row * change.length + d]! += change[d]!;
        if (owned[i]) for (const end of endsAt.get(at) ?? []) this.#asked.push({ row, end, to });
      });
    }
  }

  /** Calls `done` once all that was added so far has run. */
  after(done: () => void): void {
    this.#after.push(done);
  }

  /** Runs all that was added. What fits into one pack takes no more tiles than it needs; all packs are of one size otherwise, as sessions are made for it. */
  async flush(): Promise<void> {
    if (this.#isFirst) this.#shorten(this.#tile + 1);
    this.#close();
    await this.#run();
  }

  /** Leaves the tiles behind the first few out of the pack at hand. */
  #shorten(tiles: number): void {
    const N = tiles * this.#subtrees.tileSize;
    this.#x = this.#x.subarray(0, N * this.#rest.captured.width);
    this.#node = this.#node.subarray(0, N);
    this.#parent = this.#parent.subarray(0, N);
  }

  /** Makes a job of the pack at hand, and begins another pack. */
  #close(): void {
    this.#isFirst = false;
    const [asked, x, nodes] = [this.#asked, this.#x, this.#node];
    if (asked.length > 0) {
      const pack = this.#pack();
      this.#jobs.push({
        pack,
        ...this.#rest.before(pack, (row) => nodes[row]!),
        inputs: () => ({ x: rowsValue(x, this.#rest.captured.width) }),
        metric: (values) => {
          asked.forEach(({ end, to }, i) => {
            to.m += this.#subtrees.ends[end]!.weight * values[i]!;
          });
        },
      });
    }
    this.#asked = [];
    this.#x = new (x.constructor as new (n: number) => Floats)(x.length);
    this.#node = new Int32Array(nodes.length).fill(-1);
    this.#parent = new Int32Array(nodes.length).fill(-1);
    this.#tile = -1;
    this.#next();
  }

  async #run(): Promise<void> {
    await this.#rest.runner.run(this.#jobs.splice(0), this.#watch);
    for (const done of this.#after.splice(0)) done();
  }

  /** The pack at hand is full. Packs run together where that saves reading weights. */
  async #full(): Promise<void> {
    this.#close();
    const rows = this.#jobs.reduce((sum, { pack }) => sum + pack.tokens.length, 0);
    if (rows + this.#x.length / this.#rest.captured.width > this.#rest.runner.rowsTogether) await this.#run();
  }

  #next(): void {
    this.#tile++;
    this.#used = 0;
    this.#place = new Map();
  }

  /** Takes the next row of the tile for a node, with its clean activation. */
  #row(node: number, parent: number): number {
    const row = this.#tile * this.#subtrees.tileSize + this.#used++;
    const { x, width: D } = this.#rest.captured;
    const from = cleanRow(this.#captured, node) * D;
    this.#x.set(x.subarray(from, from + D), row * D);
    this.#node[row] = node;
    this.#parent[row] = parent;
    return row;
  }

  #pack(): Pack {
    const { ends, backward, tileSize } = this.#subtrees;
    const endOf = (key: "cleanAnswer" | "patchAnswer") => Int32Array.from(this.#asked, ({ end }) => ends[end]![key]);
    const metric: MetricRows = {
      row: Int32Array.from(this.#asked, ({ row }) => row),
      cleanAnswer: endOf("cleanAnswer"),
      patchAnswer: endOf("patchAnswer"),
      weight: new Float32Array(this.#asked.length),
      end: Int32Array.from(this.#asked, ({ end }) => end),
      prompt: this.#asked.map(() => "clean"),
    };
    return {
      kind: "forward",
      tokens: this.#node.map((node) => (node < 0 ? 0 : backward.token[node]!)),
      positions: this.#node.map((node) => (node < 0 ? 0 : backward.position[node]!)),
      parent: this.#parent,
      tiles: this.#node.length / tileSize,
      node: this.#node,
      keep: new Int32Array(0),
      metric,
    };
  }
}
