import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { ProgressBar } from "../src/cli/progress-bar.ts";
import { errorLine, forTerminal, reflowed, wrapped } from "../src/cli/terminal.ts";
import { expectError, llama, sfc, succeeds } from "./cli-harness.ts";

const home = await mkdtemp(join(tmpdir(), "sfc-terminal-"));
afterAll(() => rm(home, { recursive: true }));

describe("what reaches a terminal", () => {
  it("has no control characters but line breaks", () => {
    expect(forTerminal("a\u001b[31mb\nc\u009b0m\td\u202e")).toBe("a\\u001b[31mb\nc\\u009b0m\\td\\u202e");
  });

  it("is the same JSON", () => {
    const value = { "\u009b": ["\u001b]0;x\u0007", "line\nbreak", "é\u2028\u202e"] };
    expect(JSON.parse(forTerminal(JSON.stringify(value, null, 2)))).toEqual(value);
  });

  it("is escaped in lines and phases of progress", () => {
    let text = "";
    const progress = new ProgressBar({ write: (part) => (text += part) });
    progress.begin("read\u001b[2J", 1);
    progress.line("of \u001b]0;title\u0007");
    progress.end();
    expect(text).not.toMatch(/[^\P{Cc}\n]/u);
  });

  it("is an error of one line that keeps its beginning and its advice", () => {
    const line = errorLine(`model:\n expected\u001b[0m ${"x".repeat(5000)}. Check the path.`);
    expect(line).toMatch(/^model: expected \[0m x+…x+\. Check the path\.$/);
    expect(line.length).toBeLessThanOrEqual(401);
    expect(errorLine("short. Do this.")).toBe("short. Do this.");
  });

  it("breaks prose between words, hangs labels out, and leaves tables and examples alone", () => {
    expect(wrapped("one two three\nfour", 9)).toBe("one two\nthree\nfour");
    expect(wrapped("warning  one two three", 17)).toBe("warning  one two\n         three");
    const kept = "site  sum  top features\n  sfc run --task pronoun\n12345678901234567890";
    expect(wrapped(kept, 12)).toBe(kept);
    expect(reflowed("one\ntwo\nthree\n\n  a  b\nfour", 9)).toBe("one two\nthree\n\n  a  b\nfour");
  });

  it("is no long or coloured name, of a file or of a command", async () => {
    const long = `${"deep/".repeat(300)}\u001b[31mred.jsonl`;
    for (const [args, code] of [
      [["pairs", "--pairs", long], 1],
      [["run", "--task", long], 2],
      [[long], 2],
      [["run", "--score", long], 2],
    ] as const) {
      const ended = await sfc(...args);
      expectError(ended, code);
      expect(ended.stderr).not.toContain("\u001b");
      expect(ended.stderr.length).toBeLessThan(560);
    }
  });
});

describe("sfc run --json", () => {
  const pairs = join(home, "pairs.jsonl");
  const folder = join(home, "run");
  const line = { clean_prefix: "w3 w4", patch_prefix: "w3 w5", clean_answer: " w6", patch_answer: " w7" };
  const flags = ["run", "--model_name", llama, "--sae_source", "dummy", "--pairs", pairs, "--output_dir", folder];

  it("prints one JSON document and, with --quiet, nothing else; also of a finished run", async () => {
    await writeFile(pairs, JSON.stringify({ ...line, case: "one" }));
    for (const again of [false, true]) {
      const { stdout, stderr } = await succeeds([...flags, "--top", "2", "--json", "--quiet"]);
      expect(stderr).toBe("");
      expect(stdout).not.toMatch(/[^\P{Cc}\n]/u);
      const said = JSON.parse(stdout);
      expect(said).toMatchObject({ folder, again, passed: true, files: { report: join(folder, "report.html") } });
      expect(said.accuracy[0].case).toBe("one");
      expect(said.ranking.sites).toHaveLength(6);
      for (const site of said.ranking.sites)
        for (const split of Object.values<{ top: unknown[] }>(site.splits)) expect(split.top).toHaveLength(2);
    }
    const { stdout } = await succeeds([...flags, "--top", "2", "--quiet"]);
    expect(stdout).toContain("\n1 pair, accuracy");
  });

  it("leaves errors to stderr", async () => {
    expectError(await sfc(...flags, "--json", "--quiet", "--top", "3"), 1, "--top 2 here, 3 asked");
    expectError(await sfc(...flags, "--json", "--top", "none"), 2, "--top");
  });
});
