import { execFile } from "node:child_process";
import { chmod, cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { saePreset } from "../src/hub/presets.ts";

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

describe("./run_full_analysis.sh", () => {
  const full = fileURLToPath(new URL("../run_full_analysis.sh", import.meta.url));
  /** The script beside an sfc that notes its arguments, does something, and ends with a code. */
  const runFull = async (code: number, before: string, ...args: string[]) => {
    await cp(full, join(home, "run_full_analysis.sh"));
    await writeFile(
      join(home, "sfc"),
      `#!/usr/bin/env bash\necho "$*"\n${before}\necho "sfc: why" >&2\nexit ${code}\n`,
    );
    await chmod(join(home, "sfc"), 0o755);
    return promisify(execFile)(join(home, "run_full_analysis.sh"), args, { cwd: home, env }).then(
      ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
      (error) => ({ code: error.code as number, stdout: error.stdout as string, stderr: error.stderr as string }),
    );
  };

  it("runs Gemma 2 2B with Gemma Scope, and hands its arguments on", async () => {
    const { code, stdout, stderr } = await runFull(0, "", "--layers", "8-10");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "sfc: why\n" });
    expect(stdout).toBe(
      `run --model_name gemma-2-2b --sae_source gemma-scope-2b-pt-res-16k --output_dir ${home}/outputs/full_analysis --layers 8-10\n`,
    );
  });

  it("without the files says which they are, where to put them, and what to type then", async () => {
    const missing = `[ "$1" = estimate ] && { echo "sfc: hub file config.json: expected one in the cache" >&2; exit 1; }`;
    const { code, stderr } = await runFull(1, missing);
    expect(code).toBe(1);
    for (const { path } of saePreset("gemma-scope-2b-pt-res-16k")!.saes)
      expect(stderr.match(new RegExp(`\\b${path}\\b`, "g"))).toHaveLength(1);
    for (const text of [
      "config.json  tokenizer.json  tokenizer_config.json  model.safetensors.index.json",
      "model-00003-of-00003.safetensors",
      "HF_TOKEN=hf_... ./run_full_analysis.sh",
      "./sfc pull gemma-2-2b gemma-scope-2b-pt-res-16k",
      "./run_full_analysis.sh --model_name ./gemma-2-2b --sae_source ./gemma-scope",
    ]) {
      expect(stderr).toContain(text);
    }
  });

  it("says nothing of files for a wrong flag, Ctrl-C, a run that has begun, or an error that is no missing file", async () => {
    expect(
      await runFull(1, `[ "$1" = estimate ] && { echo "sfc: /data/hub/pairs.json: expected pairs" >&2; exit 1; }`),
    ).toMatchObject({
      code: 1,
      stderr: "sfc: why\n",
    });
    for (const code of [2, 130]) expect(await runFull(code, "")).toMatchObject({ code, stderr: "sfc: why\n" });
    const begun = await runFull(
      1,
      `mkdir -p "${home}/outputs/full_analysis"; touch "${home}/outputs/full_analysis/run.json"`,
    );
    expect(begun).toMatchObject({ code: 1, stderr: "sfc: why\n" });
  });
});
