// Makes models/demo/saes/contexts: what the features that the default run ranks first are active on, from 1 M tokens of generated English.
// Evidence of all 27,648 features would be 4 MB. Needs a build; takes ten minutes of processor time.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { readRun } from "../dist/results/index.js";

/** Features of each site and split, over all cases. */
const top = 200;

const main = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
const sfc = (...args) => execFileSync(process.execPath, [main, ...args], { stdio: ["ignore", 2, 2] });
const folder = mkdtempSync(join(tmpdir(), "sfc-demo-contexts-"));
try {
  sfc("run", "--output_dir", folder);
  const rows = await (await readRun(folder)).features({ case: "", top });
  const names = new Set(rows.map(({ site, feature }) => `${site}/${feature}`));
  sfc("contexts", "--features", [...names].join(","), "--contexts", "5", "--window", "12", "--force");
} finally {
  rmSync(folder, { recursive: true });
}
