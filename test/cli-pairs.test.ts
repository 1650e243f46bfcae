import { existsSync } from "node:fs";
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import {
  type Example,
  examples,
  expectError,
  llama,
  manifestOf,
  runFlags,
  sfc,
  succeeds,
  writeExamples,
} from "./cli-harness.ts";

let home: string;
let file: string;
let output: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-pairs-"));
  file = join(home, "pairs.jsonl");
  output = join(home, "run");
});
afterAll(() => rm(home, { recursive: true, force: true }));

const good = examples(8);
const text = (list: readonly object[]) => list.map((example) => JSON.stringify(example)).join("\n");

async function expectRefused(content: string, ...parts: string[]): Promise<void> {
  await writeFile(file, content);
  expectError(await sfc(...runFlags(file, output)), 1, ...parts);
  expect(existsSync(output)).toBe(false);
}

it("a broken line is named by its number, with how many more there are", async () => {
  await expectRefused(`${text(good)}\n{"clean_prefix": "w3\n{"x": 1}\n`, `${file}, line 9`, "1 more line");
});

it("a line without a field is named, and so is the field", async () => {
  const { patch_answer: _, ...rest } = good[3]!;
  await expectRefused(text([...good, rest]), `${file}, line 9`, '"patch_answer"');
});

it("is not written over by what can be used of it, by a link neither", async () => {
  const mine = join(home, "mine.jsonl");
  await writeFile(mine, text(good));
  const link = join(home, "link.jsonl");
  await symlink(mine, link);
  for (const to of [mine, link]) {
    expectError(await sfc("pairs", "--model_name", llama, "--pairs", mine, "--output", to), 2, "--output", "lost");
  }
  expect(await readFile(mine, "utf8")).toBe(text(good));
});

it("a file without lines", () => expectRefused("\n \n", file, "no lines"));

it("a file that is no text: its bytes do not reach the terminal", async () => {
  const model = join(llama, "model.safetensors");
  const ended = await sfc(...runFlags(model, output));
  expectError(ended, 1, `${model}, line 1`);
  expect(ended.stderr.trimEnd()).not.toMatch(/\p{Cc}/u);
});

it("a split on some lines only", async () => {
  const { split: _, ...rest } = good[3]!;
  await expectRefused(text([...good, rest]), file, '"split"', "8 of 9");
});

it("a file that does not exist, and a folder in its place", async () => {
  expectError(await sfc(...runFlags(join(home, "none.jsonl"), output)), 1, "none.jsonl", "--pairs", "does not exist");
  expectError(await sfc(...runFlags(home, output)), 1, home, "--pairs");
  expect(existsSync(output)).toBe(false);
});

it("no pair that can be used is an error that counts the reasons", async () => {
  const [a, b] = good as [Example, Example];
  const unusable = [
    { ...a, patch_prefix: "w3 w4" },
    { ...b, patch_prefix: "w3" },
    { ...b, clean_answer: " w5 w6" },
  ];
  await expectRefused(
    text(unusable),
    file,
    "2: prompts have different numbers of tokens",
    "1: answer is several tokens",
  );
});

it("pairs that cannot be used are left out, counted and shown", async () => {
  const [a, b, c] = good as [Example, Example, Example];
  const unusable = [
    { ...a, patch_prefix: "w3 w4" },
    { ...b, clean_answer: " w5 w6" },
    { ...b, patch_answer: " w5 w6 w7" },
    { ...c, patch_answer: c.clean_answer },
  ];
  await writeExamples(file, [...good, ...unusable]);
  const { stderr, stdout } = await succeeds(runFlags(file, output));
  const { counts, warnings } = await manifestOf(output);
  expect(counts.pairs).toBe(good.length);
  for (const line of [
    "Left out 1 pair: prompts have different numbers of tokens",
    "Left out 2 pairs: answer is several tokens",
    "Left out 1 pair: answers are equal",
  ]) {
    expect(stderr).toContain(line);
    expect(stdout).toContain(line);
    expect(warnings.some((warning: string) => warning.startsWith(line))).toBe(true);
  }
});

it("pairs with a token that the tokenizer has and the model has not are left out", async () => {
  const model = join(home, "more words");
  await cp(llama, model, { recursive: true });
  const tokenizer = JSON.parse(await readFile(join(model, "tokenizer.json"), "utf8"));
  const { vocab_size } = JSON.parse(await readFile(join(model, "config.json"), "utf8"));
  tokenizer.model.vocab.beyond = vocab_size;
  await writeFile(join(model, "tokenizer.json"), JSON.stringify(tokenizer));
  const [a, b] = good as [Example, Example];
  const beyond = [
    { ...a, patch_prefix: a.patch_prefix.replace(/^\w+/, "beyond") },
    { ...b, patch_answer: " beyond" },
  ];
  const flags = ["pairs", "--model_name", model, "--pairs", file];
  await writeExamples(file, [...good, ...beyond]);
  const { stdout } = await succeeds(flags);
  expect(stdout).toContain("Left out 2 pairs: a token that the model does not have");
  await writeExamples(file, beyond);
  expectError(await sfc(...flags), 1, "2: a token that the model does not have", file);
});

it("sfc pairs writes the usable pairs, and reads them back to the same ones", async () => {
  await writeExamples(file, [...good, { ...good[0], clean_answer: " w5 w6" }]);
  const [first, second] = [join(home, "first.jsonl"), join(home, "second.jsonl")];
  const { stdout } = await succeeds(["pairs", "--model-name", llama, "--pairs", file, "--output", first]);
  expect(stdout).toContain("8 of 9 pairs can be used");
  expect(stdout).toContain("Left out 1 pair: answer is several tokens");
  await succeeds(["pairs", "--model_name", llama, `--pairs=${first}`, "--output", second]);
  expect(await readFile(second, "utf8")).toBe(await readFile(first, "utf8"));
  expectError(
    await sfc("pairs", "--model_name", llama, "--pairs", file, "--output", join(home, "no/such/folder.jsonl")),
    1,
    join(home, "no/such/folder.jsonl"),
  );
});

it("pairs without a split are halved, with no prompt in both halves", async () => {
  await writeExamples(
    file,
    examples(20).map(({ split: _, ...rest }) => rest),
  );
  const out = join(home, "halved.jsonl");
  await succeeds(["pairs", "--model_name", llama, "--pairs", file, "--output", out]);
  const halved = (await readFile(out, "utf8"))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Example);
  const prompts = (split: string) =>
    new Set(halved.filter((e) => e.split === split).flatMap((e) => [e.clean_prefix, e.patch_prefix]));
  expect(halved).toHaveLength(20);
  expect([...prompts("train")].filter((prompt) => prompts("test").has(prompt))).toEqual([]);
});
