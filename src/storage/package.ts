import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { runtimeName } from "#session";

/** The folder of the package: it holds `models/`. */
export const packageRoot = fileURLToPath(new URL("../..", import.meta.url));

const require = createRequire(import.meta.url);

/** Versions of this program, its runtime and the packages that compute. */
export async function versions(): Promise<Record<string, string>> {
  const runtime = await runtimeName();
  return {
    "analytic-sfc": await version(join(packageRoot, "package.json")),
    node: process.versions.node,
    [runtime]: await version(manifestOf(runtime)),
    duckdb: await version(manifestOf("@duckdb/node-api")),
  };
}

/** A package's package.json, also where its `exports` hide it. */
function manifestOf(name: string): string {
  let folder = dirname(require.resolve(name));
  while (!folder.replaceAll("\\", "/").endsWith(`node_modules/${name}`)) {
    if (folder === dirname(folder)) throw new Error(`internal: no folder of the package ${name}`);
    folder = dirname(folder);
  }
  return join(folder, "package.json");
}

async function version(path: string): Promise<string> {
  return (JSON.parse(await readFile(path, "utf8")) as { version: string }).version;
}
