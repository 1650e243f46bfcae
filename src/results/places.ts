import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { PairResult, Places } from "../analysis/steps.ts";
import { readRegular } from "../bytes/file.node.ts";
import { sha256OfText } from "../bytes/sha256.ts";
import { memoryStore } from "../capture/store.ts";
import { packsJson } from "../forest/packs.ts";
import type { PromptPair, TokenPair } from "../prompts/pairs.ts";
import { importPairs } from "../prompts/read-pairs.ts";
import { writeFileAtomic } from "../storage/files.ts";
import type { InputFiles } from "../storage/input-files.ts";
import { fileStore } from "./pack-store.ts";
import { pairsFile } from "./read-run.ts";
import { RunTables, type TablesOptions } from "./tables.ts";

/** Places of an analysis on disk. */
export interface FolderPlaces extends Places {
  /** Closes its files. */
  close(): Promise<void>;
}

export interface FolderPlacesOptions extends Pick<Places, "save"> {
  /** The run's folder. */
  readonly path: string;
  /** The folder for its unfinished work. */
  readonly partial: string;
  /** What results may have been made of. */
  readonly inputs: InputFiles;
  /** What a capture depends on besides its packs; null if it is kept in memory. */
  readonly captureOf: readonly unknown[] | null;
  /** The name of this process's folder for what does not fit in memory, where others work on the same run. */
  readonly spill?: string;
  /** Asked during work on the tables, which ends with a StoppedError then. */
  readonly stopped?: () => boolean;
  /** Opens the tables; in this thread by default. */
  readonly openTables?: (partial: string, options: TablesOptions) => Promise<FolderTables>;
}

/** The tables of a run in the making, see `RunTables`. */
export type FolderTables = Pick<
  RunTables,
  "writeNodes" | "hasEffects" | "writeEffects" | "hasFeatureSums" | "writeFeatureSums" | "expect" | "rank" | "written"
> & { close(): Promise<void> | void };

/** The folder of a run as the steps of its analysis see it. @throws UserError if it cannot be written */
export async function openPlaces({
  path,
  partial,
  inputs,
  captureOf,
  save,
  spill,
  stopped,
  openTables = RunTables.open,
}: FolderPlacesOptions): Promise<FolderPlaces> {
  const tables = await openTables(partial, { spill, stopped });
  let files: ReturnType<typeof fileStore> | undefined;
  const writeJson = (name: string, value: unknown) =>
    writeFileAtomic(join(path, name), `${JSON.stringify(value, null, 2)}\n`);
  return {
    tables: {
      writeNodes: (nodes, outside) => tables.writeNodes(nodes, outside),
      hasEffects: (site) => tables.hasEffects(site),
      writeEffects: (rows) => tables.writeEffects(rows),
      hasFeatureSums: (site) => tables.hasFeatureSums(site),
      writeFeatureSums: (site, sums) => tables.writeFeatureSums(site, sums),
      expect: (options) => tables.expect(options),
      rank: (options) => tables.rank(path, options),
      written: () => tables.written(),
    },
    store(plans) {
      if (captureOf === null) return memoryStore();
      const made = sha256OfText(JSON.stringify([...captureOf, packsJson(plans)]));
      files ??= fileStore(partial, made, () => inputs.check());
      return files;
    },
    save,
    checkInputs: () => inputs.check(),
    writePairs: (pairs) => writeFileAtomic(join(path, pairsFile), pairLines(pairs)),
    writeRanking: (ranking) => writeJson("ranking.json", ranking),
    writeAblation: (ablation) => writeJson(ablationFile, ablation),
    async close() {
      // A copy that is under way ends before its database does.
      await tables.written().catch(() => {});
      await tables.close();
      await files?.close();
    },
  };
}

const ablationFile = "ablation.json";

/** Removes the one result that not every run has, so that nothing need replace it. */
export const removeAblation = (path: string) => rm(join(path, ablationFile), { force: true });

/** Whether a finished run's pairs are these, or among these where only those are kept that the model gets right. */
export async function hasSamePairs(
  path: string,
  pairs: readonly TokenPair[],
  keep: "all" | "correct",
): Promise<boolean> {
  const text = await readRegular(join(path, pairsFile))
    .then(String)
    .catch(() => "");
  const key = (pair: PromptPair) => textOfPair(pair, {});
  const here = text === "" ? [] : importPairs(text, `${path}/${pairsFile}`, { patchless: true }).pairs.map(key);
  const asked = new Set(pairs.map(({ pair }) => key(pair)));
  return here.every((pair) => asked.has(pair)) && (keep === "correct" || here.length === pairs.length);
}

/** `pairs.jsonl`: the public format's fields, with split, case, the metric at both prompts and the end node. */
function pairLines(pairs: readonly PairResult[]): string {
  return `${pairs.map(({ pair, m_clean, m_patch, end }) => textOfPair(pair, { m_clean, m_patch, end })).join("\n")}\n`;
}

function textOfPair(pair: PromptPair, more: object): string {
  const { clean_prefix, patch_prefix, clean_answer, patch_answer, split, case: name } = pair;
  return JSON.stringify({ clean_prefix, patch_prefix, clean_answer, patch_answer, split, case: name, ...more });
}
