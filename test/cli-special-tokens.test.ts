import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { llama, manifestOf, rowsOf, sfc } from "./cli-harness.ts";

let home: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-special-"));
});
afterAll(() => rm(home, { recursive: true, force: true }));

/** A run on pairs whose prompts differ in their second word; `rest` stands between that and the answer. */
async function run(name: string, rest: string, tokenizerConfig?: object) {
  const model = join(home, `${name}-model`);
  await cp(llama, model, { recursive: true });
  if (tokenizerConfig) await writeFile(join(model, "tokenizer_config.json"), JSON.stringify(tokenizerConfig));
  const pairs = ["w20", "w21", "w22", "w23"].map((first, i) => ({
    clean_prefix: `${first} w8 ${rest}`,
    patch_prefix: `${first} w9 ${rest}`,
    clean_answer: " w40",
    patch_answer: " w41",
    case: "chat",
    split: i % 2 === 0 ? "train" : "test",
  }));
  await writeFile(join(home, `${name}.jsonl`), pairs.map((pair) => JSON.stringify(pair)).join("\n"));
  const place = ["--sae_source", "dummy", "--sites", "resid_post", "--layers", "0"];
  const folder = join(home, name);
  const { code, stdout, stderr } = await sfc(
    ...["run", "--model_name", model, "--pairs", join(home, `${name}.jsonl`), ...place, "--output_dir", folder],
  );
  expect(code, stderr).toBe(0);
  const nodes = new Map((await rowsOf(folder, "nodes")).map((node) => [node.node, node]));
  const effects = (await rowsOf(folder, "effects")).filter(
    (row) => (row.feature as number) >= 0 && row.split === "train",
  );
  /** Σ effect by feature over the nodes that count, per pair, as features.parquet should have it. */
  const expected = (counts: (token: string) => boolean) => {
    const sums = new Map<number, number>();
    for (const { node, feature, effect } of effects) {
      if (!counts(nodes.get(node)!.token as string)) continue;
      sums.set(feature as number, (sums.get(feature as number) ?? 0) + (effect as number) / 2);
    }
    return sums;
  };
  const found = (await rowsOf(folder, "features")).filter(
    (row) => row.split === "train" && row.case === "" && (row.feature as number) >= 0,
  );
  const ranking = JSON.parse(await readFile(join(folder, "ranking.json"), "utf8"));
  const share = (counts: (token: string) => boolean) => {
    const size = (rows: typeof effects) => rows.reduce((sum, { effect }) => sum + Math.abs(effect as number), 0);
    return size(effects.filter(({ node }) => !counts(nodes.get(node)!.token as string))) / size(effects);
  };
  return { folder, stdout, expected, found, share, leftOut: ranking.sites[0].splits.train.left_out as number };
}

function expectSums(found: readonly Record<string, unknown>[], sums: ReadonlyMap<number, number>): void {
  expect(found).toHaveLength(sums.size);
  for (const { feature, effect } of found) expect(effect).toBeCloseTo(sums.get(feature as number)!, 9);
}

it("a special token that ends a turn counts like a word, though the tokenizer pads with it", async () => {
  for (const [name, config] of [
    ["turn", undefined],
    ["padding-turn", { bos_token: "<s>", eos_token: "</s>", pad_token: "</s>" }],
  ] as const) {
    const { found, expected, share, leftOut, stdout } = await run(name, "w5 </s> w6 </s>", config);
    expect(share((token) => token !== "</s>")).toBeGreaterThan(0.1);
    expectSums(
      found,
      expected(() => true),
    );
    expect(leftOut).toBe(0);
    expect(stdout).not.toContain("leaves out");
  }
});

it("BOS in the middle of a prompt counts; padding does not, and its share is told", async () => {
  const middle = await run("middle", "w5 <s> w6", { bos_token: { content: "<s>" } });
  expect(middle.share((token) => token !== "<s>")).toBeGreaterThan(0.01);
  expectSums(
    middle.found,
    middle.expected(() => true),
  );

  const padded = await run("padded", "w5 <unk> w6", { pad_token: "<unk>" });
  const counts = (token: string) => token !== "<unk>";
  const share = padded.share(counts);
  expect(share).toBeGreaterThan(0.01);
  expectSums(padded.found, padded.expected(counts));
  expect(padded.leftOut).toBeCloseTo(share, 5);
  const { warnings } = await manifestOf(padded.folder);
  expect(warnings.find((line: string) => line.startsWith("The ranking leaves out BOS and padding"))).toBeDefined();
  expect(padded.stdout).toContain("warning  The ranking leaves out BOS and padding");
});
