import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects, parquetSchema } from "hyparquet";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { rankingSchema } from "../src/circuit/ranking.ts";
import type { RankOptions } from "../src/circuit/tables.ts";
import type { EffectRows } from "../src/effects/rows.ts";
import { allCases, type NodesTable } from "../src/effects/sums.ts";
import type { SplitUnits, Units } from "../src/interventions/units.ts";
import type { Split } from "../src/prompts/pairs.ts";
import { Random } from "../src/random.ts";
import { RunTables, readFeatures } from "../src/results/tables.ts";

let home: string;
beforeEach(async () => {
  // A folder whose name would be a pattern, and ends a literal of SQL, if it were not quoted.
  home = await mkdtemp(join(tmpdir(), "sfc [ab]'s * "));
});
afterEach(() => rm(home, { recursive: true, force: true }));

const splits: readonly Split[] = ["train", "test"];
const cases = ["nounpp/it's", "simple", "Zebra"];
const bos = 0;
const pad = 4;
const outside = { first: new Set([bos]), padding: new Set([pad]) };
const sites = ["embed", "attn_out.0", "resid_post.0", "attn_out.1", "resid_post.10"];

function randomNodes(random: Random, count: number): NodesTable {
  const each = <T>(make: (i: number) => T) => Array.from({ length: count }, (_, i) => make(i));
  const token = each(() => random.below(5));
  const patch = each((i) => (token[i] === bos ? bos : 1 + random.below(4)));
  return {
    node: Int32Array.from(each((i) => 3 * i + 1)),
    split: each(() => random.pick(splits)),
    case: each(() => random.pick(cases)),
    parent: Int32Array.from(each((i) => (i === 0 ? -1 : 3 * random.below(i) + 1))),
    position: Int32Array.from(each(() => random.below(12))),
    token_id: Int32Array.from(token),
    token: token.map((id) => ["<s>", " the", " dog's", "é", '"'][id]!),
    patch_token_id: Int32Array.from(patch),
    patch_token: patch.map((id) => ["<s>", " a", " cats", "日", ","][id]!),
    weight: Float64Array.from(each(() => 1 + random.below(9))),
  };
}

function randomRows(random: Random, nodes: NodesTable, site: string, features: number): EffectRows {
  const rows: [node: number, feature: number][] = [];
  for (const node of nodes.node) {
    for (let feature = -1; feature < features; feature++) if (random.chance(0.4)) rows.push([node, feature]);
  }
  const code = (feature: number) => (feature < 0 ? Number.NaN : random.chance(0.2) ? 0 : random.uniform());
  return {
    site,
    node: Int32Array.from(rows, ([node]) => node),
    feature: Int32Array.from(rows, ([, feature]) => feature),
    fClean: Float32Array.from(rows, ([, feature]) => code(feature)),
    fPatch: Float32Array.from(rows, ([, feature]) => code(feature)),
    gradient: Float32Array.from(rows, ([, feature]) => (feature < 0 ? Number.NaN : random.normal())),
    // Whole numbers for some features, so that ties occur; the others far apart in size, so that the order of a sum shows in its bits.
    effect: Float64Array.from(rows, ([, feature]) =>
      feature >= 25 ? random.pick([-1, 1]) : random.normal() * 10 ** random.below(6),
    ),
  };
}

const pairs = splits.flatMap((split, i) => cases.map((name, k) => ({ split, case: name, pairs: 7 + 3 * i + k })));

const change = { train: 2.5, test: -4 };

const options = (changes: Partial<RankOptions> = {}): RankOptions => ({
  sites,
  pairs,
  score: "effect",
  top: 3,
  change,
  ...changes,
});

/** Nodes dealt to seven words, every node a pair of its own. */
function wordsOf(nodes: NodesTable): Units {
  const size = nodes.node.at(-1)! + 1;
  const [split, group, place] = [new Uint8Array(size), new Int32Array(size).fill(-1), new Int32Array(size)];
  const units = splits.map((name, s): SplitUnits => {
    const own = nodes.node.filter((_, row) => nodes.split[row] === name);
    own.forEach((node, i) => {
      split[node] = s;
      group[node] = i % 7;
      place[node] = i;
    });
    const pairsOfGroup = Float64Array.from({ length: 7 }, (_, k) => own.filter((_, i) => i % 7 === k).length);
    const one = {
      nodes: own,
      parent: own.map(() => -1),
      weight: Float64Array.from(own, () => 1),
      ends: own.map((_, i) => i),
    };
    return { split: name, pairs: own.length, words: 7, pairsOfGroup, ...one };
  });
  return { splits: units, shared: 0, split, group, place };
}

/** BOS counts as BOS at the first position alone, padding everywhere. */
function isLeftOut(nodes: NodesTable, row: number): boolean {
  const either = [nodes.token_id[row], nodes.patch_token_id[row]];
  return either.includes(pad) || (nodes.position[row] === 0 && either.includes(bos));
}

async function readWithAnotherReader(file: string): Promise<Record<string, unknown>[]> {
  return await parquetReadObjects({ file: await asyncBufferFromFile(join(home, file)) });
}

async function columnsOf(file: string): Promise<string[]> {
  const { children } = parquetSchema(await parquetMetadataAsync(await asyncBufferFromFile(join(home, file))));
  return children.map(({ element }) => `${element.name} ${element.type} ${element.converted_type ?? ""}`.trim());
}

interface Feature {
  split: Split;
  case: string;
  site: string;
  feature: number;
  effect: number;
  effect_abs: number;
  nodes_active: number;
  rank: number | null;
}

/** features.parquet by plain loops. */
function expectedFeatures(nodes: NodesTable, chunks: readonly EffectRows[]): Feature[] {
  const sums = new Map<string, Feature>();
  for (const rows of chunks) {
    rows.node.forEach((node, i) => {
      const at = nodes.node.indexOf(node);
      if (isLeftOut(nodes, at)) return;
      for (const name of [allCases, nodes.case[at]!]) {
        const [split, feature] = [nodes.split[at]!, rows.feature[i]!];
        const key = JSON.stringify([split, name, rows.site, feature]);
        const start = {
          split,
          case: name,
          site: rows.site,
          feature,
          effect: 0,
          effect_abs: 0,
          nodes_active: 0,
          rank: null,
        };
        const sum = sums.get(key) ?? start;
        sum.effect += rows.effect[i]!;
        sum.nodes_active++;
        sums.set(key, sum);
      }
    });
  }
  const found = [...sums.values()];
  for (const row of found) {
    const of = pairs.filter((group) => group.split === row.split && (row.case === allCases || group.case === row.case));
    row.effect /= of.reduce((sum, group) => sum + group.pairs, 0);
    row.effect_abs = Math.abs(row.effect);
  }
  const groupOf = (row: Feature) => JSON.stringify([row.split, row.case, row.site]);
  const groups = new Map<string, Feature[]>();
  for (const row of found) groups.set(groupOf(row), [...(groups.get(groupOf(row)) ?? []), row]);
  for (const group of groups.values()) {
    const ranked = group.filter(({ feature }) => feature >= 0);
    ranked.sort((a, b) => b.effect_abs - a.effect_abs || a.feature - b.feature);
    ranked.forEach((row, i) => {
      row.rank = i + 1;
    });
  }
  // Binary order, as in a file that no locale touches.
  const text = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);
  return found.sort(
    (a, b) =>
      sites.indexOf(a.site) - sites.indexOf(b.site) ||
      text(b.split, a.split) ||
      text(a.case, b.case) ||
      (a.rank ?? 0) - (b.rank ?? 0),
  );
}

describe("the tables of a run", () => {
  const seed = 20260101;
  const random = new Random(seed);
  const nodes = randomNodes(random, 90);
  const chunks = sites.map((site) => randomRows(random, nodes, site, 40));

  async function writeRun(order: readonly EffectRows[], threads?: number): Promise<void> {
    const tables = await RunTables.open(join(home, ".partial"), { threads });
    await tables.writeNodes(nodes, outside);
    for (const rows of order) await tables.writeEffects(rows);
    await tables.finish(home, options());
    tables.close();
  }

  it("holds every row of effects with its node's split, case and position, as another reader sees it", async () => {
    await writeRun(chunks.toReversed());
    expect(await columnsOf("effects.parquet")).toEqual([
      "split BYTE_ARRAY UTF8",
      "case BYTE_ARRAY UTF8",
      "site BYTE_ARRAY UTF8",
      "node INT32 INT_32",
      "position INT32 INT_32",
      "feature INT32 INT_32",
      "f_clean FLOAT",
      "f_patch FLOAT",
      "gradient FLOAT",
      "effect DOUBLE",
    ]);
    const orNull = (value: number) => (Number.isNaN(value) ? null : value);
    const expected = chunks.flatMap((rows) =>
      Array.from(rows.node, (node, i) => {
        const at = nodes.node.indexOf(node);
        return {
          split: nodes.split[at],
          case: nodes.case[at],
          site: rows.site,
          node,
          position: nodes.position[at],
          feature: rows.feature[i],
          f_clean: orNull(rows.fClean[i]!),
          f_patch: orNull(rows.fPatch[i]!),
          gradient: orNull(rows.gradient[i]!),
          effect: rows.effect[i],
        };
      }),
    );
    expect(await readWithAnotherReader("effects.parquet"), `seed ${seed}`).toEqual(expected);
  });

  it("holds the nodes as they were given", async () => {
    await writeRun(chunks);
    const { node, ...columns } = nodes;
    const expected = Array.from(node, (id, row) => ({
      node: id,
      ...Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values[row]])),
    }));
    expect(await readWithAnotherReader("nodes.parquet")).toEqual(expected);
    expect(await columnsOf("nodes.parquet")).toEqual([
      "node INT32 INT_32",
      "split BYTE_ARRAY UTF8",
      "case BYTE_ARRAY UTF8",
      "parent INT32 INT_32",
      "position INT32 INT_32",
      "token_id INT32 INT_32",
      "token BYTE_ARRAY UTF8",
      "patch_token_id INT32 INT_32",
      "patch_token BYTE_ARRAY UTF8",
      "weight DOUBLE",
    ]);
  });

  it("sums and ranks the features as plain loops do, BOS at the start and padding left out", async () => {
    await writeRun(chunks);
    const expected = expectedFeatures(nodes, chunks);
    const found = (await readWithAnotherReader("features.parquet")) as unknown as Feature[];
    const close = (row: Feature) => ({
      ...row,
      effect: row.effect.toPrecision(9),
      effect_abs: row.effect_abs.toPrecision(9),
    });
    expect(expected.some((row, i) => row.rank !== null && row.effect_abs === expected[i + 1]?.effect_abs)).toBe(true);
    expect(found.map(close), `seed ${seed}`).toEqual(expected.map(close));
    expect(await columnsOf("features.parquet")).toEqual([
      "split BYTE_ARRAY UTF8",
      "case BYTE_ARRAY UTF8",
      "site BYTE_ARRAY UTF8",
      "feature INT32 INT_32",
      "effect DOUBLE",
      "effect_abs DOUBLE",
      "nodes_active INT32 INT_32",
      "rank INT32 INT_32",
    ]);
  });

  it("ranks what features.parquet holds", async () => {
    await writeRun(chunks);
    const ranking = rankingSchema.parse(JSON.parse(await readFile(join(home, "ranking.json"), "utf8")));
    expect(ranking.sites.map(({ site }) => site)).toEqual(sites);
    for (const { site, splits: bySplit } of ranking.sites) {
      for (const split of splits) {
        const rows = await readFeatures(home, { split, site, case: allCases });
        const top = rows.filter(({ rank }) => rank !== null && rank <= 3);
        expect(bySplit[split]?.top).toEqual(
          top.map(({ rank, feature, effect, nodes_active }) => ({
            rank,
            feature,
            effect,
            nodes_active,
            exact: null,
            ...{ by_words: null, by_pairs: null, ranks: null, in_top_10: null },
          })),
        );
        expect(bySplit[split]?.error).toBe(rows.find(({ feature }) => feature === -1)?.effect);
        // What the effects and the error add up to, over the change of the metric.
        const sum = rows.reduce((total, { effect }) => total + effect, 0);
        expect(bySplit[split]?.explained).toBeCloseTo(sum / change[split], 9);
        const own = chunks.find((of) => of.site === site)!;
        const total = (counts: (row: number) => boolean) =>
          own.node.reduce((all, node, i) => {
            const at = nodes.node.indexOf(node);
            const part = own.feature[i]! >= 0 && nodes.split[at] === split && counts(at) ? Math.abs(own.effect[i]!) : 0;
            return all + part;
          }, 0);
        const leftOut = total((row) => isLeftOut(nodes, row));
        expect(leftOut).toBeGreaterThan(0);
        expect(bySplit[split]?.left_out).toBeCloseTo(leftOut / total(() => true), 5);
      }
    }
  });

  it("is the same to the last bit whatever the order of the sites and the number of threads", async () => {
    // More rows than a row group of a Parquet file (122,880), which is what one thread takes at a time.
    const big = randomNodes(random, 12_000);
    const many = sites.slice(0, 2).map((site, i) => randomRows(random, big, site, i === 0 ? 30 : 5));
    const bytes: Buffer[][] = [];
    for (const [order, threads] of [
      [many, 1],
      [many.toReversed(), 4],
    ] as const) {
      // biome-ignore format: one row
      const tables = await RunTables.open(join(home, ".partial"), { threads });
      await tables.writeNodes(big, outside);
      for (const rows of order) await tables.writeEffects(rows);
      const { ranking } = await tables.finish(home, options({ sites: sites.slice(0, 2), units: wordsOf(big) }));
      expect(ranking.words).toEqual({ train: 7, test: 7 });
      expect(ranking.sites[0]!.splits.test!.top[0]!.by_words).not.toBeNull();
      tables.close();
      await rm(join(home, ".partial"), { recursive: true });
      bytes.push(
        await Promise.all(["effects.parquet", "features.parquet", "ranking.json"].map((f) => readFile(join(home, f)))),
      );
    }
    for (const again of bytes.slice(1))
      expect(again.map((file, i) => file.equals(bytes[0]![i]!))).toEqual([true, true, true]);
  });

  it("goes on from the sites already written, but not from those of other nodes", async () => {
    const first = await RunTables.open(join(home, ".partial"));
    await first.writeNodes(nodes, outside);
    for (const rows of chunks.slice(0, 3)) await first.writeEffects(rows);
    first.close();
    await writeFile(join(home, ".partial", "effects.resid_post.10.unfinished.part"), "half a file");

    const second = await RunTables.open(join(home, ".partial"));
    await second.writeNodes(nodes, outside);
    expect(await Promise.all(sites.map((site) => second.hasEffects(site)))).toEqual([true, true, true, false, false]);
    await expect(second.finish(home, options())).rejects.toThrow("attn_out.1 has not been written");
    for (const rows of chunks.slice(3)) await second.writeEffects(rows);
    await second.finish(home, options());
    await second.writeNodes({ ...nodes, weight: nodes.weight.map((w) => w + 1) }, outside);
    expect(await second.hasEffects("embed")).toBe(false);
    second.close();

    const resumed = await readFile(join(home, "features.parquet"));
    await rm(join(home, ".partial"), { recursive: true });
    await writeRun(chunks);
    expect(resumed.equals(await readFile(join(home, "features.parquet")))).toBe(true);
  });

  it("ranks sites while others are written, to the same bits", async () => {
    await writeRun(chunks);
    const names = ["effects.parquet", "features.parquet", "ranking.json", "nodes.parquet"];
    const expected = await Promise.all(names.map((name) => readFile(join(home, name))));
    await rm(join(home, ".partial"), { recursive: true });
    const tables = await RunTables.open(join(home, ".partial"));
    await tables.writeNodes(nodes, outside);
    await tables.expect(options());
    // The first one comes last: those behind it wait for their turn.
    const order = [...chunks.slice(1), chunks[0]!];
    await Promise.all(order.map((rows) => tables.writeEffects(rows)));
    await tables.rank(home, options());
    await tables.written();
    tables.close();
    const got = await Promise.all(names.map((name) => readFile(join(home, name))));
    expect(got.map((file, i) => file.equals(expected[i]!))).toEqual([true, true, true, true]);
  });

  it("takes the score gradient from sums, with an empty table of effects", async () => {
    const tables = await RunTables.open(join(home, ".partial"));
    await tables.writeNodes(nodes, outside);
    const sums = pairs.map((group) => ({ ...group, sums: Float64Array.from({ length: 30 }, () => random.normal()) }));
    await tables.writeFeatureSums("mlp_out.2", sums);
    expect([await tables.hasFeatureSums("mlp_out.2"), await tables.hasFeatureSums("mlp_out.1")]).toEqual([true, false]);
    const { ranking, rows } = await tables.finish(home, options({ score: "gradient", sites: ["mlp_out.2"] }));
    tables.close();
    expect(rows).toBe(0);
    expect(await readWithAnotherReader("effects.parquet")).toEqual([]);
    expect(await columnsOf("effects.parquet")).toHaveLength(10);
    expect(ranking.sites[0]?.splits.train).toMatchObject({ error: null, error_share: null, features: 30 });

    const used = (split: Split, name: string) =>
      nodes.split.filter((s, i) => s === split && nodes.case[i] === name && !isLeftOut(nodes, i)).length;
    for (const group of sums) {
      const found = await readFeatures(home, { split: group.split, case: group.case });
      expect(found).toHaveLength(30);
      for (const { feature, effect, nodes_active } of found) {
        expect(effect).toBeCloseTo(group.sums[feature]! / group.pairs, 12);
        expect(nodes_active).toBe(used(group.split, group.case));
      }
    }
    for (const { feature, effect } of await readFeatures(home, { split: "test", case: allCases })) {
      const of = sums.filter(({ split }) => split === "test");
      const total = of.reduce((sum, group) => sum + group.sums[feature]!, 0);
      expect(effect).toBeCloseTo(total / of.reduce((sum, group) => sum + group.pairs, 0), 12);
    }
    expect(await readFeatures(home, { split: "test", case: allCases, top: 4 })).toHaveLength(4);
  });

  it("ranks nothing at a site where no feature changes", async () => {
    const none = randomRows(random, { ...nodes, node: new Int32Array() }, "embed", 0);
    const tables = await RunTables.open(join(home, ".partial"));
    await tables.writeNodes(nodes, outside);
    await tables.writeEffects(none);
    const { ranking, rows } = await tables.finish(home, options({ sites: ["embed"] }));
    tables.close();
    expect(rows).toBe(0);
    const nothing = {
      importance: 0,
      error: null,
      error_share: null,
      explained: 0,
      left_out: 0,
      features: 0,
      stability_10: null,
      top: [],
    };
    const unlike = {
      features: 0,
      spearman: null,
      overlap_10: null,
      overlap_50: null,
      overlap_10_by_words: null,
      overlap_50_by_words: null,
    };
    expect(ranking.sites).toEqual([{ site: "embed", splits: { train: nothing, test: nothing }, train_test: unlike }]);
    expect(await readFeatures(home)).toEqual([]);
  });

  it("refuses effects that are not numbers, and rows that are out of order", async () => {
    const tables = await RunTables.open(join(home, ".partial"));
    await tables.writeNodes(nodes, outside);
    const rows = chunks[0]!;
    const effect = rows.effect.slice();
    effect[5] = Number.NaN;
    await expect(tables.writeEffects({ ...rows, effect })).rejects.toThrow(
      /^effect: expected a finite number, got NaN at embed, node \d+, feature -?\d+\. /,
    );
    await expect(tables.writeEffects({ ...rows, node: rows.node.toReversed() })).rejects.toThrow("not sorted");
    expect(await tables.hasEffects("embed")).toBe(false);
    tables.close();
  });

  it("says in one line that a folder has no features", async () => {
    await expect(readFeatures(home)).rejects.toThrow(
      /^features: expected features.parquet, got none in .*\. Give the folder/,
    );
  });
});
