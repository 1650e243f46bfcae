import { readFile } from "node:fs/promises";
import { extname, join } from "node:path";
import { z } from "zod";
import type { CircuitPlaces } from "../analysis/circuit.ts";
import { sha256OfText } from "../bytes/sha256.ts";
import { circuitSchema } from "../circuit/circuit.ts";
import type { EdgeRows } from "../circuit/edge-rows.ts";
import { edgeSumsSchema } from "../circuit/edge-sums.ts";
import { UserError } from "../errors.ts";
import { featuresJson, featuresOf } from "../interventions/evaluation.ts";
import { readJsonFile, writeFileAtomic } from "../storage/files.ts";
import { isSealed, seal } from "../storage/seal.ts";
import { Database, named, text } from "./database.ts";
import {
  abandonWork,
  type FinishedFolder,
  type FolderKind,
  type OpenFolder,
  openWorkFolder,
  partialFor,
} from "./folder.ts";
import { checkSchema, optionsSchema, versionsSchema } from "./manifest.ts";
import { maskPlaces } from "./mask-places.ts";
import { cardsFile } from "./report-cards.ts";
import { graphFile } from "./report-circuit.ts";

/** The manifest's name in the folder of a circuit, and those of its other files. */
export const circuitFile = "circuit.json";
export const circuitFiles = {
  edges: "edges.parquet",
  svg: "circuit.svg",
  graphml: "circuit.graphml",
  graph: "circuit.graph.json",
  /** The whole graph, before it was pruned: JSON of a `CircuitGraph`. */
  whole: graphFile,
} as const;

const logits = z.number().describe("in logits, mean over the pairs");

/** `circuit.json`: how a circuit was made, and once it is finished what it is. */
export const circuitFileSchema = z.strictObject({
  command: z.literal("circuit"),
  status: z.enum(["running", "finished"]),
  options: optionsSchema,
  versions: versionsSchema,
  run: z.string().describe("SHA-256 of what the run was made of and of its pairs"),
  circuit: circuitSchema.nullable(),
  pairs: z.int().min(1).describe("over how many pairs edges were taken"),
  checks: z.array(checkSchema),
  scores: z
    .strictObject({ replacement: z.number().nullable(), completeness: z.number().nullable() })
    .nullable()
    .describe(
      "of the graph before it was pruned: share of influence from tokens, and of inputs from nodes other than errors",
    ),
  sites: z
    .array(
      z.strictObject({
        site: z.string(),
        features: z.int().min(0),
        carried: logits,
        error: logits,
        total: logits,
        remainder: logits,
      }),
    )
    .describe("what of a site's effects the circuit's features carry, what its error, and what no edge of theirs does"),
  graph: z.strictObject({ nodes: z.int(), edges: z.int(), drawn_nodes: z.int(), drawn_edges: z.int() }).nullable(),
  strongest: z.array(z.strictObject({ source: z.string(), target: z.string(), edge: logits })),
});

/** The contents of circuit.json. */
export type CircuitFile = z.infer<typeof circuitFileSchema>;

const circuitFolder: FolderKind<CircuitFile> = {
  noun: "circuit",
  manifestFile: circuitFile,
  schema: circuitFileSchema,
  files: () => [...Object.values(circuitFiles), cardsFile],
};

/** Opens `path` as a circuit's folder, see `openWorkFolder`. */
export const openCircuitFolder = (
  path: string,
  options: CircuitFile["options"],
  force: boolean,
): Promise<OpenFolder<CircuitFile> | FinishedFolder<CircuitFile>> =>
  openWorkFolder(circuitFolder, path, options, force);

/** Empties a circuit's folder, see `abandonWork`. */
export const abandonCircuit = (folder: OpenFolder<CircuitFile>): Promise<void> => abandonWork(circuitFolder, folder);

/**
 * Looks whether the files of a finished circuit are there, to their ends.
 *
 * @throws UserError if one is missing or was cut off, naming it
 */
export async function checkCircuitFiles(path: string): Promise<void> {
  for (const name of Object.values(circuitFiles)) {
    const end = await readFile(join(path, name)).then(
      (bytes) => bytes.subarray(-20).toString("latin1").trimEnd(),
      () => null,
    );
    if (end?.endsWith(endOf[extname(name)]!)) continue;
    throw new UserError(
      `circuit: expected all its files, got ${name} ${end === null ? "missing" : "cut off"} in ${path}. Give --force to make it again.`,
    );
  }
}

/** What whole files end with, by the ends of their names. */
const endOf: Readonly<Record<string, string>> = {
  ".parquet": "PAR1",
  ".json": "}",
  ".svg": "</svg>",
  ".graphml": "</graphml>",
};

/** Writes circuit.json. @throws UserError if it cannot be written */
export const writeCircuit = (path: string, file: CircuitFile): Promise<void> =>
  writeFileAtomic(join(path, circuitFile), `${JSON.stringify(circuitFileSchema.parse(file), null, 1)}\n`);

/** The parts of a circuit in the making, in the folder for unfinished work. */
export interface CircuitParts extends CircuitPlaces {
  /** Puts the edges of all target sites together, in this order. */
  writeEdges(path: string, targets: readonly string[]): Promise<void>;
  close(): void;
}

/**
 * Opens the places of a circuit's parts: one file of sums and one of rows for each target site, which count once they are sealed.
 *
 * @param identity what results depend on; what was made of other things is removed
 */
export async function circuitParts(
  folder: OpenFolder<CircuitFile>,
  identity: unknown,
  startOver: () => void,
): Promise<CircuitParts> {
  const partial = await partialFor(folder, [identity], startOver);
  const database = await Database.open({ memory_limit: "1GB" });
  const chosenPath = join(partial, "chosen.json");
  const at = (target: string) => join(partial, `edges.${sha256OfText(target).slice(0, 16)}`);
  const filesOf = (target: string) => [`${at(target)}.json`, `${at(target)}.parquet`];
  return {
    async chosen() {
      const stored = await readJsonFile(chosenPath).catch(() => null);
      const parsed = circuitSchema.shape.features.safeParse(stored).data;
      return parsed && featuresOf(parsed);
    },
    keepChosen: (features) => writeFileAtomic(chosenPath, JSON.stringify(featuresJson(features))),
    masks: maskPlaces(join(partial, "masks.json")),
    async read(target) {
      if (!(await isSealed(`${at(target)}.seal`, filesOf(target)))) return undefined;
      return edgeSumsSchema.safeParse(await readJsonFile(`${at(target)}.json`).catch(() => null)).data;
    },
    async write(sums, rows) {
      await writeRows(database, sums.target, rows, `${at(sums.target)}.parquet`);
      await writeFileAtomic(`${at(sums.target)}.json`, JSON.stringify(sums));
      await seal(`${at(sums.target)}.seal`, filesOf(sums.target));
    },
    writeEdges: (path, targets) =>
      database.copy(`SELECT * FROM ${database.files(...targets.map((of) => `${at(of)}.parquet`))}`, path),
    close: () => database.close(),
  };
}

async function writeRows(database: Database, target: string, rows: EdgeRows, path: string): Promise<void> {
  await database.load("edge_rows", {
    group: ["USMALLINT", rows.group],
    target: ["INTEGER", rows.target],
    place: ["USMALLINT", rows.place],
    source: ["INTEGER", rows.source],
    node: ["INTEGER", rows.node],
    position: ["INTEGER", rows.position],
    source_node: ["INTEGER", rows.sourceNode],
    source_position: ["INTEGER", rows.sourcePosition],
    edge: ["DOUBLE", rows.edge],
  });
  const of = (key: "split" | "case") =>
    named(
      rows.groups.map((group) => group[key]),
      '"group"',
    );
  await database.copy(
    `SELECT ${of("split")} AS split, ${of("case")} AS "case", ${text(target)} AS target_site, target,
       ${named(rows.sources, "place")} AS source_site, source, nullif(node, -1) AS node, nullif(position, -1) AS position,
       nullif(source_node, -1) AS source_node, nullif(source_position, -1) AS source_position, edge
     FROM edge_rows`,
    path,
  );
  await database.run("DROP TABLE edge_rows");
}
