import { execFileSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { citationOf, commandLine, comparisonCommand, shellWord } from "../src/report/citation.ts";
import { sampleReport } from "../web/sample.ts";

describe("what stands in a report to take along", () => {
  test("words are one word to a shell, whatever is in them", () => {
    for (const text of ["a b", "it's", "$HOME", "x;y", "a\nb", "plain-1,2", "`id`", '"']) {
      const back = execFileSync("sh", ["-c", `printf %s ${shellWord(text)}`]).toString();
      expect(back).toBe(text);
    }
    expect(shellWord([1, 2])).toBe("1,2");
  });

  test("a comparison's command has its options, but for those that were not given", () => {
    const options = { methods: "analytic,sfc:64", by_pair: true, top: null, tokens: false, pairs: "my pairs.jsonl" };
    expect(comparisonCommand({ command: "compare", options })).toBe(
      "sfc compare --methods analytic,sfc:64 --by_pair --pairs 'my pairs.jsonl'",
    );
    expect(comparisonCommand({ command: "sfc compare --methods analytic", options })).toBe(
      "sfc compare --methods analytic",
    );
    expect(
      commandLine("run", { task: "agreement", layers: [2, 3], seed: 0, force: false, quiet: true, bos: null }),
    ).toBe("sfc run --task agreement --layers 2,3 --seed 0 --quiet");
  });

  test("a citation names version, model, SAEs, method and seed, with nothing that TeX carries out", () => {
    const { run } = sampleReport(3);
    const text = citationOf({
      run: { ...run, task: "50%_{x}\\y", model: { name: "org/a_model", sha256: "0123456789abcdef" } },
    });
    expect(text).toContain("version = {0.1.0}");
    expect(text).toContain("a\\_model (sha256 0123456789ab)");
    expect(text).toContain("method analytic, seed 3");
    expect(text.match(/\{/g)!.length).toBe(text.match(/\}/g)!.length);
    expect(text).not.toMatch(/[^\\][%_]/);
  });
});
