import { cp, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { circuitFileSchema } from "../src/results/circuit.ts";
import { evaluationFileSchema } from "../src/results/evaluation.ts";
import { expectError, filesUnder, peakOf, sfc, start, succeeds } from "./cli-harness.ts";

let home: string;
let run: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-evaluate-"));
  run = join(home, "run");
  await succeeds([
    "run",
    "--sites",
    "resid_post",
    "--layers",
    "1-3",
    "--num_examples",
    "2",
    "--quiet",
    "--output_dir",
    run,
  ]);
});
afterAll(() => rm(home, { recursive: true, force: true }));

const small = [
  "--sizes",
  "5,20",
  "--ways",
  "secant,secant-covering,mask-ig,masks,random,basis",
  "--cases",
  "nounpp_singular,nounpp_plural",
];
const fileIn = async (folder: string) =>
  evaluationFileSchema.parse(JSON.parse(await readFile(join(folder, "evaluation.json"), "utf8")));

const circuitIn = async (folder: string) =>
  circuitFileSchema.parse(JSON.parse(await readFile(join(folder, "circuit.json"), "utf8"))).circuit!;
/** Some of the run's pairs, as a file of pairs. */
const pairsOf = async (isWanted: (pair: { case: string; split: string }) => boolean) =>
  (await readFile(join(run, "pairs.jsonl"), "utf8"))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line))
    .filter(isWanted)
    .map(({ m_clean, m_patch, end, ...pair }) => `${JSON.stringify(pair)}\n`)
    .join("");

it("evaluates a run: curves of every way on both splits, the same again, and shown again without work", async () => {
  const { stdout } = await succeeds(["evaluate", run, ...small]);
  expect(stdout).toContain("Faithfulness of circuits on test pairs");
  const { evaluation, status } = await fileIn(join(run, "evaluation"));
  expect(status).toBe("finished");
  const { curves, circuits } = evaluation!;
  const named = new Set(curves.map(({ way, split, seed }) => `${way} ${split} ${seed ?? ""}`.trim()));
  const ways = ["basis", "mask-ig", "masks", "secant", "secant-covering"];
  expect([...named].sort()).toEqual(
    [
      ...ways.flatMap((way) => [`${way} test`, `${way} train`]),
      ...["test", "train"].flatMap((split) => [0, 1, 2].map((seed) => `random ${split} ${seed}`)),
    ].sort(),
  );
  for (const { points, f_empty, f_model } of curves) {
    expect(points.map(({ size }) => size)).toEqual([5, 20]);
    for (const { f, faithfulness } of points) {
      expect(faithfulness).toBeCloseTo((f - f_empty) / (f_model - f_empty), 6);
    }
  }
  expect(circuits.every(({ size, features }) => size === Object.values(features).flat().length)).toBe(true);
  // The run's report has it, without the features themselves.
  const page = await readFile(join(run, "report.html"), "utf8");
  const data = JSON.parse(/id="sfc-report">(.*?)<\/script>/s.exec(page)![1]!);
  expect(data.circuit).toBeNull();
  expect(data.evaluation.curves.length).toBe(curves.length);
  expect(data.evaluation.curves[0].cpr).toBeCloseTo(curves[0]!.cpr, 4);
  expect(data.evaluation.circuits[0]).not.toHaveProperty("features");
  expect((await succeeds(["evaluate", run, ...small])).stdout).toContain("Already there");
  const again = join(home, "again");
  await succeeds(["evaluate", run, ...small, "--output_dir", again]);
  expect((await fileIn(again)).evaluation).toEqual(evaluation);
}, 120_000);

it("goes on after kill -9 from the groups that were done, to the same numbers", async () => {
  const cases = ["simple", "nounpp", "subject_rc"].flatMap((name) => [`${name}_singular`, `${name}_plural`]).join(",");
  const flags = [
    "evaluate",
    run,
    "--by",
    "construction",
    "--sizes",
    "5",
    "--ways",
    "secant",
    "--transfer",
    "5",
    "--cases",
    cases,
  ];
  const whole = join(home, "whole");
  await succeeds([...flags, "--output_dir", whole]);
  const cut = join(home, "cut");
  const { child, ended } = start([...flags, "--output_dir", cut]);
  const groups = () => filesUnder(cut).filter((file) => /\.partial.*\.json$/.test(file)).length;
  while (groups() < 1 && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 20));
  child.kill("SIGKILL");
  await ended;
  expect((await fileIn(cut)).status).toBe("running");
  const { stderr } = await succeeds([...flags, "--output_dir", cut]);
  expect(stderr).toContain(`Resuming the interrupted evaluation in ${cut}.`);
  expect((await fileIn(cut)).evaluation).toEqual((await fileIn(whole)).evaluation);
  expect((await readdir(cut)).sort()).toEqual(["evaluation.json"]);
}, 240_000);

it("goes on with the next step of masks after kill -9 in the middle of them, says so, and has the same numbers", async () => {
  const flags = ["evaluate", run, "--sizes", "5,20", "--ways", "masks,mask-ig", "--cases", "nounpp_singular"];
  const whole = join(home, "whole masks");
  await succeeds([...flags, "--output_dir", whole]);
  const cut = await cutInMasks(flags);
  const again = await succeeds([...flags, "--output_dir", cut]);
  const [, steps] = /^Masks resume after (\d+) of \d+ steps\.$/m.exec(again.stderr)!;
  expect(Number(steps)).toBeGreaterThan(0);
  expect((await fileIn(cut)).evaluation).toEqual((await fileIn(whole)).evaluation);
}, 240_000);

/** Kills evaluations until one was in the middle of masks, with some steps kept. @returns its folder */
async function cutInMasks(flags: readonly string[]): Promise<string> {
  for (let attempt = 1; attempt <= 5; attempt++) {
    const cut = join(home, `cut masks ${attempt}`);
    const { child, ended } = start([...flags, "--output_dir", cut]);
    let stderr = "";
    child.stderr!.on("data", (text: string) => {
      stderr += text;
    });
    const kept = () => filesUnder(cut).some((file) => file.endsWith(".masks"));
    while (!kept() && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 5));
    child.kill("SIGKILL");
    await ended;
    if (!stderr.includes("choosing") && (await fileIn(cut)).status === "running") return cut;
  }
  throw new Error("five evaluations had learned their masks before they could be killed");
}

it("tells what an evaluation takes without beginning it: as many circuits as it then measures, and the memory that it needs", async () => {
  const flags = ["evaluate", run, ...small, "--output_dir", join(home, "told")];
  const told = JSON.parse((await succeeds([...flags, "--estimate", "--json"])).stdout);
  expect(filesUnder(home).filter((file) => file.startsWith("told"))).toEqual([]);
  const peak = await peakOf(start(flags));
  const { curves } = (await fileIn(join(home, "told"))).evaluation!;
  // For each point its circuit and what is left without it; for each split of features, and of numbers, the empty and the whole one.
  const points = curves.flatMap(({ points: own }) => own).length;
  expect(told.counts).toMatchObject({ evaluations: 2 * points + 2 * 4, mask_gradients: 60, edge_products: 0 });
  // As for runs: a half or twice of it is a fault.
  expect(peak / told.memory_bytes).toBeGreaterThan(0.6);
  expect(peak / told.memory_bytes).toBeLessThan(1.7);
  const { stdout } = await succeeds([...flags, "--estimate"]);
  expect(stdout).toMatch(/memory +\d+ MB at the peak/);
  expect(stdout).toMatch(/time +about .* masks .* evaluation/);
}, 240_000);

it.each([
  [["--ways", "guess"], /--ways: expected masks, mask-ig/],
  [["--thresholds", "-1"], /number from 0/],
  [["--thresholds", "0.1", "--ways", "masks,secant-covering"], /--thresholds: expected a way by effects alone/],
  [["--sizes", "0"], /whole number from 1/],
  [["--sizes", "many"], /whole number from 1/],
  [["--ablation", "median"], /mean, patch, zero/],
  [["--errors", "lost"], /ablated, clean, removed, kept/],
  [["--cases", "nounpp_dual"], /--cases: expected some of/],
  [["--sites", "mlp_out"], /--sites: expected some that the run has/],
  [["--layers", "9"], /--layers: expected blocks 0 to 5/],
  [["--ways", "neurons"], /--ways neurons: expected --sites mlp_out/],
  [["--ways", "random,basis"], /--ways random: expected a way that chooses features/],
  [["--sizes", "5", "--transfer", "6"], /--transfer: expected one of --sizes 5, got 6/],
  [["--sizes", "5", "--ways", "basis", "--transfer", "5"], /--transfer: expected a way that chooses features/],
  [["--circuit", "nowhere.json"], /expected a file that can be read/],
])("refuses %s in one line", async (flags, reason) => {
  const { code, stdout, stderr } = await sfc("evaluate", run, ...flags, "--output_dir", join(home, "refused"));
  expect(code).toBeGreaterThan(0);
  expect(stdout).toBe("");
  expect(stderr.trim().split("\n")).toHaveLength(1);
  expect(stderr).toMatch(reason);
});

it("refuses folders that hold no finished run, another evaluation, and circuits of other models, SAEs or sites", async () => {
  expectError(await sfc("evaluate", home), 1, "run.json", home);
  const folder = join(home, "other-options");
  await succeeds([
    "evaluate",
    run,
    "--sizes",
    "5",
    "--ways",
    "secant",
    "--cases",
    "simple_singular",
    "--output_dir",
    folder,
  ]);
  expectError(await sfc("evaluate", run, "--sizes", "6", "--output_dir", folder), 1, "--force", folder);

  const { model, dictionaries } = JSON.parse(await readFile(join(run, "run.json"), "utf8"));
  const circuit = {
    format: 1,
    features: { "resid_post.1": [226, 1374] },
    sites: ["resid_post.1", "resid_post.2", "resid_post.3"],
    way: "secant",
    ablation: null,
    errors: "ablated",
    cases: ["simple_singular"],
    pairs: 2,
    model: { name: model.name, sha256: model.sha256 },
    dictionaries: dictionaries.map(({ site, sha256 }: { site: string; sha256: string }) => ({ site, sha256 })),
  };
  const path = join(home, "circuit.json");
  const evaluateIt = async (changed: object) => {
    await writeFile(path, JSON.stringify({ ...circuit, ...changed }));
    return sfc(
      "evaluate",
      run,
      "--ways",
      "secant",
      "--sizes",
      "5",
      "--cases",
      "simple_singular",
      "--circuit",
      path,
      "--output_dir",
      join(home, "given"),
    );
  };
  expectError(await evaluateIt({ model: { name: "other", sha256: "0".repeat(64) } }), 1, "the run's model", path);
  expectError(await evaluateIt({ dictionaries: [{ site: "resid_post.1", sha256: "0".repeat(64) }] }), 1, "SAE", path);
  expectError(await evaluateIt({ dictionaries: [] }), 1, 'in "dictionaries", got none of resid_post.1', path);
  expectError(await evaluateIt({ sites: ["resid_post.1", "resid_post.1"] }), 1, "resid_post.1 twice", path);
  expectError(await evaluateIt({ sites: ["resid_post.1", "resid_post.5"] }), 1, "one over resid_post.1", path);
  expectError(await evaluateIt({ features: { "resid_post.1": [1536] } }), 1, "1536", path);
  expectError(await evaluateIt({ features: { "resid_post.5": [1] } }), 1, "resid_post.5", path);
  expectError(await evaluateIt({ features: 3 }), 1, "features", path);
  expectError(await evaluateIt({ features: { "resid_post.1": [226, 226] } }), 1, "226 after 226", path);
  expectError(await evaluateIt({ features: {} }), 1, "expected features, got none", path);
  expectError(await evaluateIt({ format: 2 }), 1, "expected format 1, got 2", path);
  expectError(await evaluateIt({ pairs: "2" }), 1, 'got "2" for "pairs"', path);
  expectError(await evaluateIt({ command: "circuit", circuit: null }), 1, "one that was interrupted", path);
  for (const text of ["", "[3", '{"a": NaN}']) {
    await writeFile(path, text);
    expectError(await sfc("evaluate", run, "--circuit", path, "--output_dir", join(home, "given")), 1, "JSON", path);
  }
  expectError(await sfc("evaluate", run, "--circuit", join(run, "run.json")), 1, "got another file", "sfc circuit");
  expect((await evaluateIt({})).code).toBe(0);
  const { curves } = (await fileIn(join(home, "given"))).evaluation!;
  expect(curves.filter(({ way }) => way === "given").map(({ points }) => points.map(({ size }) => size))).toEqual([
    [2],
    [2],
  ]);
  expectError(await evaluateIt({ features: { "resid_post.1": [226] } }), 1, "this run and circuit", "--force");
}, 120_000);

it("knows a finished evaluation again when its run is moved or named in another way, and chooses each way once", async () => {
  const [before, after] = [join(home, "before"), join(home, "after")];
  await cp(run, before, { recursive: true });
  await rm(join(before, "evaluation"), { recursive: true, force: true });
  const flags = ["--sizes", "5", "--ways", "secant,secant", "--cases", "simple_singular"];
  await succeeds(["evaluate", before, ...flags]);
  const { curves } = (await fileIn(join(before, "evaluation"))).evaluation!;
  expect(curves.map(({ split, points }) => [split, points.length])).toEqual([
    ["train", 1],
    ["test", 1],
  ]);
  await rename(before, after);
  expect((await succeeds(["evaluate", `${after}/../after/`, ...flags])).stdout).toContain("Already there");
}, 120_000);

it("measures a given circuit where there are test pairs alone, and the others' curves on train beside those on test", async () => {
  const lines = (await readFile(join(run, "pairs.jsonl"), "utf8"))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  const own = lines.filter((pair) => pair.case === "simple_singular").map((pair) => ({ ...pair, split: "test" }));
  const other = lines.filter((pair) => pair.case === "simple_plural").map((pair) => ({ ...pair, split: "train" }));
  const path = join(home, "halves.jsonl");
  await writeFile(
    path,
    [...own, ...other].map(({ m_clean, m_patch, end, ...pair }) => `${JSON.stringify(pair)}\n`).join(""),
  );
  const halves = join(home, "halves");
  await succeeds(["run", "--pairs", path, "--sites", "resid_post", "--layers", "2", "--quiet", "--output_dir", halves]);
  const flags = ["evaluate", halves, "--by", "case", "--sizes", "5", "--ways", "secant"];
  expectError(await sfc(...flags), 1, "expected train pairs", "simple_singular", "--circuit");
  const { model, dictionaries } = JSON.parse(await readFile(join(halves, "run.json"), "utf8"));
  const circuit = join(home, "given.json");
  await writeFile(
    circuit,
    JSON.stringify({
      format: 1,
      features: { "resid_post.2": [1035] },
      sites: ["resid_post.2"],
      way: "secant",
      ablation: null,
      errors: "ablated",
      cases: ["simple_singular"],
      pairs: 2,
      model: { name: model.name, sha256: model.sha256 },
      dictionaries: dictionaries.map(({ site, sha256 }: { site: string; sha256: string }) => ({ site, sha256 })),
    }),
  );
  const { stdout } = await succeeds([...flags, "--circuit", circuit]);
  expect(stdout).toMatch(/simple_singular, mean ablation, errors ablated: \d test pairs/);
  expect(stdout).toMatch(/simple_plural, mean ablation, errors ablated: \d train pairs/);
}, 120_000);

it("counts what mask-ig gives a score as candidates, where it is the only way", async () => {
  const folder = join(home, "mask-ig");
  await succeeds([
    ...["evaluate", run, "--sizes", "5,10", "--ways", "mask-ig", "--layers", "2"],
    ...["--cases", "simple_singular", "--output_dir", folder],
  ]);
  const { candidates } = (await fileIn(folder)).evaluation!;
  expect(candidates.all).toBeGreaterThan(10);
}, 120_000);

it("tells constructions by all cases of the run, and refuses where there is one alone", async () => {
  const folder = join(home, "one-construction");
  const flags = ["--by", "construction", "--sizes", "5", "--ways", "secant"];
  await succeeds(["evaluate", run, ...flags, "--cases", "nounpp_singular,nounpp_plural", "--output_dir", folder]);
  const { pairs, curves } = (await fileIn(folder)).evaluation!;
  expect(pairs.map(({ group, cases }) => [group, cases])).toEqual([
    ["nounpp", ["nounpp_singular", "nounpp_plural"]],
    ["nounpp", ["nounpp_singular", "nounpp_plural"]],
  ]);
  // As one set of these pairs: groups differ in name alone.
  const set = join(home, "one-set");
  await succeeds(["evaluate", run, ...flags.slice(2), "--cases", "nounpp_singular,nounpp_plural", "--output_dir", set]);
  const nameless = (of: typeof curves) => of.map(({ group: _, ...curve }) => curve);
  expect(nameless(curves)).toEqual(nameless((await fileIn(set)).evaluation!.curves));

  const one = join(home, "one");
  const file = join(home, "one.jsonl");
  await writeFile(file, await pairsOf((pair) => pair.case.startsWith("nounpp_")));
  await succeeds(["run", "--pairs", file, "--sites", "resid_post", "--layers", "2", "--quiet", "--output_dir", one]);
  expectError(await sfc("evaluate", one, ...flags), 1, "--by construction", "nounpp_singular, nounpp_plural");
}, 120_000);

it("takes all features from a threshold on, and the sites of a given circuit", async () => {
  const folder = join(home, "thresholds");
  const cases = ["--cases", "simple_singular,simple_plural"];
  const ways = ["--ways", "secant,secant-covering", "--sizes", "7", "--thresholds", "0.5,99"];
  await succeeds(["evaluate", run, ...cases, ...ways, "--output_dir", folder]);
  const { circuits } = (await fileIn(folder)).evaluation!;
  const sizes = (way: string) => circuits.filter((one) => one.way === way).map(({ size }) => size);
  expect(sizes("secant-covering")).toEqual([7]);
  expect(sizes("secant")).toHaveLength(2);
  const above = join(home, "above");
  await succeeds(["circuit", run, "--way", "secant", "--threshold", "0.5", ...cases, "--output_dir", above]);
  expect(Object.values((await circuitIn(above)).features).flat()).toHaveLength(sizes("secant")[1]!);

  const circuit = join(home, "two-sites");
  const own = ["--way", "secant", "--size", "4", "--sites", "resid_post", "--layers", "2-3", ...cases];
  await succeeds(["circuit", run, ...own, "--output_dir", circuit]);
  const given = ["--circuit", join(circuit, "circuit.json"), "--output_dir", join(home, "at-its-sites")];
  await succeeds(["evaluate", run, "--ways", "secant", "--sizes", "4", ...cases, ...given]);
  expect((await fileIn(join(home, "at-its-sites"))).evaluation!.sites).toEqual(["resid_post.2", "resid_post.3"]);
}, 120_000);
