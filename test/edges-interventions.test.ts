import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { subfolder } from "../src/bytes/folder.ts";
import { type Capture, capture } from "../src/capture/capture.ts";
import { type Floats, floatValue, type Hook } from "../src/capture/hooks.ts";
import { openRunner } from "../src/capture/run.ts";
import { edges, type Jacobian, sitesOfEdges } from "../src/circuit/edges.ts";
import { closeDictionaries, openDictionaries } from "../src/dictionaries/open.ts";
import { dot } from "../src/effects/directions.ts";
import { effectsOf } from "../src/effects/dispatch.ts";
import type { MethodInput } from "../src/effects/method.ts";
import { cleanRow, patchRow } from "../src/effects/rest.ts";
import { secantGradients } from "../src/effects/secant.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { planCapture } from "../src/forest/packs.ts";
import { input } from "../src/graph/tensor.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { fittedModel } from "../src/models/fitted.ts";
import { heldWeights, loadedModel } from "../src/models/weights.ts";
import { tokenizePairs } from "../src/prompts/check.ts";
import type { PromptPair } from "../src/prompts/pairs.ts";
import { loadTokenizer } from "../src/prompts/tokenizer.ts";
import { parseSite, type SiteName } from "../src/site.ts";

const data = join(process.env.SFC_TEST_DATA ?? "../shared/data", "circuits/expected.json");

interface Edge {
  readonly source: SiteName;
  readonly feature: number;
  readonly target: SiteName;
  readonly into: number;
  value: number;
}

/** The features of each site with the largest |effect|. */
async function strongest(given: MethodInput, jacobian: Jacobian, count: number): Promise<Map<SiteName, number[]>> {
  const found = new Map<SiteName, number[]>();
  for await (const { rows } of effectsOf(jacobian === "secant" ? "secant" : "analytic", given)) {
    const sums = new Map<number, number>();
    rows.feature.forEach((feature, i) => {
      if (feature >= 0) sums.set(feature, (sums.get(feature) ?? 0) + rows.effect[i]!);
    });
    const order = [...sums].sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, count);
    found.set(
      rows.site,
      order.map(([feature]) => feature),
    );
  }
  return found;
}

/** The strongest edges between features into sites of each kind, over all pairs. */
async function strongestEdges(given: MethodInput, jacobian: Jacobian, count: number): Promise<Map<string, Edge[]>> {
  const sums = new Map<string, Edge>();
  for await (const { target, source, blocks } of edges(given, {
    targets: await strongest(given, jacobian, 40),
    jacobian,
  })) {
    if (target === "metric") continue;
    for (const { target: to, features, values } of blocks) {
      features.forEach((feature, i) => {
        const key = `${source}/${feature}/${target}/${to.feature}`;
        const edge = sums.get(key) ?? { source, feature, target, into: to.feature as number, value: 0 };
        sums.set(key, edge);
        edge.value += values[i]!;
      });
    }
  }
  const order = [...sums.values()].sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  return new Map(
    ["resid_post", "mlp_out", "attn_out"].map((kind) => [
      kind,
      order.filter(({ target }) => parseSite(target).kind === kind).slice(0, count),
    ]),
  );
}

/** What a feature's code is at each row of x[N,D]. */
async function codesOf(
  { dictionaries }: MethodInput,
  site: SiteName,
  feature: number,
  x: Floats,
): Promise<Float64Array> {
  const dictionary = dictionaries.get(site)!;
  const { weight, bias, inputBias, activation } = await dictionary.encoder();
  const [D, F] = [dictionary.inputWidth, dictionary.featureCount];
  if (activation.kind !== "jumprelu") throw new Error("the embedded model's SAEs are JumpReLU");
  return Float64Array.from({ length: x.length / D }, (_, row) => {
    let z = bias[feature]!;
    for (let d = 0; d < D; d++) z += (x[row * D + d]! - (inputBias?.[d] ?? 0)) * weight[d * F + feature]!;
    return z > activation.threshold[feature]! ? z : 0;
  });
}

/** The change of a target's code, times ⟨g, d⟩ and summed, when the source takes its patch value at all positions and other chosen sites are held. */
async function intervene(
  given: MethodInput,
  captured: Capture,
  linear: Capture,
  list: readonly Edge[],
): Promise<number[]> {
  const sites = ["embed", ...given.dictionaries.keys()];
  const pack = { ...captured.plan.packs.find(({ kind }) => kind === "backward")!, kind: "forward" as const };
  expect(captured.plan.packs.filter(({ kind }) => kind === "backward").length).toBe(1);
  const N = pack.node.length;
  const rowsAt = async (site: SiteName, rowOf: (captured: Capture, node: number) => number) => {
    const { x, width: D } = await captured.site(site);
    const out = new (x.constructor as new (n: number) => Floats)(N * D);
    pack.node.forEach((node, row) => {
      const at = node < 0 ? -1 : rowOf(captured, node);
      if (at >= 0) out.set(x.subarray(at * D, (at + 1) * D), row * D);
    });
    return out;
  };
  const clean = new Map<SiteName, Floats>();
  for (const site of sites) clean.set(site, await rowsAt(site, cleanRow));
  const hooks = new Map<SiteName, Hook>(
    sites.map((site) => [
      site,
      { trace: (x, { named }) => ({ y: input(named("frozen"), x.dtype, x.shape), values: { x } }) },
    ]),
  );
  const runner = openRunner(given, { hooks });
  /** Activations by site, with a change made to one. */
  const run = async (site: SiteName, moved: Floats) => {
    const found = new Map<SiteName, Floats>();
    await runner.run([
      {
        pack,
        inputs(at) {
          const x = at === site ? moved : clean.get(at)!;
          return { frozen: floatValue(x, N, x.length / N) };
        },
        found({ site: at, tensors }) {
          found.set(at, tensors.x!);
          return undefined;
        },
      },
    ]);
    return found;
  };
  const plain = await run("embed", clean.get("embed")!);
  const known = new Map<string, Promise<Map<SiteName, Floats>>>();
  const measured: number[] = [];
  for (const { source, feature, target, into } of list) {
    const key = `${source}/${feature}`;
    const patched = async () => {
      const x = clean.get(source)!;
      const D = x.length / N;
      const [a, b] = [
        await codesOf(given, source, feature, x),
        await codesOf(given, source, feature, await rowsAt(source, patchRow)),
      ];
      const direction = await given.dictionaries.get(source)!.decoderRows([feature]);
      return run(
        source,
        x.map((v, i) => v + (b[Math.floor(i / D)]! - a[Math.floor(i / D)]!) * direction[i % D]!),
      );
    };
    const found = await (known.get(key) ?? known.set(key, patched()).get(key)!);
    const [before, after] = [
      await codesOf(given, target, into, plain.get(target)!),
      await codesOf(given, target, into, found.get(target)!),
    ];
    const { g, width: D } = await linear.site(target);
    const written = await given.dictionaries.get(target)!.decoderRows([into]);
    let sum = 0;
    pack.node.forEach((node, row) => {
      if (node >= 0) sum += dot(g, node * D, written, 0, D) * (after[row]! - before[row]!);
    });
    measured.push(sum);
  }
  await runner.release();
  return measured;
}

function pearson(x: readonly number[], y: readonly number[]): number {
  const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;
  const [a, b] = [mean(x), mean(y)];
  const product = (p: readonly number[], m: number, q: readonly number[], n: number) =>
    p.reduce((sum, v, i) => sum + (v - m) * (q[i]! - n), 0);
  return product(x, a, y, b) / Math.sqrt(product(x, a, x, a) * product(y, b, y, b));
}

it.skipIf(!existsSync(data))(
  "edges predict what interventions do to their targets, with secants better than with gradients (SFC_TEST_DATA)",
  async () => {
    const { pairs } = JSON.parse(readFileSync(data, "utf8")) as { pairs: PromptPair[] };
    const folder = await openFolder(new URL("../models/demo", import.meta.url).pathname);
    const checkpoint = await openCheckpoint(folder);
    const { model } = await fittedModel(checkpoint);
    const tokenizer = loadTokenizer(checkpoint.tokenizer, checkpoint.tokenizerConfig);
    const { kept } = tokenizePairs(
      pairs.map((pair) => ({ ...pair, split: "train" })),
      tokenizer,
    );
    const dictionaries = await openDictionaries(subfolder(folder, "saes"));
    const loaded = loadedModel(model, await heldWeights(model, checkpoint));
    const forest = prefixForest(kept);
    const captured = await capture(loaded, planCapture(forest, { wanted: "both" }), {
      sites: sitesOfEdges([...dictionaries.keys()], model.layers),
    });
    const given: MethodInput = { ...loaded, forest, dictionaries, captured };
    const found = new Map<string, number>();
    for (const jacobian of ["gradient", "secant"] as const) {
      const linear = jacobian === "secant" ? await secantGradients(given, captured) : captured;
      for (const [kind, list] of await strongestEdges(given, jacobian, 50)) {
        const measured = await intervene(given, captured, linear, list);
        found.set(
          `${jacobian} → ${kind}`,
          pearson(
            list.map(({ value }) => value),
            measured,
          ),
        );
      }
    }
    await closeDictionaries(dictionaries);
    await checkpoint.close();
    const r = (name: string) => found.get(name)!;
    expect(r("secant → resid_post")).toBeGreaterThan(0.95);
    expect(r("secant → attn_out")).toBeGreaterThan(0.95);
    expect(r("secant → mlp_out")).toBeGreaterThan(0.85);
    for (const kind of ["resid_post", "mlp_out", "attn_out"]) {
      expect(r(`secant → ${kind}`)).toBeGreaterThan(r(`gradient → ${kind}`));
    }
  },
  120_000,
);
