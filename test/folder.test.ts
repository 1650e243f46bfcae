import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { chmod, lstat, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { UserError } from "../src/errors.ts";
import {
  completeRunFolder,
  inspectRunFolder,
  type OpenFolder,
  openRunFolder,
  optionDifferences,
} from "../src/results/folder.ts";
import { type Manifest, type RunOptions, startManifest, writeManifest } from "../src/results/manifest.ts";
import {
  jobProblem,
  makeFolder,
  reserveFolder,
  systemProblem,
  writeBeside,
  writeFileAtomic,
  writeProblem,
} from "../src/storage/files.ts";

let home: string;
let path: string;
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-folder-"));
  path = join(home, "outputs", "demo-agreement-1");
});
afterEach(() => rm(home, { recursive: true, force: true }));

const options: RunOptions = { seed: 1, layers: "0-3", num_examples: 100 };
const begun = (of: RunOptions): Manifest =>
  startManifest({ command: "run", options: of, seed: 1, versions: {} }, new Date(0));

async function open(of = options, force = false): Promise<OpenFolder> {
  const folder = await openRunFolder(path, of, force);
  if (folder.state === "finished") throw new Error("finished");
  return folder;
}

/** A run as far as it gets before it is interrupted. */
async function interrupted(): Promise<void> {
  const folder = await open();
  await writeManifest(path, begun(options));
  await writeFile(join(folder.partial, "effects.embed.parquet"), "rows");
  await folder.release();
}

async function finished(): Promise<void> {
  const folder = await open();
  await writeManifest(path, begun(options));
  await writeFile(join(path, "features.parquet"), "features");
  await completeRunFolder(folder, begun(options));
}

describe("a run's folder", () => {
  it("is made where there is none, and says that it is not complete until it is", async () => {
    expect(await inspectRunFolder(path)).toEqual({ state: "absent" });
    const folder = await open();
    expect(folder).toMatchObject({ state: "new", manifest: undefined });
    expect(await inspectRunFolder(path)).toEqual({ state: "empty" });
    await writeManifest(path, begun(options));
    expect((await inspectRunFolder(path)).state).toBe("unfinished");
    await completeRunFolder(folder, begun(options));
    expect((await inspectRunFolder(path)).state).toBe("complete");
    expect(await readdir(path)).toEqual(["run.json"]);
  });

  it("goes on where it stopped, with the same options", async () => {
    await interrupted();
    await writeFile(join(path, "effects.parquet.4711.part"), "half");
    const again = await open();
    expect(again).toMatchObject({ state: "resume", manifest: { status: "running" } });
    expect(await readFile(join(again.partial, "effects.embed.parquet"), "utf8")).toBe("rows");
    expect(existsSync(join(path, "effects.parquet.4711.part"))).toBe(false);
    await again.release();
  });

  it("has nothing to do when it is finished with the same options", async () => {
    await finished();
    expect(await openRunFolder(path, { ...options })).toMatchObject({ state: "finished", manifest: { options } });
    expect((await readdir(path)).sort()).toEqual(["features.parquet", "run.json"]);
  });

  it("refuses other options and names them, finished or not", async () => {
    await finished();
    await expect(open({ ...options, seed: 2, layers: null })).rejects.toThrow(
      `output folder: expected the options of its finished run, got --layers 0-3 here, unset asked; --seed 1 here, 2 asked in ${path}. Choose another --output_dir, or --force to replace that run.`,
    );
    await rm(path, { recursive: true });
    await interrupted();
    await expect(open({ ...options, seed: 2 })).rejects.toThrow(/interrupted run, got --seed 1 here, 2 asked in/);
    expect(existsSync(join(path, ".partial", "effects.embed.parquet"))).toBe(true);
  });

  it("with force removes what the run wrote, and nothing else", async () => {
    await finished();
    await writeFile(join(path, "notes.txt"), "mine");
    const folder = await open({ ...options, seed: 2 }, true);
    expect(folder.state).toBe("new");
    expect((await inspectRunFolder(path)).state).toBe("unfinished");
    expect((await readdir(path)).sort()).toEqual([".lock", ".partial", "notes.txt", "run.json"]);
    expect(await readdir(folder.partial)).toEqual([]);
    await folder.release();
  });

  it("with force begins an interrupted run again", async () => {
    await interrupted();
    const folder = await open(options, true);
    expect(folder.state).toBe("new");
    expect(await readdir(folder.partial)).toEqual([]);
    await folder.release();
  });

  it("of another version is refused by its field, and replaced with force", async () => {
    await finished();
    const stored = { ...begun(options), status: "finished", speed: 1 };
    await writeFile(join(path, "run.json"), JSON.stringify(stored));
    await expect(open()).rejects.toThrow(
      /^output folder: expected a run of this version, got one that another version wrote \(.*"speed".*\) in .*--force to replace that run\.$/,
    );
    expect(await readdir(path)).toEqual(["features.parquet", "run.json"]);
    const folder = await open(options, true);
    expect(folder).toMatchObject({ state: "new", manifest: undefined });
    expect((await readdir(path)).sort()).toEqual([".lock", ".partial", "run.json"]);
    expect(JSON.parse(await readFile(join(path, "run.json"), "utf8")).status).toBe("running");
    await folder.release();
  });

  it("never touches what is not a run's folder, even with force", async () => {
    await mkdir(path, { recursive: true });
    await writeFile(join(path, "pairs.jsonl"), "somebody's pairs");
    for (const force of [false, true]) {
      await expect(open(options, force)).rejects.toThrow(
        `output folder: expected a new, empty or run's folder, got other files (pairs.jsonl) at ${path}. Choose another --output_dir.`,
      );
    }
    await writeFile(join(path, "run.json"), '{"another": "program"}');
    await expect(open(options, true)).rejects.toThrow(
      `got a run.json that is not a run's at ${path}. Choose another --output_dir.`,
    );
    expect((await readdir(path)).sort()).toEqual(["pairs.jsonl", "run.json"]);

    path = join(home, "file");
    await writeFile(path, "a file");
    await expect(open(options, true)).rejects.toThrow(`got a file at ${path}`);
    path = join(home, "file", "below");
    await expect(open()).rejects.toThrow(UserError);
  });

  it.skipIf(process.getuid?.() === 0)("says so where it may not write", async () => {
    await chmod(home, 0o500);
    await expect(open()).rejects.toThrow(
      /^output file: expected a place that can be written, got no permission \(EACCES\) at /,
    );
  });

  it("lists options that differ by name, whatever order they were given in", () => {
    expect(optionDifferences({ seed: 1, sites: ["a", "b"] }, { sites: ["a", "b"], seed: 1 })).toEqual([]);
    expect(optionDifferences({ sites: ["a", "b"], old: true }, { sites: ["a"], task: "x" })).toEqual([
      "--old true here, unset asked",
      "--sites a,b here, a asked",
      "--task unset here, x asked",
    ]);
  });
});

describe("the lock of a run's folder", () => {
  const holder = (pid: number, host = hostname(), begun: string | null = null) => JSON.stringify({ pid, host, begun });

  it("lets one run write at a time", async () => {
    const folder = await open();
    await expect(open()).rejects.toThrow(
      `output folder: expected no other run in it, got process ${process.pid} on ${hostname()} at ${path}. Wait for it, or remove ${join(path, ".lock")} if it has ended.`,
    );
    await folder.release();
    await (await open()).release();
    expect(existsSync(join(path, ".lock"))).toBe(false);
  });

  it("is released once: what another run holds by then stays", async () => {
    const first = await open();
    await first.release();
    const second = await open();
    await first.release();
    await expect(open()).rejects.toThrow("expected no other run in it");
    await second.release();
  });

  it("is held by a living process, and taken over once that has ended", async () => {
    const other = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"]);
    await mkdir(path, { recursive: true });
    await writeFile(join(path, ".lock"), holder(other.pid!));
    await expect(open()).rejects.toThrow(`process ${other.pid}`);
    other.kill("SIGKILL");
    await once(other, "exit");
    await (await open()).release();
    expect(await readdir(path)).toEqual([".partial"]);
  });

  it.runIf(existsSync("/proc/self/stat"))("is not held by a later process with the same number", async () => {
    await mkdir(path, { recursive: true });
    await writeFile(join(path, ".lock"), holder(process.pid, hostname(), "an earlier boot/1"));
    await (await open()).release();
  });

  it("is not taken from another machine, which cannot be asked", async () => {
    await mkdir(path, { recursive: true });
    await writeFile(join(path, ".lock"), holder(1, "elsewhere"));
    await expect(open()).rejects.toThrow("process 1 on elsewhere");
  });

  const noLock: [what: string, make: (file: string) => unknown, got: string][] = [
    ["a folder", (file) => mkdir(file), "got a folder"],
    ["a folder with something in it", (file) => mkdir(join(file, "x"), { recursive: true }), "got a folder"],
    ["a link that leads nowhere", (file) => symlink("/no/such/file", file), "got a link"],
    ["a link to itself", (file) => symlink(".lock", file), "got a link"],
    ["a pipe", (file) => void execFileSync("mkfifo", [file]), "got a device"],
    ["another program's", (file) => writeFile(file, "4711\n"), "got something else"],
    ["a large file", (file) => writeFile(file, Buffer.alloc(5000)), "got something else"],
  ];
  it.each(noLock)("is refused where %s lies in its place, which stays", async (_, make, got) => {
    await mkdir(path, { recursive: true });
    const file = join(path, ".lock");
    await make(file);
    const before = await lstat(file);
    await expect(open()).rejects.toThrow(UserError);
    await expect(open()).rejects.toThrow(got);
    await expect(open()).rejects.toThrow(`at ${file}. Remove it if no other process uses the folder.`);
    expect((await lstat(file)).ino).toBe(before.ino);
  });

  it.runIf(process.getuid?.() === 0 && existsSync("/proc/self/stat"))(
    "is refused where it cannot be read",
    async () => {
      await mkdir(path, { recursive: true });
      for (const folder of [home, join(home, "outputs"), path]) await chmod(folder, 0o777);
      await writeFile(join(path, ".lock"), holder(1), { mode: 0o600 });
      const lock = fileURLToPath(new URL("../dist/storage/lock.js", import.meta.url));
      const script = `import(${JSON.stringify(lock)}).then((m) => m.tryLock(${JSON.stringify(join(path, ".lock"))})).then(console.log, (e) => console.log(e.name, e.message))`;
      const said = execFileSync(process.execPath, ["-e", script], { uid: 65534, gid: 65534, timeout: 300_000 });
      expect(said.toString()).toMatch(/^UserError lock: expected one that can be read, got an error \(EACCES/);
    },
  );

  it.each(["", "\0\0\0\0", '{"pid":12', '{"pid":"x","host":1}', '{"pid":-1,"host":"here"}'])(
    "is taken over where %j was left by a crash",
    async (text) => {
      await mkdir(path, { recursive: true });
      await writeFile(join(path, ".lock"), text);
      await (await open()).release();
      expect(await readdir(path)).toEqual([".partial"]);
    },
  );

  it("is taken over where others ended while they did so", async () => {
    await mkdir(path, { recursive: true });
    const dead = holder(spawnSync("true").pid);
    for (const name of [".lock", ".lock.takeover", ".lock.takeover.takeover"]) await writeFile(join(path, name), dead);
    await (await open()).release();
    expect(await readdir(path)).toEqual([".partial"]);
  });

  it("waits for one that takes it over just now, and names its file", async () => {
    await mkdir(path, { recursive: true });
    await writeFile(join(path, ".lock"), "");
    await writeFile(join(path, ".lock.takeover"), holder(1, "elsewhere"));
    await expect(open()).rejects.toThrow(join(path, ".lock.takeover"));
    expect((await readdir(path)).sort()).toEqual([".lock", ".lock.takeover"]);
  });

  it("goes to one of many that find a dead one", async () => {
    await mkdir(path, { recursive: true });
    await writeFile(join(path, ".lock"), "");
    const opened = await Promise.allSettled(Array.from({ length: 8 }, () => open()));
    const winners = opened.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
    expect(winners).toHaveLength(1);
    await winners[0]!.release();
  });
});

describe("making a folder", () => {
  it("makes those on the way, and takes those that are there", async () => {
    await makeFolder(join(home, "a/b/c"));
    await makeFolder(join(home, "a/b/c"));
    await symlink(join(home, "a"), join(home, "link"));
    await makeFolder(join(home, "link/b/d/"));
    expect((await readdir(join(home, "a/b"))).sort()).toEqual(["c", "d"]);
    await Promise.all(Array.from({ length: 8 }, () => makeFolder(join(home, "x/y/z"))));
    expect(await readdir(join(home, "x/y"))).toEqual(["z"]);
  });

  const refused: [where: string, expected: string | RegExp][] = [
    ["nowhere", /^A link leads nowhere \(.*nowhere\)\. Make its target, or choose another place\.$/],
    ["nowhere/x", /^A link leads nowhere/],
    ["circle/x", "got links in a circle (ELOOP)"],
    ["file", "got a file among them (EEXIST)"],
    ["file/x/y", "got a file among them (ENOTDIR)"],
    [`${"n".repeat(300)}/x`, "got one too long (ENAMETOOLONG)"],
    [`${"../".repeat(30)}dev/null/x`, "got a file among them (ENOTDIR)"],
  ];
  it.each(refused)("says why there is none at %.30s", async (where, expected) => {
    await symlink("/no/such/folder", join(home, "nowhere"));
    await symlink("circle", join(home, "circle"));
    await writeFile(join(home, "file"), "");
    await expect(reserveFolder(join(home, where))).rejects.toThrow(UserError);
    await expect(reserveFolder(join(home, where))).rejects.toThrow(expected);
  });

  it.runIf(existsSync("/proc/self"))("ends where the system has no folders to make", async () => {
    for (const path of ["/proc/none", "/proc/none/x/y", "/proc/self/none/x"]) {
      await expect(reserveFolder(path)).rejects.toThrow(/^No folder can be made there \(.*none\)/);
    }
  });
});

describe("an error of the system", () => {
  it("that nothing else explains is told in one line", async () => {
    const error = await readFile(home).catch((thrown) => thrown);
    expect(systemProblem(error)).toEqual(
      new UserError(
        "Cannot read a file: illegal operation on a directory (EISDIR). Check the path and its permissions.",
      ),
    );
    const missing = await readFile(join(home, "x")).catch((thrown) => thrown);
    expect(systemProblem(missing)).toEqual(
      new UserError(
        `Cannot open ${join(home, "x")}: no such file or directory (ENOENT). Check the path and its permissions.`,
      ),
    );
    const bug = new TypeError("x is not a function");
    expect(systemProblem(bug)).toBe(bug);
  });

  it("met while writing is the user's, whatever it is", () => {
    const failed = (code: string) =>
      Object.assign(new Error(`${code}: so, write`), { code, syscall: "write", errno: -1 });
    const told = (code: string) => (writeProblem(failed(code), "here") as Error).message;
    expect(told("EFBIG")).toContain("expected room on the disk, got a limit on the size of files (EFBIG) at here.");
    expect(told("EMFILE")).toContain("too many open ones");
    expect(told("EISDIR")).toContain("got a folder");
    for (const code of ["EIO", "ENXIO", "ESTALE"]) expect(told(code)).toContain(`got ${code} at here`);
    expect(jobProblem(failed("EFBIG"), "here")).toBeInstanceOf(UserError);
  });
});

describe("writing a file whole or not at all", () => {
  it("replaces what was there and leaves nothing beside it", async () => {
    await writeFileAtomic(join(home, "a.json"), "old");
    await writeFileAtomic(join(home, "a.json"), new Uint8Array([110, 101, 119]));
    expect(await readFile(join(home, "a.json"), "utf8")).toBe("new");
    expect(await readdir(home)).toEqual(["a.json"]);
  });

  it("keeps the old file when the new one fails halfway", async () => {
    await writeFileAtomic(join(home, "a.json"), "old");
    const broken = writeBeside(join(home, "a.json"), async (part) => {
      await writeFile(part, "ne");
      throw new Error("a bug");
    });
    await expect(broken).rejects.toThrow(/^a bug$/);
    expect(await readFile(join(home, "a.json"), "utf8")).toBe("old");
    expect(await readdir(home)).toEqual(["a.json"]);
  });

  it.runIf(existsSync("/dev/full"))("says that the disk is full", async () => {
    const file = join(home, "a.json");
    await symlink("/dev/full", `${file}.${process.pid}.part`);
    await expect(writeFileAtomic(file, "x")).rejects.toThrow(
      `output file: expected room on the disk, got a full one (ENOSPC) at ${file}. Free some space, or choose another --output_dir; the same command resumes the work.`,
    );
    expect(await readdir(home)).toEqual([]);
  });

  it("knows a full or forbidden disk by the system's words, where there is no code", () => {
    const told = (message: string) => (writeProblem(new Error(message), "here") as Error).message;
    expect(told('IO Error: Could not write file "x": No space left on device')).toContain("got a full one");
    expect(told('IO Error: Cannot open file "x": Permission denied')).toContain("got no permission");
    const bug = new Error("something else");
    expect(writeProblem(bug, "here")).toBe(bug);
  });

  it("of a whole job's errors takes none for one of writing that may come from reading", () => {
    const coded = (code: string) => Object.assign(new Error(`${code}: no such file or directory`), { code });
    for (const error of [coded("ENOENT"), coded("EACCES"), new Error("no such file or directory")]) {
      expect(jobProblem(error, "here")).toBe(error);
    }
    expect(jobProblem(coded("ENOSPC"), "here")).toBeInstanceOf(UserError);
    const database = new Error('IO Error: Could not write file "x": No space left on device');
    expect(jobProblem(database, "here")).toBeInstanceOf(UserError);
  });
});
