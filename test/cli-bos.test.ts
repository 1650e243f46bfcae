import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { examples, llama, manifestOf, type Row, rowsOf, succeeds, writeExamples, writeSae } from "./cli-harness.ts";

let home: string;
/** The same prompts as words, and with BOS typed in front. */
let words: string;
let typed: string;
let saes: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-bos-"));
  words = await writeExamples(join(home, "words.jsonl"), examples(12));
  const front = (text: string) => `<s> ${text}`;
  const behind = examples(12).map((e) => ({
    ...e,
    clean_prefix: front(e.clean_prefix),
    patch_prefix: front(e.patch_prefix),
  }));
  typed = await writeExamples(join(home, "typed.jsonl"), behind);
  saes = join(home, "saes");
  await writeSae(saes, "resid_post.0");
  const path = join(saes, "resid_post.0/cfg.json");
  const metadata = { model_name: "gpt2-small", prepend_bos: false, context_size: 512 };
  await writeFile(path, JSON.stringify({ ...JSON.parse(await readFile(path, "utf8")), metadata }));
});
afterAll(() => rm(home, { recursive: true, force: true }));

const flags = (pairs: string, ...more: readonly string[]) => ["--model_name", llama, "--pairs", pairs, ...more];

/** Warnings of SAEs that say `prepend_bos: false`, of GPT-2, on long texts. */
const other = "The SAEs were trained on gpt2-small, which ";
const longer = "The SAEs were trained on texts of 512 tokens; this model takes at most 64, ";
const bos =
  "The SAEs were trained without BOS in front (prepend_bos); the prompts have it. --bos no leaves out the tokenizer's.";

describe("a run", () => {
  it("without the tokenizer's BOS has the numbers of the prompts alone, and BOS typed is BOS put", async () => {
    const run = async (pairs: string, ...more: readonly string[]) => {
      const folder = await mkdtemp(join(home, "run-"));
      await succeeds(["run", ...flags(pairs, ...more), "--sae_source", "dummy", "--output_dir", folder, "--force"]);
      const strip = ({ node: _, ...row }: Row) => row;
      return { manifest: await manifestOf(folder), effects: (await rowsOf(folder, "effects")).map(strip) };
    };
    const [put, byHand, none] = await Promise.all([run(words), run(typed, "--bos", "no"), run(words, "--bos", "no")]);
    expect(byHand.effects).toEqual(put.effects);
    expect(none.effects).not.toEqual(put.effects);
    expect(put.manifest.options).not.toHaveProperty("bos");
    expect(none.manifest.options.bos).toBe("no");
    const yes = await run(words, "--bos", "yes");
    expect(yes.effects).toEqual(put.effects);
    expect(yes.manifest.options.bos).toBe("yes");
  });

  it("says what its SAEs' files contradict: on the terminal, in run.json, in the report", async () => {
    const folder = join(home, "told");
    const { stderr } = await succeeds(["run", ...flags(words), "--sae_source", saes, "--output_dir", folder]);
    const { warnings } = await manifestOf(folder);
    const report = await readFile(join(folder, "report.html"), "utf8");
    for (const line of [other, longer, bos]) {
      expect(stderr).toContain(line);
      expect(warnings.filter((warning: string) => warning.startsWith(line))).toHaveLength(1);
      expect(report).toContain(line);
    }
  });

  it("has no word of BOS where --bos makes the prompts as the texts were", async () => {
    const folder = join(home, "without");
    const run = ["run", ...flags(words, "--bos", "no"), "--sae_source", saes, "--output_dir", folder];
    expect((await succeeds(run)).stderr).not.toContain("BOS");
    expect((await manifestOf(folder)).warnings.join()).not.toContain("BOS");
  });
});

it("sfc estimate, compare and pairs take --bos too", async () => {
  const estimate = (...more: readonly string[]) =>
    succeeds(["estimate", ...flags(words, ...more), "--sae_source", saes]);
  expect((await estimate()).stderr).toContain(bos);
  const { stderr } = await estimate("--bos", "no");
  expect(stderr).toContain(other);
  expect(stderr).not.toContain("BOS");

  const comparison = join(home, "comparison");
  const methods = ["--methods", "analytic,sfc", "--output_dir", comparison];
  await succeeds(["compare", ...flags(words, "--bos", "no"), "--sae_source", saes, ...methods]);
  const { warnings, options } = JSON.parse(await readFile(join(comparison, "compare.json"), "utf8"));
  expect(options.bos).toBe("no");
  expect(warnings.some((warning: string) => warning.startsWith(other))).toBe(true);
  expect(warnings).not.toContain(bos);

  const margins = async (pairs: string, choice: string) => {
    const { stdout } = await succeeds(["pairs", ...flags(pairs, "--bos", choice, "--json")]);
    return JSON.parse(stdout).cases.map(({ margin }: { margin: number }) => margin);
  };
  const put = await margins(words, "auto");
  expect(await margins(typed, "no")).toEqual(put);
  expect(await margins(words, "no")).not.toEqual(put);
});
