import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { Database } from "../src/results/database.ts";
import { compareRuns } from "../src/serve/compare-runs.ts";
import { Places } from "../src/serve/places.ts";
import { Queries } from "../src/serve/queries.ts";
import { effectRows } from "../src/serve/rows.ts";
import { rowsOf, succeeds } from "./cli-harness.ts";

const home = mkdtempSync(join(tmpdir(), "sfc-tables-"));
const count = 1_000_000;
let places: Places;
const queries = new Queries();

/** The effect of row i, in a file whose rows no order of effects has. */
const effectOf = (i: number) => ((i * 7919) % 1_000_003) / 1_000_003 - 0.5;

beforeAll(async () => {
  const flags = ["--layers", "2-3", "--num_examples", "2", "--quiet"];
  await succeeds(["run", ...flags, "--sites", "resid_post", "--output_dir", join(home, "left")]);
  await succeeds([
    "run",
    ...flags,
    "--sites",
    "resid_post,mlp_out",
    "--seed",
    "2",
    "--output_dir",
    join(home, "right"),
  ]);
  await cp(join(home, "left"), join(home, "large"), { recursive: true });
  const manifest = JSON.parse(readFileSync(join(home, "large/run.json"), "utf8"));
  manifest.counts.rows = count;
  writeFileSync(join(home, "large/run.json"), JSON.stringify(manifest));
  const database = await Database.open();
  await database.copy(
    `SELECT 'train' AS split, 'simple_singular' AS "case", 'resid_post.' || (2 + i % 2) AS site, (i % 50)::INTEGER AS node,
       3::INTEGER AS position, (i // 50)::INTEGER AS feature, 1::FLOAT AS f_clean, 2::FLOAT AS f_patch, .5::FLOAT AS gradient,
       ((i::BIGINT * 7919) % 1000003)::DOUBLE / 1000003 - .5 AS effect
     FROM range(${count}) t(i)`,
    join(home, "large/effects.parquet"),
  );
  database.close();
  places = await Places.open(home);
});

afterAll(async () => {
  await queries.close();
  rmSync(home, { recursive: true });
});

describe("questions", () => {
  const own = new Queries();
  afterAll(() => own.close());

  test("that are equal and come at once are computed once, and others wait for their turn", async () => {
    let [made, now, most] = [0, 0, 0];
    const ask = (i: number) =>
      own.ask(`key ${i % 20}`, async () => {
        made++;
        most = Math.max(most, ++now);
        await new Promise((resolve) => setTimeout(resolve, 2));
        now--;
        return i % 20;
      });
    const answers = await Promise.all(Array.from({ length: 1000 }, (_, i) => ask(i)));
    expect(answers).toEqual(Array.from({ length: 1000 }, (_, i) => i % 20));
    expect([made, most]).toEqual([20, 1]);
  });

  test("that failed are asked again, and those that wait behind them are answered", async () => {
    const failed = own.ask("fails once", async () => Promise.reject(new Error("no table")));
    const behind = own.ask("behind it", async () => "answered");
    await expect(failed).rejects.toThrow("no table");
    expect(await behind).toBe("answered");
    expect(await own.ask("fails once", async () => "there now")).toBe("there now");
  });

  test("are answered again once the database opens, where it did not at first", async () => {
    const fresh = new Queries();
    const open = vi.spyOn(Database, "open").mockRejectedValueOnce(new Error("no memory"));
    await expect(fresh.ask("a", async () => 1)).rejects.toThrow("no memory");
    expect(await fresh.ask("a", async () => 2)).toBe(2);
    expect(await fresh.ask("b", async () => 3)).toBe(3);
    expect(open).toHaveBeenCalledTimes(2);
    open.mockRestore();
    await fresh.close();
  });
});

describe("effects", () => {
  test("of 1,000,000 rows the largest are there within three seconds", async () => {
    const begun = performance.now();
    const page = await effectRows({ places, queries }, { run: "large", offset: 0, limit: 100 });
    const seconds = (performance.now() - begun) / 1000;
    console.log(`1,000,000 rows opened in ${seconds.toFixed(2)} s`);
    expect(seconds).toBeLessThan(3);
    expect([page.matching, page.all, page.rows.length]).toEqual([count, count, 100]);
    const expected = Array.from({ length: count }, (_, i) => Math.abs(effectOf(i))).sort((a, b) => b - a);
    page.rows.forEach(({ effect }, i) => {
      expect(Math.abs(effect)).toBeCloseTo(expected[i]!, 12);
    });
  });

  test("can be asked for by site, feature and place in the order, with their tokens", async () => {
    const ask = { run: "left", site: "resid_post.3", split: "test", offset: 5, limit: 10 } as const;
    const page = await effectRows({ places, queries }, ask);
    const all = (await rowsOf(join(home, "left"), "effects"))
      .filter(({ site, split }) => site === ask.site && split === ask.split)
      .sort((a, b) => Math.abs(b.effect as number) - Math.abs(a.effect as number));
    const nodes = await rowsOf(join(home, "left"), "nodes");
    expect(page.matching).toBe(all.length);
    page.rows.forEach((row, i) => {
      expect(Math.abs(row.effect)).toBe(Math.abs(all[5 + i]!.effect as number));
      expect(row.token).toBe(nodes.find(({ node }) => node === row.node)!.token);
    });
    const { feature } = all.find((row) => (row.feature as number) >= 0)!;
    const one = await effectRows({ places, queries }, { ...ask, feature: feature as number, offset: 0 });
    expect(one.matching).toBe(all.filter((row) => row.feature === feature).length);
    const quoted = await effectRows({ places, queries }, { ...ask, case: "' OR 1 = 1 --" });
    expect(quoted.matching).toBe(0);
  });

  test("of 1,000 questions at once are all there", async () => {
    const ask = (i: number) => effectRows({ places, queries }, { run: "left", offset: i % 20, limit: 5 });
    const pages = await Promise.all(Array.from({ length: 1000 }, (_, i) => ask(i)));
    expect(pages.every(({ rows }) => rows.length === 5)).toBe(true);
  });

  test("of what is no finished run are refused", async () => {
    for (const run of ["none", "..", "../etc", "left/../right", "/etc", ""]) {
      const refused = effectRows({ places, queries }, { run, offset: 0, limit: 5 });
      await expect(refused).rejects.toMatchObject({ status: 404 });
    }
  });
});

describe("two runs", () => {
  test("share features, or have them alone, with the effects of both", async () => {
    const [top, split] = [10, "train"] as const;
    const { sites, apart, notes } = await compareRuns(
      { places, queries },
      { left: "left", right: "right", split, top },
    );
    expect(sites.map(({ site }) => site)).toEqual(["resid_post.2", "resid_post.3"]);
    expect(apart).toEqual([
      { site: "mlp_out.2", reason: "the right run alone has it" },
      { site: "mlp_out.3", reason: "the right run alone has it" },
    ]);
    // They are drawn from other seeds.
    expect(notes).toEqual([
      expect.stringMatching(
        /^The runs are of other pairs: (\d+) of agreement \(seed 1\) on the left, \1 of agreement \(seed 2\) on the right\.$/,
      ),
    ]);
    const [left, right] = [await rowsOf(join(home, "left"), "features"), await rowsOf(join(home, "right"), "features")];
    const own = (rows: typeof left, site: string) =>
      rows.filter((row) => row.site === site && row.split === split && row.case === "" && row.rank !== null);
    for (const { site, features, counts, correlation } of sites) {
      const strongest = (rows: typeof left) =>
        new Set(
          own(rows, site)
            .filter(({ rank }) => (rank as number) <= top)
            .map(({ feature }) => feature as number),
        );
      const [a, b] = [strongest(left), strongest(right)];
      expect(counts).toEqual({
        both: [...a].filter((feature) => b.has(feature)).length,
        left: [...a].filter((feature) => !b.has(feature)).length,
        right: [...b].filter((feature) => !a.has(feature)).length,
      });
      expect(features.length).toBe(new Set([...a, ...b]).size);
      for (const row of features) {
        const effect = (rows: typeof left) =>
          own(rows, site).find(({ feature }) => feature === row.feature)?.effect ?? null;
        expect([row.left, row.right]).toEqual([effect(left), effect(right)]);
        expect(row.in).toBe(a.has(row.feature) ? (b.has(row.feature) ? "both" : "left") : "right");
      }
      expect(correlation).toBeGreaterThan(0.5);
    }
  });

  test("of which one has other SAEs, by their hashes, are not compared there", async () => {
    await cp(join(home, "right"), join(home, "changed"), { recursive: true });
    const manifest = JSON.parse(readFileSync(join(home, "changed/run.json"), "utf8"));
    manifest.dictionaries.find(({ site }: { site: string }) => site === "resid_post.2").sha256 = "0".repeat(64);
    manifest.model.sha256 = "0".repeat(64);
    writeFileSync(join(home, "changed/run.json"), JSON.stringify(manifest));
    const { sites, apart, notes } = await compareRuns(
      { places, queries },
      { left: "left", right: "changed", split: "test", top: 10 },
    );
    expect(sites.map(({ site }) => site)).toEqual(["resid_post.3"]);
    expect(apart[0]).toEqual({ site: "resid_post.2", reason: "the runs have different SAEs there" });
    expect(notes).toEqual(["The runs are of different models.", expect.stringContaining("of other pairs")]);
  });

  test("of other pairs, with numbers of other units, or without the split are told apart", async () => {
    await cp(join(home, "right"), join(home, "other"), { recursive: true });
    const manifest = JSON.parse(readFileSync(join(home, "other/run.json"), "utf8"));
    manifest.accuracy = manifest.accuracy.filter(({ split }: { split: string }) => split === "train");
    manifest.options = { ...manifest.options, score: "gradient", task: null, pairs: "mine.jsonl" };
    manifest.counts.pairs = 7;
    writeFileSync(join(home, "other/run.json"), JSON.stringify(manifest));
    const { notes } = await compareRuns({ places, queries }, { left: "left", right: "other", split: "test", top: 10 });
    expect(notes).toEqual([
      expect.stringMatching(/^The left run's numbers are by \S+, the right run's by gradient\.$/),
      "They have other units: compare ranks, not sizes.",
      expect.stringMatching(
        /^The runs are of other pairs: \d+ of agreement \(seed 1\) on the left, 7 of mine\.jsonl \(seed 2\) on the right\.$/,
      ),
      "The right run has no test split, so it has none of these features.",
    ]);
  });

  test("without a table say which one is missing", async () => {
    await cp(join(home, "right"), join(home, "missing"), { recursive: true });
    rmSync(join(home, "missing/features.parquet"));
    const ask = { left: "left", right: "missing", split: "test", top: 10 } as const;
    await expect(compareRuns({ places, queries }, ask)).rejects.toThrow(
      "features.parquet: expected a file of the run missing, got none.",
    );
  });
});
