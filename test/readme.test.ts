import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";

const root = new URL("..", import.meta.url).pathname;
const readme = await readFile(`${root}README.md`, "utf8");

describe("the README", () => {
  it("shows the library example that runs, and it finds features with effects", async () => {
    const example = await readFile(`${root}examples/strongest-features.mjs`, "utf8");
    expect(readme).toContain(example.trim());
    const home = await mkdtemp(join(tmpdir(), "sfc-home-"));
    const { stdout } = await promisify(execFile)("node", [`${root}examples/strongest-features.mjs`], {
      cwd: home,
      env: { ...process.env, HOME: home, XDG_CACHE_HOME: "" },
    });
    // onnxruntime would store a device ID and report what it is used for.
    expect(await readdir(home)).toEqual([]);
    await rm(home, { recursive: true });
    const lines = stdout.trim().split("\n");
    expect(lines.length).toBe(6);
    const effects = lines
      .slice(0, 5)
      .map((line) => Number(/^resid_post\.3\/\d+\t(-?\d+\.\d+) logits$/.exec(line)?.[1]));
    expect(effects.every((effect) => Number.isFinite(effect))).toBe(true);
    expect(Math.abs(effects[0]!)).toBeGreaterThanOrEqual(Math.abs(effects[4]!));
    expect(Math.abs(effects[0]!)).toBeGreaterThan(0.05);
  });

  it("names only files and folders that exist", () => {
    for (const [, path] of readme.matchAll(/\]\((?!http)([^)#]+)\)/g))
      expect(existsSync(`${root}${path}`), path).toBe(true);
    const tree = /```\nsrc\/wasm[\s\S]*?```/.exec(readme)![0].split("\n").slice(1, -1);
    for (const line of tree) {
      for (const folder of line.split(/ {2,}/)[0]!.split(", "))
        expect(existsSync(`${root}${folder}`), folder).toBe(true);
    }
  });

  it("has no placeholders", () => {
    expect(readme).not.toContain("@@");
  });
});
