import { describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { memoryFolder } from "../src/bytes/folder.ts";
import { writeSafetensors } from "../src/bytes/safetensors.ts";
import { captureAll } from "../src/capture/capture.ts";
import { type Floats, floatValue, type Hook } from "../src/capture/hooks.ts";
import { captureOfEdges, edges, type Jacobian } from "../src/circuit/edges.ts";
import { nodeCodes } from "../src/circuit/edges-codes.ts";
import { type Contraction, contract, contractIdentity, sourceReader } from "../src/circuit/edges-sources.ts";
import { targetsAt } from "../src/circuit/edges-targets.ts";
import { pathShape, pathsBetween } from "../src/circuit/paths.ts";
import type { Activation, Dictionary, Normalization } from "../src/dictionaries/dictionary.ts";
import { codeReader, codeRow } from "../src/dictionaries/encode.ts";
import { openDictionary } from "../src/dictionaries/open.ts";
import { dot } from "../src/effects/directions.ts";
import type { MethodInput } from "../src/effects/method.ts";
import { cleanRow, patchRow } from "../src/effects/rest.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { planCapture } from "../src/forest/packs.ts";
import { input } from "../src/graph/tensor.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { fittedModel } from "../src/models/fitted.ts";
import { heldWeights, loadedModel, streamedWeights } from "../src/models/weights.ts";
import type { TokenPair } from "../src/prompts/pairs.ts";
import { Random } from "../src/random.ts";
import { parseSite, type SiteName } from "../src/site.ts";
import { edgesOf, type Found } from "./edges-of.ts";
import { randomDictionary } from "./random-dictionary.ts";
import { runPack } from "./run-pack.ts";

const seed = "edges";
const F = 40;

/** Pairs that share prefixes, some of them the whole prompt, in two cases. */
function somePairs(): TokenPair[] {
  const random = new Random(seed);
  const pairs = Array.from({ length: 6 }, (_, i): TokenPair => {
    const rest = Array.from({ length: 2 + (i % 3) }, () => 4 + random.below(3));
    const texts = { clean_prefix: "", patch_prefix: "", clean_answer: "", patch_answer: "" };
    return {
      pair: { ...texts, case: i < 4 ? "a" : "b", split: "train" as const },
      clean: [1, 8, ...rest],
      patch: [1, 9 + (i % 2), ...rest],
      cleanAnswer: 20,
      patchAnswer: 22 + (i % 3),
    };
  });
  return [...pairs, { ...pairs[0]!, patchAnswer: 30 }];
}

interface Opening {
  readonly pairs?: readonly TokenPair[];
  readonly weights?: "held" | "streamed";
  readonly steps?: number;
  readonly kind?: Activation["kind"];
  readonly normalization?: Normalization;
}

/** A fixture's model with random dictionaries at some sites. */
async function open(
  name: string,
  sites: readonly SiteName[],
  { pairs = somePairs(), weights = "held", steps = 4, kind = "jumprelu", normalization }: Opening = {},
): Promise<MethodInput & { close(): Promise<void> }> {
  const checkpoint = await openCheckpoint(await openFolder(new URL(`fixtures/${name}`, import.meta.url).pathname));
  const { model } = await fittedModel(checkpoint);
  // Erf has no float64 kernel.
  const dtype = checkpoint.config.hidden_act === "gelu" ? ("float32" as const) : ("float64" as const);
  const chosen = weights === "held" ? await heldWeights(model, checkpoint, dtype) : streamedWeights(checkpoint);
  const dictionaries = new Map(
    sites.map((site) => [
      site,
      randomDictionary(site, model.sites[parseSite(site).kind]!, F, seed, {
        kind,
        threshold: 0.2,
        ...(normalization && { normalization }),
      }),
    ]),
  );
  const loaded = loadedModel(model, chosen, { dtype });
  return { ...loaded, forest: prefixForest(pairs), dictionaries, steps, close: () => checkpoint.close() };
}

const layers = (...kinds: string[]) => kinds.flatMap((kind) => [`${kind}.0`, `${kind}.1`]);

/** Sets of sites that differ in what ways between them lead through. */
const chosenSets: Readonly<Record<string, readonly SiteName[]>> = {
  "all sublayers and the stream": layers("attn_out", "mlp_out", "resid_post"),
  "the stream": ["embed", ...layers("resid_post")],
  "sublayers alone": layers("attn_out", "mlp_out"),
  "heads and one place of the stream": ["attn_z.0", "attn_z.1", "mlp_out.0", "resid_post.1"],
  "heads, attention and the stream": [...layers("attn_z", "attn_out"), "resid_post.0"],
  "MLPs alone": layers("mlp_out"),
};

/** Post-norms, layer norms and one matrix for q, k and v, parallel, sequential with biases, grouped keys, biases behind a norm without, norms of queries and keys. */
const models = ["gemma2", "gpt2", "gpt_neox-relu", "gpt_neox", "gpt_neox-sequential", "llama-gqa", "qwen2", "qwen3"];

const everything = (sites: readonly SiteName[]) =>
  new Map(
    sites.filter((site) => site !== "embed").map((site) => [site, [...Array(F).keys(), "error" as const]] as const),
  );

describe.each(models)(`edges of %s (seed ${seed})`, (name) => {
  describe.each(Object.entries(chosenSets))("between %s", (_, sites) => {
    it.each(["gradient", "secant"] as const)("add up, %s: out of every source to its effect", async (jacobian) => {
      const given = await open(name, sites);
      const { checks } = await edgesOf(given, { targets: everything(sites), jacobian });
      const out = checks.filter(({ name }) => name.startsWith("edges out of"));
      expect(out.length).toBe(sites.length + (sites.includes("embed") ? 0 : 1));
      for (const { name, site, gap, scale, tolerance } of checks) {
        if (tolerance > 1e-4) continue;
        expect(gap / scale, `${name} (${site})`).toBeLessThan(given.dtype === "float64" ? 1e-10 : 2e-5);
      }
      await given.close();
    });

    it("are what central differences give, other sites frozen", async (context) => {
      const given = await open(name, sites, { pairs: somePairs().slice(2, 3) });
      if (given.dtype === "float32") {
        await given.close();
        return context.skip();
      }
      const { found } = await edgesOf(given, { targets: everything(sites), jacobian: "gradient" });
      const truth = await differences(given);
      const largest = Math.max(...truth.map(({ edge }) => Math.abs(edge)));
      expect(truth.length).toBeGreaterThan(4);
      for (const { source, feature, target, edge } of truth) {
        const got = found.get(target)?.get(source)?.get(feature) ?? 0;
        expect(
          Math.abs(got - edge) / largest,
          `${source}/${feature} → ${target}: ${got}, expected ${edge}`,
        ).toBeLessThan(1e-6);
      }
      await given.close();
    });
  });

  it("through whole layers, secant, carry the whole effect, the better the more points", async () => {
    const sites = ["embed", ...layers("resid_post")];
    const gaps: number[] = [];
    for (const steps of [4, 32]) {
      const given = await open(name, sites, { steps });
      let [gap, scale] = [0, 0];
      const sums = new Map<string, { inflow: number; effect: number }>();
      for await (const { target, blocks } of edges(given, { targets: everything(sites) })) {
        if (target === "metric") continue;
        for (const { target: to, group, values, error, remainder, effect } of blocks) {
          const key = JSON.stringify([to, group]);
          const inflow = (sums.get(key)?.inflow ?? remainder) + values.reduce((a, b) => a + b, error);
          sums.set(key, { inflow, effect });
        }
      }
      for (const { inflow, effect } of sums.values()) {
        gap += Math.abs(inflow - effect);
        scale += Math.abs(effect);
      }
      gaps.push(gap / scale);
      await given.close();
    }
    // The midpoint rule's error falls with the square of the points, but where a ReLU has its kink.
    expect(gaps[1]).toBeLessThan(5e-3);
    expect(gaps[1]).toBeLessThan(gaps[0]! / 4 + 1e-5);
  });

  it.each(["gradient", "secant"] as const)("are the same with streamed weights, %s", async (jacobian) => {
    const sites = chosenSets["heads and one place of the stream"]!;
    const [held, streamed] = await Promise.all(
      (["held", "streamed"] as const).map(async (weights) => {
        const given = await open(name, sites, { weights });
        const { found } = await edgesOf(given, { targets: everything(sites), jacobian });
        await given.close();
        return { found, tolerance: given.dtype === "float64" ? 1e-9 : 1e-4 };
      }),
    );
    expectSame(held!.found, streamed!.found, held!.tolerance);
  });

  it.each(["gradient", "secant"] as const)("on the forest are those of its pairs one by one, %s", async (jacobian) => {
    const sites = chosenSets["all sublayers and the stream"]!;
    const edgesOfPairs = async (pairs: readonly TokenPair[]) => {
      const given = await open(name, sites, { pairs });
      const { found } = await edgesOf(given, { targets: everything(sites), jacobian });
      await given.close();
      return { found, dtype: given.dtype };
    };
    const all = await edgesOfPairs(somePairs());
    const sum: Found = new Map();
    for (const pair of somePairs()) {
      for (const [target, bySource] of (await edgesOfPairs([pair])).found) {
        for (const [source, values] of bySource) {
          for (const [feature, value] of values) {
            const to = sum.get(target) ?? new Map();
            sum.set(target, to);
            const of = to.get(source) ?? new Map();
            to.set(source, of);
            of.set(feature, (of.get(feature) ?? 0) + value);
          }
        }
      }
    }
    expectSame(all.found, sum, all.dtype === "float64" ? 1e-9 : 1e-4);
  });
});

/** Two sets of edges are equal, up to a share of the largest. */
function expectSame(a: Found, b: Found, tolerance: number): void {
  const flat = (found: Found) =>
    new Map(
      [...found].flatMap(([target, bySource]) =>
        [...bySource].flatMap(([source, values]) =>
          [...values].map(([feature, value]) => [`${source}/${feature} → ${target}`, value] as const),
        ),
      ),
    );
  const [x, y] = [flat(a), flat(b)];
  const largest = Math.max(...[...x.values()].map(Math.abs));
  expect(largest).toBeGreaterThan(1e-4);
  expect(x.size).toBeGreaterThan(100);
  for (const key of new Set([...x.keys(), ...y.keys()])) {
    expect(Math.abs((x.get(key) ?? 0) - (y.get(key) ?? 0)) / largest, key).toBeLessThan(tolerance);
  }
}

/**
 * Edges between some features by their definition, in the forest of one pair: the source's change added at all nodes, a small step either way, with all
 * chosen sites but the target held at their clean values; then what the target's code makes of it, times ⟨g, d⟩.
 */
async function differences(
  given: MethodInput,
  codesOf: (dictionary: Dictionary, x: Floats) => Float64Array | undefined = () => undefined,
): Promise<{ source: SiteName; feature: number | "error" | "token"; target: string; edge: number }[]> {
  const byName = new Map<string, Awaited<ReturnType<typeof differences>>[number]>();
  for (const { node: _, sourceNode: __, ...one } of await nodeDifferences(given, codesOf, false)) {
    const key = `${one.source}/${one.feature} → ${one.target}`;
    byName.set(key, { ...one, edge: one.edge + (byName.get(key)?.edge ?? 0) });
  }
  return [...byName.values()];
}

/** The same for each node of the target; with `bySource` for each node of the source, which then is moved alone. */
async function nodeDifferences(
  given: MethodInput,
  codesOf: (dictionary: Dictionary, x: Floats) => Float64Array | undefined,
  bySource: boolean,
): Promise<
  {
    source: SiteName;
    sourceNode: number;
    feature: number | "error" | "token";
    target: string;
    node: number;
    edge: number;
  }[]
> {
  const { model, dictionaries, forest, dtype } = given;
  const chosen = [...dictionaries.keys()];
  const sites = [...new Set(["embed", ...chosen])];
  const [captured] = await captureAll(given, [planCapture(forest, { wanted: "both" })], { sites });
  const pack = { ...captured!.plan.packs.find(({ kind }) => kind === "backward")!, kind: "forward" as const };
  const reader = codeReader(given);
  const encode = async (dictionary: Dictionary, x: Floats) => codesOf(dictionary, x) ?? dense(reader, dictionary, x);
  const clean = new Map<SiteName, Floats>();
  const change = new Map<SiteName, Float64Array>();
  const codes = new Map<SiteName, { clean: Float64Array; patch: Float64Array }>();
  const N = pack.node.length;
  for (const site of sites) {
    const { x, width: D } = await captured!.site(site);
    const [c, p] = [new Float64Array(N * D), new Float64Array(N * D)];
    pack.node.forEach((node, row) => {
      if (node < 0) return;
      c.set(x.subarray(cleanRow(captured!, node) * D, (cleanRow(captured!, node) + 1) * D), row * D);
      const patch = patchRow(captured!, node);
      p.set(x.subarray(patch * D, (patch + 1) * D), row * D);
    });
    clean.set(site, c);
    change.set(
      site,
      p.map((v, i) => v - c[i]!),
    );
    const dictionary = dictionaries.get(site);
    if (dictionary) codes.set(site, { clean: await encode(dictionary, c), patch: await encode(dictionary, p) });
  }
  const hooks = new Map<SiteName, Hook>(
    sites.map((site) => [
      site,
      { trace: (x, { named }) => ({ y: input(named("frozen"), x.dtype, x.shape), values: { x } }) },
    ]),
  );
  /** Activations at the target when a source is moved. */
  const run = async (moved: SiteName, by: Float64Array, target: SiteName) => {
    const { found } = await runPack(given, pack, hooks, (site) => {
      const x = clean.get(site)!;
      return { frozen: floatValue(site === moved ? x.map((v, i) => v + by[i]!) : x, N, x.length / N) };
    });
    return found.get(`value/${target}/x`)!;
  };
  const truth: Awaited<ReturnType<typeof nodeDifferences>> = [];
  for (const { from: source, to: target } of pathsBetween(chosen, pathShape(model))) {
    const dictionary = dictionaries.get(target)!;
    const [decoder, D] = [await dictionary.decoder(), dictionary.outputWidth];
    const { g } = await captured!.site(target);
    const from = dictionaries.get(source);
    const [{ clean: f }, Δx] = [codes.get(target)!, change.get(source)!];
    const width = Δx.length / N;
    const moves: { feature: number | "error" | "token"; by: Float64Array }[] = [];
    if (from) {
      const [rows, { clean: a, patch: b }] = [await from.decoder(), codes.get(source)!];
      const part = (features: readonly number[]) =>
        Float64Array.from({ length: N * width }, (_, at) => {
          const [row, d] = [Math.floor(at / width), at % width];
          return features.reduce((sum, i) => sum + (b[row * F + i]! - a[row * F + i]!) * rows[i * width + d]!, 0);
        });
      const moving = [...Array(F).keys()].filter((i) => pack.node.some((_, row) => b[row * F + i] !== a[row * F + i]));
      for (const feature of moving.slice(0, 2)) moves.push({ feature, by: part([feature]) });
      const all = part([...Array(F).keys()]);
      moves.push({ feature: "error", by: Δx.map((v, i) => v - all[i]!) });
    } else moves.push({ feature: "token", by: Δx });
    const changed = [...pack.node].flatMap((node, row) =>
      node >= 0 && patchRow(captured!, node) !== cleanRow(captured!, node) ? row : [],
    );
    const single = moves.flatMap(({ feature, by }) =>
      changed.map((row) => ({
        feature,
        sourceNode: pack.node[row]!,
        by: by.map((v, i) => (Math.floor(i / width) === row ? v : 0)),
      })),
    );
    for (const { feature, sourceNode, by } of bySource ? single : moves.map((one) => ({ ...one, sourceNode: -1 }))) {
      const ε = 1e-4;
      const [up, down] = [
        await run(
          source,
          by.map((v) => ε * v),
          target,
        ),
        await run(
          source,
          by.map((v) => -ε * v),
          target,
        ),
      ];
      const [fUp, fDown] = [await encode(dictionary, up), await encode(dictionary, down)];
      const live = [...Array(F).keys()].filter((j) => changed.some((row) => f[row * F + j] !== 0));
      for (const j of live.slice(0, 3)) {
        pack.node.forEach((node, row) => {
          if (node < 0) return;
          const edge = (dot(g, node * D, decoder, j * D, D) * (fUp[row * F + j]! - fDown[row * F + j]!)) / (2 * ε);
          truth.push({ source, sourceNode, feature, target: `${target}/${j}`, node, edge });
        });
      }
    }
  }
  await reader.release();
  expect(dtype).toBe("float64");
  return truth;
}

/** A gated SAE as SAELens saves it, and its codes by its formula: 1[z + b_gate > 0]·max(e^r·z + b_mag, 0) of z = (x − b_dec) W_enc. */
async function gated(site: SiteName, D: number) {
  const { kind, layer } = parseSite(site);
  const hooks: Record<string, string> = { attn_out: "attn_out", mlp_out: "mlp_out", resid_post: "resid_post" };
  const random = new Random(`${seed}/${site}/gated`);
  const normal = (n: number, scale: number) => Float32Array.from({ length: n }, () => scale * random.normal());
  const [encoder, decoder, decoderBias] = [normal(D * F, D ** -0.5), normal(F * D, D ** -0.5), normal(D, 0.2)];
  const [gate, magnitude, scale] = [normal(F, 0.3), normal(F, 0.3), normal(F, 0.5)];
  const config = {
    architecture: "gated",
    d_in: D,
    d_sae: F,
    dtype: "float32",
    apply_b_dec_to_input: true,
    normalize_activations: "none",
    metadata: { sae_lens_version: "6.54.12", hook_name: `blocks.${layer}.hook_${hooks[kind]}` },
  };
  const tensors = {
    W_enc: { shape: [D, F], data: encoder },
    W_dec: { shape: [F, D], data: decoder },
    b_dec: { shape: [D], data: decoderBias },
    b_gate: { shape: [F], data: gate },
    b_mag: { shape: [F], data: magnitude },
    r_mag: { shape: [F], data: scale },
  };
  const folder = memoryFolder("gated", {
    "cfg.json": new TextEncoder().encode(JSON.stringify(config)),
    "sae_weights.safetensors": writeSafetensors(new Map(Object.entries(tensors))),
  });
  const codes = (x: Floats) =>
    Float64Array.from({ length: (x.length / D) * F }, (_, at) => {
      const [row, i] = [Math.floor(at / F), at % F];
      let z = 0;
      for (let d = 0; d < D; d++) z += (x[row * D + d]! - decoderBias[d]!) * encoder[d * F + i]!;
      return z + gate[i]! > 0 ? Math.max(Math.exp(scale[i]!) * z + magnitude[i]!, 0) : 0;
    });
  return { dictionary: await openDictionary(folder, "sae_weights.safetensors"), codes };
}

/** Codes [rows,F]. */
async function dense(
  reader: ReturnType<typeof codeReader>,
  dictionary: Parameters<typeof reader.encode>[0],
  x: Floats,
): Promise<Float64Array> {
  const sparse = await reader.encode(dictionary, x);
  const out = new Float64Array(sparse.rows * F);
  for (let row = 0; row < sparse.rows; row++) {
    const { features, values } = codeRow(sparse, row);
    features.forEach((feature, i) => {
      out[row * F + feature] = values[i]!;
    });
  }
  return out;
}

describe(`edges by kind of dictionary (seed ${seed})`, () => {
  const sites = chosenSets["all sublayers and the stream"]!;

  it.each(["relu", "topk"] as const)("of %s are what central differences give, the selection held", async (kind) => {
    const given = await open("llama-gqa", sites, { pairs: somePairs().slice(2, 3), kind });
    const { found } = await edgesOf(given, { targets: everything(sites), jacobian: "gradient" });
    const truth = await differences(given);
    const largest = Math.max(...truth.map(({ edge }) => Math.abs(edge)));
    for (const { source, feature, target, edge } of truth) {
      const got = found.get(target)?.get(source)?.get(feature) ?? 0;
      expect(Math.abs(got - edge) / largest, `${source}/${feature} → ${target}`).toBeLessThan(1e-6);
    }
    await given.close();
  });

  it("of gated SAEs are what central differences give of their formula", async () => {
    const given = await open("gpt2", sites, { pairs: somePairs().slice(2, 3) });
    const opened = new Map<Dictionary, (x: Floats) => Float64Array>();
    const dictionaries = new Map<SiteName, Dictionary>();
    for (const site of sites) {
      const { dictionary, codes } = await gated(site, given.model.width);
      opened.set(dictionary, codes);
      dictionaries.set(site, dictionary);
    }
    const withGated = { ...given, dictionaries };
    const { found } = await edgesOf(withGated, { targets: everything(sites), jacobian: "gradient" });
    const truth = await differences(withGated, (dictionary, x) => opened.get(dictionary)?.(x));
    const largest = Math.max(...truth.map(({ edge }) => Math.abs(edge)));
    for (const { source, feature, target, edge } of truth) {
      const got = found.get(target)?.get(source)?.get(feature) ?? 0;
      // Weights that are folded are rounded to float32.
      expect(Math.abs(got - edge) / largest, `${source}/${feature} → ${target}`).toBeLessThan(1e-5);
    }
    await given.close();
  });

  it.each(["layer_norm", "constant_norm_rescale"] as const)(
    "normalised by %s add up, what the scale does in the remainder",
    async (normalization) => {
      const given = await open("llama-gqa", sites, { normalization });
      const { checks } = await edgesOf(given, { targets: everything(sites) });
      const exact = checks.filter(({ tolerance }) => tolerance <= 1e-4);
      expect(exact.filter(({ name }) => name === "edges into targets add up to their effects").length).toBe(2);
      for (const { name, site, gap, scale } of exact) expect(gap / scale, `${name} (${site})`).toBeLessThan(1e-10);
      await given.close();
    },
  );

  it.each(["relu", "jumprelu", "topk"] as const)(
    "of %s into features and the error are those into the whole site, also with capped slopes",
    async (kind) => {
      const given = await open("llama-gqa", sites, { kind });
      for (const cap of [0.5, 3, Number.POSITIVE_INFINITY]) {
        const out = new Map<string, number>();
        let [remainders, largest] = [0, 0];
        for await (const { source, blocks } of edges(given, { targets: everything(sites), cap })) {
          for (const { features, values, error, token, remainder } of blocks) {
            const add = (of: string, value: number) =>
              out.set(`${source}/${of}`, (out.get(`${source}/${of}`) ?? 0) + value);
            features.forEach((feature, i) => {
              add(String(feature), values[i]!);
            });
            add("error", error);
            if (token !== undefined) add("token", token);
            largest = Math.max(largest, Math.abs(remainder));
            remainders += remainder;
          }
        }
        const effects = await effectsBySource(given);
        const scale = Math.max(...[...effects.values()].map(Math.abs));
        for (const [of, effect] of effects)
          expect(Math.abs((out.get(of) ?? 0) - effect) / scale, of).toBeLessThan(1e-10);
        expect(Math.abs(remainders)).toBeLessThan(1e-10 * Math.max(1, largest));
        if (cap !== 3) expect(largest > 1e-6, `cap ${cap}`).toBe(cap < 1);
      }
      await given.close();
    },
  );

  it.each(["gradient", "secant"] as Jacobian[])("by node add up to their sums, %s", async (jacobian) => {
    const given = await open("gemma2", sites);
    const [summed, byNode] = [
      await edgesOf(given, { targets: everything(sites), jacobian }),
      await edgesOf(given, { targets: everything(sites), jacobian, byNode: true }),
    ];
    expectSame(summed.found, byNode.found, 1e-10);
    const nodes = new Set<number | undefined>();
    for await (const { target, blocks } of edges(given, { targets: everything(sites), jacobian, byNode: true })) {
      if (target !== "metric") for (const { node } of blocks) nodes.add(node);
    }
    expect(nodes.has(undefined)).toBe(false);
    expect(nodes.size).toBeGreaterThan(5);
    await given.close();
  });
});

/** Edges resolved at both ends, by source, its node, target and its node. */
async function edgesByNode(given: MethodInput, jacobian: Jacobian): Promise<Map<string, number>> {
  const found = new Map<string, number>();
  const options = { targets: everything([...given.dictionaries.keys()]), jacobian, byNode: "both" } as const;
  for await (const { blocks } of edges(given, options)) {
    for (const { target, node, source, sourceNode, features, values, error, token } of blocks) {
      const add = (of: string | number, value: number) => {
        if (value === 0) return;
        const key = `${source}/${of}@${sourceNode} → ${target.site}/${target.feature}@${node}`;
        expect(found.has(key), key).toBe(false);
        found.set(key, value);
      };
      features.forEach((feature, i) => {
        add(feature, values[i]!);
      });
      add("error", error);
      add("token", token ?? 0);
    }
  }
  return found;
}

describe(`edges resolved at both ends (seed ${seed})`, () => {
  describe.each(["gemma2", "gpt_neox-relu"])("of %s", (name) => {
    it.each(Object.entries(chosenSets))(
      "are what central differences give, a source moved at one node: %s",
      async (_, sites) => {
        const given = await open(name, sites, { pairs: somePairs().slice(2, 3) });
        const found = await edgesByNode(given, "gradient");
        const truth = await nodeDifferences(given, () => undefined, true);
        const largest = Math.max(...truth.map(({ edge }) => Math.abs(edge)));
        let across = 0;
        for (const { source, sourceNode, feature, target, node, edge } of truth) {
          const key = `${source}/${feature}@${sourceNode} → ${target}@${node}`;
          expect(Math.abs((found.get(key) ?? 0) - edge) / largest, key).toBeLessThan(1e-6);
          if (sourceNode !== node && Math.abs(edge) > 1e-3 * largest) across++;
        }
        expect(across).toBeGreaterThan(0);
        await given.close();
      },
    );

    it.each(["gradient", "secant"] as const)(
      "add up over the source's nodes to those by target, %s",
      async (jacobian) => {
        const sites = chosenSets["all sublayers and the stream"]!;
        const given = await open(name, sites);
        const summed = new Map<string, number>();
        for (const [key, value] of await edgesByNode(given, jacobian)) {
          const of = key.replace(/@\w+ →/, " →");
          summed.set(of, (summed.get(of) ?? 0) + value);
        }
        const byTarget = new Map<string, number>();
        const options = { targets: everything(sites), jacobian, byNode: true };
        for await (const { blocks } of edges(given, options)) {
          for (const { target, node, source, features, values, error, token } of blocks) {
            const key = (of: string | number) => `${source}/${of} → ${target.site}/${target.feature}@${node}`;
            const add = (of: string | number, value: number) =>
              byTarget.set(key(of), (byTarget.get(key(of)) ?? 0) + value);
            features.forEach((feature, i) => {
              add(feature, values[i]!);
            });
            add("error", error);
            add("token", token ?? 0);
          }
        }
        const largest = Math.max(...[...byTarget.values()].map(Math.abs));
        expect(byTarget.size).toBeGreaterThan(1000);
        for (const key of new Set([...summed.keys(), ...byTarget.keys()])) {
          expect(Math.abs((summed.get(key) ?? 0) - (byTarget.get(key) ?? 0)) / largest, key).toBeLessThan(1e-10);
        }
        await given.close();
      },
    );
  });
});

/** Effects of the method `secant` by source and feature, the tokens' too. */
async function effectsBySource(given: MethodInput): Promise<Map<string, number>> {
  const { effectsOf } = await import("../src/effects/dispatch.ts");
  const effects = new Map<string, number>();
  for await (const { rows } of effectsOf("secant", given)) {
    rows.feature.forEach((feature, i) => {
      const key = `${rows.site}/${feature < 0 ? "error" : feature}`;
      effects.set(key, (effects.get(key) ?? 0) + rows.effect[i]!);
    });
  }
  return effects;
}

it("into what is no target are refused", async () => {
  const given = await open("gpt2", ["embed", "resid_post.0"]);
  const refused = async (targets: [SiteName, (number | "error")[]][]) => {
    for await (const _ of edges(given, { targets: new Map(targets) })) break;
  };
  await expect(refused([["mlp_out.0", [1]]])).rejects.toThrow(
    "targets of edges: expected sites with a dictionary (embed, resid_post.0), got mlp_out.0. Leave it out.",
  );
  await expect(refused([["embed", [1]]])).rejects.toThrow("expected sites that others lead to, got embed.");
  for (const wrong of [F, -1, 1.5]) {
    await expect(refused([["resid_post.0", ["error", wrong]]])).rejects.toThrow(
      `targets of edges: expected features 0 to ${F - 1} of resid_post.0, or error, got ${wrong}. Choose one of them.`,
    );
  }
  await given.close();
});

describe("paths", () => {
  const sfc = ["attn_out.0", "mlp_out.0", "resid_post.0", "attn_out.1", "mlp_out.1", "resid_post.1"];
  const text = (sites: readonly SiteName[], parallel: boolean) =>
    pathsBetween(sites, { parallel }).map(({ from, to, through }) => `${from} → ${to} (${through})`);

  it("between all sublayers and the stream are SFC's edges", () => {
    expect(text(sfc, false)).toEqual([
      "embed → attn_out.0 (attention)",
      "embed → mlp_out.0 (mlp)",
      "attn_out.0 → mlp_out.0 (mlp)",
      "embed → resid_post.0 (identity)",
      "attn_out.0 → resid_post.0 (identity)",
      "mlp_out.0 → resid_post.0 (identity)",
      "resid_post.0 → attn_out.1 (attention)",
      "resid_post.0 → mlp_out.1 (mlp)",
      "attn_out.1 → mlp_out.1 (mlp)",
      "resid_post.0 → resid_post.1 (identity)",
      "attn_out.1 → resid_post.1 (identity)",
      "mlp_out.1 → resid_post.1 (identity)",
    ]);
  });

  it("of parallel layers have none from attention to the MLP", () => {
    const [parallel, sequential] = [text(sfc, true), text(sfc, false)];
    expect(sequential.filter((path) => !parallel.includes(path))).toEqual([
      "attn_out.0 → mlp_out.0 (mlp)",
      "attn_out.1 → mlp_out.1 (mlp)",
    ]);
    expect(parallel.filter((path) => !sequential.includes(path))).toEqual([]);
  });

  it("lead through whole layers where the stream alone is chosen, and past others where sublayers alone are", () => {
    expect(text(["resid_post.1", "resid_post.3"], false)).toEqual([
      "embed → resid_post.1 (block)",
      "resid_post.1 → resid_post.3 (block)",
    ]);
    expect(text(["mlp_out.0", "mlp_out.1", "attn_z.1"], false)).toEqual([
      "embed → mlp_out.0 (block)",
      "embed → attn_z.1 (attention)",
      "mlp_out.0 → attn_z.1 (attention)",
      "embed → mlp_out.1 (block)",
      "mlp_out.0 → mlp_out.1 (mlp)",
      "attn_z.1 → mlp_out.1 (block)",
    ]);
  });

  it("tell parallel layers from sequential ones by what their MLP reads", async () => {
    const expected = {
      gpt_neox: true,
      "gpt_neox-relu": true,
      "gpt_neox-sequential": false,
      gemma2: false,
      gpt2: false,
    };
    for (const [name, parallel] of Object.entries(expected)) {
      const given = await open(name, ["resid_post.0"]);
      expect(pathShape(given.model), name).toEqual({ parallel });
      await given.close();
    }
  });
});

describe(`what edges keep at a time (seed ${seed})`, () => {
  const site = "resid_post.0" as const;
  const openSite = async () => {
    const given = await open("gemma2", [site, "resid_post.1"]);
    const captured = await captureOfEdges(given);
    const reader = codeReader(given);
    const codes = await nodeCodes(captured, given.dictionaries.get(site)!, reader);
    const close = async () => {
      await reader.release();
      await given.close();
    };
    return { given, captured, codes, close };
  };

  it("targets are the same where directions are read some at a time", async () => {
    const { given, captured, codes, close } = await openSite();
    const wanted = [3, 7, 12, "error", "site"] as const;
    const at = (numbers?: number) =>
      targetsAt(captured, given.dictionaries.get(site)!, codes, wanted, {
        ...{ slope: "secant", cap: 3, byNode: false },
        ...(numbers !== undefined && { numbers }),
      });
    const [all, some] = [await at(), await at(3 * given.model.width)];
    expect(all.columns.length).toBeGreaterThan(4);
    expect(some.columns).toEqual(all.columns);
    const error = all.columns.findIndex(({ target }) => target === "error");
    const { nodes } = all.columns[error]!;
    const rows = { column: new Int32Array(nodes.length), node: nodes };
    const of = [all.columns[error]!];
    expect(all.cotangents(rows, of).some((value) => value !== 0)).toBe(true);
    expect(some.cotangents(rows, of)).toEqual(all.cotangents(rows, of));
    await close();
  });

  it("changes and errors give the same where there is room for some, or for none", async () => {
    const { given, captured, codes, close } = await openSite();
    const [D, R, random] = [given.model.width, codes.nodes.length, new Random(seed)];
    const rows = { column: new Int32Array(R), node: codes.nodes };
    const v = Float64Array.from({ length: R * D }, () => random.normal());
    const found: number[][] = [];
    for (const room of [R, 2, 0]) {
      const source = await sourceReader(captured, given.dictionaries, async () => codes, 2 * D * room)(site);
      const own: number[] = [];
      const visit = (_: number, { values, error, total }: Contraction) => own.push(...values, error, total);
      contract(source, rows, v, visit);
      const column = { target: 3, group: 0, remainder: 0, effect: 0, nodes: codes.nodes } as const;
      contractIdentity(source, [{ ...column, factors: v.slice(0, R), direction: v.slice(0, D) }], visit);
      found.push(own);
    }
    expect(R).toBeGreaterThan(4);
    const scale = Math.max(...found[0]!.map(Math.abs));
    for (const other of found.slice(1)) {
      other.forEach((value, i) => {
        expect(Math.abs(value - found[0]![i]!) / scale).toBeLessThan(1e-12);
      });
    }
    await close();
  });
});
