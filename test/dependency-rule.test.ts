import { existsSync, readdirSync, readFileSync } from "node:fs";
import { builtinModules } from "node:module";
import { posix } from "node:path";
import { fileURLToPath } from "node:url";
import { build, type Plugin, parseSync } from "vite";
import { describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));

/** Each tier may import from those before it; folders of one tier do not import each other. */
const tiers = [
  ["wasm"],
  ["graph", "bytes"],
  ["models", "prompts", "dictionaries"],
  ["forest"],
  ["capture"],
  ["effects", "training"],
  ["interventions", "contexts"],
  ["circuit"],
  ["report"],
  ["analysis"],
  ["live"],
  ["storage"],
  ["hub"],
  ["results"],
  ["jobs"],
  ["open"],
  ["commands"],
  ["serve"],
  ["cli"],
];
/** Folders that may use Node; files that end with .node.ts may, anywhere. */
const onNode = ["storage", "hub", "results", "jobs", "open", "commands", "serve", "cli"];
const folders = tiers.flat();
const tierOf = (folder: string) => tiers.findIndex((tier) => tier.includes(folder));

/** Leaves that everything may import, and the one file that may import everything. */
const leaves = ["src/amounts.ts", "src/errors.ts", "src/progress.ts", "src/random.ts", "src/site.ts", "src/stats.ts"];
const index = "src/index.ts";

/** Modules in whose own folder alone a package may be imported. */
const homes: readonly (readonly [pattern: RegExp, folder: string])[] = [
  [/^onnxruntime/, "graph"],
  [/^@duckdb\//, "results"],
];

const isBuiltin = (name: string) => name.startsWith("node:") || builtinModules.includes(name);
const isChosenByCondition = (path: string) => /\.(node|web)\.tsx?$/.test(path);
const folderOf = (path: string) => path.split("/")[1]!;

/** What each file of a tree imports: paths from the project's root, or names of packages; `type …` where only types are imported. */
type Tree = ReadonlyMap<string, readonly string[]>;

const withoutType = (name: string) => name.replace(/^type /, "");

/** Every breach of the dependency rule, one line each. */
function breaches(tree: Tree): string[] {
  const found: string[] = [];
  for (const [file, imports] of tree) {
    const isRoot = file.split("/").length === 2;
    if (isRoot ? ![...leaves, index].includes(file) : !folders.includes(folderOf(file))) {
      found.push(`${file} is in no folder of the design`);
      continue;
    }
    for (const name of imports.map(withoutType)) {
      const home = homes.find(([pattern]) => pattern.test(name))?.[1];
      if (home !== undefined && folderOf(file) !== home)
        found.push(`${file} imports ${name}, which belongs to src/${home}`);
      if (isBuiltin(name) && !onNode.includes(folderOf(file)) && !file.endsWith(".node.ts")) {
        found.push(`${file} imports ${name}, which no browser has`);
      }
      if (!name.startsWith("src/") || file === index || leaves.includes(name)) continue;
      if (isRoot) found.push(`${file} imports ${name}, but a leaf imports only leaves`);
      else if (folderOf(name) !== folderOf(file) && tierOf(folderOf(name)) >= tierOf(folderOf(file))) {
        found.push(`${file} imports ${name}, which is not to its left`);
      }
    }
  }
  return [...found, ...cycles(tree)];
}

/** Circles of imports, each once. Types count too: files that need one another's types are one thing in two places. */
function cycles(tree: Tree): string[] {
  const found: string[] = [];
  const done = new Set<string>();
  const visit = (file: string, path: readonly string[]) => {
    if (path.includes(file)) found.push([...path.slice(path.indexOf(file)), file].join(" → "));
    else if (!done.has(file)) for (const next of tree.get(file) ?? []) visit(withoutType(next), [...path, file]);
    done.add(file);
  };
  for (const file of tree.keys()) visit(file, []);
  return found;
}

/** Where an import written `#name` leads: the source files of every condition in package.json. */
const conditions = JSON.parse(readFileSync(`${root}package.json`, "utf8")).imports as Record<
  string,
  { source: { browser: string; default: string } }
>;

function readTree(): Tree {
  const files = readdirSync(`${root}src`, { recursive: true, encoding: "utf8" })
    .map((name) => `src/${name.replaceAll("\\", "/")}`)
    .filter((name) => /\.tsx?$/.test(name));
  return new Map(
    files.map((file) => [
      file,
      importsOf(file, readFileSync(root + file, "utf8")).flatMap((name) => targets(file, name)),
    ]),
  );
}

/** The modules that a source text names in imports and exports; `type …` where it says `import type` or `export type`. */
function importsOf(file: string, source: string): string[] {
  const { module, comments, errors } = parseSync(file, source);
  if (errors.length > 0) throw new Error(`${file}: ${errors[0]!.message}`);
  const code = comments.reduceRight((text, { start, end }) => text.slice(0, start) + text.slice(end), source);
  const kind = (start: number) => (/^(import|export) type\b/.test(source.slice(start, start + 12)) ? "type " : "");
  return [
    ...module.staticImports.map(({ start, moduleRequest }) => kind(start) + moduleRequest.value),
    ...module.staticExports.flatMap(({ start, entries }) =>
      entries.flatMap(({ moduleRequest }) => (moduleRequest ? kind(start) + moduleRequest.value : [])),
    ),
    ...[...code.matchAll(/\bimport\(\s*["']([^"']+)["']/g)].map(([, name]) => name!),
  ];
}

function targets(file: string, imported: string): string[] {
  const [name, type] = [withoutType(imported), imported.startsWith("type ") ? "type " : ""];
  if (name.startsWith(".")) return [type + posix.join(posix.dirname(file), name)];
  if (!name.startsWith("#")) return [imported];
  const source = conditions[name]?.source;
  return source ? Object.values(source).map((path) => type + posix.normalize(path)) : [`${name} (not in package.json)`];
}

describe("the dependency rule", () => {
  const tree = readTree();

  it("holds in src: every folder imports only from folders to its left, packages stay in their places, no circles", () => {
    expect(tree.size).toBeGreaterThan(10);
    expect(breaches(tree)).toEqual([]);
  });

  it("leaves the choice between Node and the browser to package.json", () => {
    const direct = [...tree].flatMap(([file]) =>
      importsOf(file, readFileSync(root + file, "utf8"))
        .map(withoutType)
        // A file for Node may have others for Node beside it.
        .filter((name) => name.startsWith(".") && isChosenByCondition(name) && !file.endsWith(".node.ts"))
        .filter(() => !onNode.includes(folderOf(file)))
        .map((name) => `${file} imports ${name}`),
    );
    expect(direct).toEqual([]);
    const unknown = [...tree.values()].flat().filter((name) => name.endsWith("(not in package.json)"));
    expect(unknown).toEqual([]);
  });

  it("would be seen broken", () => {
    const tree: Tree = new Map([
      ["src/errors.ts", ["src/graph/tensor.ts"]],
      ["src/util.ts", []],
      ["src/utils/all.ts", []],
      ["src/index.ts", ["src/cli/main.ts"]],
      ["src/graph/tensor.ts", ["src/errors.ts", "src/bytes/source.ts", "src/graph/shape.ts", "onnxruntime-node"]],
      ["src/graph/shape.ts", ["src/graph/tensor.ts"]],
      ["src/graph/print.ts", ["type src/graph/onnx.ts", "type src/models/llama.ts"]],
      ["src/graph/onnx.ts", ["src/graph/print.ts"]],
      ["src/bytes/source.ts", ["fs/promises"]],
      ["src/bytes/file.node.ts", ["node:fs"]],
      ["src/effects/exact.ts", ["src/circuit/ranking.ts", "src/capture/forward.ts", "@duckdb/node-api"]],
      ["src/report/page.ts", ["onnxruntime-common", "src/circuit/ranking.ts"]],
      ["src/results/tables.ts", ["@duckdb/node-api"]],
      ["src/cli/main.ts", ["node:fs", "src/report/page.ts"]],
      ["src/analysis/steps.ts", ["src/circuit/ranking.ts", "src/results/tables.ts", "node:path"]],
    ]);
    expect(breaches(tree)).toEqual([
      "src/errors.ts imports src/graph/tensor.ts, but a leaf imports only leaves",
      "src/util.ts is in no folder of the design",
      "src/utils/all.ts is in no folder of the design",
      "src/graph/tensor.ts imports src/bytes/source.ts, which is not to its left",
      "src/graph/print.ts imports src/models/llama.ts, which is not to its left",
      "src/bytes/source.ts imports fs/promises, which no browser has",
      "src/effects/exact.ts imports src/circuit/ranking.ts, which is not to its left",
      "src/effects/exact.ts imports @duckdb/node-api, which belongs to src/results",
      "src/report/page.ts imports onnxruntime-common, which belongs to src/graph",
      "src/analysis/steps.ts imports src/results/tables.ts, which is not to its left",
      "src/analysis/steps.ts imports node:path, which no browser has",
      "src/errors.ts → src/graph/tensor.ts → src/errors.ts",
      "src/graph/tensor.ts → src/graph/shape.ts → src/graph/tensor.ts",
      "src/graph/print.ts → src/graph/onnx.ts → src/graph/print.ts",
    ]);
  });

  it("reads every way to import, and no comment", () => {
    const source = `
      import type { A } from "./a.ts"; import "#c"; export * from "b"; export type { F } from "./f.ts"; // import "no";
      /* import("no") */ export const x = () => import("./d.ts"); export type T = import("./e.ts").T;`;
    expect(importsOf("a.ts", source).sort()).toEqual(["#c", "./d.ts", "./e.ts", "b", "type ./a.ts", "type ./f.ts"]);
  });
});

/** Lines of the source files, by folder; those at the root of src count as a folder "". */
function linesByFolder(sizes: Iterable<readonly [file: string, lines: number]>): Map<string, number> {
  const found = new Map<string, number>();
  for (const [file, lines] of sizes) {
    const folder = file.split("/").length === 2 ? "" : folderOf(file);
    found.set(folder, (found.get(folder) ?? 0) + lines);
  }
  return found;
}

/** Folders that have grown beyond what the design allows, one line each. */
function oversized(lines: ReadonlyMap<string, number>): string[] {
  const all = [...lines.values()].reduce((a, b) => a + b, 0);
  return [...lines].flatMap(([folder, own]) => [
    ...(folder === "cli" && own > 2000 ? [`src/cli has ${own} lines, more than 2000`] : []),
    ...(own > 0.15 * all ? [`src/${folder} has ${own} of ${all} lines, more than 15 %`] : []),
  ]);
}

describe("the sizes of folders", () => {
  const linesOf = (file: string) => readFileSync(root + file, "utf8").split("\n").length - 1;

  it("cli has at most 2,000 lines, and no folder has more than 15 % of src", () => {
    expect(oversized(linesByFolder([...readTree().keys()].map((file) => [file, linesOf(file)])))).toEqual([]);
  });

  it("would be seen exceeded", () => {
    const even = folders.slice(0, 18).map((folder) => [`src/${folder}/a.ts`, 1500] as const);
    const more = [["src/cli/a.ts", 1900] as const, ["src/cli/b.ts", 101] as const, ["src/errors.ts", 10] as const];
    expect(oversized(linesByFolder([...even, ...more.slice(0, 1), ...more.slice(2)]))).toEqual([]);
    expect(oversized(linesByFolder([...even, ...more]))).toEqual(["src/cli has 2001 lines, more than 2000"]);
    const large = linesByFolder([...even, ["src/graph/b.ts", 3800]]);
    expect(oversized(large)).toEqual(["src/graph has 5300 of 30800 lines, more than 15 %"]);
  });
});

/** Bundles these entries for a browser; gives the imports that no browser has, and the code. */
async function bundle(entry: Record<string, string>, sources: Readonly<Record<string, string>> = {}) {
  const builtins: string[] = [];
  const watch: Plugin = {
    name: "watch-imports",
    enforce: "pre",
    resolveId(name, importer) {
      if (name in sources) return `\0${name}`;
      if (isBuiltin(name)) {
        builtins.push(`${name} from ${importer?.replace(root, "")}`);
        return { id: name, external: true };
      }
      // A browser's half that is not written yet stays outside.
      const half = conditions[name]?.source.browser;
      return half !== undefined && !existsSync(root + half) ? { id: name, external: true } : null;
    },
    load: (id) => (id.startsWith("\0") ? sources[id.slice(1)] : null),
  };
  const result = await build({
    root,
    configFile: false,
    logLevel: "error",
    plugins: [watch],
    resolve: { conditions: ["source", "browser", "import", "module", "default"] },
    build: { write: false, minify: false, target: "es2023", lib: { entry, formats: ["es"] } },
  });
  const outputs = [result].flat().flatMap((part) => ("output" in part ? part.output : []));
  return { builtins, code: outputs.map((part) => ("code" in part ? part.code : "")).join("\n") };
}

describe("everything left of storage", () => {
  it("bundles for a browser, without Node's modules", async () => {
    const left = [...readTree().keys()].filter(
      (file) => tierOf(folderOf(file)) >= 0 && tierOf(folderOf(file)) < tierOf("storage") && !isChosenByCondition(file),
    );
    const { builtins, code } = await bundle(
      Object.fromEntries(left.map((file) => [file.replace(/^src\//, "").replace(/\.tsx?$/, ""), root + file])),
    );
    expect(builtins).toEqual([]);
    expect(code).not.toMatch(/from\s*["']node:|import\s*["']node:|require\(["']node:/);
    expect(code).not.toContain("onnxruntime-node");
    expect(code).toContain("function spearman");
  });

  it("would be seen to need Node's modules", async () => {
    const probe = `${root}src/probe.ts`;
    const source =
      'import { readFileSync } from "node:fs"; import { join } from "path"; export const x = [readFileSync, join];';
    const { builtins } = await bundle({ probe }, { [probe]: source });
    expect(builtins.map((line) => line.split(" ")[0]).sort()).toEqual(["node:fs", "path"]);
  });
});
