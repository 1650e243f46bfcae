// Makes the static site: the page, the embedded model with its SAEs, the runtime's WebAssembly, and the effects that the page compares its own with.
//
//   npm run build:site [-- --out FOLDER]
//
// Needs what `npm run build` makes: the core computes the effects here, in float64.
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { build } from "vite";
import { memoryFolder } from "../dist/bytes/folder.js";
import { answerLive } from "../dist/live/answers.js";
import { firstMethod, firstPair } from "../dist/live/first.js";
import { openLive } from "../dist/live/open.js";
import { allFeatures, effectsReference } from "../dist/live/parity.js";
import { postingReporter } from "../dist/progress.js";

const root = fileURLToPath(new URL("..", import.meta.url));
const usual = join(root, "dist/site");
const { out: named } = parseArgs({ options: { out: { type: "string", default: usual } } }).values;
const out = resolve(named);
// The folder is emptied first.
if (out !== usual && existsSync(out) && readdirSync(out).length > 0 && !existsSync(join(out, "site.json"))) {
  console.error(
    `--out: expected a new folder, or that of a site, got one with other files at ${named}. Choose another.`,
  );
  process.exit(1);
}

await build({
  configFile: `${root}web/site/vite.config.ts`,
  logLevel: "warn",
  build: { outDir: out },
});

/** What a page needs of the model's folder. */
const isNeeded = (path) =>
  /^(config|tokenizer|tokenizer_config)\.json$|^model\.safetensors$|^saes\/(?!contexts)/.test(path);
const demo = `${root}models/demo`;
const paths = readdirSync(demo, { recursive: true, encoding: "utf8" })
  .map((path) => path.replaceAll("\\", "/"))
  .filter((path) => isNeeded(path) && statSync(join(demo, path)).isFile())
  .sort();
for (const path of paths) {
  mkdirSync(dirname(join(out, "model", path)), { recursive: true });
  cpSync(join(demo, path), join(out, "model", path));
}

const packed = dirname(createRequire(import.meta.url).resolve("onnxruntime-web/ort-wasm-simd-threaded.wasm"));
const { version } = JSON.parse(readFileSync(join(packed, "../package.json"), "utf8"));
/** A browser that has an older page's files must not mix them with this one's. Servers may not know .mjs. */
const runtime = `runtime-${version}`;
mkdirSync(join(out, runtime), { recursive: true });
const runtimeOf = (name) => {
  const [mjs, wasm] = [`${runtime}/${name}.js`, `${runtime}/${name}.wasm`];
  cpSync(join(packed, `${name}.mjs`), join(out, mjs));
  cpSync(join(packed, `${name}.wasm`), join(out, wasm));
  return { mjs, wasm: { path: wasm, bytes: statSync(join(out, wasm)).size } };
};

const files = Object.fromEntries(paths.map((path) => [path, new Uint8Array(readFileSync(join(demo, path)))]));
const place = { name: "demo", folder: memoryFolder("demo", files), device: "cpu", precision: "float64" };
const request = { model: "demo", pairs: [firstPair], method: firstMethod, top: allFeatures };
const reporter = postingReporter(
  () => {},
  () => false,
);
const { found } = await answerLive(await openLive(place), "effects", request, reporter);

const site = {
  model: { name: "demo", folder: "model", files: paths.map((path) => ({ path, bytes: files[path].length })) },
  runtime: { cpu: runtimeOf("ort-wasm-simd-threaded"), webgpu: runtimeOf("ort-wasm-simd-threaded.asyncify") },
  reference: effectsReference(firstPair, firstMethod, found),
};
writeFileSync(join(out, "site.json"), JSON.stringify(site));
const bytes = readdirSync(out, { recursive: true, encoding: "utf8" }).reduce((sum, path) => {
  const found = statSync(join(out, path));
  return found.isFile() ? sum + found.size : sum;
}, 0);
const how = out === usual ? "npm run preview:site shows it; any" : "Any";
console.log(`${named}: ${Math.round(bytes / 1e6)} MB. ${how} server of files can serve it.`);
