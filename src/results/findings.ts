import { existsSync } from "node:fs";
import { join } from "node:path";
import { ablationSchema } from "../circuit/meaning.ts";
import type { Ranking } from "../circuit/ranking.ts";
import { type Finding, findingsOf } from "../report/findings.ts";
import { readJsonFile } from "../storage/files.ts";
import type { Manifest } from "./manifest.ts";
import { exactSample, importanceOf, rankedFeatures } from "./report-ranking.ts";

/** What a run found, in sentences: as the report's first screen has it of a run alone, without the circuits and evaluations that came after. */
export async function readFindings(folder: string, manifest: Manifest, ranking: Ranking): Promise<Finding[]> {
  const path = join(folder, "ablation.json");
  const keep = String(manifest.options.keep ?? "all");
  const meaning = existsSync(path) ? ablationSchema.safeParse(await readJsonFile(path)) : null;
  return findingsOf({
    run: {
      method: String(manifest.options.method ?? "analytic"),
      score: ranking.score,
      options: [{ name: "keep", value: keep }],
    },
    accuracy: manifest.accuracy.flatMap(({ split, case: name, pairs: all, correct }) => {
      const pairs = keep === "correct" ? correct : all;
      return pairs === 0 ? [] : [{ split, case: name, pairs, accuracy: correct / pairs }];
    }),
    importance: importanceOf(ranking),
    features: rankedFeatures(ranking, manifest),
    change: ranking.change,
    words: ranking.words,
    wordsShared: ranking.words_shared,
    exact: exactSample(ranking),
    agreement: ranking.sites.flatMap(({ site, train_test }) =>
      train_test === null
        ? []
        : [{ site, overlap10: train_test.overlap_10, overlap10ByWords: train_test.overlap_10_by_words }],
    ),
    meaning: meaning?.data ?? null,
    circuit: null,
    evaluation: null,
  });
}
