import { cpSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Ablation } from "../src/circuit/meaning.ts";
import type { Score } from "../src/circuit/ranking.ts";
import { UserError } from "../src/errors.ts";
import { reportLimits } from "../src/report/data.ts";
import { Database } from "../src/results/database.ts";
import { type Manifest, startManifest, writeManifest } from "../src/results/manifest.ts";
import { readReportData } from "../src/results/report-data.ts";
import { RunTables, readFeatures } from "../src/results/tables.ts";

let folder = "";

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "sfc-report-data-"));
});

afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

/**
 * A run small enough to check by hand. Two train pairs share <s> The cat|cats (node 2, weight 2) and end at " near" (3) and " and" (4); one test
 * pair ends at dog|dogs (7).
 */
const nodes = {
  node: Int32Array.of(0, 1, 2, 3, 4, 5, 6, 7),
  split: ["train", "train", "train", "train", "train", "test", "test", "test"] as const,
  case: Array.from({ length: 8 }, () => "simple"),
  parent: Int32Array.of(-1, 0, 1, 2, 2, -1, 5, 6),
  position: Int32Array.of(0, 1, 2, 3, 3, 0, 1, 2),
  token_id: Int32Array.of(1, 10, 20, 30, 31, 1, 10, 22),
  token: ["<s>", " The", " cat", " near", " and", "<s>", " The", " dog"],
  patch_token_id: Int32Array.of(1, 10, 21, 30, 31, 1, 10, 23),
  patch_token: ["<s>", " The", " cats", " near", " and", "<s>", " The", " dogs"],
  weight: Float64Array.of(2, 2, 2, 1, 1, 1, 1, 1),
};

const both = { patch_prefix: "The cats near", clean_answer: " runs", patch_answer: " run", case: "simple" };
const pairs = [
  { ...both, clean_prefix: "The cat near", split: "train", m_clean: -4, m_patch: 3, end: 3 },
  { ...both, clean_prefix: "The cat and", split: "train", m_clean: 1, m_patch: 2, end: 4 },
  { ...both, clean_prefix: "The dog", split: "test", m_clean: -2, m_patch: 5, end: 7 },
];

/** Rows as [node, feature, f_clean, f_patch, gradient, effect]. */
const effects = [
  [2, -1, Number.NaN, Number.NaN, Number.NaN, 0.5],
  [2, 7, 1, 0, -4, 4],
  [2, 9, 0, 2, -0.5, -1],
  [3, 7, 1, 2, 3, 3],
  [7, -1, Number.NaN, Number.NaN, Number.NaN, 0.1],
  [7, 7, 1, 0, -1, 1],
  [7, 9, 0, 1, -2, -2],
];

async function writeRun(score: Score = "effect", change: Partial<Manifest> = {}): Promise<void> {
  const key = JSON.stringify([score, change]);
  const same = written.get(key);
  if (same !== undefined) return cpSync(same, folder, { recursive: true });
  await writeNewRun(score, change);
  const copy = join(kept, `${written.size}`);
  cpSync(folder, copy, { recursive: true });
  written.set(key, copy);
}

/** Runs that were written, by what they are: a database takes much longer than a copy. */
const written = new Map<string, string>();
const kept = mkdtempSync(join(tmpdir(), "sfc-report-kept-"));
afterAll(() => rmSync(kept, { recursive: true, force: true }));

async function writeNewRun(score: Score = "effect", change: Partial<Manifest> = {}): Promise<void> {
  const tables = await RunTables.open(join(folder, ".partial"), { threads: 1 });
  await tables.writeNodes(nodes, { first: new Set([1]), padding: new Set() });
  const column = (i: number) => effects.map((row) => row[i]!);
  if (score === "gradient") {
    await tables.writeFeatureSums("resid_post.0", [
      { split: "train", case: "simple", sums: Float64Array.of(1, -6) },
      { split: "test", case: "simple", sums: Float64Array.of(2, -1) },
    ]);
  } else {
    await tables.writeEffects({
      site: "resid_post.0",
      node: Int32Array.from(column(0)),
      feature: Int32Array.from(column(1)),
      fClean: Float32Array.from(column(2)),
      fPatch: Float32Array.from(column(3)),
      gradient: Float32Array.from(column(4)),
      effect: Float64Array.from(column(5)),
    });
  }
  await tables.finish(folder, {
    sites: ["resid_post.0"],
    pairs: [
      { split: "train", case: "simple", pairs: 2 },
      { split: "test", case: "simple", pairs: 1 },
    ],
    score,
    top: 10,
    change: { train: 2 },
  });
  tables.close();
  writeFileSync(join(folder, "pairs.jsonl"), pairs.map((pair) => `${JSON.stringify(pair)}\n`).join(""));
  const options = { model_name: "tiny", task: "agreement", layers: [0], keep: "all", sae_source: "it's here" };
  const start = startManifest({ command: "run", options, seed: 3, versions: { "analytic-sfc": "0.1.0" } }, new Date(0));
  const check = { name: "feature-sum", site: "resid_post.0", gap: 1e-7, scale: 4, tolerance: 1e-4, passed: true };
  await writeManifest(folder, {
    ...start,
    status: "finished",
    finished: new Date(1).toISOString(),
    seconds: { forward: 1.25 },
    peak_rss_bytes: 1000,
    checks: [check],
    ...change,
  });
}

test("features, importance and agreement are those of the run", async () => {
  await writeRun();
  const data = await readReportData(folder);
  const of = (split: string, name: string) => data.features.find((g) => g.split === split && g.case === name);
  expect(of("train", "")).toEqual({
    split: "train",
    case: "",
    site: "resid_post.0",
    feature: [7, 9],
    effect: [3.5, -0.5],
    nodes: [2, 1],
    error: 0.25,
    exact: [null, null],
    beside: [],
    spread: [null, null],
    stability10: null,
  });
  expect(of("test", "simple")).toMatchObject({ feature: [9, 7], effect: [-2, 1], error: 0.1 });
  expect(data.importance).toEqual([
    { split: "train", site: "resid_post.0", importance: 4, errorShare: 0.058824, explained: 1.625, leftOut: 0 },
    { split: "test", site: "resid_post.0", importance: 3, errorShare: 0.032258, explained: null, leftOut: 0 },
  ]);
  expect(data.agreement).toEqual([
    {
      site: "resid_post.0",
      spearman: 1,
      both: 2,
      overlap10: 1,
      overlap50: 1,
      overlap10ByWords: null,
      overlap50ByWords: null,
      feature: [7, 9],
      train: [3.5, -0.5],
      test: [1, -2],
    },
  ]);
});

test("intervals of the ranking stand beside the features over all cases, and beside the overlaps", async () => {
  await writeRun();
  const path = join(folder, "ranking.json");
  const ranking = JSON.parse(readFileSync(path, "utf8"));
  const spread = {
    by_words: { low: 3, high: 4 },
    by_pairs: { low: 3.4, high: 3.6 },
    ranks: { low: 1, high: 2 },
    in_top_10: 0.9,
  };
  const [site] = ranking.sites;
  Object.assign(site.splits.train.top[0], spread);
  site.splits.train.stability_10 = 0.8;
  site.train_test.overlap_10_by_words = { low: 0.7, high: 1 };
  writeFileSync(path, JSON.stringify({ ...ranking, words: { train: 12, test: 3 } }));
  const { words, features, agreement } = await readReportData(folder);
  const of = (split: string, name: string) => features.find((g) => g.split === split && g.case === name)!;
  expect(words).toEqual({ train: 12, test: 3 });
  expect(of("train", "")).toMatchObject({ feature: [7, 9], spread: [spread, null], stability10: 0.8 });
  expect(of("train", "simple")).toMatchObject({ spread: [null, null], stability10: null });
  expect(agreement[0]).toMatchObject({ overlap10ByWords: { low: 0.7, high: 1 }, overlap50ByWords: null });
});

test("accuracy counts pairs with m < 0 at the clean prompt", async () => {
  await writeRun();
  const { accuracy, warnings } = await readReportData(folder);
  expect(accuracy).toEqual([
    { split: "train", case: "simple", pairs: 2, accuracy: 0.5, cleanMean: -1.5, patchMean: 2.5 },
    { split: "test", case: "simple", pairs: 1, accuracy: 1, cleanMean: -2, patchMean: 5 },
  ]);
  expect(warnings.some((line) => line.includes("50.0 % of the train pairs of simple"))).toBe(true);
});

test("a prompt is found again from the forest, with the sums and the strongest features at its tokens", async () => {
  await writeRun();
  const { examples } = await readReportData(folder);
  expect(examples).toEqual([
    {
      split: "test",
      case: "simple",
      prompt: { clean: ["<s>", " The", " dog"], patch: [null, null, " dogs"] },
      cleanAnswer: " runs",
      patchAnswer: " run",
      cleanMetric: -2,
      patchMetric: 5,
      sites: [
        {
          site: "resid_post.0",
          features: [0, 0, -1],
          error: [0, 0, 0.1],
          top: [
            { feature: [], effect: [] },
            { feature: [], effect: [] },
            { feature: [9, 7], effect: [-2, 1] },
          ],
        },
      ],
    },
  ]);
});

test("driving tokens come strongest first, per pair, in a prompt that passes through them", async () => {
  await writeRun();
  const { drivers } = await readReportData(folder);
  expect(drivers.map((row) => [row.site, row.feature, row.effect])).toEqual([
    ["resid_post.0", 7, 3.5],
    ["resid_post.0", 9, -0.5],
  ]);
  const [near, cat, dog] = drivers[0]!.contexts;
  expect(near).toEqual({
    split: "train",
    case: "simple",
    prompt: { clean: ["<s>", " The", " cat", " near"], patch: [null, null, " cats", null] },
    position: 3,
    codeClean: 1,
    codePatch: 2,
    effect: 3,
    pairs: 1,
  });
  expect([cat!.position, cat!.effect, cat!.pairs, cat!.prompt.clean.length]).toEqual([2, 2, 2, 4]);
  expect([dog!.split, dog!.effect]).toEqual(["test", 1]);
});

test("limits cut lists off", async () => {
  await writeRun();
  const data = await readReportData(folder, {
    features: 1,
    points: 1,
    examples: 0,
    drivers: 1,
    contexts: 2,
    edges: 1,
    cards: 1,
  });
  expect(data.features.every((group) => group.feature.length === 1)).toBe(true);
  expect(data.agreement[0]!.feature).toEqual([7]);
  expect(data.examples).toEqual([]);
  expect(data.drivers.map((row) => row.contexts.length)).toEqual([2]);
});

test("the gradient score has features, but nothing per token", async () => {
  await writeRun("gradient");
  const data = await readReportData(folder);
  expect(data.run.score).toBe("gradient");
  const train = data.features.find((group) => group.split === "train" && group.case === "");
  expect(train).toMatchObject({ feature: [1, 0], effect: [-3, 0.5], error: null });
  expect([data.examples, data.drivers]).toEqual([[], []]);
  expect(data.importance[0]!.errorShare).toBe(null);
});

test("what was run is told, the command quoted for a shell, dummy dictionaries and failed checks named", async () => {
  const dictionary = { site: "resid_post.0", source: "dummy", kind: "dummy", features: 10, sha256: null, dummy: true };
  const failed = { name: "forest", site: null, gap: 1, scale: 1, tolerance: 1e-4, passed: false };
  await writeRun("effect", { dictionaries: [dictionary], checks: [failed], warnings: ["said by the run"] });
  const { run, warnings, checks } = await readReportData(folder);
  expect(run.dictionaries.dummy).toBe(true);
  expect(run.command).toBe(
    "sfc run --model_name tiny --task agreement --layers 0 --keep all --sae_source 'it'\\''s here' --seed 3",
  );
  expect(run.phases).toEqual([{ name: "forward", seconds: 1.25 }]);
  expect(run.peakBytes).toBe(1000);
  expect(checks[0]!.site).toBe("");
  expect(warnings[0]).toBe("said by the run");
  expect(warnings.some((line) => line.startsWith("1 of 1 checks failed"))).toBe(true);
});

test("ablation.json is read where there is one, and refused by name of the field where it is broken", async () => {
  await writeRun();
  expect((await readReportData(folder)).meaning).toBe(null);
  const fires = [{ group: "plural", split: "test" as const, n: 3, share: 2 / 3, mean: 1.5, auc: null }];
  const ablation: Ablation = {
    format: 1,
    members: "subject nouns",
    features: [{ site: "resid_post.0", feature: 123_456, effect: 3.5, fires }],
    ablations: [
      {
        label: "plural features",
        features: ["resid_post.0/7"],
        value: "zero",
        accuracy: [{ case: "simple", split: "test", n: 1, before: 1, after: 0 }],
      },
    ],
  };
  writeFileSync(join(folder, "ablation.json"), JSON.stringify(ablation));
  const { meaning } = await readReportData(folder);
  expect(meaning!.features[0]).toMatchObject({ feature: 123_456, fires: [{ share: 0.66667 }] });
  writeFileSync(join(folder, "ablation.json"), JSON.stringify({ ...ablation, members: 3 }));
  await expect(readReportData(folder)).rejects.toThrow(/"members".*ablation\.json/);
});

test("a folder that lacks a file is an error that names the file", async () => {
  await writeRun();
  rmSync(join(folder, "effects.parquet"));
  const error = await readReportData(folder, reportLimits).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(UserError);
  expect((error as UserError).message).toContain("effects.parquet");
  expect((error as UserError).message).not.toContain("\n");
});

describe("a folder's name is a name alone", () => {
  const tables = ["nodes", "effects", "features"] as const;
  const bytes = () => tables.map((name) => readFileSync(join(folder, `${name}.parquet`)).toString("base64"));
  /** [the name, one that it would stand for as a pattern] */
  const names = [
    ["split=test"],
    ["case=9", "feature=7"],
    ["node=1/effect=2"],
    ["a*b", "ab"],
    ["**", "x"],
    ["which?", "which1"],
    ["[ab]c", "ac"],
    ["[!x]", "y"],
    ["{one,two}", "one"],
    ["back\\slash*", "back\\slashx"],
    ["it's; DROP TABLE nodes--"],
    ["\"quoted\" 'both'"],
    ["  spaces  "],
    ["Übung 日本 🙂"],
    ["-f"],
    ["100%41#x"],
    ["new\nline"],
    ["~"],
    ["$HOME"],
  ];

  test.each(names)("%j", async (name, other) => {
    const home = folder;
    folder = join(home, "plain");
    mkdirSync(folder);
    await writeRun();
    const plain = { bytes: bytes(), data: await readReportData(folder), features: await readFeatures(folder) };
    if (other !== undefined) {
      folder = join(home, other);
      mkdirSync(folder);
      await writeRun("gradient");
    }
    folder = join(home, name!);
    mkdirSync(folder, { recursive: true });
    await writeNewRun();
    expect(bytes()).toEqual(plain.bytes);
    expect(await readReportData(folder)).toEqual(plain.data);
    expect(await readFeatures(folder)).toEqual(plain.features);

    // A run that is given such a name later.
    rmSync(folder, { recursive: true });
    renameSync(join(home, "plain"), folder);
    expect(await readReportData(folder)).toEqual(plain.data);
    folder = home;
  });
});

describe("a table that no run wrote is refused by name", () => {
  const change = async (table: string, query: string) => {
    await writeRun();
    const database = await Database.open();
    try {
      const path = join(folder, `${table}.parquet`);
      await database.run(`CREATE TABLE t AS SELECT * FROM ${database.files(path)}`);
      await database.copy(query, path);
    } finally {
      database.close();
    }
  };
  const refused = async (...parts: readonly string[]) => {
    const error = await readReportData(folder).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UserError);
    for (const part of parts) expect((error as UserError).message).toContain(part);
    expect((error as UserError).message).not.toContain("\n");
  };

  test.each([
    ["a node that is its own parent", "nodes", "* REPLACE (if(node = 2, 2, parent)::INTEGER AS parent)"],
    ["two nodes, each the other's parent", "nodes", "* REPLACE (if(node = 2, 3, parent)::INTEGER AS parent)"],
    ["a parent that is not there", "nodes", "* REPLACE (if(node = 6, 1000, parent)::INTEGER AS parent)"],
    ["a position that leaves one out", "nodes", "* REPLACE (if(node = 4, 5, position)::INTEGER AS position)"],
    ["the same node twice", "nodes", "* REPLACE (greatest(node, 1)::INTEGER AS node)"],
    ["a negative node", "nodes", "* REPLACE (node - 1 AS node)"],
    ["a weight that is no number", "nodes", "* REPLACE ('nan'::DOUBLE AS weight)"],
    ["a missing column", "nodes", "* EXCLUDE (token)"],
    ["a column of another type", "nodes", "* REPLACE (node::BIGINT AS node)"],
    ["texts for numbers", "effects", "* REPLACE (effect::VARCHAR AS effect)"],
    ["effects at nodes that are not there", "effects", "* REPLACE (node + 100 AS node)"],
    ["effects at another position than their node", "effects", "* REPLACE (position + 1 AS position)"],
    ["an effect that is no number", "effects", "* REPLACE ('nan'::DOUBLE AS effect)"],
    ["an infinite code", "effects", "* REPLACE ('inf'::FLOAT AS f_clean)"],
    ["a site that the ranking lacks", "effects", "* REPLACE ('no site' AS site)"],
    ["an unknown split", "features", "* REPLACE ('dev' AS split)"],
    ["a missing effect", "features", "* REPLACE (NULL::DOUBLE AS effect)"],
    ["a feature below the error's", "features", "* REPLACE (feature - 5 AS feature)"],
    ["a rank of none", "features", "* REPLACE (0 AS rank)"],
  ])("%s", async (_, table, columns) => {
    await change(table, `SELECT ${columns} FROM t`);
    await refused(`${table}.parquet`);
  });

  test.each([
    ["cut off", (bytes: Buffer) => bytes.subarray(0, bytes.length - 9)],
    ["empty", () => Buffer.alloc(0)],
    ["something else", () => Buffer.from("not Parquet, not at all")],
    ["a footer that is damaged", (bytes: Buffer) => bytes.fill(0xff, bytes.length - 60, bytes.length - 8)],
  ])("%s", async (_, damaged) => {
    for (const table of ["nodes", "effects", "features"]) {
      await writeRun();
      const path = join(folder, `${table}.parquet`);
      writeFileSync(path, damaged(readFileSync(path)));
      await refused(path);
    }
  });
});
