import { join } from "node:path";
import { prepare } from "../analysis/steps.ts";
import { capture } from "../capture/capture.ts";
import { memoryStore } from "../capture/store.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import type { Features } from "../interventions/ablation.ts";
import type { Reporter } from "../progress.ts";
import { cardsFile, readCards } from "../results/report-cards.ts";
import { evidenceOfRun, type NamedBy, writeCards } from "./feature-cards.ts";
import type { OpenRun } from "./open-run.ts";

/**
 * Writes the cards of a circuit's features that the run's own file lacks, beside the circuit. Runs of before have no cards, and get none.
 *
 * @param path the circuit's folder
 * @throws StoppedError if asked to stop
 */
export async function writeCircuitCards(
  { run, options, opened, dictionaries, pairs, loaded }: OpenRun,
  path: string,
  features: Features,
  reporter: Reporter,
): Promise<void> {
  const own = await readCards(join(run.folder, cardsFile));
  if (own === null) return;
  const there = new Set(own.cards.map(({ site, feature }) => `${site}/${feature}`));
  const names = [...features].flatMap(([site, list]) => list.map((feature) => `${site}/${feature}`));
  const named = new Map(names.filter((name) => !there.has(name)).map((name) => [name, ["circuit"] as NamedBy[]]));
  if (named.size === 0) return;
  reporter.begin("capture", 1);
  const { plans } = prepare(pairs, { method: "analytic", score: "effect" }, null, loaded.model);
  const sites = [...dictionaries.keys()].filter((site) => features.has(site));
  const captured = await capture(loaded, plans[0], {
    sites,
    store: memoryStore(),
    onProgress: reporter.set,
    stopped: reporter.stopped,
  });
  const input = {
    loaded,
    captured,
    dictionaries,
    tokenizer: opened.tokenizer,
    ranking: run.ranking,
    named,
    model: run.manifest.model!.sha256!,
    identityOf: (dictionary: Dictionary) => dictionary.sha256(),
    ...(await evidenceOfRun(options, opened.folder)),
  };
  await writeCards(run.folder, join(path, cardsFile), input, reporter);
}
