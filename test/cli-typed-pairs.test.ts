import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  examples,
  expectError,
  llama,
  manifestOf,
  rowsOf,
  run as runCommand,
  runFlags,
  sfc,
  start,
  succeeds,
  writeExamples,
} from "./cli-harness.ts";

let home: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-typed-"));
});
afterAll(() => rm(home, { recursive: true, force: true }));

const at = (name: string) => join(home, name);
const run = (folder: string, ...flags: string[]) =>
  succeeds(["run", "--model_name", llama, "--sae_source", "dummy", "--output_dir", at(folder), ...flags]);
const pairsOf = async (folder: string) =>
  (await readFile(join(at(folder), "pairs.jsonl"), "utf8"))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
/** Effects and scores by site and feature, to compare two runs. */
const scoresOf = async (folder: string) =>
  new Map(
    (await rowsOf(at(folder), "features")).map((row) => [
      `${row.split}/${row.case}/${row.site}/${row.feature}`,
      row.effect,
    ]),
  );

describe("scores that need no patch prompts", () => {
  const withPatch = examples(12);
  const without = withPatch.map(({ patch_prefix: _, ...rest }) => rest);

  it.each(["gradient", "gradient-activation"])("%s is the same without them", async (score) => {
    await writeExamples(at("with.jsonl"), withPatch);
    await writeFile(at("without.jsonl"), without.map((one) => JSON.stringify(one)).join("\n"));
    await run(`with ${score}`, "--pairs", at("with.jsonl"), "--score", score);
    await run(`without ${score}`, "--pairs", at("without.jsonl"), "--score", score);
    const [a, b] = [await scoresOf(`with ${score}`), await scoresOf(`without ${score}`)];
    expect(a.size).toBeGreaterThan(100);
    expect([...b.keys()].sort()).toEqual([...a.keys()].sort());
    const scale = Math.max(...[...a.values()].map((value) => Math.abs(Number(value))));
    for (const [key, value] of a) expect(Math.abs(Number(value) - Number(b.get(key))) / scale).toBeLessThan(1e-5);
    const { checks, counts } = await manifestOf(at(`without ${score}`));
    // The check compares something, and the prompts are not run that are not there.
    expect(checks.every((c: { passed: boolean; scale: number }) => c.passed && c.scale > 0)).toBe(true);
    expect(counts.tokens).toBe(without.length * 2 * 4);
    expect((await pairsOf(`without ${score}`))[0]).toMatchObject({ patch_prefix: null, m_patch: null });
    await succeeds(["report", at(`without ${score}`)]);
    const again = await run(`without ${score}`, "--pairs", at("without.jsonl"), "--score", score);
    expect(again.stdout).toContain("holds the finished run");
  });

  it("effects refuse such pairs and say which scores take them", async () => {
    await writeFile(at("none.jsonl"), without.map((one) => JSON.stringify(one)).join("\n"));
    const refused = await sfc(...runFlags(at("none.jsonl"), at("refused")));
    expectError(refused, 1, '"patch_prefix"', "none.jsonl, line 1", "--score gradient", "(11 more lines");
    expect(existsSync(at("refused"))).toBe(false);
  });
});

describe("one pair", () => {
  it("of a file without a split is a whole run, all train", async () => {
    const [{ split: _, ...one }] = examples(1) as [ReturnType<typeof examples>[number]];
    await writeExamples(at("one.jsonl"), [one]);
    await run("one", "--pairs", at("one.jsonl"));
    expect((await manifestOf(at("one"))).warnings).toContain("One pair alone: there is no test split.");
    expect(await pairsOf("one")).toMatchObject([{ split: "train" }]);
    expect(new Set((await rowsOf(at("one"), "features")).map((row) => row.split))).toEqual(new Set(["train"]));
  });

  it("that is typed gives what the same pair in a file gives", async () => {
    await run("typed", "--clean", "w3 w41 w9", "--patch", "w33 w41 w9", "--answers", "w11,w13");
    const typed = { clean_prefix: "w3 w41 w9", patch_prefix: "w33 w41 w9", clean_answer: " w11", patch_answer: " w13" };
    await writeExamples(at("typed.jsonl"), [typed]);
    await run("filed", "--pairs", at("typed.jsonl"));
    expect(await scoresOf("typed")).toEqual(await scoresOf("filed"));
    const { options, warnings } = await manifestOf(at("typed"));
    expect(options).toMatchObject({ clean: "w3 w41 w9", patch: "w33 w41 w9", answers: "w11,w13", task: null });
    expect(warnings).toContain('A space was put before "w11" and "w13".');
  });

  it("other prompts go to other folders", async () => {
    const folder = async (clean: string) => {
      const flags = ["--model_name", llama, "--sae_source", "dummy", "--patch", "w8 w9", "--answers", "w11,w13"];
      const { stdout } = await succeeds(["run", ...flags, "--clean", clean, "--score", "gradient"]);
      const report = /Report: (.*)\/report\.html/.exec(stdout)?.[1];
      await rm(join(tmpdir(), report!), { recursive: true, force: true });
      return report;
    };
    expect(await folder("w4 w9")).not.toBe(await folder("w5 w9"));
  });

  it.each([
    [["--clean", "w3 w4"], ["--answers"]],
    [["--patch", "w3 w4"], ["--clean"]],
    [
      ["--clean", "w3", "--answers", "w5,w6"],
      ["--patch", "--score gradient"],
    ],
    [
      ["--clean", "w3", "--patch", "w4", "--answers", "w5,w6", "--task", "pronoun"],
      ["--task", "--clean"],
    ],
    [
      ["--clean", "w3", "--patch", "w4", "--answers", "w5,w6", "--num_examples", "3"],
      ["--num_examples", "--clean"],
    ],
    [["--clean", " ", "--patch", "w4", "--answers", "w5,w6"], ["--clean"]],
  ])("that is typed by halves is a usage error: %j", async (flags, parts) => {
    expectError(await sfc("run", "--model_name", llama, "--sae_source", "dummy", ...flags), 2, ...parts);
  });
});

it("answers of several tokens, if asked, give what the longer prompt with one-token answers gives", async () => {
  const answers = { clean_answer: " w50 w11 w3", patch_answer: " w50 w13" };
  await writeExamples(at("several.jsonl"), [{ clean_prefix: "w3 w4", patch_prefix: "w30 w4", ...answers }]);
  await writeExamples(at("longer.jsonl"), [
    { clean_prefix: "w3 w4 w50", patch_prefix: "w30 w4 w50", clean_answer: " w11", patch_answer: " w13" },
  ]);
  expectError(await sfc(...runFlags(at("several.jsonl"), at("refused"))), 1, "several tokens", "--answer_tokens first");
  await run("several", "--pairs", at("several.jsonl"), "--answer_tokens", "first");
  await run("longer", "--pairs", at("longer.jsonl"));
  expect(await scoresOf("several")).toEqual(await scoresOf("longer"));
  const { options, warnings } = await manifestOf(at("several"));
  expect(options.answer_tokens).toBe("first");
  expect(warnings.join()).toContain("1 pair with answers of several tokens");
});

it("pairs that repeat others are told, in the terminal and in run.json", async () => {
  const some = examples(6);
  await writeExamples(at("twice.jsonl"), [...some, some[2]!, { ...some[4]!, case: "other" }]);
  const { stderr } = await run("twice", "--pairs", at("twice.jsonl"));
  const told = "2 pairs repeat others (e.g. lines 3 and 7); each counts.";
  expect(stderr).toContain(told);
  expect((await manifestOf(at("twice"))).warnings).toContain(told);
});

describe("sfc pairs", () => {
  const broken = [
    { ...examples(1)[0]!, patch_prefix: "w3 w4" },
    { ...examples(1)[0]!, clean_prefix: `${"w3 ".repeat(30_000)}w4` },
  ];

  it("lists what it leaves out by line, tokens and reason, some on the terminal and all as JSON", async () => {
    const bad = Array.from({ length: 30 }, (_, i) => ({ ...examples(1)[0]!, clean_answer: ` w${i + 3} w5` }));
    await writeExamples(at("bad.jsonl"), [...examples(4), ...broken, ...bad]);
    const flags = ["pairs", "--model_name", llama, "--pairs", at("bad.jsonl"), "--quiet"];
    const { stdout, stderr } = await succeeds(flags);
    expect(stderr).toBe("");
    expect(stdout).toContain("4 of 36 pairs can be used");
    expect(stdout).toMatch(
      / {2}line 5: prompts have different numbers of tokens \(4 and 3\): "<s>\|w3\|.*" and "<s>\|w3\|w4"/,
    );
    expect(stdout).toMatch(/ {2}line 7: answer is several tokens: .* → "w3\|w5", "w13"/);
    expect(stdout).toContain("and 12 more; --json lists all of them.");
    expect(Math.max(...stdout.split("\n").map((line) => line.length))).toBeLessThan(400);
    const { rejected, pairs, cases, warnings } = JSON.parse((await succeeds([...flags, "--json"])).stdout);
    expect(pairs).toEqual({ total: 36, usable: 4, without_patch: 0 });
    expect(rejected.map((one: { line: number }) => one.line)).toEqual(Array.from({ length: 32 }, (_, i) => i + 5));
    expect(rejected[2]).toMatchObject({ reason: "answer is several tokens", tokens: { clean_answer: ["w3", "w5"] } });
    expect(cases.reduce((sum: number, row: { pairs: number }) => sum + row.pairs, 0)).toBe(4);
    expect(warnings.length).toBe(2);
  });

  it("stops when asked to, also while it makes pairs", async () => {
    const started = start(["pairs", "--num_examples", "12000"]);
    await new Promise<void>((resolve) => {
      let seen = "";
      started.child.stderr!.on("data", (text) => {
        seen += text;
        if (seen.includes("reading: ")) resolve();
      });
      started.child.on("close", () => resolve());
    });
    started.child.kill("SIGTERM");
    const { code, stderr } = await started.ended;
    expect(code, stderr).toBe(130);
    expect(stderr).toMatch(/Stopped\.\s*$/);
  });

  it("says how many pairs there can be, before it makes any", async () => {
    expectError(await sfc("pairs", "--num_examples", "1000000"), 1, "expected 1000000", "got at most", "Ask for fewer");
  });

  it("makes as many pairs of every task as are asked for, others for another seed", async () => {
    const texts = [];
    for (const seed of ["1", "2"]) {
      const { stdout } = await succeeds([
        "pairs",
        "--task",
        "determiner",
        "--num_examples",
        "70",
        "--seed",
        seed,
        "--json",
      ]);
      const { pairs, cases } = JSON.parse(stdout) as {
        pairs: { usable: number };
        cases: { pairs: number; example: object }[];
      };
      expect(pairs.usable).toBe(560);
      expect(cases.map((of) => of.pairs)).toEqual(new Array(8).fill(70));
      texts.push(JSON.stringify(cases.map(({ example }) => example)));
    }
    expect(texts[0]).not.toBe(texts[1]);
  });
});

it("a wrong task, or a file that is not there, is named before a model is looked for", async () => {
  const env = { HF_ENDPOINT: "http://127.0.0.1:9", HF_HUB_CACHE: at("cache") };
  const ended = async (...args: string[]) => runCommand([...args, "--model_name", "nobody/no-model"], env);
  for (const command of ["run", "pairs", "compare", "estimate"]) {
    expectError(await ended(command, "--task", "pronouns"), 2, '"pronouns"', "determiner");
    expectError(await ended(command, "--pairs", at("nowhere.jsonl")), 1, "nowhere.jsonl", "does not exist");
  }
});
