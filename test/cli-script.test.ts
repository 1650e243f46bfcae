import { execFile } from "node:child_process";
import { chmod, cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterEach, beforeEach, expect, it } from "vitest";

const script = fileURLToPath(new URL("../sfc", import.meta.url));

let home: string;
let checkout: string;
let env: NodeJS.ProcessEnv;
/** A checkout with nothing installed, and an npm that notes how it is called and builds a program that prints its arguments. */
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-script-"));
  checkout = join(home, "checkout");
  for (const folder of ["src", "web", "dist/cli", "dist/web"]) await mkdir(join(checkout, folder), { recursive: true });
  for (const file of ["package.json", "package-lock.json", "tsconfig.build.json"]) {
    await writeFile(join(checkout, file), "{}");
  }
  await cp(script, join(checkout, "sfc"));
  await mkdir(join(home, "bin"));
  const npm = `#!/usr/bin/env bash
set -e
echo "$*" >> "${home}/npm.log"
case "$1" in
  ci) mkdir node_modules ;;
  run) echo 'console.log("ran", ...process.argv.slice(2))' > dist/cli/main.js; touch dist/web/report.html ;;
esac
`;
  await writeFile(join(home, "bin/npm"), npm);
  await chmod(join(home, "bin/npm"), 0o755);
  env = { ...process.env, PATH: `${join(home, "bin")}:${process.env.PATH}` };
});
afterEach(() => rm(home, { recursive: true, force: true }));

const run = (path: string, more: NodeJS.ProcessEnv = {}) =>
  promisify(execFile)(path, ["run", "--seed", "2"], { cwd: home, env: { ...env, ...more } });
const calls = async () => (await readFile(join(home, "npm.log"), "utf8")).trimEnd().split("\n");

it("./sfc installs and builds once, with what the build needs in production too, and hands its arguments on", async () => {
  const first = await run(join(checkout, "sfc"), { NODE_ENV: "production" });
  expect(first.stdout).toBe("ran run --seed 2\n");
  expect((await run(join(checkout, "sfc"))).stdout).toBe("ran run --seed 2\n");
  const [install, build, ...others] = await calls();
  expect(install).toMatch(/^ci .*--include=dev/);
  expect(build).toMatch(/^run .*build$/);
  expect(others).toEqual([]);
});

it("./sfc works through links to it, absolute and relative, one after another", async () => {
  await symlink(join(checkout, "sfc"), join(home, "absolute"));
  await symlink("../absolute", join(home, "bin/sfc"));
  for (const link of [join(home, "absolute"), join(home, "bin/sfc"), "sfc"]) {
    expect((await run(link)).stdout).toBe("ran run --seed 2\n");
  }
});
