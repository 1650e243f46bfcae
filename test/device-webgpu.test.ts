import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { shareOf } from "../src/analysis/parity.ts";
import type { Check } from "../src/circuit/checks.ts";
import { softwareAdapter } from "./adapter.ts";
import { examples, expectError, fixtures, runFlags, start, writeExamples } from "./cli-harness.ts";

const script = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const preload = { NODE_OPTIONS: `--import ${script("device-runtime.mjs")}` };
const adapter = softwareAdapter();
afterAll(() => adapter?.remove());

describe.skipIf(adapter === null)("WebGPU on a software adapter", () => {
  const models = ["llama-gqa", "mistral", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox"];
  let folder: string;
  let pairs: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "sfc-webgpu-"));
    pairs = await writeExamples(join(folder, "pairs.jsonl"), examples(4));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  it.each([
    ["held", models],
    ["streamed", ["gemma2"]],
  ] as const)("computes what the CPU computes in float64, weights %s", async (weights, names) => {
    const paths = names.map((name) => join(fixtures, name));
    const { code, stdout, stderr } = await start(
      ["webgpu", weights, pairs, ...paths],
      script("device-parity.mjs"),
      adapter!.env,
    ).ended;
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const found = stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as { model: string; checks: Check[] });
    expect(found.map(({ model }) => model)).toEqual(names);
    for (const { model, checks } of found) {
      expect(checks.map(({ name }) => name)).toHaveLength(5);
      for (const one of checks) expect(shareOf(one), `${model}: ${one.name}, ${one.site}`).toBeLessThan(1e-4);
    }
  });

  it("is refused where one of its operations is wrong", async () => {
    const flags = runFlags(pairs, join(folder, "wrong"), "--device", "webgpu", "--sites", "resid_post");
    const env = { ...adapter!.env, ...preload, SFC_TEST_FAULT: "Sub:Add:1" };
    const wrong = await start(flags, undefined, env).ended;
    expectError(wrong, 1, "--device webgpu: expected numbers within 0.001", "got metrics that differ by ");
    expect(wrong.stderr).not.toMatch(/vulkan|dawn|onnxruntime/i);
  });
});
