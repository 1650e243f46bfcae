import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { examples, expectError, llama, manifestOf, sfc, succeeds, writeExamples } from "./cli-harness.ts";

let home: string;
let pairs: string;
let model: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-config-"));
  pairs = await writeExamples(join(home, "pairs.jsonl"), examples(8));
  model = join(home, "llama");
  await cp(llama, model, { recursive: true });
  const config = JSON.parse(await readFile(join(model, "config.json"), "utf8"));
  const changed = { ...config, muP_base: 64, team: "x", tie_word_embeddings: true };
  await writeFile(join(model, "config.json"), JSON.stringify(changed));
});
afterAll(() => rm(home, { recursive: true, force: true }));

const allow = ["--allow_config_field", "team", "--allow-config-field", "muP_base,team"];
const input = () => ["--model_name", model, "--pairs", pairs];
const left = (field: string) =>
  `${field} in config.json is not understood and was left out, as --allow_config_field says.`;
const tied = "config.json ties the unembedding to the embedding, but lm_head.weight differs";

describe("fields of config.json that nobody knows", () => {
  it("are refused by every command that opens the model, with the flag that allows them", async () => {
    const expected = [1, "muP_base: expected", "--allow_config_field muP_base"] as const;
    expectError(await sfc("pairs", ...input()), ...expected);
    expectError(await sfc("run", ...input(), "--sae_source", "dummy", "--output_dir", join(home, "a")), ...expected);
    const misspelt = await sfc("pairs", ...input(), ...allow, "--allow_config_field", "mup_base");
    expectError(misspelt, 1, "--allow_config_field mup_base: expected an unknown field");
  });

  it("go on where they are allowed, in a run with a warning and among its options", async () => {
    const folder = join(home, "run");
    const command = ["run", ...input(), "--sae_source", "dummy", "--output_dir", folder];
    const { stderr } = await succeeds([...command, ...allow]);
    const { options, warnings } = await manifestOf(folder);
    expect(options.allow_config_field).toEqual(["muP_base", "team"]);
    for (const text of [left("muP_base"), left("team"), tied]) {
      expect(stderr).toContain(text);
      expect(warnings.some((warning: string) => warning.startsWith(text))).toBe(true);
    }
    // The same fields in another order are the same options.
    const again = await succeeds([...command, "--allow_config_field", "team,muP_base"]);
    expect(again.stderr).not.toContain("forest");
  });

  it("in sfc pairs, estimate, compare, train sae", async () => {
    const { stdout } = await succeeds(["pairs", ...input(), ...allow, "--json"]);
    expect(JSON.parse(stdout).warnings.slice(0, 2)).toEqual([left("muP_base"), left("team")]);
    const estimate = await succeeds(["estimate", ...input(), ...allow, "--sae_source", "dummy"]);
    expect(estimate.stderr).toContain(left("team"));
    const comparison = join(home, "comparison");
    const methods = ["--methods", "analytic,sfc", "--output_dir", comparison];
    await succeeds(["compare", ...input(), ...allow, "--sae_source", "dummy", ...methods]);
    const { warnings, options } = JSON.parse(await readFile(join(comparison, "compare.json"), "utf8"));
    expect(warnings).toContain(left("muP_base"));
    expect(options.allow_config_field).toEqual(["muP_base", "team"]);
    const text = join(home, "text.txt");
    await writeFile(text, "w3 w4 w5 w6 w7 w8 w9\n\n".repeat(400));
    const recipe = ["--text", text, "--length", "8", "--steps", "2", "--expansion", "1", "--sites", "mlp_out"];
    const trained = await sfc(
      ...["train", "sae", "--model_name", model, ...allow, ...recipe, "--layers", "0", "--output_dir", join(home, "s")],
    );
    expect(trained.code, trained.stderr).toBe(0);
    expect(trained.stderr).toContain(left("muP_base"));
  });
});
