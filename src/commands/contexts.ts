import { existsSync } from "node:fs";
import { open, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { openFile } from "#file";
import { bytesText, countText, duration } from "../amounts.ts";
import { gflopsFor, programBytes, rates } from "../analysis/rates.ts";
import { sha256OfText } from "../bytes/sha256.ts";
import { type ContextsCollector, collectorBytes, contextsCollector } from "../contexts/collect.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { closeDictionaries } from "../dictionaries/open.ts";
import { StoppedError, UsageError, UserError } from "../errors.ts";
import { type Model, parameterCount } from "../models/model.ts";
import { heldWeights } from "../models/weights.ts";
import { checkRuntime } from "../open/device.ts";
import { type OpenModel, openModel, openSaes } from "../open/open.ts";
import type { Reporter } from "../progress.ts";
import type { Tokenizer } from "../prompts/tokenizer.ts";
import {
  type EvidenceAbout,
  type EvidenceSummary,
  evidenceBeside,
  readEvidenceAbout,
  summariseEvidence,
  writeEvidence,
} from "../results/evidence.ts";
import { parseSite, type SiteName } from "../site.ts";
import { sum } from "../stats.ts";
import { makeFolder, reserveFolder, writeBeside } from "../storage/files.ts";
import { InputFiles } from "../storage/input-files.ts";
import { tryLock } from "../storage/lock.ts";
import { thisMachine } from "../storage/machine.ts";
import { versions } from "../storage/package.ts";
import { notInVocabulary } from "../training/text.ts";
import { type Corpus, type CorpusChoice, openCorpus } from "./corpus.ts";
import { longWork } from "./open-run.ts";

/** What `sfc contexts` is asked. */
export interface ContextsRequest {
  readonly model_name: string;
  readonly allow_config_field?: readonly string[];
  readonly sae_source: string | null;
  readonly layers: string | null;
  readonly sites: string | null;
  /** The features that are looked at, as resid_post.3/41; null for all of the sites. */
  readonly features: readonly string[] | null;
  readonly text: CorpusChoice;
  /** Tokens to read, the first of each row not counted. */
  readonly tokens: number;
  /** T: tokens of a row; null for what the SAEs were trained on, or 128. */
  readonly length: number | null;
  readonly contexts: number;
  readonly window: number;
  /** Where the evidence goes; null for `contexts` beside the SAEs. */
  readonly folder: string | null;
  readonly force: boolean;
}

/** What `sfc contexts` has found. */
export interface ContextsOutcome {
  readonly folder: string;
  readonly sites: readonly EvidenceSummary[];
  readonly tokens: number;
  readonly rows: number;
  readonly corpus: string;
  /** Whether it had been finished before and nothing was computed. */
  readonly again: boolean;
}

/** Seconds between checkpoints. */
const checkpointSeconds = 20;
/** Active features per token where an SAE's files do not tell, and active codes that are counted per second. */
const usualActive = 50;
const countedCodes = 4e6;
/** Tokens of a row where the SAEs do not tell theirs. */
const usualLength = 128;

type Dictionaries = ReadonlyMap<SiteName, Dictionary>;
/** Features by site; null for all of all sites. */
type Chosen = ReadonlyMap<SiteName, readonly number[]> | null;

/**
 * Reads a corpus with a model and keeps where the features of its SAEs are active: top contexts, density, a histogram of codes and top tokens, beside
 * the SAEs. Repeated after an interruption it resumes, to the same files.
 *
 * @throws UserError for bad input, or if there is evidence of other text in the folder; StoppedError if asked to stop, a checkpoint stays
 */
export async function contexts(request: ContextsRequest, reporter: Reporter): Promise<ContextsOutcome> {
  reporter.begin("reading", 1);
  const chosen = featuresBySite(request.features);
  const inputs = new InputFiles();
  for (const file of request.text.files) inputs.watch(file);
  const corpus = await openCorpus(request.text);
  await checkRuntime("cpu", reporter);
  await using opened = await openModel(request.model_name, reporter, inputs, request.allow_config_field);
  const { model, checkpoint, tokenizer } = opened;
  for (const warning of opened.warnings) reporter.line(warning);
  const { sae_source, layers, sites } = request;
  if (sae_source === "dummy") {
    throw new UsageError("--sae_source: expected SAEs, got dummy, whose features are random directions. Name others.");
  }
  const all = await openSaes(opened, { sae_source, layers, sites, seed: 0 }, reporter);
  try {
    const dictionaries = chosen === null ? all : withFeatures(all, chosen);
    const folder = request.folder ?? (await ownFolder(sae_source, opened.folder));
    const length = lengthOf(request, model, dictionaries);
    const about = await aboutEach(request, opened, dictionaries, { corpus, length, chosen });
    const there = await evidenceThere(folder, about, request.force);
    if (there === null) await reserveFolder(folder);
    else {
      reporter.end();
      return await outcomeOf(folder, there, true);
    }
    // Others may work on other sites in the same folder.
    const work = sha256OfText(JSON.stringify([[...about.values()], await versions()])).slice(0, 16);
    const lock = await tryLock(join(folder, `.lock-${work}`));
    if (!("release" in lock)) {
      throw new UserError(
        `contexts: expected no other process at this work in ${folder}, got ${lock.holder}. Wait for it, or choose another --output_dir.`,
      );
    }
    try {
      await tellEstimate(model, dictionaries, chosen, request, length, reporter);
      const collector = await contextsCollector(model, await heldWeights(model, checkpoint), dictionaries, {
        length,
        from: tokenizer.encode("").length > 0 ? 1 : 0,
        contexts: request.contexts,
        window: request.window,
        ...(chosen !== null && { features: chosen }),
      });
      try {
        const partial = join(folder, `.partial-${work}`);
        const wanted = Math.ceil(request.tokens / (length - 1));
        const extent = { length, wanted, partial, vocabulary: model.vocabulary };
        const rows = await collect(collector, corpus, tokenizer, extent, reporter);
        inputs.check();
        const made = await writeSites(folder, collector, about, rows, reporter);
        await rm(partial, { force: true });
        reporter.end();
        return await outcomeOf(folder, made, false);
      } finally {
        await collector.close();
      }
    } finally {
      await lock.release();
    }
  } finally {
    await closeDictionaries(all);
  }
}

/** What the evidence of each site is made of, before any is read. */
async function aboutEach(
  { model_name, tokens, contexts, window }: ContextsRequest,
  { checkpoint }: OpenModel,
  dictionaries: Dictionaries,
  { corpus, length, chosen }: { readonly corpus: Corpus; readonly length: number; readonly chosen: Chosen },
): Promise<Map<SiteName, EvidenceAbout>> {
  const model = { name: model_name, sha256: await checkpoint.sha256() };
  const about = new Map<SiteName, EvidenceAbout>();
  for (const [site, dictionary] of dictionaries) {
    about.set(site, {
      format: 1,
      site,
      sae: { sha256: await dictionary.sha256(), features: dictionary.featureCount },
      model,
      corpus: corpus.about,
      length,
      asked: tokens,
      rows: 0,
      tokens: 0,
      contexts,
      window,
      features: chosen === null ? null : [...chosen.get(site)!],
    });
  }
  return about;
}

/** Writes the evidence of each site. @returns what it was made of */
async function writeSites(
  folder: string,
  { sites }: ContextsCollector,
  about: ReadonlyMap<SiteName, EvidenceAbout>,
  rows: number,
  reporter: Reporter,
): Promise<EvidenceAbout[]> {
  reporter.begin("writing", sites.size);
  const made: EvidenceAbout[] = [];
  for (const [site, own] of sites) {
    const { length } = about.get(site)!;
    made.push({ ...about.get(site)!, rows, tokens: rows * (length - 1) });
    await writeEvidence(folder, made.at(-1)!, own.evidence());
    reporter.set(made.length);
  }
  return made;
}

/** The features that are named, by site. @throws UsageError for a name that is none */
function featuresBySite(named: readonly string[] | null): Map<SiteName, number[]> | null {
  if (named === null) return null;
  const chosen = new Map<SiteName, number[]>();
  for (const name of named) {
    const [, site, feature] = /^(.+)\/(\d+)$/.exec(name) ?? [];
    if (site === undefined) {
      throw new UsageError(`--features: expected features as resid_post.3/41, got ${name}. Put commas between them.`);
    }
    parseSite(site);
    chosen.set(
      site,
      [...new Set([...(chosen.get(site) ?? []), Number(feature)])].sort((a, b) => a - b),
    );
  }
  return chosen;
}

/** The dictionaries of the sites of named features. @throws UsageError if there is none, or it has no such feature */
function withFeatures(all: Dictionaries, chosen: ReadonlyMap<SiteName, readonly number[]>): Dictionaries {
  for (const [site, features] of chosen) {
    const F = all.get(site)?.featureCount;
    if (F === undefined) {
      throw new UsageError(
        `--features: expected sites with SAEs, ${[...all.keys()].join(", ")}, got ${site}. Leave it out.`,
      );
    }
    const other = features.find((feature) => feature >= F);
    if (other !== undefined) {
      throw new UsageError(`--features: expected features below ${F} at ${site}, got ${other}. Leave it out.`);
    }
  }
  return new Map([...all].filter(([site]) => chosen.has(site)));
}

/** Where the evidence of SAEs of one's own goes. @throws UsageError for those of the hub, whose files lie in a cache that others share */
async function ownFolder(source: string | null, model: string): Promise<string> {
  const folder = await evidenceBeside(source, model);
  if (folder !== null) return folder;
  throw new UsageError(
    `--output_dir: expected a folder for the evidence of ${source ?? "SAEs of the hub"}, got none. Name one, and name it again with sfc run --contexts.`,
  );
}

/** Tokens of a row. @throws UsageError if the model reads no such rows */
function lengthOf({ length, window }: ContextsRequest, { maxLength }: Model, dictionaries: Dictionaries): number {
  const trained = [...dictionaries.values()].flatMap(({ trainedOn }) => trainedOn?.contextSize ?? []);
  const usual = trained.length > 0 ? Math.min(...trained) : usualLength;
  const chosen = length ?? Math.min(usual, maxLength);
  if (chosen < 2 || chosen > maxLength) {
    throw new UsageError(`--length: expected 2 to ${maxLength} tokens, got ${chosen}. The model reads no longer rows.`);
  }
  if (window > chosen) {
    throw new UsageError(
      `--window: expected at most ${chosen} tokens, those of a row, got ${window}. Take fewer, or longer rows with --length.`,
    );
  }
  return chosen;
}

/** What evidence of the same SAEs, model, text and sizes says of itself; null if there is not all of it. @throws UserError if there is other evidence */
async function evidenceThere(
  folder: string,
  wanted: ReadonlyMap<SiteName, EvidenceAbout>,
  force: boolean,
): Promise<EvidenceAbout[] | null> {
  if (force) return null;
  const found: EvidenceAbout[] = [];
  for (const [site, about] of wanted) {
    const there = await readEvidenceAbout(folder, site);
    if (there === null) continue;
    const differs = (Object.keys(about) as (keyof EvidenceAbout)[]).find(
      (field) => !["rows", "tokens", "model"].includes(field) && !isSame(there[field], about[field]),
    );
    if (differs !== undefined || there.model.sha256 !== about.model.sha256) {
      throw new UserError(
        `contexts: expected evidence of the same ${differs ?? "model"} or none, got other of ${site} in ${folder}. Give --force to replace it, or another --output_dir.`,
        { code: "changed_input" },
      );
    }
    found.push(there);
  }
  return found.length === wanted.size ? found : null;
}

const isSame = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b);

async function outcomeOf(folder: string, made: readonly EvidenceAbout[], again: boolean): Promise<ContextsOutcome> {
  const sites: EvidenceSummary[] = [];
  for (const about of made) sites.push(await summariseEvidence(folder, about));
  const { tokens, rows, corpus } = made[0]!;
  return { folder, sites, tokens, rows, corpus: corpus.name, again };
}

/** What a collection works through, and where it keeps its checkpoint. */
interface Extent {
  readonly length: number;
  /** Rows to read at most. */
  readonly wanted: number;
  readonly partial: string;
  /** Tokens that the model has. */
  readonly vocabulary: number;
}

/** Reads the corpus from where a checkpoint is, or from its beginning. @returns the number of rows; @throws UserError if there is not one */
async function collect(
  collector: ContextsCollector,
  corpus: Corpus,
  tokenizer: Tokenizer,
  { length, wanted, partial, vocabulary }: Extent,
  reporter: Reporter,
): Promise<number> {
  const states = [...collector.sites.values()].map(({ state }) => new Uint8Array(state));
  let done = await readCheckpoint(partial, states);
  if (done > 0) reporter.line(`Resuming after ${countText(done * (length - 1), "token")}.`);
  const before = done;
  reporter.begin("contexts", wanted - before);
  let saved = performance.now();
  const waiting: Int32Array[] = [];
  const take = async () => {
    if (waiting.length === 0) return;
    await collector.add(waiting);
    done += waiting.length;
    waiting.length = 0;
    const share = corpus.read();
    // Where the text ends before as many tokens as are wanted is known from the share that is read.
    const all = share === undefined ? wanted : Math.min(wanted, Math.max(done, Math.ceil(done / share)));
    reporter.set(done - before, all - before);
    const stopped = reporter.stopped();
    if (stopped || performance.now() - saved > 1000 * checkpointSeconds) {
      await writeCheckpoint(partial, done, states);
      saved = performance.now();
    }
    if (stopped) throw new StoppedError();
  };
  const ends = (count: number) => count >= wanted;
  if (!ends(done)) {
    for await (const row of corpus.rows(tokenizer, length, done, { stopped: reporter.stopped })) {
      const other = row.find((id) => id >= vocabulary);
      if (other !== undefined) throw notInVocabulary(other, tokenizer, vocabulary);
      waiting.push(row);
      if (waiting.length === collector.rowsAtOnce || ends(done + waiting.length)) await take();
      if (ends(done)) break;
    }
    await take();
  }
  if (done > 0) return done;
  throw new UserError(
    `--text: expected at least one row of ${length} tokens, got fewer in ${corpus.about.name}. Give more text, or a smaller --length.`,
  );
}

/** Writes how many rows have been read, and what was found in them: whole or not at all. */
async function writeCheckpoint(path: string, rows: number, states: readonly Uint8Array[]): Promise<void> {
  await makeFolder(dirname(path));
  await writeBeside(path, async (temporary) => {
    const file = await open(temporary, "w");
    try {
      await file.writeFile(`${JSON.stringify({ rows, bytes: states.map(({ length }) => length) })}\n`);
      for (const state of states) await file.writeFile(state);
    } finally {
      await file.close();
    }
  });
}

/** Bytes in which the line at the beginning of a checkpoint ends. */
const headBytes = 2 ** 16;

/** Takes what a checkpoint has. @returns the rows that it had read; 0 without one, or with one that is not whole or of other work */
async function readCheckpoint(path: string, states: readonly Uint8Array[]): Promise<number> {
  if (!existsSync(path)) return 0;
  const file = await openFile(path);
  try {
    const head = Buffer.from(await file.read(0, Math.min(file.size, headBytes)));
    const start = head.indexOf("\n") + 1;
    const expected = states.map(({ length }) => length);
    const rows = rowsIn(head.subarray(0, start).toString(), expected);
    if (file.size !== start + sum(expected)) return 0;
    let at = start;
    for (const state of states) {
      await file.read(at, state.length, state);
      at += state.length;
    }
    return rows;
  } finally {
    await file.close();
  }
}

/** The rows that a checkpoint's first line tells; 0 if it is none, or of states of other sizes. */
function rowsIn(line: string, expected: readonly number[]): number {
  try {
    const { rows, bytes } = JSON.parse(line) as { rows: number; bytes: number[] };
    return isSame(bytes, expected) ? rows : 0;
  } catch {
    return 0;
  }
}

/** Tells what the work will take. @throws UserError if that is more memory than there is */
async function tellEstimate(
  model: Model,
  dictionaries: Dictionaries,
  features: Chosen,
  { tokens, contexts, window }: ContextsRequest,
  length: number,
  reporter: Reporter,
): Promise<void> {
  const perToken = model.flopsPerToken + (model.attentionFlops * length) / 2;
  const codes = [...dictionaries.values()].map(({ inputWidth, featureCount }) => 2 * inputWidth * featureCount);
  const work = tokens * (perToken + sum(codes));
  const gflops = await gflopsFor(work, model.width);
  const active = [...dictionaries.values()].map(({ meanActive }) => meanActive ?? usualActive);
  const seconds =
    (tokens * (perToken / rates.passes + sum(codes))) / (gflops * 1e9) + (tokens * sum(active)) / countedCodes;
  const sizes = { length, contexts, window, ...(features && { features }) };
  const bytes = programBytes + 4 * parameterCount(model) + collectorBytes(dictionaries, sizes);
  const free = thisMachine.mostMemory();
  if (bytes > free) {
    throw new UserError(
      `contexts: expected work that fits into memory, got about ${bytesText(bytes)} where ${bytesText(free)} are available. Take fewer sites (--layers, --sites) at a time, or name --features.`,
      { code: "no_memory" },
    );
  }
  if (seconds < longWork) return;
  reporter.line(`About ${duration(seconds)} and ${bytesText(bytes)} of memory for ${countText(tokens, "token")}.`);
}
