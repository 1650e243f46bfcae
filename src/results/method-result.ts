import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { Measured } from "../analysis/compare-measure.ts";
import { type MethodResult, methodResultSchema } from "../analysis/compare-results.ts";
import { countPairs } from "../effects/sums.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import { makeFolder, readJsonFile, writeFileAtomic } from "../storage/files.ts";
import { isSealed, seal } from "../storage/seal.ts";

/** The name of a method's checkpoint. */
const resultFile = "result.json";

/** The name of a method's table. */
export const featuresFile = "features.parquet";

/** Seals result and table, see `seal`. */
const resultSeal = "result.seal";

/**
 * Writes what a method found into its folder: its table and `result.json`, its checkpoint.
 *
 * @param seconds that loading the model took
 */
export async function writeMethodResult(
  folder: string,
  pairs: readonly TokenPair[],
  measured: Measured,
  seconds: number,
): Promise<void> {
  await writeFeatures(folder, pairs, measured);
  const whole: MethodResult = { ...measured.result, loading_seconds: seconds };
  const result = join(folder, resultFile);
  await writeFileAtomic(result, JSON.stringify(whole));
  await seal(join(folder, resultSeal), [result, join(folder, featuresFile)]);
}

/**
 * What a method that has finished left; null if it has not, or it is not whole any more.
 *
 * @param moved where its table may have been moved to
 */
export async function storedResult(folder: string, moved: string): Promise<MethodResult | null> {
  const table = [folder, moved].map((at) => join(at, featuresFile)).find(existsSync);
  const files = [join(folder, resultFile), ...(table === undefined ? [] : [table])];
  if (!(await isSealed(join(folder, resultSeal), files))) return null;
  const stored = await readJsonFile(join(folder, resultFile)).catch(() => null);
  return methodResultSchema.safeParse(stored).data ?? null;
}

/** `features.parquet`, as a run has it. The database comes in here, after all measuring. */
async function writeFeatures(
  folder: string,
  pairs: readonly TokenPair[],
  { index, sums, result }: Measured,
): Promise<void> {
  const sites = result.sites.map(({ site }) => site);
  const { RunTables } = await import("./tables.ts");
  const parts = join(folder, "parts");
  // What an interrupted run left may be anything.
  await rm(folder, { recursive: true, force: true });
  await makeFolder(folder);
  const tables = await RunTables.open(parts);
  try {
    tables.takeIndex(index);
    for (const site of sites) await tables.writeSums(site, sums.get(site)!);
    await tables.writeFeatures(folder, sites, countPairs(pairs));
  } finally {
    tables.close();
  }
  await rm(parts, { recursive: true, force: true });
}
