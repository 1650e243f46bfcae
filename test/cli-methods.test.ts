import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  examples,
  expectComplete,
  expectError,
  expectSameRun,
  llama,
  manifestOf,
  rowsOf,
  runFlags,
  sfc,
  signalAmidst,
  succeeds,
  writeExamples,
} from "./cli-harness.ts";

let home: string;
let pairs: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-methods-"));
  pairs = await writeExamples(join(home, "pairs.jsonl"), examples(30));
});
afterAll(() => rm(home, { recursive: true, force: true }));

const folderOf = (name: string) => join(home, name);

/** Effects by site, node and feature. */
async function effectsOf(name: string): Promise<Map<string, number>> {
  const rows = await rowsOf(folderOf(name), "effects");
  return new Map(rows.map((r) => [`${r.site}/${r.node}/${r.feature}`, r.effect as number]));
}

async function gap(a: string, b: string): Promise<number> {
  const [x, y] = [await effectsOf(a), await effectsOf(b)];
  const largest = Math.max(...[...x.values()].map(Math.abs));
  const keys = [...new Set([...x.keys(), ...y.keys()])];
  return Math.max(...keys.map((key) => Math.abs((x.get(key) ?? 0) - (y.get(key) ?? 0)))) / largest;
}

describe("sfc run --method", () => {
  beforeAll(async () => {
    for (const method of ["analytic", "sfc", "spliced", "analytic-ig", "sfc-ig", "exact"]) {
      const ended = await succeeds(runFlags(pairs, folderOf(method), "--method", method));
      if (method === "exact") expect(ended.stderr).toMatch(/^exact: [\d,]+ patches, about /m);
    }
  });

  it("gives the same tables for every method", async () => {
    for (const method of ["sfc", "spliced", "analytic-ig", "sfc-ig", "exact"]) {
      await expectComplete(folderOf(method));
      expect((await manifestOf(folderOf(method))).options.method).toBe(method);
      const [row] = await rowsOf(folderOf(method), "effects");
      expect(Object.keys(row!)).toEqual(Object.keys((await rowsOf(folderOf("analytic"), "effects"))[0]!));
    }
  });

  it("sfc is analytic, sfc-ig is analytic-ig; spliced, analytic-ig and exact are something else", async () => {
    expect(await gap("analytic", "sfc")).toBeLessThan(1e-4);
    expect(await gap("analytic-ig", "sfc-ig")).toBeLessThan(1e-4);
    for (const method of ["spliced", "analytic-ig", "exact"])
      expect(await gap("analytic", method)).toBeGreaterThan(1e-3);
  });

  it("steps and rule are options of integrated methods, and change the result", async () => {
    await succeeds(runFlags(pairs, folderOf("left"), "--method", "analytic-ig", "--steps", "1", "--rule", "left"));
    expect(await gap("analytic", "left")).toBeLessThan(1e-6);
    expect((await manifestOf(folderOf("left"))).options).toMatchObject({ steps: 1, rule: "left" });
    expect((await manifestOf(folderOf("analytic-ig"))).options).toMatchObject({ steps: 10, rule: "midpoint" });
    expect((await manifestOf(folderOf("analytic"))).options).not.toHaveProperty("steps");
  });

  it("goes on site by site after kill -9, to the same numbers", async () => {
    const flags = (folder: string) => runFlags(pairs, folder, "--method", "analytic-ig");
    const firstSite = (files: string[]) => files.some((file) => /sums\.attn_out\.0/.test(file));
    const { folder } = await signalAmidst("SIGKILL", firstSite, flags, folderOf("killed"));
    expect((await succeeds(flags(folder))).stderr).toContain("Resuming the interrupted run");
    await expectSameRun(folder, folderOf("analytic-ig"));
  });
});

describe("what does not go together is refused", () => {
  const run = (...flags: string[]) => sfc(...runFlags(pairs, folderOf("refused"), ...flags));

  it.each([
    [
      "an unknown method",
      ["--method", "magic"],
      ["--method", "analytic, analytic-ig, sfc, sfc-ig, spliced, secant, exact"],
    ],
    ["a score with another method", ["--method", "sfc", "--score", "gradient"], ["--score gradient", "got sfc"]],
    ["steps without integration", ["--steps", "5"], ["--steps", "analytic-ig, sfc-ig or secant"]],
    ["a rule without integration", ["--method", "sfc", "--rule", "left"], ["--rule", "got sfc"]],
    ["no steps at all", ["--method", "sfc-ig", "--steps", "0"], ["--steps", "from 1 up"]],
    ["an unknown rule", ["--method", "sfc-ig", "--rule", "right"], ["--rule", "midpoint, left"]],
  ] as const)("%s", async (_, flags, parts) => {
    expectError(await run(...flags), 2, ...parts);
  });

  it("estimate takes methods too, and tells more work for more steps", async () => {
    const told = async (...flags: string[]) => {
      const base = ["estimate", "--model_name", llama, "--sae_source", "dummy", "--pairs", pairs, "--json"];
      return JSON.parse((await succeeds([...base, ...flags])).stdout).seconds.effects as number;
    };
    const few = await told("--method", "analytic-ig", "--steps", "2");
    expect(await told("--method", "analytic-ig", "--steps", "40")).toBeGreaterThan(few);
    expect(await told("--method", "sfc")).toBeGreaterThan(await told());
    expect(await told("--method", "exact")).toBeGreaterThan(await told());
  });
});
