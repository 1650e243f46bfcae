import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { effectsGap, largestGap, refuseDifferent, shareOf } from "../src/analysis/parity.ts";
import { type Check, check } from "../src/circuit/checks.ts";
import { type EffectRows, errorFeature } from "../src/effects/rows.ts";
import { UserError } from "../src/errors.ts";
import { examples, expectError, manifestOf, rowsOf, runFlags, start, succeeds, writeExamples } from "./cli-harness.ts";

/** Rows of effects; codes default to 0 and 1. */
function rowsOfEffects(
  list: readonly [node: number, feature: number, effect: number, codes?: [number, number]][],
): EffectRows {
  const codes = list.map(([, feature, , of]) => of ?? (feature === errorFeature ? [Number.NaN, Number.NaN] : [0, 1]));
  return {
    site: "resid_post.0",
    node: Int32Array.from(list, ([node]) => node),
    feature: Int32Array.from(list, ([, feature]) => feature),
    fClean: Float32Array.from(codes, ([clean]) => clean!),
    fPatch: Float32Array.from(codes, ([, patch]) => patch!),
    gradient: new Float32Array(list.length),
    effect: Float64Array.from(list, ([, , effect]) => effect),
  };
}

describe("two lists of numbers", () => {
  it("differ by the largest difference, measured against the largest right number", () => {
    expect(largestGap([1, -2, 3.5], [1, -4, 3])).toEqual({ gap: 2, scale: 4 });
  });

  it("differ without end where a number is none, or their lengths do", () => {
    expect(largestGap([1, Number.NaN], [1, 2]).gap).toBe(Number.POSITIVE_INFINITY);
    expect(largestGap([1], [1, 2]).gap).toBe(Number.POSITIVE_INFINITY);
    expect(check("x on y", null, Number.POSITIVE_INFINITY, 2, 1e9).passed).toBe(false);
  });

  it("of which all are 0 differ without end by anything", () => {
    expect([shareOf({ gap: 0, scale: 0 }), shareOf({ gap: 1e-9, scale: 0 })]).toEqual([0, Number.POSITIVE_INFINITY]);
  });
});

describe("effects of two computations", () => {
  const expected = rowsOfEffects([
    [0, errorFeature, 0.5],
    [0, 3, 2],
    [0, 7, -4],
    [1, errorFeature, 0.25],
    [1, 3, 1, [0.5, 0.75]],
  ]);

  it("are compared by node and feature, errors too; one that is missing is 0", () => {
    const got = rowsOfEffects([
      [0, errorFeature, 0.5],
      [0, 3, 2],
      [0, 7, 4],
      [1, errorFeature, 0.125],
    ]);
    // Feature 7's sign is turned round: 8. Where 3 is missing at node 1 both its codes are the same, so its effect is 0 instead of 1.
    expect(effectsGap(got, expected)).toEqual({ gap: 8, scale: 4, rows: 3, switched: 0 });
    const { effect } = expected;
    expect(effectsGap({ ...expected, effect: effect.with(3, 1) }, expected)).toMatchObject({ gap: 0.75, switched: 0 });
    expect(effectsGap({ ...expected, effect: effect.with(0, Number.NaN) }, expected).gap).toBe(
      Number.POSITIVE_INFINITY,
    );
  });

  it("leave out a feature whose code is switched at its threshold, with its node's error, and count it", () => {
    const got = rowsOfEffects([
      [0, errorFeature, 4.5],
      [0, 3, 2],
      [1, errorFeature, 0.25],
      [1, 3, 1, [0.5, 0.75]],
    ]);
    expect(effectsGap(got, expected)).toEqual({ gap: 0, scale: 4, rows: 3, switched: 1 });
    expect(effectsGap(expected, got)).toMatchObject({ gap: 0, rows: 3, switched: 1 });
    const switched = rowsOfEffects([...[0, 3, 7].map((f) => [0, f || errorFeature, 0] as [number, number, number])]);
    expect(effectsGap(switched, expected)).toMatchObject({ gap: 4 });
  });
});

describe("a device that is not exact", () => {
  it("is refused with what differs, where and by how much; one that is exact is not", () => {
    const good = check("metrics on webgpu equal the CPU's", null, 0.001, 2, 1e-3);
    const bad = check("gradients on webgpu equal the CPU's", "resid_post.1", 3, 2, 1e-3);
    expect(() => refuseDifferent("webgpu", [good])).not.toThrow();
    expect(() => refuseDifferent("webgpu", [good, bad])).toThrow(UserError);
    expect(() => refuseDifferent("webgpu", [good, bad])).toThrow(
      "--device webgpu: expected numbers within 0.001 of the CPU's in float64, as a share of the largest, got gradients at resid_post.1 that differ by 1.5. Use --device cpu, or allow more with --device_tolerance.",
    );
  });
});

const script = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const preload = { NODE_OPTIONS: `--import ${script("device-runtime.mjs")}` };
/** A device that is the CPU under another name, with a fault in one of its operations. */
const pretended = (fault?: string) => ({
  ...preload,
  SFC_TEST_DEVICE: "cpu",
  ...(fault !== undefined && { SFC_TEST_FAULT: fault }),
});

describe("commands on a device, pretended on the CPU", () => {
  let folder: string;
  let pairs: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "sfc-device-"));
    pairs = await writeExamples(join(folder, "pairs.jsonl"), examples(8));
    await succeeds([], on(pretended(), flags("good")));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));
  const on = (env: NodeJS.ProcessEnv, args: readonly string[]) => start(args, undefined, env).ended;
  const flags = (name: string, ...more: readonly string[]) =>
    runFlags(pairs, join(folder, name), "--device", "webgpu", ...more);

  it("compute what the CPU computes, and say so in run.json", async () => {
    await succeeds(runFlags(pairs, join(folder, "cpu")));
    expect(await rowsOf(join(folder, "good"), "effects")).toEqual(await rowsOf(join(folder, "cpu"), "effects"));
    const { checks, options, estimate } = await manifestOf(join(folder, "good"));
    expect(options).toMatchObject({ device: "webgpu" });
    expect(estimate.device).toEqual({ name: "webgpu", memory_bytes: expect.any(Number) });
    const ofDevice = (checks as { name: string; gap: number; scale: number }[]).filter(({ name }) =>
      name.endsWith(" on webgpu equal the CPU's"),
    );
    expect(ofDevice.map(({ name }) => name.split(" on ")[0])).toEqual([
      "metrics",
      "activations",
      "gradients",
      "effects",
      "active codes",
    ]);
    for (const one of ofDevice) expect(shareOf(one), one.name).toBeLessThan(1e-5);
    // float32 is not float64: a comparison of a thing with itself would find nothing.
    expect(ofDevice.slice(0, 4).every(({ gap }) => gap > 0)).toBe(true);
  });

  it("refuse one that turns the metric's sign round, until they are told to go on; so does evaluate on the same run", async () => {
    // The first difference of the graph that runs is the metric's, of the answers' logits.
    const turned = pretended("Sub:Add:1");
    const ended = await on(turned, flags("turned"));
    expectError(ended, 1, "--device webgpu: expected numbers within 0.001", "got metrics that differ by ");
    expect(await manifestOf(join(folder, "turned"))).toMatchObject({ status: "failed" });
    await succeeds([], on(turned, flags("turned", "--device_tolerance", "10")));
    const { options, checks } = await manifestOf(join(folder, "turned"));
    expect(options).toMatchObject({ device_tolerance: 10 });
    const metric = (checks as { name: string; tolerance: number }[]).find(({ name }) => name.startsWith("metrics"));
    expect(metric).toMatchObject({ tolerance: 10, passed: true });
    await succeeds([], on(turned, ["evaluate", join(folder, "turned"), "--sizes", "2", "--ways", "analytic"]));
    // The run that agreed is looked at again, where a driver has changed since.
    const evaluated = await on(turned, ["evaluate", join(folder, "good"), "--sizes", "2", "--ways", "analytic"]);
    expectError(evaluated, 1, "--device webgpu", "metrics that differ by ");
    expectError(await on(turned, ["circuit", join(folder, "good")]), 1, "--device webgpu", "metrics that differ by ");
  });

  it("refuse a wrong gradient behind right activations, of comparisons and shards too", async () => {
    // The second difference is in the gradient of a softmax.
    const wrong = pretended("Sub:Add:2");
    expectError(await on(wrong, flags("wrong")), 1, "got gradients at ", "effects at ", "differ by ");
    const compared = ["compare", ...flags("compared").slice(1), "--methods", "analytic,sfc"];
    expectError(await on(wrong, compared), 1, "got gradients at ", "effects at ");
    await succeeds([], on(wrong, flags("shards", "--shards", "2")));
    expectError(await on(wrong, ["run", "--shard", "1", join(folder, "shards")]), 1, "got gradients at ");
  });

  it("measure: sfc bench tells the device, and what differs", async () => {
    const { code, stdout, stderr } = await start(["webgpu"], script("device-bench.mjs"), pretended("Sub:Add:1")).ended;
    expect(code, stderr).toBe(0);
    const [json, ...text] = stdout.split("\n");
    const { device, parity, gemm_peak, passes, forest } = JSON.parse(json!);
    expect(device).toBe("webgpu");
    expect((parity as Check[]).map(({ passed }) => passed)).toEqual([false, true, true, true, true]);
    expect(gemm_peak).toBeGreaterThan(0);
    expect([passes.length, forest]).toEqual([2, []]);
    const line = text.find((one) => one.startsWith("webgpu, furthest from the CPU in float64"));
    expect(line).toMatch(/: metrics [\d.]+e[+-]\d+: too much, activations [\d.]+e-\d+ \(\w+\.\d\), gradients /);
  });
});

describe("a device that is not here", () => {
  it.skipIf(process.platform !== "linux")(
    "is refused in one line that says how to get it, without the runtime's log",
    async () => {
      const without = { VK_ICD_FILENAMES: "/nowhere.json", VK_DRIVER_FILES: "/nowhere.json" };
      const run = async (device: string) => start(["run", "--device", device], undefined, without).ended;
      expectError(await run("webgpu"), 1, "--device webgpu: expected one that works here", "libvulkan1");
      expectError(
        await run("cuda"),
        1,
        "--device cuda",
        "ONNXRUNTIME_NODE_INSTALL=cuda12 npm install onnxruntime-node",
      );
      expectError(await run("coreml"), 1, "--device coreml", "macOS");
      expectError(await run("dml"), 1, "--device dml", "Windows");
    },
  );
});
