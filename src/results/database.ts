import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import type { DuckDBConnection, DuckDBDataChunk, DuckDBInstance, DuckDBValue } from "@duckdb/node-api";
import { messageOf, StoppedError, UserError } from "../errors.ts";
import { steps } from "../progress.ts";
import { writeBeside } from "../storage/files.ts";

/**
 * Snappy is a tenth larger than zstd here (the columns are mostly floats), as fast, and the one codec that every reader of Parquet brings along.
 */
const parquet = (codec: Codec) => `(FORMAT parquet, COMPRESSION ${codec}, USE_TMP_FILE false)`;
type Codec = "snappy" | "zstd";

/** Rows of a DuckDB vector. */
const vectorSize = 2048;

type Values = Int32Array | Uint16Array | Float32Array | Float64Array | readonly string[];

/** A column of a table: its type, and a value for each row. */
export type Column = readonly ["DOUBLE" | "FLOAT" | "INTEGER" | "USMALLINT" | "VARCHAR", Values];
type Columns = Readonly<Record<string, Column>>;

/** DuckDB, loaded where it is needed. An import would parse its 150 CommonJS files twice, which takes twice as long. */
function duckdb(): typeof import("@duckdb/node-api") {
  return createRequire(import.meta.url)("@duckdb/node-api");
}

/**
 * A DuckDB in memory that never uses the network, for Parquet files in folders of any name.
 *
 * DuckDB takes a path for a pattern (`*`, `?`, `[`), and `<column>=<text>` in it for a column. Where a folder's name has anything but plain characters,
 * DuckDB sees the folder through a link with a plain name, which lies in the system's folder for temporary files until `close`.
 */
export class Database {
  readonly #db: DuckDBConnection;
  readonly #instance: DuckDBInstance;
  readonly #isOwner: boolean;
  readonly #links = new Links();
  readonly #stopped: () => boolean;

  private constructor(instance: DuckDBInstance, db: DuckDBConnection, stopped: () => boolean, isOwner = true) {
    this.#instance = instance;
    this.#isOwner = isOwner;
    this.#db = db;
    this.#stopped = stopped;
  }

  /**
   * @param settings DuckDB's own, see https://duckdb.org/docs/configuration
   * @param stopped asked during all work; true ends it with a StoppedError
   */
  static async open(
    settings: Readonly<Record<string, string>> = {},
    stopped: () => boolean = () => false,
  ): Promise<Database> {
    const instance = await duckdb().DuckDBInstance.create(":memory:", {
      autoinstall_known_extensions: "false",
      preserve_insertion_order: "true",
      // Made when something does not fit into memory, gone at the end. DuckDB's own choice is .tmp in the current folder.
      temp_directory: join(tmpdir(), `sfc-spill-${randomUUID()}`),
      ...settings,
    });
    return new Database(instance, await instance.connect(), stopped);
  }

  /** The same database for work at the same time: it has all settings and no temporary tables, and is closed before this one. */
  async beside(): Promise<Database> {
    return new Database(this.#instance, await this.#instance.connect(), this.#stopped, false);
  }

  /** Lets DuckDB put what does not fit in memory into this folder. */
  async spillInto(folder: string): Promise<void> {
    await this.run(`SET temp_directory = ${text(this.#links.plain(folder))}`);
  }

  /** Runs a statement whose rows nobody asks for. */
  async run(sql: string): Promise<void> {
    await this.#interrupted(this.#db.run(sql));
  }

  /**
   * A table expression for exactly these Parquet files, one after another.
   *
   * @throws UserError if a folder's name needs a link and none can be made
   */
  files(...paths: readonly string[]): string {
    return `read_parquet([${paths.map((path) => text(this.#links.plain(path)))}], hive_partitioning = false)`;
  }

  /**
   * Writes the rows of a query to a Parquet file, in their order, whole or not at all.
   *
   * @throws UserError if the disk is full or the place cannot be written
   */
  async copy(query: string, path: string, codec: Codec = "snappy"): Promise<void> {
    await writeBeside(path, async (part) => {
      await this.run(`COPY (${query}) TO ${text(this.#links.plain(part))} ${parquet(codec)}`);
    });
  }

  /** Fills a new table from columns. */
  async load(table: string, columns: Columns): Promise<void> {
    const described = Object.entries(columns).map(([name, [type]]) => `"${name}" ${type}`);
    await this.run(`CREATE OR REPLACE TEMP TABLE ${table} (${described.join(", ")})`);
    await this.append(table, Object.values(columns));
  }

  /** Adds rows to a table: whole vectors are copied into DuckDB's own chunks, 2,048 rows at a time. */
  async append(table: string, columns: readonly Column[]): Promise<void> {
    const duck = duckdb();
    const types = columns.map(([type]) => duck[type]);
    const rows = columns[0]?.[1].length ?? 0;
    const uneven = columns.findIndex(([, values]) => values.length !== rows);
    if (uneven >= 0) {
      throw new Error(`internal: column ${uneven} of ${table} has ${columns[uneven]?.[1].length} rows, not ${rows}`);
    }
    const appender = await this.#db.createAppender(table, "main", "temp");
    const step = steps({ stopped: this.#stopped }, rows);
    let chunk = duck.DuckDBDataChunk.create(types);
    for (let start = 0; start < rows; start += vectorSize) {
      step(start);
      const size = Math.min(vectorSize, rows - start);
      // What is appended is copied, so that one chunk serves all parts of its size.
      if (start > 0 && size < vectorSize) chunk = duck.DuckDBDataChunk.create(types);
      if (chunk.rowCount !== size) chunk.rowCount = size;
      for (const [i, [, values]] of columns.entries()) fill(chunk, i, values, start, size);
      appender.appendDataChunk(chunk);
    }
    appender.closeSync();
  }

  /** The rows of a query, as objects. */
  async rows<Row>(sql: string): Promise<Row[]> {
    return (await this.#interrupted(this.#db.runAndReadAll(sql))).getRowObjectsJS() as Row[];
  }

  /** The columns of a query whose rows are all wanted at once. */
  async wholeColumns(sql: string): Promise<readonly unknown[][]> {
    return (await this.#interrupted(this.#db.runAndReadAll(sql))).getColumnsJS();
  }

  /** The rows of a query, as objects, in parts of a few thousand: no more of them are in memory at a time. */
  async *stream<Row>(sql: string): AsyncGenerator<Row[]> {
    for await (const part of (await this.#interrupted(this.#db.stream(sql))).yieldRowObjectJs()) yield part as Row[];
  }

  /** The rows of a query whose columns are all numbers, as columns, in parts of a few thousand rows. */
  async *columns(sql: string): AsyncGenerator<readonly number[][]> {
    const step = steps({ stopped: this.#stopped }, 1);
    for await (const chunk of await this.#interrupted(this.#db.stream(sql))) {
      step(0);
      yield chunk.getColumns() as number[][];
    }
  }

  /** Waits for DuckDB, and interrupts it if asked to stop. @throws StoppedError */
  async #interrupted<T>(work: Promise<T>): Promise<T> {
    let isStopped = false;
    const watch = setInterval(() => {
      isStopped ||= this.#stopped();
      if (isStopped) this.#db.interrupt();
    }, 100);
    try {
      return await work;
    } catch (error) {
      throw isStopped ? new StoppedError() : error;
    } finally {
      clearInterval(watch);
    }
  }

  close(): void {
    this.#db.closeSync();
    if (this.#isOwner) this.#instance.closeSync();
    this.#links.remove();
  }
}

/** Puts some rows of a column into a chunk: numbers at once where its vector has an array of their type, which takes a tenth of setting each. */
function fill(chunk: DuckDBDataChunk, column: number, values: Values, start: number, size: number): void {
  const vector = chunk.getColumnVector(column) as unknown as { readonly items?: unknown; flush(): void };
  const { items } = vector;
  if (values instanceof Float64Array && items instanceof Float64Array) set(items, values);
  else if (values instanceof Float32Array && items instanceof Float32Array) set(items, values);
  else if (values instanceof Int32Array && items instanceof Int32Array) set(items, values);
  else if (values instanceof Uint16Array && items instanceof Uint16Array) set(items, values);
  // DuckDB's declaration wants plain arrays; it only reads length and elements.
  else chunk.setColumnValues(column, values.slice(start, start + size) as unknown as DuckDBValue[]);

  function set<T extends { set(from: T): void; subarray(from: number, to: number): T }>(to: T, from: T): void {
    to.set(from.subarray(start, start + size));
    vector.flush();
  }
}

/** A text as a literal of SQL. */
export const text = (value: string) => `'${value.replaceAll("'", "''")}'`;

/** A column of texts, from one that counts them from 0. */
export const named = (texts: readonly string[], column: string) =>
  `CAST([${texts.map(text).join(", ")}] AS VARCHAR[])[${column} + 1]`;

/** Whether a path has nothing that could mean more to DuckDB than the path of one file. */
const isPlain = (path: string) =>
  process.platform === "win32" ? /^[\w ./\\:-]*$/.test(path) : /^[\w ./-]*$/.test(path);

/** Links with plain names to folders with others. */
class Links {
  #home: string | undefined;
  readonly #byFolder = new Map<string, string>();

  /** A path for the same file, of plain characters. The file's own name must be plain. */
  plain(path: string): string {
    const whole = resolve(path);
    if (isPlain(whole)) return whole;
    const folder = dirname(whole);
    let link = this.#byFolder.get(folder);
    if (link === undefined) {
      this.#home ??= makeHome();
      link = join(this.#home, String(this.#byFolder.size));
      symlinkSync(folder, link, "junction");
      this.#byFolder.set(folder, link);
    }
    return join(link, basename(whole));
  }

  remove(): void {
    if (this.#home !== undefined) rmSync(this.#home, { recursive: true, force: true });
  }
}

function makeHome(): string {
  let why = "no folder for temporary files has a plain name";
  for (const place of [tmpdir(), "/tmp"].filter(isPlain)) {
    try {
      return mkdtempSync(join(place, "sfc-"));
    } catch (error) {
      why = messageOf(error);
    }
  }
  throw new UserError(
    `The tables' folder has a name that needs a link in the folder for temporary files, and none can be made (${why}). Set TMPDIR to a folder that can be written, or choose another --output_dir.`,
  );
}
