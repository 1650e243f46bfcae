import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { check } from "../src/circuit/checks.ts";
import {
  type Manifest,
  manifestJsonSchema,
  readManifest,
  startManifest,
  writeManifest,
} from "../src/results/manifest.ts";

let home: string;
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-manifest-"));
});
afterEach(() => rm(home, { recursive: true, force: true }));

const begun = startManifest(
  { command: "run", options: { seed: 1, layers: "0-3", sites: ["resid_post"] }, seed: 1, versions: { node: "20.0.0" } },
  new Date("2026-01-02T03:04:05Z"),
);

describe("the manifest of a run", () => {
  it("has the schema that is committed (npm exec node scripts/run-schema.mjs writes it)", async () => {
    const committed = JSON.parse(await readFile(new URL("../docs/run.schema.json", import.meta.url), "utf8"));
    expect(committed).toEqual(manifestJsonSchema());
  });

  it("comes back as it was written, whole", async () => {
    const manifest: Manifest = {
      ...begun,
      status: "finished",
      finished: "2026-01-02T03:05:00.000Z",
      model: { name: "demo", model_type: "llama", sha256: "a".repeat(64) },
      dictionaries: [
        { site: "resid_post.0", source: "dummy", kind: "jumprelu", features: 512, sha256: null, dummy: true },
      ],
      accuracy: [{ split: "train", case: "simple", pairs: 4, correct: 3, accuracy: 0.75 }],
      seconds: { capture: 1.5 },
      checks: [check("sum", "resid_post.0", 1e-6, 2, 1e-4)],
      warnings: ["The dictionaries are random (--sae_source dummy)."],
    };
    await writeManifest(home, manifest);
    expect(await readManifest(home)).toEqual(manifest);
    expect(await readdir(home)).toEqual(["run.json"]);
  });

  it("passes a check up to the tolerance times the scale, and never one without a number", () => {
    expect(check("sum", null, 2e-4, 2, 1e-4).passed).toBe(true);
    expect(check("sum", null, 2.1e-4, 2, 1e-4).passed).toBe(false);
    expect(check("sum", null, 0, 0, 1e-4).passed).toBe(true);
    const broken = check("sum", null, Number.NaN, 2, 1e-4);
    expect(broken.passed).toBe(false);
    expect(JSON.parse(JSON.stringify(broken))).toEqual(broken);
  });

  it("names the field when a run.json is not one of this version", async () => {
    await writeFile(join(home, "run.json"), JSON.stringify({ ...begun, status: "done" }));
    await expect(readManifest(home)).rejects.toThrow(
      /^run's manifest: expected .*, got "status": .* in .*run\.json\. It is not a run\.json of this version: make the run again\.$/,
    );
    await writeFile(join(home, "run.json"), '{"command": "run",');
    await expect(readManifest(home)).rejects.toThrow(/^JSON file: expected JSON, got .* in .*run\.json\. /);
    await rm(join(home, "run.json"));
    await expect(readManifest(home)).rejects.toThrow(
      /^run: expected the folder of a finished run, got one without run\.json at /,
    );
  });
});
