import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openFolder } from "#file";
import { openCorpus } from "../src/commands/corpus.ts";
import { contextsCollector } from "../src/contexts/collect.ts";
import { type FeatureEvidence, SiteContexts } from "../src/contexts/site-contexts.ts";
import type { SparseCodes } from "../src/dictionaries/encode.ts";
import { closeDictionaries, openDictionaries } from "../src/dictionaries/open.ts";
import { StoppedError } from "../src/errors.ts";
import { compile } from "../src/graph/session.ts";
import { heldWeights } from "../src/models/weights.ts";
import { openModel } from "../src/open/open.ts";
import { Random } from "../src/random.ts";
import { Database } from "../src/results/database.ts";
import { readEvidence, readEvidenceAbout, writeEvidence } from "../src/results/evidence.ts";
import { activationGraph } from "../src/training/activations.ts";
import { rowContext } from "../src/training/loss.ts";
import { documentsOf } from "../src/training/plain-text.ts";
import { expectError, filesUnder, sfc, start, succeeds, until } from "./cli-harness.ts";

const seed = Number(process.env.SEED ?? 1);
console.log(`seed ${seed}`);

let home: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-contexts-"));
});
afterAll(() => rm(home, { recursive: true, force: true }));

/** A row of text with the codes of all its tokens, dense: [T][F]. */
interface Row {
  readonly tokens: Int32Array;
  readonly codes: readonly (readonly number[])[];
}

/** The codes of rows from their second token on, as encoders give them. */
function sparse(rows: readonly Row[]): SparseCodes {
  const list = rows.flatMap(({ codes }) => codes.slice(1));
  const offsets = new Int32Array(list.length + 1);
  const [features, values] = [[] as number[], [] as number[]];
  for (const [r, dense] of list.entries()) {
    for (const [f, code] of dense.entries()) {
      if (code === 0) continue;
      features.push(f);
      values.push(code);
    }
    offsets[r + 1] = features.length;
  }
  return {
    rows: list.length,
    offsets,
    features: Int32Array.from(features),
    values: Float32Array.from(values),
  };
}

/** What evidence of one feature has to be, by looking at all rows for each of its parts. */
function byBruteForce(
  rows: readonly Row[],
  feature: number,
  { contexts, window, from }: { contexts: number; window: number; from: number },
) {
  const all = rows.flatMap(({ codes }) => codes.slice(1).map((dense) => dense[feature]!)).filter((code) => code > 0);
  const max = Math.max(0, ...all);
  let width = 2 ** -40;
  while (max >= 32 * width) width *= 2;
  const counts: number[] = [];
  for (const code of all) {
    const bin = Math.floor(code / width);
    while (counts.length <= bin) counts.push(0);
    counts[bin]!++;
  }
  const tops = rows.flatMap(({ tokens, codes }, row) => {
    const own = codes.map((dense, t) => (t === 0 ? 0 : dense[feature]!));
    const code = Math.max(...own);
    if (code <= 0) return [];
    const t = own.indexOf(code);
    const first = Math.max(from, t - Math.floor((2 * (window - 1)) / 3));
    const end = Math.min(tokens.length, first + window);
    return [{ row, code, top: t - first, tokens: [...tokens.slice(first, end)], codes: own.slice(first, end) }];
  });
  const seen = new Set<string>();
  const best = tops
    .toSorted((a, b) => b.code - a.code || a.row - b.row)
    .filter(({ tokens, top }) => {
      const key = tokens.slice(0, top + 1).join(" ");
      return !seen.has(key) && seen.add(key);
    })
    .slice(0, contexts);
  const byToken = new Map<number, number>();
  for (const { tokens, top } of tops) byToken.set(tokens[top]!, (byToken.get(tokens[top]!) ?? 0) + 1);
  return {
    feature,
    active: all.length,
    max,
    histogram: all.length === 0 ? null : { width, counts },
    topTokens: [...byToken]
      .map(([token, n]) => ({ token, rows: n }))
      .sort((a, b) => b.rows - a.rows || a.token - b.token),
    contexts: best.map(({ tokens, codes, top }) => ({ tokens, codes, top })),
  };
}

const plain = ({ contexts, ...rest }: FeatureEvidence) => ({
  ...rest,
  contexts: contexts.map(({ tokens, codes, top }) => ({ tokens: [...tokens], codes: [...codes], top })),
});

/** Rows of random tokens and codes, many of them 0; few different values and tokens, so that there are ties and equal windows. */
function randomRows(name: string, { rows = 200, T = 11, F = 6, V = 5 } = {}): Row[] {
  const random = new Random(`${seed}/${name}`);
  return Array.from({ length: rows }, () => ({
    tokens: Int32Array.from({ length: T }, () => random.below(V)),
    codes: Array.from({ length: T }, () =>
      Array.from({ length: F }, (_, f) => {
        if (f === F - 1 || !random.chance(0.2)) return 0;
        // One feature's codes span many powers of two.
        return f === 0 ? Math.fround(2 ** (20 * random.uniform() - 10)) : (1 + random.below(12)) / 8;
      }),
    ),
  }));
}

describe("contexts of a site's features", () => {
  const sizes = { contexts: 4, window: 7 };

  for (const from of [0, 1]) {
    it(`are what all rows searched for each feature give, windows from place ${from} on`, () => {
      const rows = randomRows("brute force");
      const found = new SiteContexts(6, sizes);
      found.addRow(rows[0]!.tokens, sparse(rows.slice(0, 1)), 0, from);
      const rest = sparse(rows.slice(1));
      for (const [i, { tokens }] of rows.slice(1).entries()) found.addRow(tokens, rest, i * 10, from);
      const evidence = [...found.evidence()].map(plain);
      const expected = Array.from({ length: 6 }, (_, f) => byBruteForce(rows, f, { ...sizes, from }));
      expect(evidence).toEqual(expected);
      expect(evidence[0]!.contexts).toHaveLength(4);
      expect(evidence[5]).toMatchObject({ active: 0, histogram: null, topTokens: [], contexts: [] });
    });
  }

  it("of named features alone are the same as among all", () => {
    const rows = randomRows("some");
    const [all, some] = [new SiteContexts(6, sizes), new SiteContexts(6, sizes, [4, 1])];
    const codes = sparse(rows);
    for (const [i, { tokens }] of rows.entries()) for (const one of [all, some]) one.addRow(tokens, codes, i * 10, 1);
    const among = [...all.evidence()].filter(({ feature }) => feature === 1 || feature === 4);
    expect([...some.evidence()]).toEqual(among);
  });

  it("go on from a copy of their state", () => {
    const rows = randomRows("state");
    const codes = sparse(rows);
    const [whole, first, second] = Array.from({ length: 3 }, () => new SiteContexts(6, sizes));
    for (const [i, { tokens }] of rows.entries()) whole!.addRow(tokens, codes, i * 10, 1);
    for (const [i, { tokens }] of rows.slice(0, 77).entries()) first!.addRow(tokens, codes, i * 10, 1);
    new Uint8Array(second!.state).set(new Uint8Array(first!.state));
    for (let i = 77; i < rows.length; i++) second!.addRow(rows[i]!.tokens, codes, i * 10, 1);
    expect(new Uint8Array(second!.state)).toEqual(new Uint8Array(whole!.state));
  });

  it("count more top tokens than there are counters at most too often by the smallest count", () => {
    const rows = randomRows("many tokens", { rows: 3000, V: 200 });
    const codes = sparse(rows);
    const found = new SiteContexts(6, sizes);
    for (const [i, { tokens }] of rows.entries()) found.addRow(tokens, codes, i * 10, 1);
    const { topTokens } = [...found.evidence()][1]!;
    const truth = new Map(byBruteForce(rows, 1, { ...sizes, from: 1 }).topTokens.map((t) => [t.token, t.rows]));
    const smallest = Math.min(...topTokens.map((t) => t.rows));
    expect(topTokens).toHaveLength(64);
    for (const { token, rows: n } of topTokens) {
      expect(n).toBeGreaterThanOrEqual(truth.get(token)!);
      expect(n - truth.get(token)!).toBeLessThanOrEqual(smallest);
    }
  });
});

describe("contexts of a model's SAEs", () => {
  const T = 20;
  const sizes = { contexts: 3, window: 8 };

  it("are those of codes that plain loops over the SAE's weights give, and come back from their table", async () => {
    await using opened = await openModel("demo");
    const { model, checkpoint, tokenizer } = opened;
    const sites = ["attn_out.1", "resid_post.4"];
    const dictionaries = await openDictionaries(await openFolder(join(opened.folder, "saes")), sites);
    const weights = await heldWeights(model, checkpoint);
    const rows: Int32Array[] = [];
    for await (const row of (await openCorpus({ files: [], column: "text", seed })).rows(tokenizer, T, 0)) {
      if (rows.push(row) === 40) break;
    }
    const collector = await contextsCollector(model, weights, dictionaries, { ...sizes, length: T, from: 1 });
    for (const part of [rows.slice(0, 23), rows.slice(23)]) await collector.add(part);

    const session = await compile(activationGraph(model, weights, sites, T));
    for (const site of sites) {
      const encoder = await dictionaries.get(site)!.encoder();
      const F = encoder.bias.length;
      const threshold = (encoder.activation as { threshold: Float32Array }).threshold;
      const dense: Row[] = [];
      for (const tokens of rows) {
        const padded = Int32Array.from([...tokens, 0]);
        const x = (await session.run(rowContext({ count: 1, length: T, tokens: padded })))[site]!.data as Float32Array;
        const D = x.length / T;
        const codes = Array.from({ length: T }, (_, t) => {
          const z = Float64Array.from(encoder.bias);
          for (let d = 0; d < D; d++) {
            const value = x[t * D + d]! - (encoder.inputBias?.[d] ?? 0);
            for (let f = 0; f < F; f++) z[f]! += value * encoder.weight[d * F + f]!;
          }
          return Array.from(z, (value, f) => (value > threshold[f]! ? value : 0));
        });
        dense.push({ tokens, codes });
      }
      const evidence = [...collector.sites.get(site)!.evidence()];
      expect(evidence).toHaveLength(F);
      const folder = join(home, "table");
      const about = {
        format: 1 as const,
        site,
        sae: { sha256: "0", features: F },
        model: { name: "demo", sha256: "0" },
        corpus: { name: "generated English", files: [], seed },
        length: T,
        asked: 40 * (T - 1),
        rows: 40,
        tokens: 40 * (T - 1),
        ...sizes,
        features: null,
      };
      await writeEvidence(folder, about, evidence);
      expect(await readEvidenceAbout(folder, site)).toEqual(about);
      const named = evidence.filter(({ active }) => active > 0).map(({ feature }) => feature);
      const table = await readEvidence(folder, site, named);
      let compared = 0;
      for (const feature of named) {
        const expected = byBruteForce(dense, feature, { ...sizes, from: 1 });
        const found = plain(evidence[feature]!);
        const row = table.get(feature)!;
        expect(found.active).toBe(expected.active);
        expect(Math.abs(found.max - expected.max)).toBeLessThan(1e-5 * (1 + expected.max));
        if (expected.topTokens.length <= 64) expect(found.topTokens).toEqual(expected.topTokens);
        expect(found.contexts.map(({ tokens, top }) => ({ tokens, top }))).toEqual(
          expected.contexts.map(({ tokens, top }) => ({ tokens, top })),
        );
        for (const [i, { codes }] of found.contexts.entries()) {
          for (const [t, code] of codes.entries()) {
            expect(Math.abs(code - expected.contexts[i]!.codes[t]!)).toBeLessThan(1e-5 * (1 + expected.max));
          }
          const kept = row.contexts[i]!.codes;
          for (const [t, code] of codes.entries()) expect(Math.abs(kept[t]! - code)).toBeLessThanOrEqual(0.006 * code);
          compared++;
        }
        expect(row).toMatchObject({ active: found.active, bin_width: found.histogram!.width });
        expect(row.bins).toEqual(found.histogram!.counts);
        expect(row.top_rows).toEqual(found.topTokens.slice(0, 10).map((t) => t.rows));
        expect(row.top_tokens).toEqual(found.topTokens.slice(0, 10).map((t) => t.token));
        expect(row.contexts.map(({ tokens, top }) => ({ tokens, top }))).toEqual(
          found.contexts.map(({ tokens, top }) => ({ tokens, top })),
        );
      }
      expect(compared).toBeGreaterThan(300);
    }
    await session.release();
    await collector.close();
    await closeDictionaries(dictionaries);
  });
});

describe("a corpus of files", () => {
  const documents = Array.from({ length: 60 }, (_, i) => `The pilot that the farmers admire likes\nthe guard ${i}.`);
  const text = documents.join("\n\n");

  async function rowsOf(files: readonly string[], first = 0, column = "text"): Promise<number[][]> {
    await using opened = await openModel("demo");
    const corpus = await openCorpus({ files, column, seed });
    const rows: number[][] = [];
    for await (const row of corpus.rows(opened.tokenizer, 16, first)) rows.push([...row]);
    expect(corpus.read()).toBe(1);
    return rows;
  }

  it("reads a text without line breaks in parts, and can be stopped while rows are passed over", async () => {
    const path = join(home, "line.txt");
    const words = Array.from({ length: 300_000 }, (_, i) => ["the", "dogs", "run"][i % 3]).join(" ");
    expect(words.length).toBeGreaterThan(2 ** 20);
    await writeFile(path, words);
    const rows = await rowsOf([path]);
    // A part ends within a word at worst, which makes a token or two more.
    await using opened = await openModel("demo");
    const tokens = opened.tokenizer.encode(words).length;
    expect(Math.abs(rows.length * 15 - tokens)).toBeLessThan(30);
    const corpus = await openCorpus({ files: [path], column: "text", seed });
    const passing = corpus.rows(opened.tokenizer, 16, 1000, { stopped: () => true }).next();
    await expect(passing).rejects.toThrow(StoppedError);
  });

  it("gives the same rows from plain text, JSON lines and Parquet, and from the middle on", async () => {
    const joined = documentsOf(text);
    const paths = ["a.txt", "a.jsonl", "a.parquet"].map((name) => join(home, name));
    await writeFile(paths[0]!, text.replaceAll("\n", "\r\n"));
    // A row without a text is none.
    const lines = joined.flatMap((t) => [
      { n: 1, body: t },
      { n: 2, body: null },
    ]);
    await writeFile(paths[1]!, lines.map((line) => JSON.stringify(line)).join("\n"));
    const database = await Database.open();
    await database.copy(`SELECT unnest([${joined.map((t) => `'${t}', NULL`).join(", ")}]) AS body`, paths[2]!);
    database.close();
    await using opened = await openModel("demo");
    const [bos] = opened.tokenizer.encode("");
    const stream = joined.flatMap((document) => opened.tokenizer.encode(`\n\n${document}`).slice(1));
    const expected = Array.from({ length: Math.floor(stream.length / 15) }, (_, i) => [
      bos,
      ...stream.slice(15 * i, 15 * (i + 1)),
    ]);
    expect(expected.length).toBeGreaterThan(20);
    for (const path of paths) expect(await rowsOf([path], 0, "body")).toEqual(expected);
    expect(await rowsOf([paths[0]!], 7)).toEqual(expected.slice(7));
  });

  it("refuses what is no text, saying where", async () => {
    const bad = async (name: string, contents: string | Uint8Array) => {
      await writeFile(join(home, name), contents);
      return rowsOf([join(home, name)]);
    };
    await expect(bad("b.txt", new Uint8Array([0x54, 0xff, 0x0a]))).rejects.toThrow("got other bytes in");
    await expect(bad("c.txt", "a\0b")).rejects.toThrow("a zero byte");
    await expect(bad("d.jsonl", '{"body": "x"}')).rejects.toThrow('the field "text", got the fields body in line 1');
    await expect(rowsOf([home])).rejects.toThrow(`got a folder at "${home}"`);
    await expect(bad("e.jsonl", "{")).rejects.toThrow("in line 1 of");
    await expect(bad("f.parquet", "PAR1")).rejects.toThrow("expected a Parquet file");
    await expect(rowsOf([join(home, "none.txt")])).rejects.toThrow("which does not exist");
  });
});

it("the embedded model's SAEs come with evidence of theirs", async () => {
  await using opened = await openModel("demo");
  const saes = join(opened.folder, "saes");
  const dictionaries = await openDictionaries(await openFolder(saes));
  let bytes = 0;
  for (const [site, dictionary] of dictionaries) {
    const about = (await readEvidenceAbout(join(saes, "contexts"), site))!;
    expect(about.sae).toEqual({ sha256: await dictionary.sha256(), features: dictionary.featureCount });
    expect(about.model.sha256).toBe(await opened.checkpoint.sha256());
    expect(about.tokens).toBeGreaterThanOrEqual(1e6);
    const features = about.features!;
    expect(features.length).toBeGreaterThan(60);
    const table = await readEvidence(join(saes, "contexts"), site, features);
    expect([...table.keys()]).toEqual(features);
    expect([...table.values()].filter(({ contexts }) => contexts.length === 5).length).toBeGreaterThan(50);
    bytes += (await stat(join(saes, "contexts", `${site}.parquet`))).size;
    await dictionary.close();
  }
  expect(bytes).toBeLessThan(2e6);
});

describe("sfc contexts", () => {
  const flags = (folder: string, ...more: string[]) => [
    "contexts",
    "--layers",
    "2",
    "--tokens",
    "60000",
    "--output_dir",
    folder,
    ...more,
  ];

  it("writes evidence, shows it again, and resumes after Ctrl-C to the same bytes", async () => {
    const [whole, stopped] = [join(home, "whole"), join(home, "stopped")];
    expect((await succeeds(flags(whole))).stdout).toContain("60016 tokens of generated English");
    const again = await sfc(...flags(whole));
    expect(again.stdout).toContain(`Already there: ${whole}`);

    const first = start(flags(stopped));
    // A checkpoint is written when the work is asked to stop; before the lock there is nothing to stop.
    expect(await until(stopped, first, (files) => files.some((file) => file.includes(".lock")))).toBe(true);
    await new Promise((done) => setTimeout(done, 2000));
    first.child.kill("SIGINT");
    const { code, stderr } = await first.ended;
    expect(code).toBe(130);
    expect(stderr).toContain("Stopped. The same command resumes it.");
    expect(filesUnder(stopped).map((file) => file.slice(0, 9))).toEqual([".partial-"]);
    const resumed = await sfc(...flags(stopped));
    expect(resumed.code).toBe(0);
    expect(resumed.stderr).toMatch(/Resuming after \d+ tokens/);
    const names = (await readdir(whole)).sort();
    expect(names).toHaveLength(6);
    expect((await readdir(stopped)).sort()).toEqual(names);
    for (const name of names) {
      expect(Buffer.compare(await readFile(join(stopped, name)), await readFile(join(whole, name)))).toBe(0);
    }
  });

  it("refuses what it cannot do, in one line", async () => {
    const folder = join(home, "refused");
    const fails = async (...more: string[]) => sfc(...flags(folder, ...more));
    expectError(await fails("--features", "resid_post.2"), 2, "resid_post.3/41", "got resid_post.2");
    expectError(await fails("--features", "resid_post.2/1536"), 2, "features below 1536 at resid_post.2, got 1536");
    expectError(await fails("--features", "resid_post.3/1"), 2, "got resid_post.3");
    expectError(await fails("--length", "500"), 2, "2 to 128 tokens, got 500");
    expectError(await fails("--window", "50"), 2, "at most 32 tokens");
    expectError(await fails("--sae_source", "dummy"), 2, "random directions");
    expectError(await fails("--text", join(home, "none.txt")), 1, "which does not exist");
    await writeFile(join(home, "short.txt"), "Too short.");
    expectError(await fails("--text", join(home, "short.txt")), 1, "at least one row of 32 tokens");
    const whole = join(home, "whole");
    expectError(await sfc(...flags(whole, "--seed", "2")), 1, "the same corpus", "--force");
  });
});
