import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { InterventionResult } from "../src/report/intervention-text.ts";
import {
  examples,
  expectError,
  filesUnder,
  manifestOf,
  runFlags,
  sfc,
  succeeds,
  writeExamples,
} from "./cli-harness.ts";

let home: string;
let folder: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-intervene-"));
  folder = join(home, "run");
  const pairs = await writeExamples(join(home, "pairs.jsonl"), examples(24));
  await succeeds(runFlags(pairs, folder, "--precision", "float64"));
});
afterAll(() => rm(home, { recursive: true, force: true }));

const changed = async (...flags: string[]): Promise<InterventionResult> =>
  JSON.parse((await succeeds(["evaluate", folder, "--json", ...flags])).stdout);

describe("sfc evaluate with features to change", () => {
  it("begins with the run's own metric and accuracy, and tells each pair's next tokens with their texts", async () => {
    const files = filesUnder(folder);
    const { interventions, groups, pairs } = await changed("--ablate", "resid_post.0/3,mlp_out.1/5");
    expect(interventions).toEqual([
      { site: "resid_post.0", feature: 3, factor: 0, value: 0 },
      { site: "mlp_out.1", feature: 5, factor: 0, value: 0 },
    ]);
    const lines = (await readFile(join(folder, "pairs.jsonl"), "utf8")).trimEnd().split("\n");
    expect(pairs.length).toBe(24);
    pairs.forEach(({ before, clean_prefix, next }, i) => {
      const { m_clean, clean_prefix: prefix } = JSON.parse(lines[i]!);
      expect(clean_prefix).toBe(prefix);
      expect(before).toBeCloseTo(m_clean, 9);
      expect(next.length).toBeGreaterThanOrEqual(10);
      for (const { text, token } of next) expect(text.trim() === `w${token}` || text.startsWith("<")).toBe(true);
    });
    const { accuracy } = await manifestOf(folder);
    const named = (of: readonly { split: string; case: string; pairs: number; accuracy: number }[]) =>
      of.map((row) => `${row.split} ${row.case} ${row.pairs} ${row.accuracy}`).sort();
    expect(
      named(groups.filter((group) => group.case !== "").map(({ before, ...group }) => ({ ...group, ...before }))),
    ).toEqual(named(accuracy));
    // Nothing is written.
    expect(filesUnder(folder)).toEqual(files);
  });

  it("lists add up over commas and repeated flags; a feature scaled by 1 changes nothing", async () => {
    const same = await changed("--scale", "resid_post.0/3=1, mlp_out.1/5=1");
    for (const { before, after } of same.pairs) expect(after).toBe(before);
    const names = async (...flags: string[]) => (await changed(...flags)).interventions.map(({ feature }) => feature);
    const flags = [
      "--ablate",
      "resid_post.0/1",
      "--set",
      "resid_post.1/2=4",
      "--ablate",
      "resid_post.0/5,resid_post.0/2",
    ];
    expect(await names(...flags)).toEqual([1, 2, 5, 2]);
  });

  it("as text says what was changed, the metric by case, and the next tokens", async () => {
    const { stdout } = await succeeds(["evaluate", folder, "--set", "resid_post.1/2=4", "--cases", "two"]);
    expect(stdout).toContain("resid_post.1/2  set to 4");
    expect(stdout).toMatch(/\ntest two +8 +-?\d+\.\d\d +-?\d+\.\d\d +\d+\.\d % +\d+\.\d %\n/);
    expect(stdout).not.toContain(" one ");
    expect(stdout).toMatch(
      /Next token, mean probability over test pairs of two, before and after:\n( {2}"[^"]+" +0\.\d{4} +0\.\d{4}\n){10}/,
    );
  });

  it.each([
    [["--ablate", "resid_post.7/1"], 2, "--ablate: expected a site of the model"],
    [["--ablate", "resid_post.1/128"], 2, "expected a feature from 0 to 127, got 128 at resid_post.1"],
    [["--set", "resid_post.1/1"], 2, "--set: expected features with a number each"],
    [["--scale", "resid_post.1/1=2", "--ablate", "resid_post.1/1"], 2, "got resid_post.1/1 also with --ablate"],
    [["--set", "resid_post.1/1=1e300"], 2, "--set: expected a number of at most 1000000000000000 in size, got 1e300"],
    [["--ablate", "resid_post.1/1", "--cases", "three"], 1, '--cases: expected some of one, two, got "three"'],
  ] as const)("%j is refused in one line", async (flags, code, part) => {
    expectError(await sfc("evaluate", folder, ...flags), code, part);
  });
});
