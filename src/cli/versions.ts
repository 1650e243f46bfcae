import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { packageRoot } from "./setting.ts";

const require = createRequire(import.meta.url);

/** Versions of this program, its runtime and the packages that compute. */
export async function versions(): Promise<Record<string, string>> {
  return {
    "analytic-sfc": await version(join(packageRoot, "package.json")),
    node: process.versions.node,
    "onnxruntime-node": await version(manifestOf("onnxruntime-node")),
    duckdb: await version(manifestOf("@duckdb/node-api")),
  };
}

/** A package's package.json, also where its `exports` hide it. */
function manifestOf(name: string): string {
  let folder = dirname(require.resolve(name));
  while (!folder.endsWith(name)) folder = dirname(folder);
  return join(folder, "package.json");
}

async function version(path: string): Promise<string> {
  return (JSON.parse(await readFile(path, "utf8")) as { version: string }).version;
}
