import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { asyncBufferFromFile, parquetMetadataAsync, parquetSchema } from "hyparquet";
import { afterAll, describe, expect, it } from "vitest";
import { run } from "./cli-harness.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const pages = readdirSync(join(root, "docs")).filter((name) => name.endsWith(".md"));
const page = (name: string) => readFileSync(join(root, "docs", name), "utf8");
const folder = mkdtempSync(join(tmpdir(), "sfc-docs-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** The words of a page's commands, files of the checkout and of `outputs` at their place in the test. */
const commandsOf = (text: string): string[][] =>
  [...text.matchAll(/^\.\/sfc (.+)$/gm)].map(([, rest]) =>
    rest!.split(" ").map((word) => word.replace(/^outputs\//, `${folder}/`).replace(/^models\//, `${root}models/`)),
  );

/** The names in the first column of the table that follows a heading. */
function firstColumn(text: string, heading: string): string[] {
  const section = text.split(`${heading}\n`)[1]!;
  const table = /\n\|.*\n\|[-|]+\n((?:\|.*\n)+)/.exec(section)![1]!;
  return table
    .trim()
    .split("\n")
    .flatMap((row) => [...row.split("|")[1]!.matchAll(/`(\w+)`/g)].map(([, name]) => name!));
}

async function columnsOf(path: string): Promise<string[]> {
  const metadata = await parquetMetadataAsync(await asyncBufferFromFile(path));
  return parquetSchema(metadata).children.map(({ element }) => element.name);
}

describe("docs", () => {
  it("link only to what exists", () => {
    for (const name of pages) {
      for (const [, path] of page(name).matchAll(/\]\((?!http)([^)#]+)(?:#[^)]*)?\)/g))
        expect(existsSync(join(root, "docs", path!)), `${name}: ${path}`).toBe(true);
    }
  });

  it("have a way of one's own that works as it is written, and tables of files with all columns", async () => {
    const commands = commandsOf(page("your-own.md"));
    expect(commands.length).toBeGreaterThan(6);
    for (const command of commands) {
      const { code, stdout, stderr } = await run(command);
      expect(code, `sfc ${command.join(" ")}\n${stdout}\n${stderr}`).toBe(0);
    }
    const files = page("files.md");
    for (const name of ["nodes", "effects", "features"]) {
      const columns = await columnsOf(join(folder, "my-run", `${name}.parquet`));
      expect(firstColumn(files, `## ${name}.parquet`).sort(), name).toEqual(columns.sort());
    }
    const edges = await columnsOf(join(folder, "my-run/circuit/edges.parquet"));
    expect(firstColumn(files, "Columns of `edges.parquet`:").sort()).toEqual(edges.sort());
    const json = (path: string) => JSON.parse(readFileSync(join(folder, path), "utf8"));
    const cards = json("my-run/feature-cards.json");
    expect(firstColumn(files, "## feature-cards.json").sort()).toEqual(Object.keys(cards).sort());
    expect(firstColumn(files, "Each of `sites`:").sort()).toEqual(Object.keys(cards.sites[0]).sort());
    expect(firstColumn(files, "Each of `cards`:").sort()).toEqual(Object.keys(cards.cards[0]).sort());
    const contexts = await columnsOf(join(folder, "my-saes/contexts/resid_post.3.parquet"));
    expect(firstColumn(files, "Columns of `<site>.parquet`, one row per feature:").sort()).toEqual(contexts.sort());
    const about = json("my-saes/contexts/resid_post.3.json");
    expect(firstColumn(files, "Fields of `<site>.json`:").sort()).toEqual(Object.keys(about).sort());
    const [pair] = readFileSync(join(folder, "my-run/pairs.jsonl"), "utf8").split("\n");
    expect(firstColumn(files, "## pairs.jsonl").sort()).toEqual(Object.keys(JSON.parse(pair!)).sort());
  });
});
