import { type ChildProcess, fork, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, statSync } from "node:fs";
import { cp, mkdir, readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { asyncBufferFromFile, parquetReadObjects } from "hyparquet";
import { afterAll, expect } from "vitest";
import { writeSafetensors } from "../src/bytes/safetensors.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
/** The command as a user has it: built. `npm test` builds it first. */
export const entry = join(root, "dist/cli/main.js");
if (!existsSync(entry)) throw new Error("dist/cli/main.js is missing: run npm run build first");
const newer = sourceNewerThan(statSync(entry).mtimeMs);
if (newer !== undefined) throw new Error(`dist is older than ${newer}: run npm run build first`);

/** A source that was changed after a build, which the commands would be tested without. */
export function sourceNewerThan(built: number, under = root): string | undefined {
  const sources = ["src", "web", "package.json", "tsconfig.build.json"];
  return sources
    .flatMap((name) => {
      const path = join(under, name);
      return statSync(path).isDirectory() ? filesUnder(path).map((file) => join(name, file)) : [name];
    })
    .find((file) => statSync(join(under, file)).mtimeMs > built);
}

export const fixtures = fileURLToPath(new URL("fixtures", import.meta.url));
/** Two blocks, D = 32, words w3 … w79 as tokens. */
export const llama = join(fixtures, "llama-mha");

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Started {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
}

/** Starts the command in a process of its own, its streams no terminals. */
export function start(args: readonly string[], main = entry, env: NodeJS.ProcessEnv = {}): Started {
  const child = spawn(process.execPath, [main, ...args], {
    cwd: tmpdir(),
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const text = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const)
    child[name].setEncoding("utf8").on("data", (s) => (text[name] += s));
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal, ...text }));
  });
  return { child, ended };
}

/** Runs a script of bash in which $SFC is the command. */
export function shell(script: string, cwd = tmpdir()): Promise<Pick<Ended, "code" | "stdout" | "stderr">> {
  const child = spawn("bash", ["-c", script], { cwd, env: { ...process.env, SFC: `${process.execPath} ${entry}` } });
  let [stdout, stderr] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text) => (stdout += text));
  child.stderr.setEncoding("utf8").on("data", (text) => (stderr += text));
  return new Promise((resolve) => child.on("close", (code) => resolve({ code, stdout, stderr })));
}

/** Words of a command for bash. */
export const quoted = (args: readonly string[]): string => args.map((arg) => `'${arg}'`).join(" ");

/** Peak resident memory of a command in bytes, from the first moment to its end; it has to succeed. */
export async function peakOf({ child, ended }: Started): Promise<number> {
  let peak = 0;
  const look = () => {
    const status = existsSync(`/proc/${child.pid}/status`) ? readFileSync(`/proc/${child.pid}/status`, "utf8") : "";
    peak = Math.max(peak, 1024 * Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0));
  };
  const timer = setInterval(look, 10);
  await succeeds([], ended);
  clearInterval(timer);
  return peak;
}

let warm: ChildProcess | undefined;
let last: Promise<unknown> = Promise.resolve();
afterAll(async () => {
  const child = warm;
  if (!child) return;
  const gone = new Promise((resolve) => child.once("exit", resolve));
  child.disconnect();
  await gone;
});

/**
 * Runs a command to its end, in a process that all commands of a test file share one after another (cli-warm.mjs). Where the process is the point
 * (its signals, streams, memory, threads), `start` gives the command one of its own.
 */
export function run(args: readonly string[], env: NodeJS.ProcessEnv = {}, cwd = tmpdir()): Promise<Ended> {
  const ended = last.then(() => runWarm(args, env, cwd));
  last = ended.catch(() => {});
  return ended;
}

function runWarm(args: readonly string[], env: NodeJS.ProcessEnv, cwd: string): Promise<Ended> {
  warm ??= fork(fileURLToPath(new URL("cli-warm.mjs", import.meta.url)), [pathToFileURL(entry).href], {
    cwd: tmpdir(),
    execArgv: [],
    // Nobody looks at the process's own stderr but where it breaks.
    stdio: ["ignore", "ignore", "inherit", "ipc"],
  });
  const child = warm;
  return new Promise((resolve, reject) => {
    const done = (ended: Ended) => {
      child.off("exit", gone);
      resolve(ended);
    };
    const gone = (code: number | null, signal: NodeJS.Signals | null) => {
      child.off("message", done);
      warm = undefined;
      reject(new Error(`the process of the commands ended (${signal ?? code}) at sfc ${args.join(" ")}`));
    };
    child.once("message", done);
    child.once("exit", gone);
    child.send({ args, env, cwd });
  });
}

/** Runs the command to its end. */
export const sfc = (...args: readonly string[]): Promise<Ended> => run(args);

/**
 * A copy of the built program that can be changed; its node_modules is a folder of links.
 *
 * @returns its entry, for `start`
 */
export async function copyProgram(folder: string): Promise<string> {
  await mkdir(join(folder, "node_modules"), { recursive: true });
  await cp(join(root, "dist"), join(folder, "dist"), { recursive: true });
  await cp(join(root, "package.json"), join(folder, "package.json"));
  for (const name of await readdir(join(root, "node_modules"))) {
    await symlink(join(root, "node_modules", name), join(folder, "node_modules", name));
  }
  return join(folder, "dist/cli/main.js");
}

/** Writes an SAE for the small Llama at `<folder>/<site>`, all weights the same, as SAELens would. */
export async function writeSae(folder: string, site: string, value = 0.1): Promise<void> {
  const [D, F] = [32, 40];
  const tensors = new Map([
    ["W_enc", { shape: [D, F], data: new Float32Array(D * F).fill(value) }],
    ["W_dec", { shape: [F, D], data: new Float32Array(F * D).fill(value) }],
    ["b_enc", { shape: [F], data: new Float32Array(F) }],
    ["b_dec", { shape: [D], data: new Float32Array(D) }],
  ]);
  await mkdir(join(folder, site), { recursive: true });
  await writeFile(join(folder, site, "cfg.json"), JSON.stringify({ architecture: "standard", d_in: D, d_sae: F }));
  await writeFile(join(folder, site, "sae_weights.safetensors"), writeSafetensors(tensors));
}

/** The flags of a run on the small Llama with random directions for SAEs. */
export function runFlags(pairs: string, folder: string, ...more: readonly string[]): string[] {
  return ["run", "--model_name", llama, "--sae_source", "dummy", "--pairs", pairs, "--output_dir", folder, ...more];
}

export async function succeeds(args: readonly string[], ended: Promise<Ended> = run(args)): Promise<Ended> {
  const { stderr, ...rest } = await ended;
  expect(rest, stderr).toMatchObject({ code: 0, signal: null });
  expect(stderr).not.toContain("Closing file descriptor");
  return { stderr, ...rest };
}

/** A command that succeeds in a process of its own. */
export const succeedsAlone = (args: readonly string[]): Promise<Ended> => succeeds(args, start(args).ended);

/**
 * Expects a failure as users should see it: the exit code, nothing on stdout, one line on stderr after those of progress, and in it all of `parts`.
 */
export function expectError({ code, stdout, stderr }: Ended, exitCode: 1 | 2, ...parts: readonly string[]): void {
  const lines = stderr.trimEnd().split("\n");
  const rest = lines.filter((line) => !isProgress(line));
  expect({ code, stdout, errors: rest.length }, stderr).toEqual({ code: exitCode, stdout: "", errors: 1 });
  expect(lines.at(-1)).toBe(rest[0]);
  expect(rest[0]).toMatch(/^sfc: .*[.)]$/);
  for (const part of parts) expect(rest[0]).toContain(part);
}

function isProgress(line: string): boolean {
  return (
    /^\w[\w:@ -]*: ([\d.]+ s|\d+ min \d+ s|\d+ %, .*)$/.test(line) ||
    /^(DUMMY|Left out|Accuracy below|SAEs leave|Effects|Resuming|Downloading|Waiting for)/.test(line)
  );
}

/** Expects what a failure may leave in an output folder: nothing, or a manifest that says that it failed and work from which the same command goes on. */
export async function expectNothingHalfWritten(folder: string): Promise<void> {
  const files = filesUnder(folder);
  if (files.length === 0) return expect(existsSync(folder)).toBe(false);
  expect(files.filter((file) => !file.startsWith(".partial/") || file.endsWith(".part"))).toEqual(["run.json"]);
  expect(await manifestOf(folder)).toMatchObject({ status: "failed", error: expect.any(String) });
}

export interface Example {
  readonly clean_prefix: string;
  readonly patch_prefix: string;
  readonly clean_answer: string;
  readonly patch_answer: string;
  readonly case?: string;
  readonly split?: string;
}

/** Pairs in the small Llama's words: two cases, two splits, prompts of three words that share their prefixes here and there. */
export function examples(count: number): Example[] {
  return Array.from({ length: count }, (_, i) => {
    const [first, second] = [3 + (i % 29), 3 + ((7 * i) % 61)];
    return {
      clean_prefix: `w${first} w${40 + (i % 5)} w${second}`,
      patch_prefix: `w${first + 30} w${40 + (i % 5)} w${second}`,
      clean_answer: " w11",
      patch_answer: " w13",
      case: i % 3 === 0 ? "one" : "two",
      split: i % 2 === 0 ? "train" : "test",
    };
  });
}

export async function writeExamples(path: string, list: readonly object[]): Promise<string> {
  await writeFile(path, list.map((example) => `${JSON.stringify(example)}\n`).join(""));
  return path;
}

/** All files under a folder, hidden ones too; none if it is not there, or goes just now. */
export function filesUnder(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .flatMap((e) => (e.isDirectory() ? filesUnder(join(folder, e.name)).map((f) => join(e.name, f)) : [e.name]))
      .sort();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

export type Row = Readonly<Record<string, unknown>>;

export async function rowsOf(folder: string, table: "nodes" | "effects" | "features"): Promise<Row[]> {
  return parquetReadObjects({ file: await asyncBufferFromFile(join(folder, `${table}.parquet`)) });
}

export async function manifestOf(folder: string) {
  return JSON.parse(await readFile(join(folder, "run.json"), "utf8"));
}

export const completeRun = [
  "ablation.json",
  "effects.parquet",
  "feature-cards.json",
  "features.parquet",
  "nodes.parquet",
  "pairs.jsonl",
  "ranking.json",
  "report.html",
  "run.json",
];

/** Expects a complete run's folder: every file, and nothing left of the work. */
export async function expectComplete(folder: string): Promise<void> {
  expect((await readdir(folder)).sort()).toEqual(completeRun);
  expect(await manifestOf(folder)).toMatchObject({ status: "finished", error: null });
}

/** Expects two complete runs with the same numbers to the last bit. */
export async function expectSameRun(folder: string, other: string): Promise<void> {
  await expectComplete(folder);
  for (const file of ["pairs.jsonl", "ranking.json", "ablation.json", "feature-cards.json"]) {
    expect(await readFile(join(folder, file), "utf8")).toBe(await readFile(join(other, file), "utf8"));
  }
  for (const table of ["nodes", "effects", "features"] as const) {
    const [here, there] = [await rowsOf(folder, table), await rowsOf(other, table)];
    expect(here.length).toBe(there.length);
    const differing = here.findIndex((row, i) => JSON.stringify(row) !== JSON.stringify(there[i]));
    if (differing >= 0) expect({ table, row: here[differing] }).toEqual({ table, row: there[differing] });
  }
  const { checks, counts, accuracy } = await manifestOf(other);
  expect(await manifestOf(folder)).toMatchObject({ checks, counts, accuracy });
}

/** Waits until the files of a folder are as wanted. @returns false if the process ended before */
export async function until(
  folder: string,
  { child }: Started,
  wanted: (files: string[]) => boolean,
): Promise<boolean> {
  while (!wanted(filesUnder(folder))) {
    if (child.exitCode !== null || child.signalCode !== null) return false;
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  return true;
}

/**
 * Starts a run in a new folder and sends it a signal once the files there are as wanted. Where it was too quick for that, as when this process had
 * to wait for a processor, it tries again in another folder.
 *
 * @returns the folder of a run that was not finished when the signal came; the process has ended, or stands still after SIGSTOP
 */
export async function signalAmidst(
  signal: NodeJS.Signals,
  wanted: (files: string[]) => boolean,
  flags: (folder: string) => string[],
  name: string,
): Promise<{ folder: string; run: Started }> {
  for (let attempt = 1; attempt <= 5; attempt++) {
    const folder = `${name} ${attempt}`;
    const run = start(flags(folder));
    if (await until(folder, run, wanted)) {
      run.child.kill(signal);
      if (signal !== "SIGSTOP") await run.ended;
      if ((await manifestOf(folder)).status === "running") return { folder, run };
      run.child.kill("SIGCONT");
    }
    await run.ended;
  }
  throw new Error("five runs were done before a signal could reach them in their middle");
}

export const packsIn = (files: readonly string[]) =>
  files.filter((file) => /pack-[^/]*\.safetensors$/.test(file)).length;

/** Mounts a file system of so many KiB in memory, or changes its size. @returns whether the system lets us */
export function mountSmall(folder: string, kibibytes: number, { remount = false, readOnly = false } = {}): boolean {
  const options = [...(remount ? ["remount"] : []), ...(readOnly ? ["ro"] : []), `size=${kibibytes}k`].join(",");
  return spawnSync("mount", ["-t", "tmpfs", "-o", options, "none", folder]).status === 0;
}

export const unmount = (folder: string) => spawnSync("umount", [folder]).status === 0;

/** Whether this system and user may mount. */
export function canMount(): boolean {
  const folder = mkdtempSync(join(tmpdir(), "sfc-mount-"));
  try {
    return mountSmall(folder, 64) && unmount(folder);
  } finally {
    rmdirSync(folder);
  }
}
