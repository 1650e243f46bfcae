import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { z } from "zod";
import {
  examples,
  expectComplete,
  filesUnder,
  manifestOf,
  type Row,
  rowsOf,
  runFlags,
  succeeds,
  writeExamples,
  writeSae,
} from "./cli-harness.ts";

let home: string;
let pairs: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-results-"));
  pairs = await writeExamples(join(home, "pairs.jsonl"), examples(40));
  await run("plain");
});
afterAll(() => rm(home, { recursive: true, force: true }));

const sites = ["attn_out.0", "mlp_out.0", "resid_post.0", "attn_out.1", "mlp_out.1", "resid_post.1"];
const folderOf = (name: string) => join(home, name);
const run = (name: string, ...flags: string[]) => succeeds(runFlags(pairs, folderOf(name), ...flags));
const pairsOf = async (name: string) =>
  (await readFile(join(folderOf(name), "pairs.jsonl"), "utf8"))
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, string> & { m_clean: number; m_patch: number; end: number });

const columns = {
  nodes: "node split case parent position token_id token patch_token_id patch_token weight",
  effects: "split case site node position feature f_clean f_patch gradient effect",
  features: "split case site feature effect effect_abs nodes_active rank",
};

/** Equal to float32's precision. */
const isNear = (a: number, b: number) => Math.abs(a - b) <= 1e-5 * Math.abs(b) + 1e-12;

/** Largest difference of effects, a missing row counting as 0, over the largest effect. */
async function effectGap(name: string, other: string): Promise<number> {
  const keyed = async (folder: string) =>
    new Map((await rowsOf(folder, "effects")).map((r) => [`${r.site}/${r.node}/${r.feature}`, r.effect as number]));
  const [a, b] = [await keyed(folderOf(name)), await keyed(folderOf(other))];
  const largest = [...a.values()].reduce((most, effect) => Math.max(most, Math.abs(effect)), 0);
  const gap = [...new Set([...a.keys(), ...b.keys()])].reduce(
    (most, key) => Math.max(most, Math.abs((a.get(key) ?? 0) - (b.get(key) ?? 0))),
    0,
  );
  expect(largest).toBeGreaterThan(0);
  return gap / largest;
}

describe("a run's folder", () => {
  it("is complete, and its run.json follows docs/run.schema.json", async () => {
    await expectComplete(folderOf("plain"));
    const schema = JSON.parse(await readFile(new URL("../docs/run.schema.json", import.meta.url), "utf8"));
    expect(() => z.fromJSONSchema(schema).parse({})).toThrow();
    const manifest = z.fromJSONSchema(schema).parse(await manifestOf(folderOf("plain")));
    expect(manifest).toEqual(await manifestOf(folderOf("plain")));
  });

  it("has both checks for every site, with a scale", async () => {
    const { checks, dictionaries, counts } = await manifestOf(folderOf("plain"));
    expect(dictionaries.map((d: { site: string }) => d.site)).toEqual(sites);
    for (const name of ["sum of effects", "forest equals example by example"]) {
      const own = checks.filter((check: { name: string }) => check.name === name);
      expect(own.map((check: { site: string }) => check.site)).toEqual(sites);
      for (const { scale, passed } of own)
        expect({ positive: scale > 0, passed }).toEqual({ positive: true, passed: true });
    }
    expect(counts.rows).toBe((await rowsOf(folderOf("plain"), "effects")).length);
    expect(counts.nodes_backward).toBe((await rowsOf(folderOf("plain"), "nodes")).length);
  });

  it.each(Object.entries(columns))("has the columns of %s.parquet", async (table, names) => {
    const [row] = await rowsOf(folderOf("plain"), table as keyof typeof columns);
    expect(Object.keys(row!).join(" ")).toBe(names);
  });

  it("has nodes that lead from every pair's end to the beginning through its prompts", async () => {
    const nodes = new Map((await rowsOf(folderOf("plain"), "nodes")).map((row) => [row.node, row]));
    const weights = new Map<unknown, number>();
    for (const pair of await pairsOf("plain")) {
      const [clean, patch]: [string[], string[]] = [[], []];
      for (let row: Row | undefined = nodes.get(pair.end); row; row = nodes.get(row.parent)) {
        expect(row).toMatchObject({ split: pair.split, case: pair.case });
        clean.unshift(row.token as string);
        patch.unshift(row.patch_token as string);
        weights.set(row.node, (weights.get(row.node) ?? 0) + 1);
      }
      expect([clean.slice(1).join(" "), patch.slice(1).join(" ")]).toEqual([pair.clean_prefix, pair.patch_prefix]);
    }
    for (const row of nodes.values()) expect(row.weight).toBe(weights.get(row.node));
  });

  it("has an error row, without codes, at every node with feature rows, and codes that differ in those", async () => {
    const rows = await rowsOf(folderOf("plain"), "effects");
    const at = (row: Row) => `${row.site}/${row.node}`;
    const errors = rows.filter((row) => row.feature === -1);
    expect(new Set(errors.map(at))).toEqual(new Set(rows.map(at)));
    expect(errors.every((row) => row.f_clean === null && row.f_patch === null && row.gradient === null)).toBe(true);
    const wrong = rows.filter((row) => {
      const { feature, f_clean, f_patch, gradient, effect } = row as Record<string, number>;
      const expected = (f_patch! - f_clean!) * gradient!;
      return feature !== -1 && (f_clean === f_patch || !isNear(effect!, expected));
    });
    expect(wrong).toEqual([]);
  });

  it("has in features.parquet the means of effects.parquet per pair, ranked by their size", async () => {
    const all = await pairsOf("plain");
    const rows = (await rowsOf(folderOf("plain"), "features")) as (Row & { effect: number; rank: number | null })[];
    const effects = await rowsOf(folderOf("plain"), "effects");
    for (const name of ["", "one", "two"]) {
      const inCase = (row: Row) => row.split === "test" && (name === "" || row.case === name);
      const number = all.filter((pair) => inCase(pair)).length;
      const sums = new Map<unknown, number>();
      for (const row of effects) {
        if (inCase(row) && row.site === "mlp_out.0")
          sums.set(row.feature, (sums.get(row.feature) ?? 0) + (row.effect as number) / number);
      }
      const own = rows.filter((row) => row.split === "test" && row.case === name && row.site === "mlp_out.0");
      expect(new Set(own.map((row) => row.feature))).toEqual(new Set(sums.keys()));
      for (const row of own) {
        expect(row.effect).toBeCloseTo(sums.get(row.feature)!, 10);
        expect(row.effect_abs).toBe(Math.abs(row.effect));
      }
      const ranked = own.filter((row) => row.feature !== -1).sort((a, b) => a.rank! - b.rank!);
      expect(ranked.map((row) => row.rank)).toEqual(ranked.map((_, i) => i + 1));
      expect(ranked.every((row, i) => i === 0 || row.effect_abs! <= ranked[i - 1]!.effect_abs!)).toBe(true);
      expect(own.find((row) => row.feature === -1)?.rank).toBeNull();
    }
  });

  it("has accuracies that count the pairs with m_clean < 0", async () => {
    const all = await pairsOf("plain");
    for (const { split, case: name, pairs: n, correct } of (await manifestOf(folderOf("plain"))).accuracy) {
      const own = all.filter((pair) => pair.split === split && pair.case === name);
      expect([n, correct]).toEqual([own.length, own.filter((pair) => pair.m_clean < 0).length]);
    }
  });
});

describe("flags", () => {
  it("--batch_size gives the same effects", async () => {
    await run("one by one", "--batch_size", "1");
    expect(await effectGap("plain", "one by one")).toBeLessThanOrEqual(1e-5);
  });

  it("--precision float64 gives the same effects to float32's precision", async () => {
    await run("float64", "--precision", "float64");
    expect(await effectGap("float64", "plain")).toBeLessThanOrEqual(1e-4);
    const { checks } = await manifestOf(folderOf("float64"));
    for (const { gap, scale } of checks) expect(gap).toBeLessThanOrEqual(1e-10 * scale);
  });

  it("--layers and --sites together choose sites", async () => {
    await run("chosen", "--layers", "1", "--sites", "attn_z,resid_post,embed");
    const chosen = ["embed", "attn_z.1", "resid_post.1"];
    expect(JSON.parse(await readFile(join(folderOf("chosen"), "ranking.json"), "utf8")).sites).toMatchObject(
      chosen.map((site) => ({ site })),
    );
    expect(new Set((await rowsOf(folderOf("chosen"), "effects")).map((row) => row.site))).toEqual(new Set(chosen));
  });

  it("--sites takes the layers for which that kind has SAEs", async () => {
    const source = join(home, "some saes");
    await writeSae(source, "resid_post.1");
    await writeSae(source, "mlp_out.0");
    await run("some", "--sae_source", source, "--sites", "resid_post");
    expect((await manifestOf(folderOf("some"))).dictionaries).toMatchObject([{ site: "resid_post.1" }]);
  });

  it("--pairs replaces --task, which is not recorded then", async () => {
    expect((await manifestOf(folderOf("plain"))).options.task).toBeNull();
    const { stdout } = await run("plain", "--task", "pronoun");
    expect(stdout).toContain("holds the finished run with these options");
  });

  it("--keep correct leaves the pairs that the model gets right", async () => {
    const { stderr } = await run("correct", "--keep", "correct");
    const right = (await pairsOf("plain")).filter((pair) => pair.m_clean < 0);
    const strip = (list: Awaited<ReturnType<typeof pairsOf>>) =>
      list.map(({ end: _, m_clean: __, m_patch: ___, ...rest }) => rest);
    expect(right.length).toBeGreaterThan(0);
    expect(right.length).toBeLessThan(40);
    expect(strip(await pairsOf("correct"))).toEqual(strip(right));
    expect(stderr).toContain(`Left out ${40 - right.length} of 40 pairs that the model gets wrong`);
  });

  it("--num_examples takes so many pairs per split and case", async () => {
    await run("few", "--num-examples=3", "--sites", "resid_post", "--layers=0-1");
    const counts = new Map<string, number>();
    for (const pair of await pairsOf("few")) {
      const key = `${pair.split} ${pair.case}`;
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    expect(Object.fromEntries(counts)).toEqual({ "train one": 3, "train two": 3, "test one": 3, "test two": 3 });
  });

  it("--score gradient ranks without rows of effects", async () => {
    await run("gradient", "--score", "gradient");
    expect(await rowsOf(folderOf("gradient"), "effects")).toEqual([]);
    const rows = await rowsOf(folderOf("gradient"), "features");
    expect(Object.keys(rows[0]!).join(" ")).toBe(columns.features);
    // Every one of the 128 features has a gradient; an error has none.
    for (const site of sites) {
      const own = rows.filter((row) => row.site === site && row.split === "train" && row.case === "");
      expect(own.map((row) => row.feature as number).sort((a, b) => a - b)).toEqual(
        Array.from({ length: 128 }, (_, i) => i),
      );
    }
    expect(filesUnder(folderOf("gradient"))).toContain("report.html");
  });

  it("--score gradient-activation has rows where the clean code is not 0, each code times gradient", async () => {
    await run("gradient-activation", "--score", "gradient-activation");
    const rows = await rowsOf(folderOf("gradient-activation"), "effects");
    expect(rows.length).toBeGreaterThan(0);
    expect(Object.keys(rows[0]!).join(" ")).toBe(columns.effects);
    const wrong = rows.filter((row) => {
      const { feature, f_clean, gradient, effect } = row as Record<string, number>;
      return feature! < 0 || f_clean === 0 || !isNear(effect!, f_clean! * gradient!);
    });
    expect(wrong).toEqual([]);
    expect(filesUnder(folderOf("gradient-activation"))).toContain("report.html");
  });
});
