import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { type Capture, capture } from "../src/capture/capture.ts";
import type { Dictionary } from "../src/dictionaries/dictionary.ts";
import { codeReader } from "../src/dictionaries/encode.ts";
import { effectsFrom, type Lane } from "../src/effects/analytic.ts";
import { lanesFor } from "../src/effects/estimate.ts";
import type { MethodInput } from "../src/effects/method.ts";
import { StoppedError } from "../src/errors.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { planCapture } from "../src/forest/packs.ts";
import { modelFromConfig } from "../src/models/architectures.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { heldWeights, type LoadedModel, loadedModel } from "../src/models/weights.ts";
import { Random } from "../src/random.ts";
import type { SiteKind, SiteName } from "../src/site.ts";
import { randomDictionary } from "./random-dictionary.ts";
import { tokenPair } from "./toy-model.ts";

const seed = "20261127/lanes";
const sites = ["attn_out.0", "mlp_out.0", "resid_post.0", "mlp_out.1", "resid_post.1"] as const;

// Threads run what is compiled.
const compiled = new URL("../src/jobs/lanes.ts", import.meta.url).href.replace("/src/", "/dist/").replace(/ts$/, "js");
const { openLanes } = (await import(compiled)) as typeof import("../src/jobs/lanes.ts");

let loaded: LoadedModel;
let captured: Capture;
const dictionaries = new Map<SiteName, Dictionary>();
let lanes: readonly Lane[] = [];

/** The effects of all sites, and what is told of how well dictionaries fit, in these lanes. */
async function effectsIn(opened: readonly Lane[], given: Partial<MethodInput> = {}) {
  const fits: [SiteName, number | null][] = [];
  const shares: number[] = [];
  const input = {
    ...loaded,
    forest: captured.plan.forest,
    dictionaries,
    openLanes: () => opened,
    onFit: (site: SiteName, share: number | null) => void fits.push([site, share]),
    ...given,
  };
  const effects = [];
  for await (const found of effectsFrom(captured, input, (done) => shares.push(done))) effects.push(found);
  return { effects, fits, shares };
}

beforeAll(async () => {
  const checkpoint = await openCheckpoint(await openFolder(new URL("fixtures/llama-gqa", import.meta.url).pathname));
  const model = modelFromConfig(checkpoint.config, "llama-gqa");
  loaded = loadedModel(model, await heldWeights(model, checkpoint));
  await checkpoint.close();
  const random = new Random(seed);
  const pairs = Array.from({ length: 12 }, () => {
    const [clean, patch] = [0, 1].map(() => [1, ...Array.from({ length: 4 }, () => 4 + random.below(20))]);
    return tokenPair(clean!, patch!, [20, 21]);
  });
  captured = await capture(loaded, planCapture(prefixForest(pairs), { wanted: "changed" }), { sites });
  for (const site of sites) {
    const normalization = site === "mlp_out.1" ? "layer_norm" : undefined;
    const width = model.sites[site.split(".")[0] as SiteKind]!;
    dictionaries.set(site, randomDictionary(site, width, 64, seed, normalization && { normalization }));
  }
  lanes = openLanes(loaded, 2);
});

afterAll(async () => {
  await Promise.all(lanes.map((lane) => lane.release()));
});

describe(`effects of sites in threads beside one another (seed ${seed})`, () => {
  it("are those of one thread, to the bit and in the same order, and so is how well dictionaries fit", async () => {
    const here = await effectsIn([]);
    expect(lanes).toHaveLength(2);
    const beside = await effectsIn(lanes.map((lane) => ({ ...lane, release: async () => {} })));
    expect(beside.effects.map(({ rows }) => rows.site)).toEqual(sites);
    expect(beside.effects).toEqual(here.effects);
    expect(beside.fits).toEqual(here.fits);
    expect(beside.fits.map(([, share]) => share)).not.toContain(null);
    for (const { shares } of [here, beside]) {
      expect(shares).toEqual(shares.toSorted((a, b) => a - b));
      expect(shares.at(-1)).toBe(sites.length);
    }
  });

  it("end with the error of the site that has one, after those before it", async () => {
    const broken = { ...dictionaries.get("resid_post.0")!, encoder: () => Promise.reject(new Error("not there")) };
    const found: SiteName[] = [];
    const work = effectsFrom(captured, {
      ...loaded,
      forest: captured.plan.forest,
      dictionaries: new Map([...dictionaries, ["resid_post.0", broken]]),
      openLanes: () => openLanes(loaded, 2),
    });
    await expect(
      (async () => {
        for await (const { rows } of work) found.push(rows.site);
      })(),
    ).rejects.toThrow("not there");
    expect(found).toEqual(["attn_out.0", "mlp_out.0"]);
  });

  it("stop when they are asked to, a thread that is waited for too", async () => {
    const asked = effectsIn(openLanes(loaded, 2), { stopped: () => true });
    await expect(asked).rejects.toThrow(StoppedError);
    const [lane] = openLanes(loaded, 1) as [Lane];
    const many = new Float32Array(2 ** 20 * loaded.model.width);
    const wide = randomDictionary("resid_post.0", loaded.model.width, 1024, seed);
    const began = performance.now();
    // The thread's errors are of the compiled classes.
    await expect(lane.encode(wide, many, { stopped: () => performance.now() - began > 300 })).rejects.toThrow(
      "Stopped.",
    );
    await lane.release();
  });
});

describe("the number of threads", () => {
  const cost = { flops: 4e10, memory: 5e7 };
  const costs = (n: number, one = cost) => Array.from({ length: n }, () => one);

  it("is that of cores, of sites or of what memory allows, whichever is least", () => {
    expect(lanesFor(costs(30), 2)).toBe(2);
    expect(lanesFor(costs(4), 16)).toBe(4);
    expect(lanesFor(costs(30, { ...cost, memory: 1e8 }), 16)).toBe(3);
  });

  it("is none where the work is small, memory is short, or there is one core or one site", () => {
    expect(lanesFor(costs(3), 8)).toBe(0);
    expect(lanesFor(costs(30, { ...cost, memory: 3e8 }), 8)).toBe(0);
    expect(lanesFor(costs(30), 1)).toBe(0);
    expect(lanesFor(costs(1, { flops: 1e12, memory: 1e6 }), 8)).toBe(0);
  });
});

it("codes of a lane are those of a reader in this thread", async () => {
  const [lane] = openLanes(loaded, 1) as [Lane];
  const reader = codeReader(loaded);
  const dictionary = dictionaries.get("resid_post.1")!;
  const { x } = await captured.site("resid_post.1");
  expect(await lane.encode(dictionary, x)).toEqual(await reader.encode(dictionary, x));
  await Promise.all([lane.release(), reader.release()]);
});
