import { activeNodes, forwardNode, placeMetric } from "../capture/capture.ts";
import type { Floats, Hook, Hooked, Job } from "../capture/hooks.ts";
import { floatsOf } from "../capture/pack-inputs.ts";
import { runModel } from "../capture/run.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import {
  type CodeRow,
  encoderForm,
  encoderTensors,
  encoderValues,
  sparseRow,
  traceCodes,
} from "../dictionaries/encode.ts";
import type { Pack, Plan } from "../forest/packs.ts";
import { input } from "../graph/tensor.ts";
import type { SiteName } from "../site.ts";
import { planFor } from "./capture-for.ts";
import { type CodePair, codeEffects, forEachDifference } from "./code-effects.ts";
import { dot } from "./directions.ts";
import type { Method, MethodInput, SiteEffects } from "./method.ts";

/**
 * The method `sfc`: at every site x is replaced by x̂ = f W_dec + b_dec + ε of the same value. Backward the gradient passes x̂ → x as the identity and
 * x̂ → f through W_decᵀ; f is detached from x. effect = Δf·∂M/∂f, the error's ⟨∂M/∂ε, Δε⟩.
 */
export const sfcMethod: Method = (given) => splicedEffects(given, "straight");

/** The method `spliced`: the same values, but ε is detached from x and f is not: gradients reach earlier sites through the encoders alone. */
export const splicedMethod: Method = (given) => splicedEffects(given, "encoder");

/** The way of gradients from x̂ to x: as the identity, or through the code. */
type Way = "straight" | "encoder";

async function* splicedEffects(given: MethodInput, way: Way): AsyncGenerator<SiteEffects> {
  const { model, dictionaries, forest, dtype } = given;
  const plan = planFor(given, "changed");
  const hooks = new Map<SiteName, Hook>();
  for (const dictionary of dictionaries.values())
    hooks.set(dictionary.writes, await spliceHook(dictionary, way, dtype));
  const found = new Map(
    [...dictionaries].map(([site, dictionary]) => [
      site,
      new SplicedSite(site, dictionary, plan, activeNodes(model, forest, site), dtype),
    ]),
  );
  const [clean, patch] = [new Float64Array(forest.ends.length), new Float64Array(forest.ends.length)];
  // Patch prompts that are no other pair's clean prompt first: the sooner a node's two codes are known, the fewer dense gradients wait.
  const packs = plan.packs.toSorted((a, b) => Number(a.kind === "backward") - Number(b.kind === "backward"));
  const jobs = packs.map(
    (pack): Job => ({
      pack,
      metric: (values) => placeMetric(pack, values, clean, patch),
      found({ site, kind, tensors: { f, error } }) {
        if (kind === "value") found.get(site)!.addCodes(pack, f!, error!);
        else found.get(site)!.addGradients(pack, f!, error!);
        return undefined;
      },
    }),
  );
  await runModel(given, jobs, { hooks, onProgress: given.onProgress, stopped: given.stopped });
  given.onMetric?.(clean, patch);
  for (const site of found.values()) yield { rows: site.rows() };
}

async function spliceHook(dictionary: Dictionary, way: Way, dtype: "float32" | "float64"): Promise<Hook> {
  const { inputWidth, outputWidth: D, featureCount: F } = dictionary;
  // The weights are asked for again when the work comes to the site: those of all sites need not fit into memory together.
  const encoder = encoderForm(await dictionary.encoder());
  const normalized = encoder.rule.normalization !== "none";
  return {
    trace(x, { named }): Hooked {
      const decoder = input(named("decoder"), dtype, [F, D]);
      // Of an SAE that is normalised per token, mean and scaled bias count as error (METHOD): its bias is no constant.
      const bias = normalized ? undefined : input(named("decoder_bias"), dtype, [D]);
      const f = traceCodes(
        way === "straight" ? x.detach() : x,
        encoderTensors(encoder, inputWidth, F, dtype, named),
        encoder.rule,
      );
      const decoded = f.matmul(decoder);
      const reconstruction = bias ? decoded.add(bias) : decoded;
      const error = way === "straight" ? x.sub(reconstruction.detach()) : x.sub(reconstruction).detach();
      return { y: reconstruction.add(error), values: { f, error }, wrt: { f, error } };
    },
    weights: async () => ({
      ...encoderValues(await dictionary.encoder(), dtype),
      decoder: floatsOf(await dictionary.decoder(), dtype, F, D),
      ...(!normalized && { decoder_bias: floatsOf(await dictionary.decoderBias(), dtype, D) }),
    }),
  };
}

/** What the passes have found at one site. */
class SplicedSite {
  readonly site: string;
  readonly #plan: Plan;
  readonly #D: number;
  readonly #F: number;
  readonly #nodes: Int32Array;
  readonly #isActive: Uint8Array;
  /** Codes and errors ε[rows,D] by kept forward row. */
  readonly #codes: (CodeRow | undefined)[];
  readonly #errors: Floats;
  /**
   * ∂M/∂f by node: dense as long as the patch prompt's codes are not known, then of the features whose codes differ alone. A node that several
   * tiles repeat has gradients in several packs, which add up.
   */
  readonly #dense = new Map<number, Float64Array>();
  readonly #slopes = new Map<number, Map<number, number>>();
  /** ∂M/∂ε [nodes,D]. */
  readonly #errorGradients: Float64Array;

  constructor(site: string, dictionary: Dictionary, plan: Plan, nodes: Int32Array, dtype: "float32" | "float64") {
    this.site = site;
    this.#plan = plan;
    this.#D = dictionary.outputWidth;
    this.#F = dictionary.featureCount;
    this.#nodes = nodes;
    this.#isActive = new Uint8Array(plan.forest.backward.size);
    for (const node of nodes) this.#isActive[node] = 1;
    this.#codes = new Array(plan.rows).fill(undefined);
    this.#errors = new (dtype === "float64" ? Float64Array : Float32Array)(plan.rows * this.#D);
    this.#errorGradients = new Float64Array(plan.forest.backward.size * this.#D);
  }

  /** @param f [N,F] and `error` [N,D] of a pack */
  addCodes(pack: Pack, f: Floats, error: Floats): void {
    const [D, F] = [this.#D, this.#F];
    for (const row of pack.keep) {
      const kept = this.#plan.row[forwardNode(this.#plan, pack, row)]!;
      this.#codes[kept] = sparseRow(f.subarray(row * F, (row + 1) * F));
      this.#errors.set(error.subarray(row * D, (row + 1) * D), kept * D);
    }
    for (const [node, gradient] of this.#dense) {
      const codes = this.#pairOf(node);
      if (!codes) continue;
      const slopes = new Map<number, number>();
      forEachDifference(codes, (feature) => slopes.set(feature, gradient[feature]!));
      this.#slopes.set(node, slopes);
      this.#dense.delete(node);
    }
  }

  /** @param gf ∂M/∂f [N,F] and `ge` ∂M/∂ε [N,D] of a pack */
  addGradients(pack: Pack, gf: Floats, ge: Floats): void {
    const [D, F] = [this.#D, this.#F];
    pack.node.forEach((node, row) => {
      if (node < 0 || !this.#isActive[node]) return;
      for (let d = 0; d < D; d++) this.#errorGradients[node * D + d]! += ge[row * D + d]!;
      const gradient = gf.subarray(row * F, (row + 1) * F);
      const slopes = this.#slopes.get(node);
      if (slopes) {
        for (const [feature, slope] of slopes) slopes.set(feature, slope + gradient[feature]!);
        return;
      }
      const codes = this.#pairOf(node);
      const known = this.#dense.get(node);
      if (known) for (let i = 0; i < F; i++) known[i]! += gradient[i]!;
      else if (!codes) this.#dense.set(node, Float64Array.from(gradient));
      else {
        const fresh = new Map<number, number>();
        forEachDifference(codes, (feature) => fresh.set(feature, gradient[feature]!));
        this.#slopes.set(node, fresh);
      }
    });
  }

  rows() {
    const { backward } = this.#plan.forest;
    const change = new Float64Array(this.#D);
    return codeEffects(
      this.site,
      this.#nodes,
      (node) => this.#pairOf(node)!,
      (node) => {
        const slopes = this.#slopes.get(node);
        return (feature) => slopes?.get(feature) ?? 0;
      },
      (node) => {
        const [c, p] = [backward.clean[node]!, backward.patch[node]!].map((f) => this.#plan.row[f]! * this.#D);
        for (let d = 0; d < this.#D; d++) change[d] = this.#errors[p! + d]! - this.#errors[c! + d]!;
        return dot(this.#errorGradients, node * this.#D, change, 0, this.#D);
      },
    );
  }

  #pairOf(node: number): CodePair | undefined {
    const { forest, row } = this.#plan;
    const clean = this.#codes[row[forest.backward.clean[node]!]!];
    const patch = this.#codes[row[forest.backward.patch[node]!]!];
    return clean && patch && { clean, patch };
  }
}
