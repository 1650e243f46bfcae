// Writes docs/run.schema.json from the schema in src/results/manifest.ts. A test fails while the two differ.
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { runnerImport } from "vite";

const root = fileURLToPath(new URL("..", import.meta.url));
const { module } = await runnerImport(`${root}src/results/manifest.ts`, { root, configFile: false, logLevel: "warn" });
writeFileSync(`${root}docs/run.schema.json`, JSON.stringify(module.manifestJsonSchema(), null, 2));
execFileSync("npx", ["biome", "format", "--write", "docs/run.schema.json"], { cwd: root, stdio: "inherit" });
