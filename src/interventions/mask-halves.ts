import type { CodeReader } from "../dictionaries/encode.ts";
import type { Watch } from "../progress.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import { Random } from "../random.ts";
import { type AblationKind, ablationBase, evaluationForest, type Features, readActivations } from "./ablation.ts";
import { clusterPairs } from "./clusters.ts";
import type { EvaluationSetting } from "./evaluate.ts";
import { featuresJson } from "./evaluation.ts";
import { keptParts, type MaskPlaces, type MaskState } from "./mask-states.ts";
import { learnMasks, type MaskOptions, type MaskStage, maskSteps, stagesOf } from "./masks.ts";

/** How many halves masks are learned on. More changed nothing on the embedded model. */
const usualHalves = 6;
/** With fewer words, halves of them are too small to learn from. */
const fewestWords = 8;

/** Milliseconds between two writings of masks in the making. */
const keepEvery = 5000;

export interface HalvesOptions extends Omit<MaskOptions, "state" | "onStep"> {
  /** Where masks in the making are kept: after the first step, after each half, and after a step where some seconds have passed. */
  readonly places?: MaskPlaces;
  /** Told how many steps were found there, if any, of how many. */
  readonly onResume?: (steps: number, of: number) => void;
  readonly halves?: number;
  /** Pairs with one answer share their means, as in `evaluationForest`. */
  readonly groupOf?: (pair: TokenPair["pair"]) => string;
}

/**
 * Learns masks of features on several halves of the words that pairs share, and takes the mean over halves at every stage. Masks that are learned on all
 * words at once keep features that serve a few words of them; those differ from half to half, and what serves all words stays.
 *
 * Halves are drawn from a fixed seed. With fewer than eight words masks are learned once, on all pairs.
 *
 * @param features the candidates
 * @throws StoppedError
 */
export async function learnOnHalves(
  { loaded, dictionaries, outside }: Omit<EvaluationSetting, "forest">,
  pairs: readonly TokenPair[],
  features: Features,
  kind: AblationKind,
  codes: CodeReader,
  { halves = usualHalves, groupOf, places, onResume, ...options }: HalvesOptions = {},
  watch: Watch = {},
): Promise<MaskStage[]> {
  const parts = halvesOf(pairs, halves);
  const steps = (options.prices?.length ?? maskSteps.stages) * (options.stepsPerPrice ?? maskSteps.perStage);
  const kept = await keptParts(places, features);
  if (kept.length > 0) {
    onResume?.(
      kept.reduce((sum, part) => sum + part.steps, 0),
      parts.length * steps,
    );
  }
  const learned: MaskStage[][] = [];
  let last = Number.NEGATIVE_INFINITY;
  for (const [p, part] of parts.entries()) {
    const state = kept[p];
    if (state?.steps === steps) {
      learned.push(stagesOf(state));
      continue;
    }
    const forest = evaluationForest(part, groupOf);
    const activations = await readActivations(loaded, forest, [...dictionaries.keys()], { stopped: watch.stopped });
    const base = await ablationBase(activations, dictionaries, codes, features, kind);
    const onStep = async (done: number, stateNow: () => MaskState) => {
      if (done < steps && performance.now() - last < keepEvery) return;
      kept[p] = stateNow();
      await places?.write({ features: featuresJson(features), parts: kept });
      last = performance.now();
    };
    const setting = { loaded, forest, dictionaries, outside };
    learned.push(
      await learnMasks(
        setting,
        base,
        activations.cleanMetric,
        { ...options, state, ...(places && { onStep }) },
        {
          stopped: watch.stopped,
          onProgress: (done, total) => watch.onProgress?.(p * total + done, parts.length * total),
        },
      ),
    );
  }
  return meanStages(learned);
}

/** The pairs of random halves of the words, or all pairs where there are few words. */
export function halvesOf(pairs: readonly TokenPair[], halves: number): TokenPair[][] {
  const { of, count } = clusterPairs(pairs);
  if (count < fewestWords) return [[...pairs]];
  const random = new Random("halves");
  return Array.from({ length: halves }, () => {
    const words = new Set(random.shuffled([...Array(count).keys()]).slice(0, Math.ceil(count / 2)));
    return pairs.filter((_, i) => words.has(of[i]!));
  });
}

/** The mean of masks and losses over parts, stage by stage. */
function meanStages(parts: readonly (readonly MaskStage[])[]): MaskStage[] {
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  return parts[0]!.map(({ price, masks }, stage) => ({
    price,
    loss: mean(parts.map((part) => part[stage]!.loss)),
    masks: new Map(
      [...masks].map(([site, w]) => [
        site,
        w.map((_, i) => mean(parts.map((part) => part[stage]!.masks.get(site)![i]!))),
      ]),
    ),
  }));
}
