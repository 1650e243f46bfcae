import type { Capture } from "../capture/capture.ts";
import { type Floats, floatValue, type Hook, type Job, newFloats } from "../capture/hooks.ts";
import { openRunner } from "../capture/run.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { type CodeReader, codeReader } from "../dictionaries/encode.ts";
import { dictionaryAt, type Picked, pickFeatures } from "../dictionaries/pick.ts";
import { captureFor } from "../effects/capture-for.ts";
import { dot } from "../effects/directions.ts";
import type { MethodInput } from "../effects/method.ts";
import { cleanRow, patchRow } from "../effects/rest.ts";
import { secantGradients, secantSteps } from "../effects/secant.ts";
import type { Pack } from "../forest/packs.ts";
import { input } from "../graph/tensor.ts";
import { encodeRows } from "../interventions/ablation.ts";
import { forwardPacks } from "../interventions/evaluate.ts";
import type { SiteName } from "../site.ts";
import { type Jacobian, sitesOfEdges } from "./edges.ts";
import { type NodeCodes, nodeCodes } from "./edges-codes.ts";
import { type Source, sourceReader } from "./edges-sources.ts";

/** An edge by its ends. Of the metric both parts of the target are `metric`; of the tokens the source is `embed` and `token`. */
export interface EdgeEnds {
  readonly source: { readonly site: SiteName; readonly feature: number | "error" | "token" };
  readonly target: { readonly site: SiteName | "metric"; readonly feature: number | "metric" };
}

/** What an edge is when its source is changed and its target read, in logits, summed over the pairs of the forest and over positions. */
export interface MeasuredEdge {
  /** The clean run with the source at its patch value. */
  readonly intoClean: number;
  /** The patch run as it is, less the patch run with the source at its clean value. */
  readonly outOfPatch: number;
  /** The mean of both. */
  readonly measured: number;
}

export interface CheckEdgesOptions {
  /** What gives a target's ⟨g, d⟩, with which the change of its code is multiplied: that of the edges that are checked. `secant` by default. */
  readonly jacobian?: Jacobian;
}

/**
 * Edges by intervention, to be held against those that `edges` predicts: the source takes its value of the other prompt at all positions, all other
 * sites with dictionaries stay as they are in their run, and the target's code is read: Σ_nodes ⟨g, d⟩·(f_changed − f). Into the metric m itself is read,
 * weighted with the pairs.
 *
 * For each distinct source two forward passes of the forest serve all of its edges.
 *
 * @param edges as many as wanted; whatever else they hold, the predicted value say, is given back with what was measured
 * @throws UserError if there is no SAE at one of their sites, or no such feature; StoppedError if asked to stop
 */
export async function checkEdges<E extends EdgeEnds>(
  given: MethodInput,
  edges: readonly E[],
  { jacobian = "secant" }: CheckEdgesOptions = {},
): Promise<(E & MeasuredEdge)[]> {
  const { model, dictionaries, onProgress } = given;
  const chosen = [...dictionaries.keys()];
  const captured = await captureFor(given, "both", sitesOfEdges(chosen, model.layers));
  const steps = given.steps ?? secantSteps(chosen);
  const linear = jacobian === "secant" ? await secantGradients({ ...given, steps }, captured, chosen) : captured;
  const reader = codeReader(given);
  const targets = new Map<SiteName, TargetSite>();
  for (const { target } of edges) {
    if (target.site === "metric" || targets.has(target.site)) continue;
    targets.set(target.site, await targetSite(given, linear, target.site, edges));
  }
  const known = new Map<Dictionary, Promise<NodeCodes>>();
  const sourceAt = sourceReader(captured, dictionaries, (dictionary) => {
    const codes = known.get(dictionary) ?? nodeCodes(captured, dictionary, reader);
    known.set(dictionary, codes);
    return codes;
  });
  const runs = await openFrozenRuns(given, captured, targets, reader);
  const measured = new Map<E, MeasuredEdge>();
  try {
    const [plain] = await runs.run([null]);
    const sources = [...groupedBySource(edges).values()];
    for (let from = 0; from < sources.length; from += runs.together) {
      const batch = sources.slice(from, from + runs.together);
      const moves: Move[] = [];
      for (const [{ source }] of batch) moves.push(await moveOf(given, await sourceAt(source.site), source.feature));
      const changed = await runs.run(moves);
      batch.forEach((own, i) => {
        for (const edge of own) measured.set(edge, measure(edge, plain!, changed[i]!, targets));
      });
      onProgress?.(from + batch.length, sources.length);
    }
  } finally {
    await runs.release();
    await reader.release();
  }
  return edges.map((edge) => ({ ...edge, ...measured.get(edge)! }));
}

function groupedBySource<E extends EdgeEnds>(edges: readonly E[]): Map<string, [E, ...E[]]> {
  const groups = new Map<string, [E, ...E[]]>();
  for (const edge of edges) {
    const key = `${edge.source.site}/${edge.source.feature}`;
    const group = groups.get(key);
    if (group) group.push(edge);
    else groups.set(key, [edge]);
  }
  return groups;
}

/** The targets of one site. */
interface TargetSite {
  /** Where something can differ. */
  readonly nodes: Int32Array;
  readonly picked: Picked;
  /** ⟨g, d⟩ of the picked features there, [nodes,U]. */
  readonly left: Float64Array;
}

async function targetSite(
  { dictionaries }: MethodInput,
  linear: Capture,
  site: SiteName,
  edges: readonly EdgeEnds[],
): Promise<TargetSite> {
  const dictionary = dictionaryAt(dictionaries, site);
  const own = edges.flatMap(({ target }) => (target.site === site ? [target.feature as number] : []));
  const features = [...new Set(own)];
  const picked = await pickFeatures(dictionary, features);
  const rows = await dictionary.decoderRows(features);
  const { g, width: D } = await linear.site(site);
  const nodes = linear.activeNodes(site);
  const U = features.length;
  const left = new Float64Array(nodes.length * U);
  nodes.forEach((node, place) => {
    for (let u = 0; u < U; u++) left[place * U + u] = dot(g, node * D, rows, u * D, D);
  });
  return { nodes, picked, left };
}

/** What a source adds to its site when it goes from its clean to its patch value. */
interface Move {
  readonly site: SiteName;
  /** Adds sign·change of a backward node to to[at…at + D). */
  add(node: number, sign: number, to: Floats, at: number): void;
}

async function moveOf(
  { dictionaries }: MethodInput,
  { site, width: D, placeOf, changes, features }: Source,
  feature: number | "error" | "token",
): Promise<Move> {
  const dictionary = feature === "token" ? undefined : dictionaryAt(dictionaries, site);
  if (!dictionary || typeof feature !== "number") {
    const moved = dictionary ? features!.errors : changes;
    return {
      site,
      add(node, sign, to, at) {
        const from = placeOf[node]! * D;
        if (from < 0) return;
        for (let d = 0; d < D; d++) to[at + d]! += sign * moved[from + d]!;
      },
    };
  }
  const direction = await dictionary.decoderRows([feature]);
  const differences = differencesOf(features!.codes, feature);
  return {
    site,
    add(node, sign, to, at) {
      const difference = sign * (differences.get(node) ?? 0);
      if (difference !== 0) for (let d = 0; d < D; d++) to[at + d]! += difference * direction[d]!;
    },
  };
}

/** f_patch − f_clean of a feature, by backward node. */
function differencesOf({ nodes, offsets, feature: features, difference }: NodeCodes, feature: number) {
  const found = new Map<number, number>();
  nodes.forEach((node, place) => {
    for (let at = offsets[place]!; at < offsets[place + 1]!; at++) {
      if (features[at] === feature) found.set(node, difference[at]!);
    }
  });
  return found;
}

const directions = ["clean", "patch"] as const;
type Direction = (typeof directions)[number];

/** What is read of a run with one source changed, or none: by the prompt whose activations stand everywhere else. */
type Readings = Readonly<Record<Direction, Reading>>;

interface Reading {
  /** Codes of the targets at each site [nodes,U]. */
  readonly codes: Map<SiteName, Floats>;
  /** Σ m over pairs. */
  metric: number;
}

/** Sites are read as they are computed, and go on as they are in the clean or in the patch run. */
function frozenHook(isRead: boolean): Hook {
  return {
    trace: (x, { named }) => ({
      y: input(named("frozen"), x.dtype, x.shape),
      ...(isRead && { values: { x } }),
    }),
  };
}

/** Numbers that are read of runs and in memory at a time. */
const mostNumbers = 2 ** 26;

async function openFrozenRuns(
  given: MethodInput,
  captured: Capture,
  targets: ReadonlyMap<SiteName, TargetSite>,
  reader: CodeReader,
) {
  const { dictionaries, forest, dtype, stopped } = given;
  const frozen = new Map<SiteName, { x: Floats; width: number }>();
  for (const site of new Set(["embed", ...dictionaries.keys()])) frozen.set(site, await captured.site(site));
  const hooks = new Map([...frozen.keys()].map((site) => [site, frozenHook(targets.has(site))]));
  const runner = openRunner(given, { hooks });
  const packs = forwardPacks(forest);
  const places = new Map([...targets].map(([site, { nodes }]) => [site, placesOf(nodes, forest.backward.size)]));
  const numbers = [...targets].reduce((sum, [site, { nodes }]) => sum + nodes.length * frozen.get(site)!.width, 0);

  const job = (
    pack: Pack,
    move: Move | null,
    direction: Direction,
    x: ReadonlyMap<SiteName, Floats>,
    to: Reading,
  ): Job => ({
    pack,
    inputs(site) {
      const { x: kept, width: D } = frozen.get(site)!;
      const values = newFloats(dtype, pack.node.length * D);
      pack.node.forEach((node, row) => {
        if (node < 0) return;
        const from = (direction === "clean" ? cleanRow(captured, node) : patchRow(captured, node)) * D;
        values.set(kept.subarray(from, from + D), row * D);
        if (move?.site === site) move.add(node, direction === "clean" ? 1 : -1, values, row * D);
      });
      return { frozen: floatValue(values, pack.node.length, D) };
    },
    metric(values) {
      values.forEach((m, i) => {
        to.metric += pack.metric.weight[i]! * m;
      });
    },
    found({ site, tensors }) {
      const { width: D } = frozen.get(site)!;
      pack.node.forEach((node, row) => {
        const place = node < 0 ? -1 : places.get(site)![node]!;
        if (place >= 0) x.get(site)!.set(tensors.x!.subarray(row * D, (row + 1) * D), place * D);
      });
      return undefined;
    },
  });

  return {
    /** How many sources are best changed together, each by itself: their runs share the reading of streamed weights. */
    together: Math.max(1, Math.floor(mostNumbers / (2 * Math.max(1, numbers)))),
    async run(moves: readonly (Move | null)[]): Promise<Readings[]> {
      const open = moves.map((move) =>
        directions.map((direction) => {
          const x = new Map(
            [...targets].map(([site, { nodes }]) => [site, newFloats(dtype, nodes.length * frozen.get(site)!.width)]),
          );
          const reading: Reading = { codes: new Map(), metric: 0 };
          return { x, reading, jobs: packs.map((pack) => job(pack, move, direction, x, reading)) };
        }),
      );
      await runner.run(
        open.flat().flatMap(({ jobs }) => jobs),
        { stopped },
      );
      for (const { x, reading } of open.flat()) {
        for (const [site, { nodes, picked }] of targets) {
          const U = picked.features.length;
          const codes = newFloats(dtype, nodes.length * U);
          const { put } = await encodeRows(dictionaries.get(site)!, reader, x.get(site)!, picked);
          nodes.forEach((_, place) => {
            put(place, codes, place * U);
          });
          reading.codes.set(site, codes);
        }
      }
      return open.map(([clean, patch]) => ({ clean: clean!.reading, patch: patch!.reading }));
    },
    release: () => runner.release(),
  };
}

/** For each backward node its place in a list; −1 for others. */
function placesOf(nodes: Int32Array, size: number): Int32Array {
  const places = new Int32Array(size).fill(-1);
  nodes.forEach((node, place) => {
    places[node] = place;
  });
  return places;
}

function measure(
  { target }: EdgeEnds,
  plain: Readings,
  changed: Readings,
  targets: ReadonlyMap<SiteName, TargetSite>,
): MeasuredEdge {
  const difference = (direction: Direction): number => {
    const [before, after] = [plain[direction], changed[direction]];
    if (target.site === "metric") return after.metric - before.metric;
    const { nodes, picked, left } = targets.get(target.site)!;
    const [f, changedF] = [before.codes.get(target.site)!, after.codes.get(target.site)!];
    const [U, u] = [picked.features.length, picked.features.indexOf(target.feature as number)];
    let sum = 0;
    for (let at = u; at < nodes.length * U; at += U) sum += left[at]! * (changedF[at]! - f[at]!);
    return sum;
  };
  const [intoClean, outOfPatch] = [difference("clean"), -difference("patch")];
  return { intoClean, outOfPatch, measured: (intoClean + outOfPatch) / 2 };
}
