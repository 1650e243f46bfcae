import { passWork, type Running } from "../capture/cost.ts";
import { streamLayer } from "../capture/stream-sites.ts";
import { inTurn, type Work, workOf } from "../capture/work.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { chunkRows } from "../dictionaries/encode.ts";
import { activeOf, liveWeights } from "../effects/estimate.ts";
import type { PrefixForest } from "../forest/forest.ts";
import { planCapture } from "../forest/packs.ts";
import { compareSites, type SiteName } from "../site.ts";
import { forwardPacks } from "./evaluate.ts";
import { maskScorePoints } from "./mask-scores.ts";
import { maskSteps } from "./masks.ts";

type Dictionaries = ReadonlyMap<SiteName, Dictionary>;

const total = (dictionaries: Dictionaries, each: (one: Dictionary) => number) =>
  [...dictionaries.values()].reduce((sum, one) => sum + each(one), 0);
const largest = (dictionaries: Dictionaries, each: (one: Dictionary) => number) =>
  Math.max(...[...dictionaries.values()].map(each));

/** Of a model's layers those that run with ablated sites: runs begin at the first site where that is one of the residual stream. */
function shareRun({ model: { layers } }: Running, dictionaries: Dictionaries): number {
  const [first] = [...dictionaries.keys()].sort(compareSites);
  const stream = first === undefined ? 0 : streamLayer(first);
  return stream === undefined ? 1 : (layers - stream) / layers;
}

/** Numbers of the encoder and the decoder. */
const weightsOf = ({ inputWidth, outputWidth, featureCount: F }: Dictionary) => (inputWidth + outputWidth) * F;

/** What `readActivations` takes: `work`, of which `kept` bytes of activations stay, x[rows,D] of every site. */
export function activationsWork(
  running: Running,
  forest: PrefixForest,
  dictionaries: Dictionaries,
): { readonly work: Work; readonly kept: number; readonly rows: number } {
  const plan = planCapture(forest, { wanted: "both" });
  const kept = running.number * plan.rows * total(dictionaries, ({ outputWidth }) => outputWidth);
  return { work: passWork(running, plan.packs, [...dictionaries.keys()]), kept, rows: plan.rows };
}

/** Encoding rows of activations with one dictionary after another. */
export function encodeWork({ number }: Running, rows: number, dictionaries: Dictionaries): Work {
  return workOf({
    codes: total(dictionaries, ({ inputWidth, featureCount }) => 2 * rows * inputWidth * featureCount),
    dictionaries: total(dictionaries, ({ inputWidth, featureCount }) => inputWidth * featureCount),
    sessions: 1,
    memory: largest(
      dictionaries,
      (one) =>
        4 * liveWeights * one.inputWidth * one.featureCount +
        3 * number * Math.min(chunkRows, rows) * one.featureCount +
        16 * rows * activeOf(one),
    ),
  });
}

/**
 * What `ablationBase` takes.
 *
 * @param features that are picked at a site
 * @param whole also what circuits of all features need
 */
export function baseWork(
  running: Running,
  rows: number,
  dictionaries: Dictionaries,
  features: number,
  { whole, zero }: { readonly whole: boolean; readonly zero: boolean },
): Work {
  const { number } = running;
  // Columns and rows of the picked features, which stay, and their codes by row.
  const picked = total(dictionaries, (one) => 4 * weightsOf({ ...one, featureCount: features }));
  const own = new Map([...dictionaries].map(([site, one]) => [site, { ...one, featureCount: features }]));
  const codes = whole ? dictionaries : own;
  const decoded = whole ? total(dictionaries, (one) => rows * activeOf(one) * one.outputWidth) : 0;
  const read = workOf({
    dictionaries: total(dictionaries, ({ inputWidth, featureCount }) => inputWidth * featureCount),
    memory: largest(
      dictionaries,
      (one) => 4 * liveWeights * weightsOf(one) + number * rows * (features + 2 * one.outputWidth),
    ),
  });
  const encoded = zero && !whole ? [] : [encodeWork(running, rows, codes)];
  return inTurn([read, ...encoded, workOf({ products: decoded })], picked);
}

/**
 * Evaluating subsets: forward passes over the clean prompts.
 *
 * @param subsets how many, and how many of them take whole dictionaries
 */
export function subsetsWork(
  running: Running,
  forest: PrefixForest,
  dictionaries: Dictionaries,
  { own, whole }: { readonly own: number; readonly whole: number },
): Work {
  const { number, weights } = running;
  const sites = [...dictionaries.keys()];
  const packs = forwardPacks(forest);
  const rows = packs.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const packRows = packs.reduce((most, { tokens }) => Math.max(most, tokens.length), 0);
  const encoders = workOf({
    dictionaries: total(dictionaries, ({ inputWidth, featureCount }) => inputWidth * featureCount),
    memory: largest(dictionaries, (one) => 4 * liveWeights * one.inputWidth * one.featureCount),
  });
  const passes = (times: number) => passWork(running, packs, sites, { times, share: shareRun(running, dictionaries) });
  // Held weights go into one graph with all dictionaries; streamed ones have those of two blocks at a time.
  const together = (each: (one: Dictionary) => number) =>
    weights === "held" ? total(dictionaries, each) : 2 * largest(dictionaries, each);
  const wholes = passes(whole);
  return inTurn([
    ...(own > 0 ? [encoders, passes(own)] : []),
    ...(whole > 0
      ? [
          encoders,
          {
            ...wholes,
            codes: 2 * whole * rows * total(dictionaries, weightsOf),
            dictionaries: total(dictionaries, weightsOf),
            memory:
              wholes.memory +
              together((one) => 4 * liveWeights * weightsOf(one) + 3 * number * packRows * one.featureCount),
          },
        ]
      : []),
  ]);
}

/** What `maskScores` takes. */
export function maskScoresWork(running: Running, forest: PrefixForest, dictionaries: Dictionaries): Work {
  const { number } = running;
  const packs = forwardPacks(forest);
  const sites = [...dictionaries.keys()];
  const rows = packs.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const width = total(dictionaries, ({ outputWidth }) => outputWidth);
  const point = inTurn([
    passWork(running, packs, sites, { back: true }),
    encodeWork(running, rows, dictionaries),
    workOf({
      products: rows * total(dictionaries, (one) => activeOf(one) * one.outputWidth),
      dictionaries: total(dictionaries, ({ outputWidth, featureCount }) => outputWidth * featureCount),
      memory: largest(dictionaries, (one) => 4 * liveWeights * weightsOf(one)),
    }),
  ]);
  // x and g of a point, and what it is mixed with; in the end a site with all of its columns.
  const most = largest(dictionaries, ({ featureCount }) => featureCount);
  const one = new Map([...dictionaries].slice(0, 1));
  return inTurn(
    [...Array<Work>(maskScorePoints).fill(point), baseWork(running, rows, one, most, { whole: false, zero: false })],
    2 * number * rows * width,
  );
}

/**
 * Learning masks of some candidates, and choosing circuits of so many sizes by them.
 *
 * @param candidates features of all sites together
 */
export function masksWork(
  running: Running,
  forest: PrefixForest,
  dictionaries: Dictionaries,
  candidates: number,
  sizes: number,
): Work & { readonly gradients: number } {
  const { number } = running;
  const packs = forwardPacks(forest);
  const rows = packs.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const { gradients, stages } = maskSteps;
  const share = shareRun(running, dictionaries);
  const one = passWork(running, packs, [...dictionaries.keys()], { back: true, share });
  const fixed = number * rows * (total(dictionaries, ({ outputWidth }) => outputWidth) + candidates);
  const steps = Array.from({ length: gradients }, (_, i) => (i === 0 ? one : { ...one, sessions: 0 }));
  const chosen = subsetsWork(running, forest, dictionaries, { own: sizes * stages, whole: 0 });
  return { ...inTurn([...steps, chosen], fixed), gradients };
}
