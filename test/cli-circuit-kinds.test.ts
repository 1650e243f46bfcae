import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { asyncBufferFromFile, parquetReadObjects } from "hyparquet";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writeSafetensors } from "../src/bytes/safetensors.ts";
import { openModel } from "../src/index.ts";
import { Random } from "../src/random.ts";
import { examples, llama, succeeds } from "./cli-harness.ts";

// Circuits of SAEs other than JumpReLU, through the commands, against formulas written out here (CIRCUITS: "Edges", pitfall 10).

const seed = "kinds";
const [D, F, k] = [32, 40, 6];
const sites = ["resid_post.0", "attn_out.1", "mlp_out.1", "resid_post.1"];
const kinds = ["topk", "gated", "layer_norm", "constant_norm_rescale"] as const;
type Kind = (typeof kinds)[number];

interface Sae {
  readonly W_enc: Float32Array;
  readonly W_dec: Float32Array;
  readonly b_dec: Float32Array;
  readonly b_enc: Float32Array;
  readonly b_gate: Float32Array;
  readonly r_mag: Float32Array;
}

/** Random weights as SAELens saves them. */
async function writeRandomSae(folder: string, site: string, kind: Kind): Promise<Sae> {
  const random = new Random(`${seed}/${kind}/${site}`);
  const normal = (n: number, scale: number) => Float32Array.from({ length: n }, () => scale * random.normal());
  const sae: Sae = {
    W_enc: normal(D * F, D ** -0.5),
    W_dec: normal(F * D, D ** -0.5),
    b_dec: normal(D, 0.2),
    b_enc: normal(F, 0.3),
    b_gate: normal(F, 0.3),
    r_mag: normal(F, 0.3),
  };
  const { W_enc, W_dec, b_dec, b_enc, b_gate, r_mag } = sae;
  const named: Record<string, [shape: number[], data: Float32Array]> = {
    W_enc: [[D, F], W_enc],
    W_dec: [[F, D], W_dec],
    b_dec: [[D], b_dec],
    ...(kind === "gated"
      ? { b_gate: [[F], b_gate], r_mag: [[F], r_mag], b_mag: [[F], b_enc] }
      : { b_enc: [[F], b_enc] }),
  };
  const config = {
    architecture: kind === "topk" || kind === "gated" ? kind : "standard",
    d_in: D,
    d_sae: F,
    apply_b_dec_to_input: true,
    ...(kind === "topk" && { k, rescale_acts_by_decoder_norm: false }),
    normalize_activations: kind === "topk" || kind === "gated" ? "none" : kind,
  };
  await mkdir(join(folder, site), { recursive: true });
  await writeFile(join(folder, site, "cfg.json"), JSON.stringify(config));
  const tensors = new Map(Object.entries(named).map(([name, [shape, data]]) => [name, { shape, data }]));
  await writeFile(join(folder, site, "sae_weights.safetensors"), writeSafetensors(tensors));
  return sae;
}

interface Codes {
  /** σ·f. */
  readonly f: number[];
  /** What moves a code, as a function of the pre-activation's direct part alone: ⟨e_j, x⟩. */
  readonly read: number[];
  /** σ·z, in the units of f. */
  readonly z: number[];
}

/** A token's codes by the formulas of SAELens; of a gated SAE z is the magnitude's. */
function codesOf(kind: Kind, { W_enc, b_dec, b_enc, b_gate, r_mag }: Sae, x: ArrayLike<number>): Codes {
  const values = Array.from(x);
  const sum = (list: readonly number[]) => list.reduce((a, b) => a + b, 0);
  const mean = kind === "layer_norm" ? sum(values) / D : 0;
  const squares = sum(values.map((v) => (v - mean) ** 2));
  const σ =
    kind === "layer_norm"
      ? Math.sqrt(squares / (D - 1))
      : kind === "constant_norm_rescale"
        ? Math.sqrt(squares / D)
        : 1;
  const given = values.map((v) => (v - mean) / (kind === "layer_norm" ? σ + 1e-5 : σ));
  const product = (row: readonly number[], i: number) => row.reduce((total, v, d) => total + v * W_enc[d * F + i]!, 0);
  const gain = (i: number) => (kind === "gated" ? Math.exp(r_mag[i]!) : 1);
  const centred = given.map((v, d) => v - b_dec[d]!);
  const z = Array.from({ length: F }, (_, i) => gain(i) * product(centred, i) + b_enc[i]!);
  const least = kind === "topk" ? z.toSorted((a, b) => b - a)[k - 1]! : Number.NEGATIVE_INFINITY;
  const isOn = (i: number) =>
    kind === "gated" ? product(centred, i) + b_gate[i]! > 0 && z[i]! > 0 : z[i]! > 0 && z[i]! >= least;
  return {
    f: z.map((v, i) => (isOn(i) ? σ * v : 0)),
    z: z.map((v) => σ * v),
    read: z.map(
      (_, i) =>
        gain(i) *
        product(
          values.map((v) => v - mean),
          i,
        ),
    ),
  };
}

const fileIn = async (folder: string) => JSON.parse(await readFile(join(folder, "circuit.json"), "utf8"));
const table = async (file: string) => parquetReadObjects({ file: await asyncBufferFromFile(file) });

let home = "";
const pairs = examples(8);
let x: Record<string, Float32Array[] | Float64Array[]>;
let tokens: readonly (readonly number[])[];
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-kinds-"));
  await writeFile(join(home, "pairs.jsonl"), pairs.map((pair) => `${JSON.stringify(pair)}\n`).join(""));
  const model = await openModel(llama, { precision: "float64" });
  const prompts = pairs.flatMap(({ clean_prefix, patch_prefix, clean_answer, patch_answer }) =>
    [clean_prefix, patch_prefix].map((prompt) => ({ prompt, clean_answer, patch_answer })),
  );
  ({ x, tokens } = (await model.capture(prompts, sites)) as never);
  await model.close();
});
afterAll(() => rm(home, { recursive: true, force: true }));

describe.each(kinds)(`circuits of %s SAEs (seed ${seed})`, (kind) => {
  const saes = new Map<string, Sae>();
  let [run, circuit] = ["", ""];
  beforeAll(async () => {
    const folder = join(home, `saes-${kind}`);
    for (const site of sites) saes.set(site, await writeRandomSae(folder, site, kind));
    run = join(home, `run-${kind}`);
    circuit = join(run, "circuit");
    const own = ["--model_name", llama, "--sae_source", folder, "--pairs", join(home, "pairs.jsonl")];
    await succeeds([
      "run",
      ...own,
      "--method",
      "secant",
      "--steps",
      "16",
      "--precision",
      "float64",
      "--quiet",
      "--output_dir",
      run,
    ]);
    const all = ["--way", "secant", "--threshold", "0", "--sites", "attn_out,mlp_out,resid_post", "--split", "both"];
    await succeeds(["circuit", run, ...all, "--by_position", "--quiet"]);
  }, 120_000);

  /** By node: a pair and position that pass through it. */
  async function placesOfNodes() {
    const nodes = await table(join(run, "nodes.parquet"));
    const places = new Map<number, { pair: number; position: number; group: string }>();
    pairs.forEach((pair, p) => {
      let parent = -1;
      const [clean, patch] = [tokens[2 * p]!, tokens[2 * p + 1]!];
      clean.forEach((token, position) => {
        const node = nodes.find(
          (one) =>
            one.parent === parent &&
            one.split === pair.split &&
            one.case === pair.case &&
            one.token_id === token &&
            one.patch_token_id === patch[position],
        )!;
        parent = node.node;
        places.set(parent, { pair: p, position, group: `${pair.split} ${pair.case}` });
      });
    });
    return places;
  }

  it("has the codes, the edges from MLP outputs and the remainders of the formulas", async () => {
    const places = await placesOfNodes();
    const at = (site: string, node: number, side: 0 | 1) => {
      const { pair, position } = places.get(node)!;
      return codesOf(kind, saes.get(site)!, x[site]![2 * pair + side]!.subarray(position * D, (position + 1) * D));
    };
    const effects = (await table(join(run, "effects.parquet"))).filter(({ feature }) => feature >= 0);
    expect(effects.length).toBeGreaterThan(50);
    const largest = Math.max(...effects.map(({ f_clean }) => Math.abs(f_clean)));
    for (const { site, node, feature, f_clean, f_patch } of effects) {
      expect(Math.abs(at(site, node, 0).f[feature]! - f_clean) / largest).toBeLessThan(1e-6);
      expect(Math.abs(at(site, node, 1).f[feature]! - f_patch) / largest).toBeLessThan(1e-6);
    }
    const chosen: Record<string, number[]> = (await fileIn(circuit)).circuit.features;
    const isTarget = (site: string, j: number) => site === "resid_post.1" && chosen[site]!.includes(j);
    const pairsOf = (group: string) => pairs.filter((pair) => `${pair.split} ${pair.case}` === group).length;
    const [source, target] = ["mlp_out.1", "resid_post.1"];
    const W_dec = saes.get(source)!.W_dec;
    const { W_enc, r_mag } = saes.get(target)!;
    const expected = new Map<string, number>();
    for (const { site, node, feature: j, gradient, f_clean, f_patch } of effects) {
      if (!isTarget(site, j)) continue;
      const pairsHere = pairsOf(places.get(node)!.group);
      const [clean, patch] = [at(target, node, 0), at(target, node, 1)];
      const slope = (f_patch - f_clean) / (patch.z[j]! - clean.z[j]!);
      const capped = Math.max(-3, Math.min(3, slope));
      const moved = patch.read[j]! - clean.read[j]!;
      expected.set(`${node} ${j} rest`, (gradient * (f_patch - f_clean - capped * moved)) / pairsHere);
      // What an encoder reads: its column, of which layer_norm takes the mean out.
      const column = Array.from(
        { length: D },
        (_, d) => W_enc[d * F + j]! * (kind === "gated" ? Math.exp(r_mag[j]!) : 1),
      );
      const mean = kind === "layer_norm" ? column.reduce((a, b) => a + b, 0) / D : 0;
      const [before, after] = [at(source, node, 0), at(source, node, 1)];
      for (let i = 0; i < F; i++) {
        const change = after.f[i]! - before.f[i]!;
        if (change === 0) continue;
        const dot = column.reduce((sum, e, d) => sum + (e - mean) * W_dec[i * D + d]!, 0);
        expected.set(`${node} ${j} ${i}`, (gradient * capped * change * dot) / pairsHere);
      }
    }
    const rows = (await table(join(circuit, "edges.parquet"))).filter(({ target_site }) => target_site === target);
    const found = new Map<string, number>();
    for (const { node, target: j, source_site, source: i, edge } of rows) {
      if (j < 0) continue;
      if (source_site === source && i >= 0) found.set(`${node} ${j} ${i}`, edge);
      if (i === -4) found.set(`${node} ${j} rest`, edge);
    }
    const scale = Math.max(...[...expected.values()].map(Math.abs));
    expect(scale).toBeGreaterThan(0);
    expect(expected.size).toBeGreaterThan(100);
    // Of layer_norm, z leaves out the 1e-5 beside σ.
    const tolerance = kind === "layer_norm" ? 1e-5 : 1e-6;
    for (const [key, value] of expected)
      expect(Math.abs((found.get(key) ?? 0) - value) / scale, key).toBeLessThan(tolerance);
    for (const [key, value] of found)
      expect(Math.abs((expected.get(key) ?? 0) - value) / scale, key).toBeLessThan(tolerance);

    // All rows into a residual target are its effect, at every node.
    const sums = new Map<string, number>();
    for (const { node, target: j, edge } of rows) sums.set(`${node} ${j}`, (sums.get(`${node} ${j}`) ?? 0) + edge);
    for (const { site, node, feature, effect } of effects) {
      if (!isTarget(site, feature)) continue;
      const gap = sums.get(`${node} ${feature}`)! - effect / pairsOf(places.get(node)!.group);
      expect(Math.abs(gap) / scale, `${node} ${feature}`).toBeLessThan(1e-9);
    }
  });

  it("passes its checks, and sfc evaluate measures it as its own choice", async () => {
    const { checks } = await fileIn(circuit);
    expect(checks.filter((check: { passed: boolean }) => !check.passed)).toEqual([]);
    const small = join(home, `small-${kind}`);
    await succeeds(["circuit", run, "--way", "secant", "--size", "9", "--quiet", "--output_dir", small]);
    const given = ["--circuit", join(small, "circuit.json"), "--ways", "secant", "--sizes", "9"];
    await succeeds(["evaluate", run, ...given, "--quiet"]);
    const { curves } = JSON.parse(await readFile(join(run, "evaluation", "evaluation.json"), "utf8")).evaluation;
    expect(curves).toHaveLength(4);
    for (const split of ["train", "test"]) {
      const of = curves.filter((curve: { split: string }) => curve.split === split);
      expect(of[0].points[0].f).toBeCloseTo(of[1].points[0].f, 12);
    }
  }, 120_000);
});
