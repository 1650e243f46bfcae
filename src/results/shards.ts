import { readdir, rm } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import type { Shard, ShardPart } from "../analysis/shards.ts";
import type { SiteRecord } from "../analysis/steps.ts";
import { UserError } from "../errors.ts";
import { readJsonFile, writeFileAtomic } from "../storage/files.ts";
import { partialFolder } from "./folder.ts";
import { checkSchema, versionsSchema } from "./manifest.ts";

const planFile = "shards.json";
const stateFile = (shard: number) => `shard-${shard}.json`;

const count = z.int().min(0);
const amount = z.number().min(0);
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

const planSchema = z.strictObject({
  folder: z.string().describe("the current folder of the planning command: options name files from there"),
  versions: versionsSchema,
  inputs: z.strictObject({
    program: sha256.describe("as it was built"),
    model: sha256,
    dictionaries: z.record(z.string(), sha256).describe("by site"),
    pairs: sha256,
    packs: sha256,
  }),
  batch_size: count.nullable(),
  weights: z.enum(["held", "streamed"]),
  wave_rows: count.nullable().describe("of streamed weights"),
  shards: z.array(
    z.strictObject({
      packs: z.tuple([count, count]),
      sites: z.array(z.string()),
      seconds: z.strictObject({ packs: amount, sites: amount }),
    }),
  ),
});

/** How a run is divided, and the hashes of all that it is made of: what each shard compares before it begins. */
export type ShardPlan = z.infer<typeof planSchema>;

const progressSchema = z.strictObject({ done: amount, total: amount, finished: z.boolean() });

const stateSchema = z.strictObject({
  host: z.string(),
  written: z.iso.datetime(),
  packs: progressSchema,
  sites: progressSchema,
  seconds: z.record(z.string(), amount).describe("per phase, summed over all times it was resumed"),
  peak_rss_bytes: count,
  checks: z.array(checkSchema),
  unexplained: z.record(z.string(), amount.nullable()),
});

/** How far a shard is, and what it has found besides its files. */
export type ShardState = z.infer<typeof stateSchema>;

/** A run that is divided into shards. */
export interface ShardedRun {
  readonly plan: ShardPlan;
  /** The folder for the unfinished work of the run, where its shards put theirs. */
  readonly partial: string;
}

/** The plan in a run's folder, and where it lies; null if the run is not divided. @throws UserError if it cannot be read */
export async function findShards(path: string): Promise<ShardedRun | null> {
  const names = await readdir(join(path, partialFolder)).catch((): string[] => []);
  for (const name of names) {
    const partial = join(path, partialFolder, name);
    const inside = await readdir(partial).catch((): string[] => []);
    if (!inside.includes(planFile)) continue;
    const parsed = planSchema.safeParse(await readJsonFile(join(partial, planFile)));
    if (parsed.success) return { plan: parsed.data, partial };
    throw new UserError(
      `${planFile}: expected one of this version, got "${parsed.error.issues[0]!.path.join(".")}": ${parsed.error.issues[0]!.message} in ${partial}. Plan the shards again with sfc run --shards.`,
    );
  }
  return null;
}

/** Writes a plan in place of an earlier one; what its shards have computed stays. */
export async function writeShards(partial: string, plan: ShardPlan): Promise<void> {
  for (const name of await readdir(partial)) {
    if (/^shard-\d+\.json$/.test(name)) await rm(join(partial, name), { force: true });
  }
  await writeFileAtomic(join(partial, planFile), `${JSON.stringify(plan, null, 2)}\n`);
}

/** How far a shard is, counted from 1; as at its start if it has not begun. */
export async function readShard({ plan, partial }: ShardedRun, shard: number): Promise<ShardState> {
  const stored = await readJsonFile(join(partial, stateFile(shard))).catch(() => null);
  const parsed = stateSchema.safeParse(stored);
  return parsed.success ? parsed.data : newShard(plan.shards[shard - 1]!);
}

function newShard({ packs: [from, to], sites }: Shard): ShardState {
  return {
    host: hostname(),
    written: new Date().toISOString(),
    packs: { done: 0, total: to - from, finished: from === to },
    sites: { done: 0, total: sites.length, finished: sites.length === 0 },
    seconds: {},
    peak_rss_bytes: 0,
    checks: [],
    unexplained: {},
  };
}

/** Keeps how far a shard is; its own process alone writes this. */
export async function writeShard(
  { partial }: ShardedRun,
  shard: number,
  state: Omit<ShardState, "host" | "written">,
): Promise<void> {
  const whole: ShardState = { ...state, host: hostname(), written: new Date().toISOString() };
  await writeFileAtomic(join(partial, stateFile(shard)), `${JSON.stringify(whole)}\n`);
}

/** How far all shards are, in order. */
export function readAllShards(run: ShardedRun): Promise<ShardState[]> {
  return Promise.all(run.plan.shards.map((_, i) => readShard(run, i + 1)));
}

/** The shards, counted from 1, that have not finished a part. */
export function unfinished(states: readonly ShardState[], part: ShardPart): number[] {
  return states.flatMap((state, i) => (state[part].finished ? [] : [i + 1]));
}

/** What all shards have found of their sites, in the order of the sites. */
export function foundBy(states: readonly ShardState[], sites: readonly string[]): SiteRecord {
  const checks = states.flatMap((state) => state.checks);
  const unexplained = Object.assign({}, ...states.map((state) => state.unexplained)) as ShardState["unexplained"];
  const place = (site: string | null) => sites.indexOf(site ?? "");
  return {
    checks: checks.sort((a, b) => place(a.site) - place(b.site)),
    unexplained: Object.fromEntries(
      sites.flatMap((site) => (unexplained[site] === undefined ? [] : [[site, unexplained[site]]])),
    ),
  };
}
