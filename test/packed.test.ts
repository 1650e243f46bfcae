import { execFile, execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import "./cli-harness.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
  files: string[];
  exports: Record<string, string | { types: string; default: string }>;
  dependencies: Record<string, string>;
  optionalDependencies: Record<string, string>;
};
const { files } = manifest;

it("links of the README lead somewhere in the package", () => {
  const readme = readFileSync("README.md", "utf8");
  const links = [...readme.matchAll(/\]\(([^)#\s]+)[^)]*\)/g)]
    .map(([, to]) => to!)
    .filter((to) => !/^https?:/.test(to));
  expect(links.length).toBeGreaterThan(3);
  expect(links.filter((to) => !files.some((kept) => to === kept || to.startsWith(`${kept}/`)))).toEqual([]);
});

it("every package of the lock file has a checksum, those of other systems too", () => {
  const { packages } = JSON.parse(readFileSync("package-lock.json", "utf8")) as {
    packages: Record<string, { integrity?: string }>;
  };
  const without = Object.entries(packages).filter(([path, { integrity }]) => path !== "" && !integrity);
  expect(without.map(([path]) => path)).toEqual([]);
});

describe("in an empty folder with only the packed files and what they depend on", () => {
  let home: string;
  const node = async (...args: string[]) => (await promisify(execFile)("node", args, { cwd: home })).stdout;

  beforeAll(async () => {
    home = await mkdtemp(join(tmpdir(), "sfc-packed-"));
    // What npm would put into the file, without building anew.
    const listed = execFileSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], { cwd: root });
    const [packed] = JSON.parse(listed.toString()) as [{ files: { path: string }[] }];
    const there = join(home, "node_modules/analytic-sfc");
    for (const { path } of packed.files) {
      await mkdir(dirname(join(there, path)), { recursive: true });
      await cp(join(root, path), join(there, path));
    }
    const { dependencies, optionalDependencies } = manifest;
    // The types of Node are what a program in TypeScript brings along itself.
    for (const name of [...Object.keys({ ...dependencies, ...optionalDependencies }), "@types/node", "undici-types"]) {
      await mkdir(dirname(join(home, "node_modules", name)), { recursive: true });
      await symlink(join(root, "node_modules", name), join(home, "node_modules", name));
    }
    await writeFile(join(home, "package.json"), JSON.stringify({ type: "module" }));
  });
  afterAll(() => rm(home, { recursive: true, force: true }));

  it("the README's example finds features with effects, and reads activations", async () => {
    await cp(join(root, "examples/strongest-features.mjs"), join(home, "strongest-features.mjs"));
    const lines = (await node("strongest-features.mjs")).trim().split("\n");
    const effects = lines
      .slice(0, 5)
      .map((line) => Number(/^resid_post\.3\/\d+\t(-?\d+\.\d+) logits$/.exec(line)?.[1]));
    expect(effects.every((effect) => Math.abs(effect) > 0.05)).toBe(true);
    expect(effects.map(Math.abs)).toEqual(effects.map(Math.abs).toSorted((a, b) => b - a));
    expect(lines[5]).toMatch(/^m = -\d\.\d\d logits; x and g are \[6, 192\], of 1152 and 1152 numbers$/);
  });

  it("the other example reads a run", async () => {
    await cp(join(root, "examples/read-run.mjs"), join(home, "read-run.mjs"));
    const flags = ["--num_examples", "2", "--layers", "2", "--sites", "resid_post", "--output_dir", "run", "--quiet"];
    await node("node_modules/analytic-sfc/dist/cli/main.js", "run", ...flags);
    const [about, feature, words] = (await node("read-run.mjs", "run")).trim().split("\n");
    expect(about).toBe("demo: 64 pairs, 2 checks passed");
    const top = JSON.parse(await readFile(join(home, "run/ranking.json"), "utf8")).sites[0].splits.train.top[0];
    expect(feature).toBe(`resid_post.2/${top.feature}: ${top.effect.toFixed(3)} logits`);
    expect(words).toMatch(/^(\S+ \(-?\d+\.\d\)(, )?){5}$/);
  });

  it("TypeScript accepts both examples and `await using`, with the types that are packed", async () => {
    await writeFile(join(home, "using.ts"), usingExample);
    for (const name of ["strongest-features.mjs", "read-run.mjs"])
      await cp(join(root, "examples", name), join(home, name));
    const flags = ["--checkJs", "--strict", "--module", "nodenext", "--target", "es2023", "--types", "node"];
    const lib = ["--lib", "es2023,esnext.disposable,dom", "--outDir", "built", "--skipLibCheck"];
    const tsc = [join(root, "node_modules/typescript/bin/tsc"), ...flags, ...lib, "using.ts", "strongest-features.mjs"];
    const { stdout } = await promisify(execFile)("node", [...tsc, "read-run.mjs"], { cwd: home }).catch(
      (error) => error,
    );
    expect(stdout).toBe("");
    expect(JSON.parse(await node("built/using.js"))).toEqual({
      features: 10,
      lengths: [6 * 192, 6 * 192],
      phases: expect.arrayContaining(["capture", "effects", "checks", "writing"]),
    });
  });

  it("every part can be imported by its name", async () => {
    const parts = Object.keys(manifest.exports).filter((name) => !name.endsWith(".json"));
    expect(parts.length).toBe(7);
    const code = `for (const part of ${JSON.stringify(parts)}) {
      const found = await import("analytic-sfc" + part.slice(1));
      console.log(part, Object.keys(found).length > 0);
    }`;
    expect((await node("--input-type=module", "-e", code)).trim().split("\n")).toEqual(parts.map((p) => `${p} true`));
  });
});

/** The library as its description shows it. */
const usingExample = `
import { agreementPairs, analyse, type AnalysisResult, openModel, openSaes, type Progress } from "analytic-sfc";
import type { LoadedModel } from "analytic-sfc/models";

const { signal } = new AbortController();
const phases = new Set<string>();
const onProgress = (progress: Progress) => {
  if ("phase" in progress) phases.add(progress.phase);
};
await using model = await openModel("demo", { device: "cpu", signal });
await using saes = await openSaes("demo", { model, sites: ["resid_post.3"] });
const result: AnalysisResult = await analyse(model, saes, agreementPairs({ perCase: 2 }), { method: "analytic", onProgress });
const top = result.top({ site: "resid_post.3", k: 10 });
const loaded: LoadedModel = model.loaded;
const prompts = [{ prompt: "The dog near the cars", clean_answer: " runs", patch_answer: " run" }];
const { x, g } = await model.capture(prompts, ["resid_post.3"]);
const lengths = [x["resid_post.3"][0]!.length, g["resid_post.3"][0]!.length];
if (loaded.dtype === "float32") console.log(JSON.stringify({ features: top.length, lengths, phases: [...phases] }));
`;
