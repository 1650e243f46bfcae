import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../errors.ts";
import { devices } from "../graph/runtime.ts";
import { readJsonFile, writeFileAtomic } from "../storage/files.ts";

/** The manifest's name in a run's folder. */
export const manifestFile = "run.json";

const optionValue = z.union([
  z.string(),
  z.number(),
  z.boolean(),
  z.null(),
  z.array(z.union([z.string(), z.number()])),
]);

export const optionsSchema = z.record(z.string(), optionValue);
export const versionsSchema = z.record(z.string(), z.string());

const split = z.enum(["train", "test"]);
const count = z.int().min(0);
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

export const checkSchema = z.strictObject({
  name: z.string(),
  site: z.string().nullable().describe("the site it was made at; null for a check of the whole run"),
  gap: z.number().min(0).describe("largest absolute difference found"),
  scale: z
    .number()
    .min(0)
    .describe(
      "what the gap is measured against. sum of effects: Σ|effects| at the node where it was found; forest equals example by example: the largest Σ_d|g_d·Δx_d| of a node, with a score Σ_d|g_d·x_d|; secant effects are the whole change: the metric's mean change, of the split where it was found; of a device: the largest number on the CPU in float64, of active codes the rows of features",
    ),
  tolerance: z.number().min(0).describe("passed means gap ≤ tolerance · scale"),
  passed: z.boolean(),
});

const modelSchema = z.strictObject({
  name: z.string().describe("as asked for: hub id, preset or folder"),
  model_type: z.string(),
  sha256: sha256.describe("of the weights: of the files' own digests, in the order of their names"),
});

const dictionarySchema = z.strictObject({
  site: z.string(),
  source: z.string().describe("preset, hub path, folder or file; `dummy` for random decoder rows"),
  kind: z.string(),
  features: count,
  sha256: sha256.nullable().describe("of the file; null for `dummy`"),
  dummy: z.boolean(),
});

const accuracySchema = z.strictObject({
  split,
  case: z.string(),
  pairs: count,
  correct: count.describe("pairs whose clean answer has the larger logit at the clean prompt"),
  accuracy: z.number().min(0).max(1),
});

const estimateSchema = z.strictObject({
  weights: z.enum(["held", "streamed"]).describe("in memory, or read from their files block by block"),
  memory_bytes: z.number().min(0).describe("peak resident memory"),
  disk_bytes: z.strictObject({
    peak: z.number().min(0).describe("of this folder while the run works"),
    end: z.number().min(0).describe("of this folder when it is complete"),
  }),
  seconds: z.record(z.string(), z.number().min(0)).describe("per phase"),
  gflops: z.number().min(0).describe("rate of the machine's matrix products that the seconds rest on, GFLOP/s"),
  capture_gflop: z
    .number()
    .min(0)
    .describe(
      "work of the capture, padding and what is computed again included, in GFLOP: over seconds.capture its rate",
    ),
  device: z
    .strictObject({ name: z.enum(devices).exclude(["cpu"]), memory_bytes: z.number().min(0) })
    .optional()
    .describe("where sessions run if not on the CPU, and its memory for weights and the largest run of a session"),
});

/** The schema of `run.json`. */
export const manifestSchema = z
  .strictObject({
    command: z.string().describe("the command, e.g. run"),
    options: optionsSchema.describe("every option that bears on the results, by flag name"),
    seed: z.int(),
    status: z
      .enum(["running", "finished", "failed"])
      .describe(
        "`finished`: the folder is complete; otherwise it is not, and the same command goes on where it stopped",
      ),
    error: z.string().nullable().describe("why it failed"),
    started: z.iso.datetime(),
    finished: z.iso.datetime().nullable(),
    versions: versionsSchema.describe("of this program, its runtime and the packages that compute"),
    model: modelSchema.nullable().describe("null until it has been read"),
    dictionaries: z.array(dictionarySchema),
    counts: z.strictObject({
      pairs: count,
      nodes_forward: count,
      nodes_backward: count,
      tokens: count.describe("that the same job has without merging prefixes: clean and patch forward, clean backward"),
      rows: count.describe("of effects.parquet"),
    }),
    pairs_sha256: sha256.optional().describe("of pairs.jsonl, when the folder is complete"),
    accuracy: z.array(accuracySchema),
    unexplained: z
      .record(z.string(), z.number().min(0).nullable())
      .optional()
      .describe(
        "by site, the share of the variance of its activations on these prompts that its SAE leaves unexplained",
      ),
    estimate: estimateSchema.nullable().describe("made before the work began, to be held against what is measured"),
    seconds: z
      .record(z.string(), z.number().min(0))
      .describe("per phase, summed over the run and all times it was resumed"),
    peak_rss_bytes: count,
    checks: z.array(checkSchema),
    warnings: z.array(z.string()),
  })
  .meta({
    title: "run.json",
    description: "What was run, on what, and whether it held: the manifest of a run's folder.",
  });

/** The contents of `run.json`. */
export type Manifest = z.infer<typeof manifestSchema>;
export type RunOptions = Manifest["options"];

/** The JSON schema of `run.json`, as committed in docs/run.schema.json. */
export function manifestJsonSchema(): object {
  return z.toJSONSchema(manifestSchema);
}

/** The manifest of a run that begins now, with nothing counted yet. */
export function startManifest(start: Pick<Manifest, "command" | "options" | "seed" | "versions">, now: Date): Manifest {
  return {
    ...start,
    status: "running",
    error: null,
    started: now.toISOString(),
    finished: null,
    model: null,
    dictionaries: [],
    counts: { pairs: 0, nodes_forward: 0, nodes_backward: 0, tokens: 0, rows: 0 },
    accuracy: [],
    estimate: null,
    seconds: {},
    peak_rss_bytes: 0,
    checks: [],
    warnings: [],
  };
}

/**
 * Writes `run.json` into a run's folder, whole or not at all.
 *
 * @throws UserError if the folder cannot be written
 */
export async function writeManifest(folder: string, manifest: Manifest): Promise<void> {
  const text = JSON.stringify(manifestSchema.parse(manifest), null, 2);
  await writeFileAtomic(join(folder, manifestFile), `${text}\n`);
}

/**
 * The manifest of a run's folder.
 *
 * @throws UserError if there is none, or if it is not one of this version, naming the field
 */
export async function readManifest(folder: string): Promise<Manifest> {
  const path = join(folder, manifestFile);
  if (!existsSync(path)) {
    const there = await stat(folder).catch(() => null);
    const got = !there ? "none" : there.isDirectory() ? `one without ${manifestFile}` : "a file";
    throw new UserError(`run: expected the folder of a finished run, got ${got} at ${folder}. Make one with sfc run.`, {
      code: "not_found",
    });
  }
  const parsed = manifestSchema.safeParse(await readJsonFile(path));
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  throw new UserError(
    `run's manifest: expected the fields of docs/run.schema.json, got "${issue.path.join(".")}": ${issue.message} in ${path}. It is not a run.json of this version: make the run again.`,
  );
}
