import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { type Manifest, startManifest, writeManifest } from "../src/results/manifest.ts";
import { liveModels } from "../src/serve/models.ts";
import { Places } from "../src/serve/places.ts";

/** Called with a run's folder once its manifest has been read. */
const afterReading = vi.hoisted(() => ({ call: (_: string) => {} }));
vi.mock("../src/results/manifest.ts", async (load) => {
  const original = await load<typeof import("../src/results/manifest.ts")>();
  const readManifest = async (folder: string) => {
    const manifest = await original.readManifest(folder);
    afterReading.call(folder);
    return manifest;
  };
  return { ...original, readManifest };
});

let home: string;
let places: Places;

beforeEach(async () => {
  home = mkdtempSync(join(tmpdir(), "sfc-models-"));
  for (const name of ["one", "two"]) await writeRun(name);
  places = await Places.open(home);
});

afterEach(() => {
  afterReading.call = () => {};
  rmSync(home, { recursive: true });
});

async function writeRun(name: string): Promise<void> {
  const options = { model_name: `/models/${name}`, sae_source: `/saes/${name}`, layers: null, sites: null };
  const begun = startManifest({ command: "run", options, seed: 1, versions: {} }, new Date(0));
  const manifest: Manifest = { ...begun, status: "finished", finished: begun.started };
  mkdirSync(join(home, name));
  await writeManifest(join(home, name), manifest);
}

const ids = async () => (await liveModels(places, null)).map(({ id }) => id);

test("the models of live work are the embedded one and those of finished runs", async () => {
  expect(await ids()).toEqual(["demo", "run:one", "run:two"]);
});

test("a run that vanishes once it has been read leaves the others, and what was read of it", async () => {
  afterReading.call = (folder) => rmSync(folder, { recursive: true });
  expect(await ids()).toEqual(["demo", "run:one", "run:two"]);
  expect(await ids()).toEqual(["demo"]);
});

test("a run that vanishes while its folder is looked for leaves the others", async () => {
  const holds = places.holds.bind(places);
  places.holds = (path) => {
    if (path.endsWith("one")) rmSync(path, { recursive: true, force: true });
    return holds(path);
  };
  expect(await ids()).toEqual(["demo", "run:two"]);
});
