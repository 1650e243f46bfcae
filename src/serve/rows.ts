import { stat } from "node:fs/promises";
import { text } from "../results/database.ts";
import { type Manifest, readManifest } from "../results/manifest.ts";
import type { RowsPage, RowsRequest, ShownRow } from "./api.ts";
import { Refused } from "./guard.ts";
import type { Places } from "./places.ts";
import { type Queries, tableProblem } from "./queries.ts";

/** A finished run's folder and manifest. @throws Refused with 404 if there is none, 409 if it is not finished */
export async function finishedRun(places: Places, name: string): Promise<{ path: string; manifest: Manifest }> {
  const path = await places.item(name);
  const manifest = await readManifest(path);
  if (manifest.status === "finished") return { path, manifest };
  throw new Refused(409, `run: expected a finished one, got one that is ${manifest.status} in ${name}.`);
}

/** The path of a table of a run, and when it was last changed. @throws Refused with 404 if it has none */
export async function tableOf(places: Places, name: string, table: string): Promise<{ path: string; changed: number }> {
  const path = await places.inside([...(name === "." ? [] : name.split("/")), table]).catch(() => null);
  const found = path === null ? null : await stat(path).catch(() => null);
  if (path !== null && found?.isFile()) return { path, changed: found.mtimeMs };
  throw new Refused(404, `${table}: expected a file of the run ${name}, got none.`);
}

/** Rows of a run's effects, those of the largest |effect| first: of large tables only some are read. */
export async function effectRows(
  { places, queries }: { readonly places: Places; readonly queries: Queries },
  request: RowsRequest,
): Promise<RowsPage> {
  const begun = performance.now();
  const { manifest } = await finishedRun(places, request.run);
  const effects = await tableOf(places, request.run, "effects.parquet");
  const nodes = await tableOf(places, request.run, "nodes.parquet");
  const { site, split, case: name, feature, offset, limit } = request;
  const conditions = [
    ...(site === undefined ? [] : [`site = ${text(site)}`]),
    ...(split === undefined ? [] : [`split = ${text(split)}`]),
    ...(name === undefined ? [] : [`"case" = ${text(name)}`]),
    ...(feature === undefined ? [] : [`feature = ${feature}`]),
  ];
  const where = conditions.length > 0 ? `WHERE ${conditions.join(" AND ")}` : "";
  const order = "ORDER BY abs(effect) DESC, site, node, feature";
  const key = JSON.stringify([effects, nodes, request]);
  const found = await queries
    .ask(key, async (database) => {
      const table = database.files(effects.path);
      const rows = await database.rows<ShownRow>(
        `SELECT e.*, n.token, n.patch_token
         FROM (SELECT * FROM ${table} ${where} ${order} LIMIT ${limit} OFFSET ${offset}) e
         LEFT JOIN ${database.files(nodes.path)} n USING (node) ${order}`,
      );
      const [count] = await database.rows<{ n: number }>(`SELECT count(*)::INTEGER AS n FROM ${table} ${where}`);
      return { rows: rows.map(plainRow), matching: count!.n };
    })
    .catch((error) => {
      throw tableProblem(error, "effects.parquet");
    });
  return {
    ...found,
    all: manifest.counts.rows,
    sites: manifest.dictionaries.map((dictionary) => dictionary.site),
    splits: (["train", "test"] as const).filter((one) => manifest.accuracy.some((row) => row.split === one)),
    cases: [...new Set(manifest.accuracy.map((row) => row.case))],
    seconds: (performance.now() - begun) / 1000,
  };
}

/** The row with the columns that are shown, whatever else the table may have. */
function plainRow(row: ShownRow): ShownRow {
  const {
    split,
    case: name,
    site,
    node,
    position,
    feature,
    f_clean,
    f_patch,
    gradient,
    effect,
    token,
    patch_token,
  } = row;
  return { split, case: name, site, node, position, feature, f_clean, f_patch, gradient, effect, token, patch_token };
}
