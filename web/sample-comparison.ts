import { spearman } from "../src/circuit/ranking.ts";
import { Random } from "../src/random.ts";
import type { ComparedMethod, Comparison } from "../src/report/comparison.ts";
import { parseSite } from "../src/site.ts";
import { mean } from "../src/stats.ts";

const kinds = ["attn_out", "mlp_out", "resid_post"];
const mebibyte = 2 ** 20;

/** What the invented methods take: seconds, and MiB on top of the model. */
const taken: readonly (Pick<ComparedMethod, "name" | "method" | "batch" | "steps" | "rule"> & {
  readonly seconds: number;
  readonly above: number;
})[] = [
  { name: "analytic", method: "analytic", batch: null, steps: null, rule: null, seconds: 4.1, above: 96 },
  { name: "analytic-ig", method: "analytic-ig", batch: null, steps: 10, rule: "midpoint", seconds: 38.6, above: 131 },
  { name: "sfc:64", method: "sfc", batch: 64, steps: null, rule: null, seconds: 43.8, above: 588 },
  { name: "sfc-ig", method: "sfc-ig", batch: null, steps: 10, rule: "midpoint", seconds: 142, above: 212 },
  { name: "spliced", method: "spliced", batch: null, steps: null, rule: null, seconds: 9.3, above: 204 },
  { name: "exact", method: "exact", batch: null, steps: null, rule: null, seconds: 412, above: 118 },
];

/**
 * An invented comparison of six methods on a small model: for work on the page and for its tests. Nothing in it was measured; its agreements are
 * those of its invented effects.
 *
 * @param seed the same seed gives the same comparison
 * @param width features per site
 */
export function sampleComparison(seed: number, { layers = 6, width = 60 } = {}): Comparison {
  const random = new Random(`${seed}/sample comparison`);
  const sites = Array.from({ length: layers }, (_, layer) => kinds.map((kind) => `${kind}.${layer}`)).flat();
  const effects = new Map(taken.map(({ name }) => [name, [] as Effect[]]));
  for (const site of sites) {
    const ids = random.shuffled(Array.from({ length: 1536 }, (_, i) => i)).slice(0, width);
    for (const [name, values] of effectsAt(random, site, layers, width)) {
      effects.get(name)!.push(...values.map((effect, i) => ({ site, feature: ids[i]!, effect })));
    }
  }
  const pairs = taken.flatMap((a, i) => taken.slice(i + 1).map((b) => [a.name, b.name] as const));
  const places = ["", ...sites];
  const at = (name: string, site: string) => effects.get(name)!.filter((row) => site === "" || row.site === site);
  const valuesAt = (name: string, site: string) => at(name, site).map((row) => row.effect);
  const loaded = 312 * mebibyte;
  return {
    format: 1,
    status: "finished",
    command: "sfc compare --methods analytic,analytic-ig,sfc:64,sfc-ig,spliced,exact --num_examples 48",
    options: { methods: taken.map(({ name }) => name).join(","), steps: 10, rule: "midpoint", seed, threads: null },
    versions: { "analytic-sfc": "0.1.0", "onnxruntime-node": "1.30.0", node: "20.20.2" },
    machine: { cpu: "AMD EPYC 9B14", cores: 2, memory_bytes: 24 * 1024 * mebibyte },
    model: { name: "models/demo", model_type: "llama", parameters: 3_180_000 },
    dictionaries: { source: "models/demo/saes", dummy: false, sites, features: 1536 * sites.length },
    sha256: { model: "0".repeat(64), dictionaries: "1".repeat(64), pairs: "2".repeat(64) },
    task: "agreement",
    words: 111,
    pairs: 480,
    accuracy: 0.9979,
    warnings: [],
    methods: taken.map(({ seconds, above, ...method }) => ({
      ...method,
      seconds,
      loading_seconds: 0.4,
      loaded_bytes: loaded,
      above_bytes: above * mebibyte,
      peak_bytes: loaded + above * mebibyte,
      rows: method.method === "exact" ? 9_216 : 264_310,
    })),
    agreement: pairs.flatMap(([a, b]) =>
      places.map((site) => ({ a, b, site, ...likeness(valuesAt(a, site), valuesAt(b, site), site === "") })),
    ),
    scatter: pairs.map(([a, b]) => {
      const [x, y] = [at(a, ""), at(b, "")];
      const size = (i: number) => Math.max(Math.abs(x[i]!.effect), Math.abs(y[i]!.effect));
      const order = x.map((_, i) => i).sort((i, j) => size(j) - size(i));
      const top = order.slice(0, 200);
      return {
        a,
        b,
        site: top.map((i) => x[i]!.site),
        feature: top.map((i) => x[i]!.feature),
        x: top.map((i) => x[i]!.effect),
        y: top.map((i) => y[i]!.effect),
      };
    }),
    sums: taken.filter(({ method }) => method !== "exact").flatMap(({ name }) => sumsOf(seed, name, sites)),
    exactness: taken
      .filter(({ method }) => method !== "exact")
      .flatMap(({ name }) =>
        places.map((site) => {
          const [values, exact] = [valuesAt(name, site), valuesAt("exact", site)];
          const { top_10, top_50, top_100, top_10_by_words, top_50_by_words, top_100_by_words, ...rest } = likeness(
            values,
            exact,
            site === "",
          );
          const missed = values.reduce((sum, v, i) => sum + Math.abs(v - exact[i]!), 0);
          const error = missed / exact.reduce((sum, v) => sum + Math.abs(v), 0);
          return { method: name, site, ...rest, error, error_by_words: site === "" ? around(error, 0.1) : null };
        }),
      ),
  };
}

interface Effect {
  readonly site: string;
  readonly feature: number;
  readonly effect: number;
}

/** Gradients at the clean prompt miss most in the early layers, the mean gradient less; the spliced ones lose much on the way. */
function effectsAt(random: Random, site: string, layers: number, width: number): Map<string, number[]> {
  const { kind, layer } = parseSite(site);
  const depth = layer / Math.max(1, layers - 1);
  const strength = kind === "resid_post" ? 1.2 : 0.5 * Math.exp(-(((depth - 0.45) / 0.3) ** 2)) + 0.05;
  const exact = Array.from({ length: width }, (_, rank) => {
    const sign = random.chance(0.8) ? 1 : -0.5;
    return (sign * strength * (1 + 0.3 * random.normal())) / (rank + 1.2) ** 1.2;
  });
  const changed = (factor: number, spread: number) =>
    exact.map((v) => v * (factor + spread * random.normal()) + 0.002 * spread * random.normal());
  const early = Math.exp(-3 * depth);
  const rounded = (values: number[], size: number) => values.map((v) => v + size * random.normal());
  const analytic = changed(1 - 0.35 * early, 0.05 + 0.6 * early);
  const integrated = changed(1 + 0.02 * early, 0.03 + 0.08 * early);
  return new Map([
    ["analytic", analytic],
    ["analytic-ig", integrated],
    ["sfc:64", rounded(analytic, 1.5e-7)],
    ["sfc-ig", rounded(integrated, 4e-7)],
    ["spliced", changed(0.3 + 0.6 * depth, 0.4 * (1 - depth) + 0.05)],
    ["exact", exact],
  ]);
}

/** Methods that are equal by the mathematics get equal gaps. */
function sumsOf(seed: number, method: string, sites: readonly string[]): Comparison["sums"] {
  const total = 11.84;
  const base = method === "spliced" ? 0.6 : method.includes("ig") ? 0.004 : 0.38;
  const random = new Random(`${seed}/sums/${base}`);
  const own = sites.filter((site) => parseSite(site).kind === "resid_post");
  return own.map((site, layer) => {
    const left = 1 - layer / own.length;
    const gap = base * left * (1 + 0.1 * random.normal());
    return { method, site, sum: total * (1 - gap), total, gap, median_gap: gap * (1.2 + 0.2 * random.uniform()) };
  });
}

/** The measures that the tables of a comparison hold, of two columns of the same features. */
function likeness(x: readonly number[], y: readonly number[], whole: boolean) {
  const both = x.filter((_, i) => x[i] !== 0 && y[i] !== 0).length;
  const scale = Math.max(...x.map(Math.abs), ...y.map(Math.abs));
  return {
    features: x.length,
    pearson: pearson(x, y),
    spearman: spearman(x, y),
    sign: x.filter((v, i) => v * y[i]! > 0).length / both,
    difference: Math.max(...x.map((v, i) => Math.abs(v - y[i]!))),
    scale,
    top_10: shared(x, y, 10),
    top_50: shared(x, y, 50),
    top_100: shared(x, y, 100),
    pearson_by_words: whole ? around(pearson(x, y), 0.02) : null,
    top_10_by_words: whole ? around(shared(x, y, 10) ?? 0, 0.2) : null,
    top_50_by_words: whole ? around(shared(x, y, 50) ?? 0, 0.1) : null,
    top_100_by_words: whole ? around(shared(x, y, 100) ?? 0, 0.08) : null,
  };
}

/** An interval that ends at 1. */
const around = (value: number, half: number) => ({ low: Math.max(0, value - half), high: Math.min(1, value + half) });

function pearson(x: readonly number[], y: readonly number[]): number {
  const [mx, my] = [mean(x), mean(y)];
  const products = (a: readonly number[], ma: number, b: readonly number[], mb: number) =>
    a.reduce((sum, v, i) => sum + (v - ma) * (b[i]! - mb), 0);
  return products(x, mx, y, my) / Math.sqrt(products(x, mx, x, mx) * products(y, my, y, my));
}

/** Share of x's k strongest that are among y's, up to ties; null where there are fewer than k. */
function shared(x: readonly number[], y: readonly number[], k: number): number | null {
  if (x.length < k) return null;
  const sizes = y.map(Math.abs).sort((a, b) => b - a);
  const enough = sizes[k - 1]! - 1e-4 * sizes[0]!;
  const strongest = x.map((_, i) => i).sort((i, j) => Math.abs(x[j]!) - Math.abs(x[i]!));
  return strongest.slice(0, k).filter((i) => Math.abs(y[i]!) >= enough).length / k;
}
