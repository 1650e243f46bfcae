import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { cp, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { asyncBufferFromFile, parquetReadObjects } from "hyparquet";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Comparison, comparisonSchema } from "../src/report/comparison.ts";
import {
  type Ended,
  entry,
  examples,
  expectError,
  filesUnder,
  llama,
  rowsOf,
  runFlags,
  sfc,
  start,
  succeeds,
  succeedsAlone,
  until,
  writeExamples,
} from "./cli-harness.ts";

let home: string;
let pairs: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-compare-"));
  pairs = await writeExamples(join(home, "pairs.jsonl"), examples(8));
});
afterAll(() => rm(home, { recursive: true, force: true }));

/** The flags of a comparison on the small Llama with random directions for SAEs; later flags win. */
const small = (folder: string, ...more: string[]) => [
  ...["compare", "--model_name", llama, "--sae_source", "dummy", "--pairs", pairs],
  ...["--methods", "analytic,analytic:3", "--output_dir", folder, ...more],
];

const readComparison = async (folder: string): Promise<Comparison> =>
  comparisonSchema.parse(JSON.parse(await readFile(join(folder, "compare.json"), "utf8")));

describe("the same method three ways on the embedded model", () => {
  const methods = "analytic,analytic:64,analytic:1";
  const setting = ["--num_examples", "2", "--layers", "2"];
  let folder: string;
  let command: string[];
  let first: Ended;
  let comparison: Comparison;
  beforeAll(async () => {
    folder = join(home, "demo");
    command = ["compare", "--methods", methods, ...setting, "--output_dir", folder];
    // In a process for each method, as users have it, since memory is measured.
    first = await succeedsAlone(command);
    comparison = await readComparison(folder);
  });

  it("agrees", () => {
    const all = comparison.agreement.filter(({ site }) => site === "");
    expect(all.map(({ a, b }) => [a, b])).toEqual([
      ["analytic", "analytic:64"],
      ["analytic", "analytic:1"],
      ["analytic:64", "analytic:1"],
    ]);
    expect(comparison.agreement).toHaveLength(3 * 4);
    for (const { features, pearson, spearman, sign, difference, scale, ...top } of comparison.agreement) {
      expect(features).toBeGreaterThan(10);
      expect(scale).toBeGreaterThan(5e-4);
      expect(difference).toBeLessThanOrEqual(1e-5 * scale);
      expect(pearson).toBeGreaterThan(0.999999);
      expect(spearman).toBeGreaterThan(0.999);
      expect(sign).toBeGreaterThan(0.99);
      expect(top).toMatchObject({ top_10: 1, top_50: 1, top_100: 1 });
    }
    for (const { x, y } of comparison.scatter) {
      expect(x).toHaveLength(300);
      expect(Math.max(...x.map((value, i) => Math.abs(value - y[i]!)))).toBeLessThan(1e-5);
    }
  });

  it("is measured", () => {
    expect(comparison).toMatchObject({ status: "finished", pairs: 64, exactness: [], task: "agreement", warnings: [] });
    expect(comparison.accuracy).toBeGreaterThan(0.9);
    expect(comparison.methods.map(({ name, batch }) => [name, batch])).toEqual([
      ["analytic", null],
      ["analytic:64", 64],
      ["analytic:1", 1],
    ]);
    for (const { seconds, loaded_bytes, peak_bytes, above_bytes, rows } of comparison.methods) {
      expect(seconds).toBeGreaterThan(0);
      expect(loaded_bytes).toBeGreaterThan(20e6);
      expect(above_bytes).toBe(peak_bytes - loaded_bytes);
      expect(above_bytes).toBeGreaterThan(0);
      expect(rows).toBeGreaterThan(1000);
    }
    expect(comparison.methods[1]!.rows).toBe(comparison.methods[2]!.rows);
  });

  it("has the effects of a run, in its form", async () => {
    const run = join(home, "run");
    await succeeds(["run", ...setting, "--output_dir", run]);
    const rows = await rowsOf(run, "features");
    for (const name of ["analytic", "analytic-64"]) {
      const here = await rowsOf(join(folder, name), "features");
      const key = (row: (typeof rows)[number]) => [row.split, row.case, row.site, row.feature].join(" ");
      expect(Object.keys(here[0]!)).toEqual(Object.keys(rows[0]!));
      const effects = new Map(here.map((row) => [key(row), row.effect as number]));
      expect(effects.size).toBe(rows.length);
      for (const row of rows) expect(Math.abs(effects.get(key(row))! - (row.effect as number))).toBeLessThan(1e-5);
    }
    // Σ of all rows of the residual site, special tokens and the error included, and the change of the metric.
    const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / 64;
    const effects = (await rowsOf(run, "effects")).filter(({ site }) => site === "resid_post.2");
    const lines = (await readFile(join(run, "pairs.jsonl"), "utf8")).trim().split("\n");
    const change = lines.map((line) => JSON.parse(line)).map(({ m_clean, m_patch }) => m_patch - m_clean);
    expect(comparison.sums.map(({ method, site }) => [method, site])).toEqual(
      methods.split(",").map((name) => [name, "resid_post.2"]),
    );
    for (const { sum, total, gap, median_gap } of comparison.sums) {
      expect(sum).toBeCloseTo(mean(effects.map(({ effect }) => effect as number)), 5);
      expect(total).toBeCloseTo(mean(change), 5);
      expect(gap).toBeCloseTo(Math.abs(sum - total) / Math.abs(total), 10);
      expect(median_gap).toBeNull();
    }
  });

  it("leaves its files and nothing else", () => {
    expect(filesUnder(folder)).toEqual(
      [
        "analytic-1/features.parquet",
        "analytic-64/features.parquet",
        "analytic/features.parquet",
        "compare.json",
        "report.html",
      ].sort(),
    );
    const page = readFileSync(join(folder, "report.html"), "utf8");
    expect(page).toContain('"name":"analytic:64"');
  });

  it("says what it found, and the same command says it again without computing", async () => {
    expect(first.stdout).toMatch(/^64 pairs, accuracy 100\.0 %; 3 sites, 4608 features\./);
    expect(first.stdout).toMatch(/\nanalytic:64, analytic:1 +\d+ +1\.0000 /);
    expect(first.stdout).toContain(`Report: ${join(folder, "report.html")}`);
    const again = await succeeds(command);
    expect(again.stdout).toBe(`${folder} holds the finished comparison with these options.\n\n${first.stdout}`);
    expect(again.stderr).not.toContain("passes");
  });

  it("prints what compare.json holds with --json", async () => {
    const { stdout } = await succeeds([...command, "--json"]);
    expect(JSON.parse(stdout)).toEqual(comparison);
  });
});

it("all methods: SAEs in the passes change nothing, integrated effects add up, exact patches the strongest", async () => {
  const folder = join(home, "all methods");
  const methods = "analytic,sfc,sfc:64,analytic-ig,sfc-ig:64,spliced,exact";
  const { stderr } = await succeeds([
    ...["compare", "--methods", methods, "--num_examples", "1", "--layers", "2", "--top", "2"],
    ...["--output_dir", folder],
  ]);
  expect(stderr).toMatch(/\nexact: [\d,]+ patches, about [\d.]+ s\.\n/);
  const { agreement, exactness, sums, methods: measured } = await readComparison(folder);
  expect(measured.map(({ name }) => name).join(",")).toBe(methods);
  const between = (a: string, b: string) => agreement.find((of) => of.a === a && of.b === b && of.site === "")!;
  for (const [a, b] of [
    ["analytic", "sfc"],
    ["analytic", "sfc:64"],
    ["analytic-ig", "sfc-ig:64"],
  ] as const) {
    expect(between(a, b).difference).toBeLessThanOrEqual(1e-4 * between(a, b).scale);
  }
  expect(between("analytic", "analytic-ig").difference).toBeGreaterThan(1e-3);
  expect(between("analytic", "spliced").difference).toBeGreaterThan(1e-4 * between("analytic", "spliced").scale);

  const gap = (name: string) => sums.find(({ method }) => method === name)!.gap!;
  // Ten steps by the midpoint rule (METHOD: off by .0008 to .0035 on toys).
  expect(gap("analytic-ig")).toBeLessThan(0.01);
  expect(gap("analytic")).toBeGreaterThan(0.1);

  const rows = await rowsOf(join(folder, "exact"), "features");
  const patched = new Set(
    rows.filter(({ feature }) => feature !== -1).map(({ site, feature }) => `${site}/${feature}`),
  );
  // Two of each method at three sites, most of them the same.
  expect(patched.size).toBeGreaterThanOrEqual(6);
  expect(patched.size).toBeLessThanOrEqual(18);
  const all = exactness.filter(({ site }) => site === "");
  expect(all.map(({ method }) => method)).toEqual(methods.split(",").slice(0, -1));
  for (const { method, features, sign } of all) {
    // Spliced SAEs have no such effect to first order: the sign of a small one may be another.
    expect({ method, features, sign: method === "spliced" || sign }).toEqual({
      method,
      features: patched.size,
      sign: method === "spliced" || 1,
    });
  }
  const error = (name: string) => all.find(({ method }) => method === name)!.error!;
  expect(error("analytic-ig")).toBeLessThan(error("analytic"));
});

describe("a comparison's folder", () => {
  it("is not mixed with other options, which are named, nor with other pairs, but replaced with --force", async () => {
    const folder = join(home, "options");
    const file = await writeExamples(join(home, "changing.jsonl"), examples(6));
    const command = (...more: string[]) => small(folder, "--pairs", file, ...more);
    await succeeds(command());
    const before = await readFile(join(folder, "compare.json"), "utf8");
    expectError(await sfc(...command("--by_pair")), 1, "finished comparison", "--by_pair false here, true");
    expectError(
      await sfc(...command("--methods", "analytic")),
      1,
      "--methods analytic,analytic:3 here, analytic asked",
    );
    await writeExamples(file, examples(7));
    expectError(await sfc(...command()), 1, "other pairs", folder);
    expect(await readFile(join(folder, "compare.json"), "utf8")).toBe(before);

    await writeFile(join(folder, "analytic-3", "notes.txt"), "mine");
    await succeeds(command("--methods", "analytic", "--force"));
    expect(filesUnder(folder)).toEqual(
      ["analytic-3/notes.txt", "analytic/features.parquet", "compare.json", "report.html"].sort(),
    );
    expect((await readComparison(folder)).pairs).toBe(7);
  });

  it("is not a run's, and a run's is not one", async () => {
    const run = join(home, "a run");
    await succeeds(runFlags(pairs, run));
    expectError(await sfc(...small(run, "--force")), 1, "comparison's folder", run);
    const folder = join(home, "a comparison");
    await succeeds(small(folder, "--methods", "analytic"));
    expectError(await sfc(...runFlags(pairs, folder, "--force")), 1, "run's folder", folder);
    expect(existsSync(join(folder, "compare.json"))).toBe(true);
  });
});

it("by pair: the median gap is the middle one of each pair's own", async () => {
  // Prompts that share their beginnings, so that only --by_pair keeps their effects apart.
  const three = [3, 7, 20].map((word) => ({
    clean_prefix: `w${word} w40 w50`,
    patch_prefix: `w${word + 1} w40 w50`,
    clean_answer: " w11",
    patch_answer: " w13",
  }));
  three[1] = { ...three[1]!, clean_prefix: three[0]!.clean_prefix, patch_prefix: "w3 w41 w50" };
  const gapsOf = async (name: string, list: readonly object[]) => {
    const file = await writeExamples(
      join(home, `${name}.jsonl`),
      list.map((pair) => ({ ...pair, case: "one", split: "train" })),
    );
    const folder = join(home, name);
    await succeeds(small(folder, "--methods", "analytic", "--pairs", file, "--by_pair", "--sites", "resid_post"));
    return (await readComparison(folder)).sums;
  };
  const together = await gapsOf("three pairs", three);
  expect(together.map(({ method, site }) => `${method} ${site}`)).toEqual([
    "analytic resid_post.0",
    "analytic resid_post.1",
  ]);
  const alone: Comparison["sums"][] = [];
  for (const [i, pair] of three.entries()) alone.push(await gapsOf(`pair ${i}`, [pair]));
  together.forEach(({ median_gap }, row) => {
    const gaps = alone.map((sums) => sums[row]!.gap!).sort((a, b) => a - b);
    expect(gaps[0]).toBeLessThan(gaps[1]!);
    expect(median_gap).toBeCloseTo(gaps[1]!, 4);
  });
});

// Which processes there are is known from /proc.
describe.runIf(existsSync("/proc/self/stat"))("an interrupted comparison", () => {
  /** Pairs enough that the second method, pair by pair, is in the middle of it for a while. */
  const slow = async (name: string) => {
    const file = await writeExamples(join(home, "many.jsonl"), examples(1000));
    const folder = join(home, name);
    return { folder, command: small(folder, "--pairs", file, "--methods", "analytic,analytic:1") };
  };
  const firstDone = (files: string[]) => files.some((file) => /^\.partial\/\w+\/analytic\/result\.json$/.test(file));

  it("stops on Ctrl-C, which goes to all its processes, keeps what has finished and goes on", async () => {
    const { folder, command } = await slow("ctrl-c");
    const child = spawn(process.execPath, [entry, ...command], { detached: true, stdio: ["ignore", "ignore", "pipe"] });
    let stderr = "";
    child.stderr.setEncoding("utf8").on("data", (text) => (stderr += text));
    const ended = new Promise((resolve) => child.on("close", resolve));
    await untilWorking(child, 2);
    expect(firstDone(filesUnder(folder))).toBe(true);
    process.kill(-child.pid!, "SIGINT");
    expect(await ended).toBe(130);
    expect(stderr.trimEnd().split("\n").at(-1)).toBe("Stopped. The same command resumes it.");
    expect(childrenOf(child.pid!)).toEqual([]);

    expect(await readComparison(folder)).toMatchObject({ status: "running", accuracy: null, methods: [] });
    const left = filesUnder(folder);
    expect(left.filter((file) => /\.part$|\.lock/.test(file))).toEqual([]);
    const result = join(folder, left.find((file) => /analytic\/result\.json$/.test(file))!);
    const made = (await stat(result)).mtimeMs;

    const again = start(command);
    await until(folder, again, (files) => files.includes(".lock"));
    expectError(await sfc(...command), 1, "expected no other comparison in it", folder);
    expect((await stat(result)).mtimeMs).toBe(made);
    const { code, stderr: told } = await again.ended;
    expect(code, told).toBe(0);
    expect(told).toContain(`Resuming the interrupted comparison in ${folder}.`);
    expect(told).not.toContain("analytic passes");
    expect(told).toContain("analytic:1 passes");
    expect(await readComparison(folder)).toMatchObject({ status: "finished", methods: [{}, {}] });
    expect(filesUnder(folder).some((file) => file.includes(".partial"))).toBe(false);
  });

  it("says which method's process the system ended", async () => {
    const { folder, command } = await slow("killed");
    const parent = start(command);
    process.kill(await untilWorking(parent.child, 2), "SIGKILL");
    expectError(await parent.ended, 1, "analytic:1: expected its process to finish", "SIGKILL", "--num_examples");
    expect(firstDone(filesUnder(folder))).toBe(true);
  });

  it("leaves no process of a method behind when it is killed itself", async () => {
    const parent = start((await slow("orphan")).command);
    const method = await untilWorking(parent.child, 1);
    parent.child.kill("SIGKILL");
    await parent.ended;
    while (existsSync(`/proc/${method}`)) await pause(20);
  });
});

describe("what cannot be compared", () => {
  const output = () => join(home, "never");
  it.each<[flags: string[], code: 1 | 2, parts: string[]]>([
    [["--methods", "magic"], 2, ["--methods", '"magic"', "analytic-ig"]],
    [["--methods", "analytic,analytic"], 2, ["--methods", "twice"]],
    [["--methods", "exact:4"], 2, ["--methods", "exact"]],
    [["--methods", "sfc@40"], 2, ["--methods", "analytic-ig, sfc-ig and secant"]],
    [["--methods", "analytic,sfc", "--steps", "20"], 2, ["--steps", "analytic-ig or sfc-ig"]],
    [["--methods", "analytic,sfc", "--rule", "left"], 2, ["--rule", "analytic-ig or sfc-ig"]],
    [["--methods", "analytic,sfc", "--top", "5"], 2, ["--top", "expected exact"]],
    [["--weights", "auto"], 2, ["--weights"]],
    [["--steps", "0"], 2, ["--steps"]],
    [["--rule", "right"], 2, ["--rule", "midpoint"]],
    [["--top", "none"], 2, ["--top"]],
    [["--layers", "7"], 2, ["--layers", "0 to 1"]],
    [["--pairs", "nowhere.jsonl"], 1, ["--pairs", "nowhere.jsonl"]],
  ])("%j", async (flags, code, parts) => {
    expectError(await sfc(...small(output(), ...flags)), code, ...parts);
    expect(existsSync(output())).toBe(false);
  });

  it("a fault that only a method finds is the command's own", async () => {
    const broken = join(home, "broken");
    await cp(llama, broken, { recursive: true });
    const bytes = await readFile(join(broken, "model.safetensors"));
    bytes.writeFloatLE(Number.NaN, bytes.length - 4);
    await writeFile(join(broken, "model.safetensors"), bytes);
    const ended = await sfc(...small(join(home, "of broken"), "--model_name", broken));
    expectError(ended, 1, "finite numbers", "model.safetensors");
  });
});

it("weights that are streamed give analytic's numbers", async () => {
  const [held, streamed] = [join(home, "held"), join(home, "streamed")];
  await succeeds(small(held, "--methods", "analytic"));
  await succeeds(small(streamed, "--methods", "analytic", "--weights", "streamed"));
  const effects = async (folder: string) =>
    (await parquetReadObjects({ file: await asyncBufferFromFile(join(folder, "analytic/features.parquet")) })).map(
      ({ effect }) => effect as number,
    );
  const [here, there] = [await effects(held), await effects(streamed)];
  expect(here.length).toBe(there.length);
  const largest = Math.max(...here.map(Math.abs));
  here.sort((a, b) => a - b);
  there.sort((a, b) => a - b);
  for (const [i, effect] of here.entries()) expect(Math.abs(effect - there[i]!)).toBeLessThan(1e-5 * largest);
});

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Waits until the command's n-th method has been working for a while in its process. @returns that process */
async function untilWorking(command: ChildProcess, nth: number): Promise<number> {
  const methods = new Set<number>();
  while (methods.size < nth) {
    if (command.exitCode !== null) throw new Error("ended before it could be interrupted");
    for (const child of childrenOf(command.pid!)) if (isMethod(child)) methods.add(child);
    await pause(5);
  }
  await pause(700);
  return [...methods].at(-1)!;
}

/** Processes whose parent is `pid`. */
function childrenOf(pid: number): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        const [, parent] = readFileSync(`/proc/${name}/stat`, "utf8")
          .replace(/^.*\) /s, "")
          .split(" ");
        return Number(parent) === pid;
      } catch {
        return false;
      }
    })
    .map(Number);
}

/** Whether a process is one of a method, and not one that is about to become one. */
function isMethod(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("compare-child");
  } catch {
    return false;
  }
}
