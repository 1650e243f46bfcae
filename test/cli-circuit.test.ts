import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { asyncBufferFromFile, parquetReadObjects } from "hyparquet";
import { afterAll, beforeAll, expect, it } from "vitest";
import { lintAttributionGraph } from "../src/circuit/export/lint.ts";
import { circuitFileSchema } from "../src/results/circuit.ts";
import { filesUnder, sfc, start, succeeds } from "./cli-harness.ts";

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
  expect((await readdir(folder)).sort()).toEqual(
    ["circuit.graph.json", "circuit.graphml", "circuit.json", "circuit.svg", "edges.parquet", "graph.json"].sort(),
  );
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
  const sites = ["--sites", "attn_out,mlp_out,resid_post", "--size", "40", "--way", "secant"];
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
  [["--way", "guess"], /way: expected/],
  [["--way", "random"], /--way: expected one that chooses features/],
  [["--size", "9999999", "--way", "secant"], /--size: expected at most/],
  [["--threshold", "99", "--way", "secant"], /--threshold: expected at most/],
  [["--threshold", "1", "--way", "masks"], /--threshold: expected a way by effects/],
  [["--cases", "nounpp_dual"], /--cases: expected some of/],
  [["--influence", "2"], /--influence: expected a share/],
  [["--pair", "99999"], /--pair: expected 1 to/],
])("refuses %s in one line", async (flags, reason) => {
  const { code, stderr } = await sfc(
    "circuit",
    run,
    ...flags,
    "--quiet",
    "--output_dir",
    join(home, "refused"),
    "--force",
  );
  expect(code).toBeGreaterThan(0);
  expect(stderr.trim().split("\n")).toHaveLength(1);
  expect(stderr).toMatch(reason);
});
