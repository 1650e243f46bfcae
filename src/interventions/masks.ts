import { type Floats, floatValue, type Hook, type Job, newFloats } from "../capture/hooks.ts";
import { openRunner } from "../capture/run.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { encoderForm, encoderTensors, traceCodes } from "../dictionaries/encode.ts";
import { type Pack, planCapture, tightPacks } from "../forest/packs.ts";
import { times } from "../graph/shape.ts";
import { input } from "../graph/tensor.ts";
import type { Watch } from "../progress.ts";
import { isOutside } from "../prompts/outside.ts";
import type { SiteName } from "../site.ts";
import type { AblationBase, Features, SiteBase } from "./ablation.ts";
import { bySite } from "./choose.ts";
import { cleanMetric, type EvaluationSetting, evaluateSubsets } from "./evaluate.ts";
import type { MaskState } from "./mask-states.ts";
import { pickedInputs, pickedSize } from "./replace.ts";
import { runFrom, startInputs } from "./start.ts";

/** Prices of a feature, one stage for each, and how masks move. */
export interface MaskOptions {
  readonly prices?: readonly number[];
  readonly stepsPerPrice?: number;
  readonly learningRate?: number;
  /** Masks in the making, which go on with the next step. */
  readonly state?: MaskState | undefined;
  /** Told after every step how many are done; gives the state to whoever wants to keep it. */
  readonly onStep?: (done: number, state: () => MaskState) => Promise<void>;
}

const usual = { prices: [0.001, 0.003, 0.006, 0.012, 0.02], stepsPerPrice: 12, learningRate: 0.05 };
/** How many gradients masks usually take, and in how many stages. */
export const maskSteps = {
  gradients: usual.prices.length * usual.stepsPerPrice,
  stages: usual.prices.length,
  perStage: usual.stepsPerPrice,
};
const [β1, β2, ε] = [0.9, 0.99, 1e-8];

/** Masks in [0,1] of a base's picked features, by site in the order of `picked.features`. */
export type Masks = ReadonlyMap<SiteName, Float64Array>;

/** The masks at the end of one stage. */
export interface MaskStage {
  readonly price: number;
  readonly masks: Masks;
  /** As `MaskLoss` has it, before the last step. */
  readonly loss: number;
}

/** The loss of masks, on the pairs of a forest. */
export interface MaskLoss {
  /**
   * mean((m_w − m)²)/mean(m²), where x is base + Σ w_i·(f_i(x) − a_i)·d_i, and its gradient by w: one forward and one backward pass.
   *
   * @throws StoppedError
   */
  at(masks: Masks, watch?: Watch): Promise<{ readonly loss: number; readonly gradient: Masks }>;
  /** Ends its sessions. */
  release(): Promise<void>;
}

/**
 * Opens the loss of masks over a base's picked features.
 *
 * @param target m of the whole model by end
 */
export async function openMaskLoss(
  { loaded, forest, dictionaries, outside }: EvaluationSetting,
  base: AblationBase,
  target: Float64Array,
): Promise<MaskLoss> {
  const { dtype } = loaded;
  const scale = forest.ends.reduce((sum, { weight }, end) => sum + weight * target[end]! ** 2, 0);
  const packs = tightPacks(planCapture(forest, { wanted: "none" })).map((pack): Pack => {
    const metric = cleanMetric(pack);
    return { ...pack, metric: { ...metric, target: Float64Array.from(metric.end, (end) => target[end]!) } };
  });
  const fixed = packs.map((pack) => {
    const isLive = Array.from(pack.node, (node, row) =>
      node >= 0 && !isOutside(outside, pack.tokens[row]!, pack.positions[row]!) ? 1 : 0,
    );
    return new Map(
      [...base.sites].map(([site, at]) => {
        const start = startInputs(base.start, site, pack);
        return [site, { ...rowsAt(at, pack, isLive, dtype), ...start }] as const;
      }),
    );
  });
  const hooks = new Map<SiteName, Hook>();
  for (const [site, at] of base.sites) hooks.set(site, await maskingHook(dictionaries.get(site)!, at, dtype));
  const runner = openRunner(loaded, { ...runFrom(base.start, hooks, dtype), objective: "squares" });
  return {
    async at(masks, watch = {}) {
      const gradient = new Map([...masks].map(([site, w]) => [site, new Float64Array(w.length)]));
      let missed = 0;
      const jobs = packs.map(
        (pack, p): Job => ({
          pack,
          inputs: (site) => ({
            ...fixed[p]!.get(site),
            mask: maskValue(base.sites.get(site)!, masks.get(site), dtype),
          }),
          metric(values) {
            const { end, weight, target: right } = pack.metric;
            end.forEach((_, i) => {
              missed += weight[i]! * (values[i]! - right![i]!) ** 2;
            });
          },
          found({ site, kind, tensors }) {
            if (kind === "value") return undefined;
            const [sum, { column }] = [gradient.get(site), base.sites.get(site)!.picked];
            for (let i = 0; sum && i < sum.length; i++) sum[i]! += tensors.mask![column[i]!]! / scale;
            return undefined;
          },
        }),
      );
      await runner.run(jobs, watch);
      return { loss: missed / scale, gradient };
    },
    release: () => runner.release(),
  };
}

/** Masks of all of a base's picked features, all of one value. */
export function evenMasks({ sites }: AblationBase, value: number): Map<SiteName, Float64Array> {
  return new Map(
    [...sites]
      .filter(([, { picked }]) => picked.features.length > 0)
      .map(([site, { picked }]) => [site, new Float64Array(picked.features.length).fill(value)]),
  );
}

/**
 * Learns which of a base's picked features to keep: masks w in [0,1] with a small `MaskLoss` + price·Σw, by projected Adam from w = 1, in stages of rising
 * price. Nothing is random.
 *
 * @param target m of the whole model by end
 * @throws StoppedError
 */
export async function learnMasks(
  setting: EvaluationSetting,
  base: AblationBase,
  target: Float64Array,
  options: MaskOptions = {},
  watch: Watch = {},
): Promise<MaskStage[]> {
  const { prices, stepsPerPrice, learningRate, state: begun, onStep } = { ...usual, ...options };
  const masks = begun ? numbersOf(begun.masks) : evenMasks(base, 1);
  const moving = new Map([...masks].map(([site, w]) => [site, new ProjectedAdam(w.length)]));
  if (begun) for (const [site, adam] of moving) adam.resume(begun.steps, begun.mean[site]!, begun.square[site]!);
  const stages = begun ? stagesOf(begun) : [];
  const all = prices.length * stepsPerPrice;
  const loss = await openMaskLoss(setting, base, target);
  try {
    for (let step = begun?.steps ?? 0; step < all; step++) {
      const price = prices[Math.floor(step / stepsPerPrice)]!;
      const found = await loss.at(masks, { stopped: watch.stopped });
      for (const [site, w] of masks) moving.get(site)!.step(w, found.gradient.get(site)!, price, learningRate);
      if ((step + 1) % stepsPerPrice === 0) {
        stages.push({ price, masks: new Map([...masks].map(([site, w]) => [site, w.slice()])), loss: found.loss });
      }
      watch.onProgress?.(step + 1, all);
      await onStep?.(step + 1, () => stateOf(step + 1, masks, moving, stages));
    }
  } finally {
    await loss.release();
  }
  return stages;
}

/** The stages of masks that are done. */
export const stagesOf = ({ stages }: MaskState): MaskStage[] =>
  stages.map((stage) => ({ ...stage, masks: numbersOf(stage.masks) }));

const numbersOf = (json: MaskState["masks"]): Map<SiteName, Float64Array> =>
  new Map(Object.entries(json).map(([site, w]) => [site, Float64Array.from(w)]));

function stateOf(
  steps: number,
  masks: Masks,
  moving: ReadonlyMap<SiteName, ProjectedAdam>,
  stages: readonly MaskStage[],
): MaskState {
  const json = (of: Iterable<readonly [SiteName, Float64Array]>) =>
    Object.fromEntries([...of].map(([site, w]) => [site, [...w]]));
  const all = [...moving];
  return {
    steps,
    masks: json(masks),
    mean: json(all.map(([site, { mean }]) => [site, mean])),
    square: json(all.map(([site, { square }]) => [site, square])),
    stages: stages.map((stage) => ({ ...stage, masks: json(stage.masks) })),
  };
}

/**
 * For each size, the circuit of a stage's largest masks, set to 1, that comes closest to the whole model on the pairs that masks were learned from.
 *
 * @param target m of the whole model by end
 */
export async function chooseByMasks(
  setting: EvaluationSetting,
  base: AblationBase,
  stages: readonly MaskStage[],
  target: Float64Array,
  sizes: readonly number[],
  watch: Watch = {},
): Promise<Features[]> {
  const candidates = sizes.flatMap((n) => stages.map(({ masks }) => largest(base, masks, n)));
  const metrics = await evaluateSubsets(
    setting,
    base,
    candidates.map((features) => ({ kind: "circuit", features })),
    watch,
  );
  const missed = metrics.map((m) =>
    setting.forest.ends.reduce((sum, { weight }, end) => sum + weight * (m[end]! - target[end]!) ** 2, 0),
  );
  return sizes.map((_, i) => {
    const own = missed.slice(i * stages.length, (i + 1) * stages.length);
    return candidates[i * stages.length + own.indexOf(Math.min(...own))]!;
  });
}

/** The n features of the largest masks. */
function largest({ sites }: AblationBase, masks: Masks, n: number): Features {
  const all = [...masks].flatMap(([site, w]) =>
    sites.get(site)!.picked.features.map((feature, i) => ({ site, feature, w: w[i]! })),
  );
  return bySite(all.sort((a, b) => b.w - a.w).slice(0, n));
}

/** Puts base + Σ w_i·(f_i(x) − a_i)·d_i in place of x, and asks for the gradient of w. */
async function maskingHook(dictionary: Dictionary, at: SiteBase, dtype: "float32" | "float64"): Promise<Hook> {
  const form = encoderForm(await dictionary.encoder());
  const D = at.picked.width;
  return {
    trace(x, { context: { tileSize }, named }) {
      const N = times(tileSize, "B");
      const row = (name: string) => input(named(name), dtype, [N, 1]);
      const S = pickedSize(form, dictionary.featureCount, named);
      const mask = input(named("mask"), dtype, [S]);
      const codes = traceCodes(x, encoderTensors(form, D, S, dtype, named), form.rule);
      const kept = codes
        .sub(input(named("codes"), dtype, [N, S]))
        .mul(mask)
        .matmul(input(named("rows"), dtype, [S, D]));
      const y = x
        .mul(row("stay"))
        .add(input(named("offset"), dtype, [N, D]))
        .add(kept.mul(row("live")));
      return { y, wrt: { mask } };
    },
    weights: async () => pickedInputs(at.picked, dtype),
  };
}

/** What the hook of a site is given at the rows of a pack. */
function rowsAt(at: SiteBase, { node }: Pack, isLive: readonly number[], dtype: "float32" | "float64") {
  const { width: D, column, count, features } = at.picked;
  const [N, S] = [node.length, Math.max(1, count)];
  const [offset, codes] = [newFloats(dtype, N * D), newFloats(dtype, N * S)];
  const [stay, live] = [newFloats(dtype, N), newFloats(dtype, N)];
  node.forEach((n, row) => {
    stay[row] = 1 - isLive[row]!;
    live[row] = isLive[row]!;
    if (isLive[row] === 0) return;
    const from = at.rowOf(n);
    offset.set(at.base.subarray(from * D, (from + 1) * D), row * D);
    column.forEach((s, u) => {
      codes[row * S + s] = at.codes[from * features.length + u]!;
    });
  });
  return {
    stay: floatValue(stay, N, 1),
    live: floatValue(live, N, 1),
    offset: floatValue(offset, N, D),
    codes: floatValue(codes, N, S),
  };
}

function maskValue({ picked: { column, count } }: SiteBase, w: Float64Array | undefined, dtype: "float32" | "float64") {
  const values: Floats = newFloats(dtype, Math.max(1, count));
  column.forEach((s, i) => {
    values[s] = w![i]!;
  });
  return floatValue(values, values.length);
}

/** Adam whose weights stay in [0,1]. */
class ProjectedAdam {
  /** Running means of the gradient and of its square. */
  readonly mean: Float64Array;
  readonly square: Float64Array;
  #steps = 0;

  constructor(size: number) {
    this.mean = new Float64Array(size);
    this.square = new Float64Array(size);
  }

  /** Goes on after some steps. */
  resume(steps: number, mean: readonly number[], square: readonly number[]): void {
    this.#steps = steps;
    this.mean.set(mean);
    this.square.set(square);
  }

  step(w: Float64Array, gradient: Float64Array, price: number, learningRate: number): void {
    this.#steps++;
    const [m, s] = [this.mean, this.square];
    const [first, second] = [1 - β1 ** this.#steps, 1 - β2 ** this.#steps];
    for (let i = 0; i < w.length; i++) {
      const g = gradient[i]! + price;
      m[i] = β1 * m[i]! + (1 - β1) * g;
      s[i] = β2 * s[i]! + (1 - β2) * g * g;
      w[i] = Math.min(1, Math.max(0, w[i]! - (learningRate * (m[i]! / first)) / (Math.sqrt(s[i]! / second) + ε)));
    }
  }
}
