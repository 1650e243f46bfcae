import type { Capture } from "../capture/capture.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { type CodeReader, codeReader } from "../dictionaries/encode.ts";
import { type Loops, openLoops } from "../graph/loops/loops.ts";
import type { Watch } from "../progress.ts";
import { captureFor } from "./capture-for.ts";
import { directionsOf } from "./directions.ts";
import type { MethodInput, SiteEffects } from "./method.ts";
import { effectsOfNumbers, type FoundSite, type SiteNumbers } from "./node-effects.ts";
import { rowsOf } from "./node-rows.ts";
import { fitNodes } from "./unexplained.ts";

/** Where sites are computed, one after another: in this thread, or in one of its own. */
export interface Lane extends CodeReader {
  /** @throws StoppedError if asked to stop */
  effects(numbers: SiteNumbers, watch?: Watch): Promise<FoundSite>;
}

/** A lane in this thread. */
export function laneHere(codes: CodeReader, loops: Loops): Lane {
  return { ...codes, effects: async (numbers, watch) => effectsOfNumbers(numbers, loops, watch) };
}

/** The method `analytic` (see `methodNames`). */
export async function* analyticMethod(given: MethodInput): AsyncGenerator<SiteEffects> {
  const captured = await captureFor(given, "changed");
  // Where there is no capture yet, its passes are what is told.
  yield* effectsFrom(captured, given, given.captured && given.onProgress);
}

/**
 * The effects of all given sites from one capture. Those of the next sites are computed while whoever asks writes those of a site: in threads of their
 * own where there are lanes for it and they pay.
 *
 * @param onProgress told how many sites are done, those at work by their share
 */
export async function* effectsFrom(
  captured: Capture,
  given: MethodInput,
  onProgress?: Watch["onProgress"],
): AsyncGenerator<SiteEffects> {
  const { onFit, keptCodes, stopped } = given;
  const dictionaries = [...given.dictionaries.values()];
  const threads = given.openLanes && areWorthThreads(dictionaries, captured) ? given.openLanes() : [];
  const lanes = threads.length > 0 ? threads : [laneHere(codeReader(given), openLoops())];
  // One more than there are threads: what it needs is read while they compute.
  const mostBegun = threads.length + 1;
  const shares = new Float64Array(dictionaries.length);
  let told = 0;
  const tell = (at: number, share: number) => {
    shares[at] = share;
    const done = shares.reduce((sum, one) => sum + one, 0);
    if (done > told) onProgress?.(done, dictionaries.length);
    told = Math.max(told, done);
  };
  const begun: Promise<ComputedSite>[] = [];
  let next = 0;
  const begin = () => {
    while (next < dictionaries.length && begun.length < mostBegun) {
      const at = next++;
      const work = computeSite(captured, dictionaries[at]!, lanes[at % lanes.length]!, {
        isJudged: onFit !== undefined,
        keptCodes,
        onProgress: (done, total) => tell(at, done / total),
        stopped,
      });
      // Whoever asks for it has the error.
      work.catch(() => {});
      begun.push(work);
    }
  };
  try {
    begin();
    for (const [at, { writes: site }] of dictionaries.entries()) {
      const { found, codes, rows } = await begun.shift()!;
      begin();
      keptCodes?.keep(site, captured.plan, codes, rows);
      if (found.unexplained !== undefined) onFit?.(site, found.unexplained);
      yield found.effects;
      tell(at, 1);
    }
  } finally {
    await Promise.allSettled(begun);
    await Promise.all(lanes.map((lane) => lane.release()));
  }
}

/** An encoder of so many bytes may be in memory a few times. */
const smallEncoder = 2 ** 25;
/** Operations of encoding from which on threads save more time than it takes to start them. */
const worthThreads = 2e10;

/** Whether sites are better computed in threads beside one another. */
function areWorthThreads(dictionaries: readonly Dictionary[], { plan }: Capture): boolean {
  const sizes = dictionaries.map(({ inputWidth: D, featureCount: F }) => D * F);
  const flops = 2 * plan.rows * sizes.reduce((sum, one) => sum + one, 0);
  return dictionaries.length > 1 && 4 * Math.max(...sizes) <= smallEncoder && flops >= worthThreads;
}

/**
 * Effect of each feature of one site, to first order (attribution patching).
 *
 * effect[n,i] = (f_patch − f_clean)[n,i] · ⟨g[n], W_dec[i]⟩, in logits: the change of the metric if feature i alone took its patch value, summed
 * over the pairs that share node n. Equal to a spliced SAE that passes gradients through (arXiv:2403.19647); see METHOD. The error's effect is
 * ⟨g, Δε⟩ with Δε = Δx − Δf·W_dec computed as a vector. There are rows for the features whose codes differ, at the nodes where Δ and g can.
 *
 * @param loops nothing else may work in their memory meanwhile
 * @throws StoppedError if asked to stop
 */
export async function analyticEffects(
  capture: Capture,
  dictionary: Dictionary,
  codes: CodeReader,
  loops: Loops = openLoops(),
  { keptCodes, onFit, ...watch }: Pick<MethodInput, "onFit" | "keptCodes"> & Watch = {},
): Promise<Required<SiteEffects>> {
  const lane = laneHere(codes, loops);
  const options = { isJudged: onFit !== undefined, keptCodes, ...watch };
  const { found, codes: sparse, rows } = await computeSite(capture, dictionary, lane, options);
  keptCodes?.keep(dictionary.writes, capture.plan, sparse, rows);
  if (found.unexplained !== undefined) onFit?.(dictionary.writes, found.unexplained);
  return found.effects;
}

/** What was found at a site, with its codes and the rows of the capture that they are of, in order. */
interface ComputedSite extends Pick<SiteNumbers, "codes"> {
  readonly found: FoundSite;
  readonly rows: readonly number[];
}

async function computeSite(
  capture: Capture,
  dictionary: Dictionary,
  lane: Lane,
  {
    isJudged,
    keptCodes,
    onProgress,
    stopped,
  }: { readonly isJudged: boolean; readonly keptCodes: MethodInput["keptCodes"] } & Watch,
): Promise<ComputedSite> {
  const { writes: site, normalization } = dictionary;
  const captured = await capture.site(site, { stopped });
  const { width, g } = captured;
  const nodes = capture.activeNodes(site);
  const gathered = rowsOf(capture, captured, nodes, isJudged ? fitNodes(capture) : []);
  const { rows: x, clean, patch, others } = gathered;
  const rows = [...gathered.place.keys()];
  // Encoding takes about as long as the nodes.
  const codes =
    keptCodes?.at(site, capture.plan, rows) ??
    (await lane.encode(dictionary, x, { onProgress: (done, total) => onProgress?.(done, 2 * total), stopped }));
  const [directions, bias] = await Promise.all([
    directionsOf(dictionary, codes.features),
    isJudged ? dictionary.decoderBias() : undefined,
  ]);
  const judged = bias && { rows: others, bias, ...(normalization && { normalization }) };
  const found = await lane.effects(
    { site, width, nodes, g, x, codes, clean, patch, directions, ...(judged && { judged }) },
    { onProgress: (done, total) => onProgress?.(total + done, 2 * total), stopped },
  );
  return { found, codes, rows };
}
