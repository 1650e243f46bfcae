import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { entry, sfc } from "./cli-harness.ts";

/** What bash offers after a line, by the script that `sfc completion bash` prints. */
function offered(script: string, line: string): string[] {
  const words = line.split(" ");
  const quoted = words.map((word) => `'${word}'`).join(" ");
  const program = `${script}\nCOMP_WORDS=(${quoted}); COMP_CWORD=${words.length - 1}; _sfc; printf '%s\\n' "\${COMPREPLY[@]}"`;
  return execFileSync("bash", ["--norc", "-c", program], { encoding: "utf8" }).split("\n").filter(Boolean);
}

describe("sfc completion", () => {
  const script = execFileSync(process.execPath, [entry, "completion", "bash"], { encoding: "utf8" });

  it("offers commands, commands of commands, and flags", () => {
    expect(offered(script, "sfc ")).toEqual(expect.arrayContaining(["run", "pairs", "compare", "train", "completion"]));
    expect(offered(script, "sfc tr")).toEqual(["train"]);
    expect(offered(script, "sfc train ")).toEqual(expect.arrayContaining(["lm", "sae"]));
    expect(offered(script, "sfc run --num")).toEqual(["--num_examples"]);
    expect(offered(script, "sfc run --task determiner --num")).toEqual(["--num_examples"]);
    expect(offered(script, "sfc train sae --eval")).toEqual(["--evaluate"]);
    expect(offered(script, "sfc report --")).toEqual(["--help"]);
  });

  it("offers the values of a flag that has a list, and files where there is none", () => {
    expect(offered(script, "sfc run --method an")).toEqual(["analytic", "analytic-ig"]);
    expect(offered(script, "sfc estimate --task ")).toEqual(["agreement", "determiner", "pronoun"]);
    expect(offered(script, "sfc run --model_name gp")).toEqual(["gpt2"]);
    expect(offered(script, "sfc run --sae_source dum")).toEqual(["dummy"]);
    expect(offered(script, "sfc run --pairs ")).toEqual([]);
    expect(offered(script, "sfc completion ")).toEqual(expect.arrayContaining(["bash", "zsh", "fish"]));
  });

  it.each(["zsh", "fish"])("prints what %s can read", async (shell) => {
    const { code, stdout } = await sfc("completion", shell);
    expect(code).toBe(0);
    const file = join(mkdtempSync(join(tmpdir(), "sfc-completion-")), "script");
    writeFileSync(file, stdout);
    const parsed = spawnSync(shell, ["-n", file], { encoding: "utf8" });
    // Not every machine has these shells.
    if (!parsed.error) expect(parsed).toMatchObject({ status: 0, stderr: "" });
    expect(stdout).toContain("analytic-ig");
  });

  it("of another shell is refused with the list", async () => {
    expect(await sfc("completion", "tcsh")).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("bash, zsh, fish"),
    });
  });
});
