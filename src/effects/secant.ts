import type { Capture, SiteCapture } from "../capture/capture.ts";
import { type Floats, floatValue, type Hook, type Job, newFloats } from "../capture/hooks.ts";
import { tileSizeOf } from "../capture/pack-inputs.ts";
import { runModel } from "../capture/run.ts";
import { streamLayer, streamSite } from "../capture/stream-sites.ts";
import { type MetricRows, type Pack, packNodes, tightPacks } from "../forest/packs.ts";
import { input } from "../graph/tensor.ts";
import { longestDense } from "../models/model.ts";
import { isStreamed } from "../models/weights.ts";
import { compareSites, parseSite, type SiteName, siteName } from "../site.ts";
import { effectsFrom } from "./analytic.ts";
import { captureFor } from "./capture-for.ts";
import { pointsOf } from "./integrated.ts";
import type { Method, MethodInput } from "./method.ts";
import { cleanRow, patchRow } from "./rest.ts";

/** Midpoints between a sublayer's clean and patch input: more where the embedding is asked for, from which the way to the metric is longest. */
export const secantSteps = (sites: readonly SiteName[]) => (sites.includes("embed") ? 8 : 4);

/**
 * The method `secant`: Δf·⟨ḡ, d⟩, where ḡ comes down through averages of each sublayer's Jacobian between its clean and its patch input:
 *
 *     ḡ after the last block = J̄ of final norm and metric;  ḡ_h = ḡ_l + J̄_mlpᵀ ḡ_l;  ḡ_(l−1) = ḡ_h + J̄_attnᵀ ḡ_h
 *
 * with ḡ_l at resid_post.l and mlp_out.l, ḡ_h at attn_out.l (parallel blocks: both sublayers read the same input); attention is two sublayers where
 * attn_z is asked for, which lies between them, and so is an MLP where mlp_act is. Features and error of every residual site then add up to m(patch) − m(clean), up to the error of K
 * midpoints. No SAE takes part; one backward pass of K points serves all sites.
 */
export const secantMethod: Method = async function* (given) {
  const captured = await captureFor(given, "both", sitesOfSecant([...given.dictionaries.keys()], given.model.layers));
  yield* effectsFrom(await secantGradients(given, captured), given);
};

/** The sites whose activations the method needs: those that are asked for, and the inputs and outputs of all sublayers above the lowest of them. */
export function sitesOfSecant(sites: readonly SiteName[], layers: number): SiteName[] {
  const low = lowestStream(sites);
  const needed = new Set([...sites, streamSite(low)]);
  for (let layer = low; layer < layers; layer++) {
    needed.add(siteName({ kind: "attn_out", layer }));
    needed.add(siteName({ kind: "resid_post", layer }));
  }
  return [...needed].sort(compareSites);
}

/** The block at whose input the work begins: that of the lowest site, or the one behind a site of the stream. */
const lowestStream = (sites: readonly SiteName[]) =>
  Math.min(...sites.map((site) => streamLayer(site) ?? parseSite(site).layer));

type Activations = Pick<SiteCapture, "x" | "width">;

/** A capture with ḡ in place of the gradients at the clean prompts, at the given sites. */
export async function secantGradients(
  given: MethodInput,
  captured: Capture,
  sites: readonly SiteName[] = [...given.dictionaries.keys()],
): Promise<Capture> {
  const { model, dtype, steps: K = secantSteps(sites) } = given;
  const low = lowestStream(sites);
  const size = captured.plan.forest.backward.size;
  const found = new Map(sites.map((site) => [site, newFloats(dtype, size * model.sites[parseSite(site).kind]!)]));
  const begin = streamSite(low);
  const averaged: SiteName[] = [];
  for (let layer = low; layer < model.layers; layer++) {
    averaged.push(siteName({ kind: "attn_out", layer }), siteName({ kind: "resid_post", layer }));
  }
  // What comes behind heads and neurons, a norm perhaps, is a sublayer by itself where their outputs are asked for.
  averaged.push(...sites.filter((site) => ["attn_z", "mlp_act"].includes(parseSite(site).kind)));
  const hooks = new Map<SiteName, Hook>(averaged.map((site) => [site, averagingHook(K)]));
  const points = pointsOf(K, "midpoint");
  const read = recentSites(captured, isStreamed(given.weights));
  const packs = tightPacks(captured.plan, { largest: Math.floor(longestDense / K), nodes: Math.ceil(packNodes / K) });
  const jobs = packs.map((pack): Job => {
    const copies = copiesOf(pack, K);
    return {
      pack: copies,
      async inputs(site) {
        if (site !== begin && !averaged.includes(site)) return {};
        const at = await read(site);
        const values = pathOf(pack, captured, at, points);
        return { [site === begin ? "x" : "path"]: floatValue(values, values.length / at.width, at.width) };
      },
      found({ site, kind, tensors }) {
        if (kind === "value") return undefined;
        for (const [target, g] of found) {
          if (gradientOf(target, begin) === site) addCopies(g, pack, K, (tensors.mean ?? tensors.x)!, !tensors.mean);
        }
        return undefined;
      },
    };
  });
  await runModel(given, jobs, {
    hooks,
    from: { site: begin },
    onProgress: given.onProgress,
    stopped: given.stopped,
  });
  return {
    ...captured,
    site: async (name) => {
      const g = found.get(name);
      const own = await captured.site(name);
      return g ? { ...own, g } : own;
    },
  };
}

/** What is kept of activations for packs to come, in bytes; with streamed weights in sites, of which a block has two or three. */
export const recent = { bytes: 2 ** 28, streamedSites: 4 } as const;

/**
 * Reads the activations of sites, without the gradients at the clean prompts, which nobody asks for here. Every pack needs all sites: those that were
 * read last are kept. With streamed weights all packs ask for those of one block after the other.
 */
function recentSites(captured: Capture, streamed: boolean): (site: SiteName) => Promise<Activations> {
  const known = new Map<SiteName, Promise<Activations>>();
  return async (site) => {
    const one = known.get(site) ?? captured.site(site).then(({ x, width }) => ({ x, width }));
    known.delete(site);
    known.set(site, one);
    const most = streamed ? recent.streamedSites : Math.max(1, Math.floor(recent.bytes / (await one).x.byteLength));
    for (const old of [...known.keys()].slice(0, -most)) known.delete(old);
    return one;
  };
}

/** At which site the gradient is found that is a site's ḡ: what the MLP writes has that of the stream behind it. */
function gradientOf(site: SiteName, begin: SiteName): SiteName {
  const { kind, layer } = parseSite(site);
  if (site === begin) return site;
  return kind === "mlp_out" ? siteName({ kind: "resid_post", layer }) : site;
}

/**
 * Puts the point on the way from the clean to the patch activation in place of what the copies have computed, and lets the mean of their gradients
 * pass: below, each copy sees ḡ/K.
 */
function averagingHook(K: number): Hook {
  return {
    trace(x, { context: { tileSize }, named }) {
      const D = x.shape.at(-1) as number;
      const mean = x.reshape("B", K, tileSize / K, D).mean(1);
      const path = input(named("path"), x.dtype, x.shape).reshape("B", K, tileSize / K, D);
      // Of value 0: the gradient alone passes.
      const passed = path.add(mean.sub(mean.detach()));
      return { y: passed.reshape(...x.shape), known: path.reshape(...x.shape), wrt: { mean } };
    },
  };
}

/** A pack with K copies of each tile side by side in one tile; each copy's metric counts by 1/K. */
function copiesOf(pack: Pack, K: number): Pack {
  const n = tileSizeOf(pack);
  const N = pack.tokens.length * K;
  /** Row of copy k of a row. */
  const rowOf = (row: number, k: number) => Math.floor(row / n) * K * n + k * n + (row % n);
  const spread = (from: Int32Array, value: (of: number, k: number) => number) => {
    const to = new Int32Array(N);
    from.forEach((of, row) => {
      for (let k = 0; k < K; k++) to[rowOf(row, k)] = value(of, k);
    });
    return to;
  };
  const copied = pack.metric.row.length * K;
  const metric = <T extends Int32Array | Float32Array>(
    from: T,
    make: (n: number) => T,
    value: (of: number, k: number) => number,
  ) => {
    const to = make(copied);
    from.forEach((of, i) => {
      for (let k = 0; k < K; k++) to[i * K + k] = value(of, k);
    });
    return to;
  };
  const ints = (length: number) => new Int32Array(length);
  const same = (of: number) => of;
  const rows: MetricRows = {
    row: metric(pack.metric.row, ints, rowOf),
    cleanAnswer: metric(pack.metric.cleanAnswer, ints, same),
    patchAnswer: metric(pack.metric.patchAnswer, ints, same),
    weight: metric(
      pack.metric.weight,
      (length) => new Float32Array(length),
      (of) => of / K,
    ),
    end: metric(pack.metric.end, ints, same),
    prompt: pack.metric.prompt.flatMap((prompt) => Array<typeof prompt>(K).fill(prompt)),
  };
  return {
    ...pack,
    tokens: spread(pack.tokens, same),
    positions: spread(pack.positions, same),
    parent: spread(pack.parent, (of, k) => (of < 0 ? -1 : rowOf(of, k))),
    node: spread(pack.node, same),
    keep: new Int32Array(0),
    metric: rows,
  };
}

/** x_clean + α(x_patch − x_clean) [K·N,D] for the rows of the copies. */
function pathOf(pack: Pack, captured: Capture, { x, width: D }: Activations, points: readonly number[]): Floats {
  const K = points.length;
  const n = tileSizeOf(pack);
  const out = new (x.constructor as new (n: number) => Floats)(pack.tokens.length * K * D);
  pack.node.forEach((node, row) => {
    if (node < 0) return;
    const [clean, patch] = [cleanRow(captured, node) * D, patchRow(captured, node) * D];
    points.forEach((α, k) => {
      const at = (Math.floor(row / n) * K * n + k * n + (row % n)) * D;
      for (let d = 0; d < D; d++) out[at + d] = x[clean + d]! + α * (x[patch + d]! - x[clean + d]!);
    });
  });
  return out;
}

/** g[node] += rows[row], of which there is one per row of the pack, or, where gradients are `apart`, one for each copy. */
function addCopies(g: Floats, pack: Pack, K: number, rows: Floats, apart: boolean): void {
  const n = tileSizeOf(pack);
  const copies = apart ? K : 1;
  const D = rows.length / (pack.tokens.length * copies);
  pack.node.forEach((node, row) => {
    if (node < 0) return;
    for (let k = 0; k < copies; k++) {
      const from = (Math.floor(row / n) * copies * n + k * n + (row % n)) * D;
      for (let d = 0; d < D; d++) g[node * D + d]! += rows[from + d]!;
    }
  });
}
