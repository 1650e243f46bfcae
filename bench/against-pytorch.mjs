// The same effects by sfc and by plain PyTorch (bench/pytorch_effects.py), in turns, each in a process of its own; prints times, memory, their ratios
// and whether both sides' effects agree: node bench/against-pytorch.mjs MODEL SAES PAIRS [--python PATH] [--runs 3] [--limit N] [--json]
//
// bench/random-smollm2.mjs makes a folder with all three. docs/benchmarks.md says what each variant does. Wants `npm run build` before.
import { spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { availableParallelism, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { DuckDBInstance } from "@duckdb/node-api";

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    python: { type: "string", default: "python3" }, // with torch, transformers, safetensors, pandas and pyarrow
    runs: { type: "string", default: "3" },
    limit: { type: "string" }, // so many pairs, evenly spaced in the file; all by default
    single: { type: "string", default: "192" }, // pairs for the variants without batches, whose times are scaled up
    batches: { type: "string", default: "64,32" }, // PyTorch's batch sizes; the ratios want 64
    only: { type: "string" }, // a regular expression: the variants to run
    json: { type: "boolean" },
  },
});
const [model, saes, pairsFile] = positionals;
if (!pairsFile)
  throw new Error(
    "usage: node bench/against-pytorch.mjs MODEL SAES PAIRS [--python PATH] [--runs 3] [--limit N] [--json]",
  );

const path = (name) => fileURLToPath(new URL(name, import.meta.url));
const threads = availableParallelism();
const temporary = await mkdtemp(join(tmpdir(), "against-pytorch-"));
process.on("exit", () => note(""));

/** Runs a program to its end and returns what it printed. */
function output(program, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
    const text = ["", ""];
    [child.stdout, child.stderr].forEach((stream, i) => {
      stream.setEncoding("utf8").on("data", (part) => {
        text[i] += part;
      });
    });
    child.on("error", reject);
    child.on("close", (code) => {
      if (code === 0) resolve(text[0]);
      else
        reject(
          new Error(
            `${program} ${args.join(" ")} ended with ${code}: ${text[1].trim().split("\n").slice(-8).join("\n")}`,
          ),
        );
    });
  });
}

const sfc = (...args) => output(process.execPath, [path("../dist/cli/main.js"), ...args]);

/** Progress, on one line of a terminal. */
function note(text) {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
}

// ------------------------------------------------------------------------------------------------------------------ pairs

/** So many of a list, evenly spaced. */
const spaced = (list, n) =>
  n >= list.length ? list : Array.from({ length: n }, (_, i) => list[Math.floor((i * list.length) / n)]);

/** Writes pairs for both sides to read: those that the tokenizer can use, with their splits. */
async function writeLines(name, lines) {
  const file = join(temporary, name);
  await writeFile(file, `${lines.join("\n")}\n`);
  return { file, pairs: lines.length };
}

const usable = join(temporary, "usable.jsonl");
await sfc("pairs", "--model_name", model, "--pairs", pairsFile, "--output", usable);
const lines = (await readFile(usable, "utf8")).trim().split("\n");
const all = await writeLines("pairs.jsonl", spaced(lines, Number(flags.limit ?? lines.length)));
const few = await writeLines("few.jsonl", spaced(lines, Math.min(all.pairs, Number(flags.single))));

// --------------------------------------------------------------------------------------------------------------- variants

/** One run of ours: `sfc compare` with one method. Its effects are left in a folder named after the method. */
const ours = (method, { of = all, weights = "held" } = {}) => {
  const name = `ours ${method}${weights === "held" ? "" : ` ${weights}`}`;
  const folder = join(temporary, name.replaceAll(/[ :]/g, "-"));
  return {
    name,
    of,
    effects: () => parquetIn(folder),
    async run() {
      const where = ["--model_name", model, "--sae_source", saes, "--pairs", of.file, "--weights", weights];
      const text = await sfc("compare", "--methods", method, ...where, "--output_dir", folder, "--force", "--json");
      return JSON.parse(text).methods[0];
    },
  };
};

/** The features.parquet of a comparison of one method. */
async function parquetIn(folder) {
  const names = await readdir(folder, { recursive: true });
  return join(
    folder,
    names.find((name) => name.endsWith("features.parquet")),
  );
}

/** One run of PyTorch. */
const pytorch = (method, dtype, batch, of = all) => {
  const name = `pytorch ${method} ${dtype} ${batch}`;
  const effects = join(temporary, `${name.replaceAll(" ", "-")}.parquet`);
  const settings = ["--method", method, "--dtype", dtype, "--batch", String(batch), "--threads", String(threads)];
  return {
    name,
    of,
    effects: () => effects,
    async run() {
      const args = ["-W", "ignore", path("pytorch_effects.py"), model, saes, of.file, ...settings, "--out", effects];
      return JSON.parse((await output(flags.python, args)).trim().split("\n").at(-1));
    },
  };
};

const forest = ours("analytic");
const batches = flags.batches.split(",").map(Number);
const variants = [
  forest,
  ours("analytic", { weights: "streamed" }),
  ours("analytic:64"),
  ours("analytic:1", { of: few }),
  ...["analytic", "sfc"].flatMap((method) =>
    ["float32", "bfloat16"].flatMap((dtype) => batches.map((batch) => pytorch(method, dtype, batch))),
  ),
  pytorch("analytic", "float32", 1, few),
].filter(({ name }) => new RegExp(flags.only ?? "").test(name));

// All once, then again: what else the machine does meets all of them.
const measured = new Map(variants.map(({ name }) => [name, []]));
const load = [];
for (let run = 0; run < Number(flags.runs); run++) {
  for (const { name, run: start } of variants) {
    note(`run ${run + 1} of ${flags.runs}: ${name}`);
    load.push(loadavg()[0]);
    const result = await start();
    measured.get(name).push(result);
    // Told as it comes: a long comparison that is stopped has not been for nothing.
    note("");
    console.error(
      `run ${run + 1}: ${name} ${result.seconds.toFixed(2)} s, peak ${Math.round(result.peak_bytes / 1e6)} MB`,
    );
  }
}

const median = (list) => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)];
const results = variants.map(({ name, of }) => {
  const runs = measured.get(name);
  // What was timed on a part of the pairs is scaled up to all of them.
  const scale = all.pairs / of.pairs;
  const seconds = runs.map((run) => run.seconds * scale);
  const [loaded, peak, above] = ["loaded_bytes", "peak_bytes", "above_bytes"].map((key) =>
    median(runs.map((run) => run[key])),
  );
  return { name, pairs: of.pairs, scaled: scale > 1, median: median(seconds), seconds, loaded, peak, above };
});

// -------------------------------------------------------------------------------------------------------------- agreement

const compared = variants.filter((variant) => variant !== forest && variant.of === all);
if (!variants.includes(forest)) {
  note("effects to compare with");
  await forest.run();
}
const database = await (await DuckDBInstance.create(":memory:")).connect();

/** How alike two tables of effects are, a feature that is missing in one counting as 0 there: over every split, case, site and feature. */
async function agreement(a, b) {
  const sql = `
    SELECT count(*)::INTEGER AS features, max(abs(x - y)) AS difference, max(greatest(abs(x), abs(y))) AS scale, corr(x, y) AS pearson
    FROM (SELECT feature >= 0 AS is_feature, coalesce(a.effect, 0) AS x, coalesce(b.effect, 0) AS y
      FROM read_parquet('${a}') a FULL JOIN read_parquet('${b}') b USING (split, "case", site, feature))
    WHERE is_feature = $1`;
  const rows = await Promise.all(
    [true, false].map(async (features) => (await database.runAndReadAll(sql, [features])).getRowObjectsJS()[0]),
  );
  return { features: rows[0], errors: rows[1] };
}
const alike = [];
for (const { name, effects } of compared) {
  alike.push({ name, ...(await agreement(await forest.effects(), await effects())) });
}

// ----------------------------------------------------------------------------------------------------------------- report

const of = (name) => results.find((result) => result.name === name);
/** What is claimed: how many times less than PyTorch, and the goal. */
const claims = [
  ["time", "ours analytic", "pytorch analytic float32 64", "median", 15],
  ["time", "ours analytic", "pytorch analytic bfloat16 64", "median", 5],
  ["time", "ours analytic", "pytorch sfc float32 64", "median", 20],
  ["time", "ours analytic", "pytorch sfc bfloat16 64", "median", 6],
  ["time", "ours analytic:64", "pytorch analytic float32 64", "median", 1.3],
  ["peak memory", "ours analytic", "pytorch analytic float32 64", "peak", 2],
  ["memory above the model", "ours analytic", "pytorch analytic float32 64", "above", 2],
  ["peak memory", "ours analytic streamed", "pytorch analytic float32 64", "peak", 2],
  ["memory above the model", "ours analytic streamed", "pytorch analytic float32 64", "above", 2],
];
const ratios = claims
  .filter(([, a, b]) => of(a) && of(b))
  .map(([what, a, b, key, goal]) => ({ what, ours: a, pytorch: b, ratio: of(b)[key] / of(a)[key], goal }));
const failed = alike.filter(
  ({ name, features }) => !name.includes("bfloat16") && !(features.difference <= 1e-3 * features.scale),
);

note("");
const conditions = {
  threads,
  pairs: all.pairs,
  runs: Number(flags.runs),
  load: [Math.min(...load), Math.max(...load)],
};
if (flags.json) {
  const pythons = [...measured].find(([name]) => name.startsWith("pytorch"))?.[1][0] ?? {};
  const { python, torch, transformers } = pythons;
  console.log(
    JSON.stringify(
      {
        ...conditions,
        versions: { node: process.version, python, torch, transformers },
        results,
        ratios,
        agreement: alike,
      },
      null,
      2,
    ),
  );
} else {
  const mb = (bytes) => `${Math.round(bytes / 1e6)}`;
  const s = (seconds) => seconds.toFixed(seconds < 10 ? 2 : 1);
  const [low, high] = conditions.load.map((value) => value.toFixed(1));
  console.log(
    `${all.pairs} pairs, ${threads} threads, medians of ${flags.runs} runs; load before each ${low} to ${high}\n`,
  );
  console.log("variant                        seconds (from – to)        MB above the model   MB at the peak");
  for (const { name, median: middle, seconds, above, peak, scaled, pairs } of results) {
    const range = `${s(middle)} (${s(Math.min(...seconds))} – ${s(Math.max(...seconds))})`;
    const part = scaled ? `   scaled up from ${pairs} pairs` : "";
    console.log(`${name.padEnd(30)} ${range.padEnd(26)} ${mb(above).padStart(18)} ${mb(peak).padStart(16)}${part}`);
  }
  console.log("");
  for (const { what, ours: a, pytorch: b, ratio, goal } of ratios) {
    const verdict = ratio >= goal ? "reached" : "missed";
    console.log(`${what}: ${b} / ${a} = ${ratio.toFixed(2)} (goal ${goal}: ${verdict})`);
  }
  console.log("");
  for (const { name, features, errors } of alike) {
    const share = ({ difference, scale }) => (difference / scale).toExponential(1);
    console.log(
      `effects of ${name} and ours analytic: largest difference ${share(features)} of the largest effect (errors: ${share(errors)}), ` +
        `Pearson ${features.pearson.toFixed(9)}, ${features.features} rows`,
    );
  }
}
for (const { name } of failed)
  console.error(`effects of ${name} and ours analytic differ by more than 1e-3 of the largest`);
if (failed.length > 0) process.exitCode = 1;
await rm(temporary, { recursive: true, force: true });
