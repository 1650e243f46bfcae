import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { copyProgram, examples, expectComplete, runFlags, start, succeeds, writeExamples } from "./cli-harness.ts";

it("sfc run says that it is slow where the native runtime is missing, and only there", async () => {
  const home = await mkdtemp(join(tmpdir(), "sfc-runtime-"));
  try {
    const pairs = await writeExamples(join(home, "pairs.jsonl"), examples(8));
    const program = await copyProgram(join(home, "program"));
    await rm(join(home, "program/node_modules/onnxruntime-node"));
    const { code, stderr } = await start(runFlags(pairs, join(home, "run")), program).ended;
    expect(code, stderr).toBe(0);
    await expectComplete(join(home, "run"));
    expect(
      stderr.match(
        /.*WebAssembly.*several times slower.*ONNXRUNTIME_NODE_INSTALL=skip npm install onnxruntime-node.*/g,
      ),
    ).toHaveLength(1);
    expect((await succeeds(runFlags(pairs, join(home, "native")))).stderr).not.toContain("WebAssembly");
  } finally {
    await rm(home, { recursive: true, force: true });
  }
});

it("the runtime keeps no device ID and reports to nobody", async () => {
  const home = await mkdtemp(join(tmpdir(), "sfc-home-"));
  try {
    const env = { HOME: home, XDG_CACHE_HOME: "" };
    const { code, stderr } = await start(["pairs", "--num_examples", "1", "--quiet"], undefined, env).ended;
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(await readdir(home)).toEqual([]);
  } finally {
    await rm(home, { recursive: true, force: true });
  }
});
