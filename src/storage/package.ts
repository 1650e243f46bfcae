import { readdir, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { runtimeName } from "#session";
import { sha256OfText } from "../bytes/sha256.ts";

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

/** SHA-256 of this program as it was built: a checkout changes without a new version. */
export async function programIdentity(): Promise<string> {
  const root = join(packageRoot, "dist");
  const names = (await readdir(root, { recursive: true })).filter((name) => name.endsWith(".js")).sort();
  const texts = await Promise.all(names.map((name) => readFile(join(root, name), "utf8")));
  return sha256OfText(JSON.stringify(names.map((name, i) => [name.replaceAll("\\", "/"), texts[i]])));
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
