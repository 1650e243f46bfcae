import { renameSync } from "node:fs";
import { cp, mkdtemp, readdir, readFile, rename, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { asyncBufferFromFile, parquetReadObjects } from "hyparquet";
import { afterAll, beforeAll, expect, it } from "vitest";
import { lintAttributionGraph } from "../src/circuit/export/lint.ts";
import { circuitFileSchema } from "../src/results/circuit.ts";
import { writeReport } from "../src/results/report.ts";
import { expectError, filesUnder, peakOf, quoted, sfc, shell, start, succeeds } from "./cli-harness.ts";

let [home, run] = ["", ""];
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-circuit-"));
  run = join(home, "run");
  const sites = ["--sites", "attn_out,mlp_out,resid_post", "--layers", "2-3"];
  await succeeds(["run", ...sites, "--num_examples", "2", "--method", "secant", "--quiet", "--output_dir", run]);
});
afterAll(() => rm(home, { recursive: true, force: true }));

const small = ["--way", "secant", "--size", "12", "--cases", "nounpp_singular,nounpp_plural"];
const fileIn = async (folder: string) =>
  circuitFileSchema.parse(JSON.parse(await readFile(join(folder, "circuit.json"), "utf8")));
const table = async (file: string) => parquetReadObjects({ file: await asyncBufferFromFile(file) });

it("makes a circuit whose checks pass and that sfc evaluate measures as its own", async () => {
  const folder = join(run, "circuit");
  const { stdout } = await succeeds(["circuit", run, ...small]);
  expect(stdout).toContain("Circuit of 12 features");
  const { circuit, checks, status } = await fileIn(folder);
  expect(status).toBe("finished");
  expect(checks.length).toBeGreaterThan(0);
  expect(checks.filter(({ passed }) => !passed)).toEqual([]);
  const files = (await readdir(folder)).sort();
  expect(files).toEqual(
    ["circuit.graph.json", "circuit.graphml", "circuit.json", "circuit.svg", "edges.parquet", "graph.json"].sort(),
  );
  const written = /^Written: (.*)$/m.exec(stdout)![1]!.slice(folder.length + 1);
  expect(written.split(", ").sort()).toEqual(files);
  expect(lintAttributionGraph(JSON.parse(await readFile(join(folder, "circuit.graph.json"), "utf8")))).toEqual([]);

  const evaluation = join(home, "evaluation");
  const flags = ["--ways", "secant", "--sizes", "12", "--cases", "nounpp_singular,nounpp_plural"];
  const given = ["--circuit", join(folder, "circuit.json")];
  await succeeds(["evaluate", run, ...flags, ...given, "--output_dir", evaluation]);
  const { curves } = JSON.parse(await readFile(join(evaluation, "evaluation.json"), "utf8")).evaluation;
  const of = (way: string) => curves.find((one: { way: string }) => one.way === way).points[0].faithfulness;
  expect(of("given")).toBeCloseTo(of("secant"), 10);
  expect(Object.values(circuit!.features).flat()).toHaveLength(12);
}, 120_000);

it("has edges into residual targets that add up to the run's effects, where every way into them is the stream itself", async () => {
  const folder = join(home, "all-sites");
  // As many points as the run has.
  const sites = ["--sites", "attn_out,mlp_out,resid_post", "--size", "40", "--way", "secant", "--steps", "4"];
  await succeeds(["circuit", run, ...sites, "--cases", "nounpp_singular,nounpp_plural", "--output_dir", folder]);
  const sums = new Map<string, number>();
  for (const { split, case: name, target_site, target, edge } of await table(join(folder, "edges.parquet"))) {
    const key = `${split} ${name} ${target_site} ${target}`;
    sums.set(key, (sums.get(key) ?? 0) + edge);
  }
  const own = (await table(join(run, "features.parquet"))).filter(
    ({ split, case: name, site, feature }) =>
      site === "resid_post.3" && sums.has(`${split} ${name} ${site} ${feature}`),
  );
  expect(own.length).toBeGreaterThan(5);
  const scale = Math.max(...own.map(({ effect_abs }) => effect_abs));
  for (const { split, case: name, site, feature, effect } of own) {
    const gap = Math.abs(sums.get(`${split} ${name} ${site} ${feature}`)! - effect);
    expect(gap, `${name} ${site}/${feature}`).toBeLessThan(1e-4 * scale);
  }
}, 120_000);

it("has edges of one pair by the positions of both ends, and a graph with a column for each token", async () => {
  const folder = join(home, "one-pair");
  const pairs = (await readFile(join(run, "pairs.jsonl"), "utf8")).trim().split("\n");
  const place = pairs.findIndex((line) => JSON.parse(line).case === "nounpp_singular");
  const flags = [...small, "--pair", String(place + 1), "--influence", "0.99", "--edge_influence", "0.999"];
  const { stdout } = await succeeds([
    "circuit",
    run,
    ...flags,
    "--sites",
    "attn_out,mlp_out,resid_post",
    "--output_dir",
    folder,
  ]);
  expect(stdout).toContain("over 1 pair, by position");
  const { nodes, about } = JSON.parse(await readFile(join(folder, "graph.json"), "utf8"));
  const prompts = JSON.parse(pairs[place]!);
  expect(about.subject.kind).toBe("pair");
  for (const side of ["clean", "patch"]) expect(about.subject[side].slice(1).join("")).toBe(prompts[`${side}_prefix`]);
  const effects = new Map<string, number>(nodes.map(({ id, effect }: { id: string; effect: number }) => [id, effect]));

  const sums = new Map<string, number>();
  let [inAttention, across] = [0, 0];
  for (const { target_site, target, position, source_site, source, source_position, edge } of await table(
    join(folder, "edges.parquet"),
  )) {
    expect(position === null).toBe(target_site === "metric");
    if (source === -4) expect(source_position).toBeNull();
    else if (target_site.startsWith("attn_out")) {
      expect(source_position).toBeLessThanOrEqual(position);
      inAttention++;
      if (source_position < position) across++;
    } else if (
      target_site !== "metric" &&
      !source_site.startsWith("embed") &&
      source_site.endsWith(target_site.at(-1))
    ) {
      // Within a layer nothing but attention leads from one position to another.
      expect(source_position, `${source_site} → ${target_site}`).toBe(position);
    }
    if (!target_site.startsWith("resid_post.3") || target < 0) continue;
    const id = `${target_site}/${target}@${position}`;
    sums.set(id, (sums.get(id) ?? 0) + edge);
  }
  expect(across).toBeGreaterThan(inAttention / 10);
  const largest = Math.max(...[...sums.values()].map(Math.abs));
  expect(sums.size).toBeGreaterThan(2);
  for (const [id, sum] of sums) expect(Math.abs(sum - effects.get(id)!) / largest, id).toBeLessThan(1e-5);

  const drawn = JSON.parse(await readFile(join(folder, "circuit.graph.json"), "utf8"));
  expect(lintAttributionGraph(drawn)).toEqual([]);
  expect(drawn.metadata.prompt_tokens.slice(1).join("")).toBe(prompts.clean_prefix);
  const columns = new Set(drawn.nodes.map(({ ctx_idx }: { ctx_idx: number }) => ctx_idx));
  // The noun that differs and the end, where the metric is.
  expect([...columns]).toEqual(expect.arrayContaining([2, about.subject.clean.length - 1]));
  expect(drawn.nodes.find(({ layer }: { layer: string }) => layer === "E")).toMatchObject({
    ctx_idx: 2,
    clerp: `Emb: “${about.subject.clean[2]}”`,
  });
}, 120_000);

it("tells what a circuit takes without beginning it", async () => {
  const folder = join(home, "told");
  const flags = ["circuit", run, ...small, "--output_dir", folder];
  const told = JSON.parse((await succeeds([...flags, "--estimate", "--json"])).stdout);
  expect(filesUnder(home).filter((file) => file.startsWith("told"))).toEqual([]);
  const peak = await peakOf(start(flags));
  expect(peak / told.memory_bytes).toBeGreaterThan(0.6);
  expect(peak / told.memory_bytes).toBeLessThan(1.7);
  expect(Object.keys(told.seconds)).toEqual(["reading", "choosing", "capture", "gradients", "effects", "edges"]);
  expect((await succeeds([...flags, "--estimate"])).stdout).toMatch(/vector–Jacobian products/);
}, 120_000);

it("goes on after kill -9 from the target sites that were done, to the same edges", async () => {
  const [whole, cut] = [join(run, "circuit"), join(home, "cut")];
  const { child, ended } = start(["circuit", run, ...small, "--output_dir", cut]);
  const sealed = () => filesUnder(cut).filter((file) => file.endsWith(".seal")).length;
  while (sealed() < 1 && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 5));
  child.kill("SIGKILL");
  await ended;
  const { stderr } = await succeeds(["circuit", run, ...small, "--output_dir", cut]);
  expect(stderr).toContain(`Resuming the interrupted circuit in ${cut}.`);
  expect(await table(join(cut, "edges.parquet"))).toEqual(await table(join(whole, "edges.parquet")));
  expect(await readFile(join(cut, "circuit.svg"), "utf8")).toBe(await readFile(join(whole, "circuit.svg"), "utf8"));
}, 120_000);

it.each([
  [["--way", "guess"], /--way: expected masks/],
  [["--way", "random"], /--way: expected one that chooses features/],
  [["--size", "9999999", "--way", "secant"], /--size: expected at most/],
  [["--threshold", "99", "--way", "secant"], /--threshold: expected at most/],
  [["--threshold", "1", "--way", "masks"], /--threshold: expected a way by effects/],
  [["--cases", "nounpp_dual"], /--cases: expected some of/],
  [["--influence", "2"], /--influence: expected a share/],
  [["--way", "secant", "--size", "5", "--edge_threshold", "50"], /--edge_threshold: .* the largest edge is [1-9]/],
  [["--size", "0"], /whole number from 1/],
  [["--size", "1e9"], /whole number from 1/],
  [["--threshold", "-1"], /number from 0/],
  [["--edge_threshold", "NaN"], /number from 0/],
  [["--size", "5", "--threshold", "1"], /--threshold .* cannot be used with option '--size/],
  [["--pair", "99999"], /--pair: expected 1 to/],
])("refuses %s in one line", async (flags, reason) => {
  // Always the same folder: what was refused must not keep the next call out of it.
  const { code, stderr } = await sfc("circuit", run, ...flags, "--quiet", "--output_dir", join(home, "refused"));
  expect(code).toBeGreaterThan(0);
  expect(stderr.trim().split("\n")).toHaveLength(1);
  expect(stderr).toMatch(reason);
  expect(filesUnder(home).filter((file) => file.startsWith("refused"))).toEqual([]);
});

it("refuses folders that hold no finished run, and finished circuits whose files are missing or cut off", async () => {
  expectError(await sfc("circuit", join(home, "nowhere")), 1, "the folder of a finished run, got none", "sfc run");
  expectError(await sfc("circuit", join(run, "run.json")), 1, "the folder of a finished run, got a file");
  const [folder, broken] = [join(home, "whole"), join(home, "broken")];
  const flags = ["circuit", run, "--way", "secant", "--size", "5", "--cases", "simple_singular", "--output_dir"];
  await succeeds([...flags, folder]);
  const damage: [file: string, how: (path: string) => Promise<void>, part: string][] = [
    ["edges.parquet", (path) => truncate(path, 100), "edges.parquet cut off"],
    ["graph.json", (path) => rm(path), "graph.json missing"],
    ["graph.json", (path) => truncate(path, 100), "graph.json cut off"],
    ["circuit.svg", (path) => truncate(path, 100), "circuit.svg cut off"],
    ["circuit.graphml", (path) => truncate(path, 100), "circuit.graphml cut off"],
    ["circuit.graph.json", (path) => truncate(path, 100), "circuit.graph.json cut off"],
    ["circuit.json", (path) => truncate(path, 100), "a damaged circuit.json"],
  ];
  for (const [file, how, part] of damage) {
    await cp(folder, broken, { recursive: true });
    await how(join(broken, file));
    expectError(await sfc(...flags, broken), 1, part, broken);
    await rm(broken, { recursive: true });
  }
}, 120_000);

it("refuses a run whose pairs are not those that it wrote, and takes one of a version that did not keep their hash", async () => {
  const folder = join(home, "edited");
  await cp(run, folder, { recursive: true });
  const [path, manifest] = [join(folder, "pairs.jsonl"), join(folder, "run.json")];
  const text = await readFile(path, "utf8");
  const flags = ["--way", "secant", "--size", "5", "--cases", "simple_singular", "--force"];
  const refusing = [
    ["circuit", folder, ...flags],
    ["evaluate", folder, "--ways", "secant", "--sizes", "5"],
    ["report", folder],
  ];
  for (const edited of [text.replace(/"m_clean":-?/, '"m_clean":1'), text.split("\n").slice(1).join("\n")]) {
    expect(edited).not.toBe(text);
    await writeFile(path, edited);
    for (const flags of refusing) expectError(await sfc(...flags), 1, "expected the file that the run wrote", path);
  }
  await writeFile(path, text.replace('"end":', '"the end":'));
  const { pairs_sha256, ...earlier } = JSON.parse(await readFile(manifest, "utf8"));
  expect(pairs_sha256).toMatch(/^[0-9a-f]{64}$/);
  await writeFile(manifest, JSON.stringify(earlier));
  expectError(await sfc("report", folder), 1, '"end"', "in line 1 of", path);
  await writeFile(path, text);
  await succeeds(["report", folder]);
}, 120_000);

it("is in a report that was being written when it was finished", async () => {
  const folder = join(home, "both");
  await cp(run, folder, { recursive: true });
  await succeeds(["circuit", folder, "--way", "secant", "--size", "5", "--cases", "simple_singular", "--force"]);
  await rename(join(folder, "circuit"), join(folder, "elsewhere"));
  let asked = 0;
  const stopped = () => {
    if (asked++ === 0) renameSync(join(folder, "elsewhere"), join(folder, "circuit"));
    return false;
  };
  await writeReport(folder, { stopped });
  expect(asked).toBeGreaterThan(0);
  expect(await readFile(join(folder, "report.html"), "utf8")).not.toContain('"circuit":null');
}, 120_000);

it("says where a limit on the size of files is in the way, and goes on without it", async () => {
  const folder = join(home, "limited");
  const flags = ["circuit", run, ...small, "--output_dir", folder];
  const { code, stderr } = await shell(`ulimit -f 8; $SFC ${quoted(flags)} --quiet`);
  expectError(
    { code, stdout: "", stderr, signal: null },
    1,
    "expected room on the disk, got a limit on the size of files (",
    "Raise the limit (ulimit -f)",
    folder,
  );
  await succeeds(flags);
  const whole = join(run, "circuit");
  expect(await table(join(folder, "edges.parquet"))).toEqual(await table(join(whole, "edges.parquet")));
}, 120_000);

it("says of random directions that they are none of a real SAE", async () => {
  const dummy = join(home, "dummy");
  const flags = ["--sae_source", "dummy", "--sites", "resid_post", "--layers", "2-3", "--num_examples", "2", "--quiet"];
  await succeeds(["run", ...flags, "--output_dir", dummy]);
  const { stdout } = await succeeds(["circuit", dummy, ...small]);
  expect(stdout).toMatch(/^DUMMY dictionaries: /);
  const evaluated = await succeeds(["evaluate", dummy, "--ways", "secant", "--sizes", "5", "--cases", "simple_plural"]);
  expect(evaluated.stdout).toMatch(/^DUMMY dictionaries: /);

  const others = join(home, "other-dummy");
  const neurons = flags.map((flag) => (flag === "resid_post" ? "mlp_act,resid_post" : flag));
  await succeeds(["run", ...neurons, "--seed", "2", "--output_dir", others]);
  const circuit = ["--circuit", join(dummy, "circuit", "circuit.json"), "--ways", "secant", "--sizes", "5"];
  expectError(await sfc("evaluate", others, ...circuit), 1, "another SAE at resid_post.2");
  await succeeds(["evaluate", dummy, ...circuit, "--force"]);

  // Neither shown nor taken for that of the run that has replaced it.
  const shown = async () => {
    const page = await readFile(join(dummy, "report.html"), "utf8");
    return ["circuit", "evaluation"].filter((of) => !new RegExp(`"${of}":null`).test(page));
  };
  expect(await shown()).toEqual(["circuit", "evaluation"]);
  await succeeds(["run", ...flags, "--seed", "3", "--output_dir", dummy, "--force"]);
  expect(await shown()).toEqual([]);
  expectError(await sfc("circuit", dummy, ...small), 1, "a circuit of this run", "--force");
  expectError(await sfc("circuit", others, "--sites", "mlp_act"), 1, "--sites", "mlp_act.2");
  expect(filesUnder(others).filter((file) => file.startsWith("circuit"))).toEqual([]);
}, 120_000);

it("draws more influence where what was asked for leaves no path, and averages over 8 points into attention and MLPs", async () => {
  const folder = join(home, "little");
  const sites = ["--sites", "attn_out,mlp_out,resid_post", "--size", "12", "--way", "secant", "--influence", "0.01"];
  const { stdout, stderr } = await succeeds([
    "circuit",
    run,
    ...sites,
    "--cases",
    "nounpp_singular",
    "--output_dir",
    folder,
  ]);
  expect(stderr).toContain("No path from the tokens to the metric holds 1.0 % of the influence");
  expect((await fileIn(folder)).graph!.drawn_edges).toBeGreaterThan(0);
  const gaps = /miss their targets' effects by ([\d.]+) % \(attn_out\), ([\d.]+) % \(mlp_out\)/.exec(stdout)!;
  for (const gap of gaps.slice(1)) expect(Number(gap)).toBeLessThan(2);
}, 120_000);
