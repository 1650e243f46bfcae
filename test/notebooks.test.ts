import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { transformWithOxc } from "vite";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { run } from "./cli-harness.ts";

const notebooks = fileURLToPath(new URL("../notebooks", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "sfc-notebooks-"));
const environment = { ...process.env, SFC_RUN: join(folder, "run") };
beforeAll(async () => {
  const { code, stderr } = await run(["run", "--num_examples", "4", "--output_dir", environment.SFC_RUN, "--quiet"]);
  expect(code, stderr).toBe(0);
  const circuit = await run(["circuit", environment.SFC_RUN, "--way", "secant-covering", "--size", "12", "--quiet"]);
  expect(circuit.code, circuit.stderr).toBe(0);
}, 300_000);
afterAll(() => rmSync(folder, { recursive: true }));

interface Cell {
  readonly cell_type: "code" | "markdown";
  readonly source: readonly string[];
  readonly outputs?: readonly { readonly output_type: string }[];
}
const cellsOf = (path: string) =>
  (JSON.parse(readFileSync(path, "utf8")) as { cells: Cell[] }).cells.filter(({ cell_type }) => cell_type === "code");

/** What a notebook needs to be executed as its readers do; undefined where this machine lacks it. */
function jupyterWith(kernel: string): string | undefined {
  const { stdout, status } = spawnSync("jupyter", ["kernelspec", "list", "--json"], { encoding: "utf8" });
  return status === 0 && Object.keys(JSON.parse(stdout).kernelspecs).includes(kernel) ? "jupyter" : undefined;
}

/** Executes a copy by nbconvert and gives the cells with their outputs. */
function executed(name: string): Cell[] {
  const words = ["nbconvert", "--to", "notebook", "--execute", "--output-dir", folder, `${name}.ipynb`];
  const { status, stderr } = spawnSync("jupyter", words, { cwd: notebooks, env: environment, encoding: "utf8" });
  expect(status, stderr).toBe(0);
  return cellsOf(join(folder, `${name}.ipynb`));
}

describe("notebooks", () => {
  it("analysis.ipynb: its cells run one after another in Node, and each shows something", async () => {
    const cells = cellsOf(join(notebooks, "analysis.ipynb")).map(({ source }) => source.join(""));
    const marked = cells.map((cell, i) => `${cell};\nshown.push(${i});`).join("\n");
    const { code } = await transformWithOxc(`${kernel}\n${marked}\nconsole.log(JSON.stringify(shown));`, "cells.ts");
    const { stdout, stderr, status } = spawnSync(process.execPath, ["--input-type=module", "-"], {
      input: code,
      cwd: notebooks,
      env: environment,
      encoding: "utf8",
    });
    expect(status, stderr).toBe(0);
    const shown = JSON.parse(stdout.trim().split("\n").at(-1)!) as (number | Record<string, string>)[];
    cells.forEach((cell, i) => {
      const before = shown[shown.indexOf(i) - 1];
      expect(typeof before, cell).toBe("object");
      const [text] = Object.values(before as Record<string, string>);
      expect(text, cell).toMatch(/^<(table|svg)[\s\S]*<\/(table|svg)>\s*$/);
      expect(text, cell).not.toMatch(/undefined|NaN/);
    });
  }, 120_000);

  it.each(["analysis", "pandas"])("%s.ipynb is committed with what its cells show", (name) => {
    for (const { source, outputs } of cellsOf(join(notebooks, `${name}.ipynb`))) {
      expect(outputs!.length, source.join("")).toBeGreaterThan(0);
      expect(outputs!.map(({ output_type }) => output_type)).not.toContain("error");
    }
  });

  it.skipIf(!jupyterWith("deno"))(
    "analysis.ipynb is executed by nbconvert (Jupyter, Deno's kernel)",
    () => {
      for (const { source, outputs } of executed("analysis")) expect(outputs, source.join("")).toHaveLength(1);
    },
    300_000,
  );

  it.skipIf(!jupyterWith("python3"))(
    "pandas.ipynb is executed by nbconvert (Jupyter, pandas)",
    () => {
      for (const { source, outputs } of executed("pandas")) expect(outputs, source.join("")).toHaveLength(1);
    },
    300_000,
  );
});

/** The one thing that the cells use of their kernel. */
const kernel = `
const shown = [];
globalThis.Deno = { jupyter: { display: async (data) => { shown.push(data); } } };
`;
