import { closeSync, existsSync, openSync, writeSync } from "node:fs";
import {
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  rmdir,
  stat,
  symlink,
  truncate,
  utimes,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  examples,
  expectError,
  expectSameRun,
  filesUnder,
  llama,
  manifestOf,
  packsIn,
  quoted,
  run,
  runFlags,
  sfc,
  shell,
  signalAmidst,
  start,
  succeeds,
  until,
  writeExamples,
  writeSae,
} from "./cli-harness.ts";

let home: string;
let pairs: string;
let plain: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-places-"));
  pairs = await writeExamples(join(home, "pairs.jsonl"), examples(16));
  plain = join(home, "plain");
  await succeeds(flagsTo(plain));
});
afterAll(() => rm(home, { recursive: true, force: true }));

/** A pack for each pair, so that there is a middle. */
const flagsTo = (folder: string, ...more: readonly string[]) => runFlags(pairs, folder, "--batch_size", "1", ...more);

describe("a run whose folder has any name", () => {
  it.each(["site=none/a[12]?b*", "-{x},'\"\\\n%#"])(
    "%j gives the same tables, also after an interruption",
    async (name) => {
      const folder = join(home, "names", name);
      // What the name would mean as a pattern.
      await mkdir(join(home, "names", "site=none"), { recursive: true });
      await cp(plain, join(home, "names", "site=none", "a1xb"), { recursive: true });
      await succeeds(flagsTo(folder));
      await expectSameRun(folder, plain);
      for (const table of ["nodes", "effects", "features"]) {
        const bytes = await readFile(join(folder, `${table}.parquet`));
        expect(bytes.equals(await readFile(join(plain, `${table}.parquet`)))).toBe(true);
      }
      const killed = await signalAmidst("SIGKILL", (files) => packsIn(files) >= 6, flagsTo, `${folder} killed`);
      await succeeds(flagsTo(killed.folder));
      await expectSameRun(killed.folder, plain);
    },
  );

  it("is made into a report where it was moved to, and compared there", async () => {
    const moved = join(home, "split=train", "[moved]*");
    await mkdir(join(home, "split=train"));
    await cp(plain, moved, { recursive: true });
    await rm(join(moved, "report.html"));
    expect((await succeeds(["report", moved])).stdout).toBe(`Report: ${join(moved, "report.html")}\n`);
    expect(await readFile(join(moved, "report.html"), "utf8")).toBe(await readFile(join(plain, "report.html"), "utf8"));

    const compare = (folder: string) => ["compare", ...runFlags(pairs, folder, "--methods", "analytic,sfc").slice(1)];
    const folder = join(home, "site=x", "feature=3?");
    await succeeds(compare(folder));
    await succeeds(compare(join(home, "compared")));
    for (const method of ["analytic", "sfc"]) {
      const table = await readFile(join(folder, method, "features.parquet"));
      expect(table.equals(await readFile(join(home, "compared", method, "features.parquet")))).toBe(true);
    }
    const report = await readFile(join(folder, "report.html"), "utf8");
    await rm(join(folder, "report.html"));
    expect((await succeeds(["report", folder])).stdout).toBe(`Report: ${join(folder, "report.html")}\n`);
    expect(await readFile(join(folder, "report.html"), "utf8")).toBe(report);

    const file = join(folder, "compare.json");
    const comparison = JSON.parse(await readFile(file, "utf8"));
    await writeFile(file, JSON.stringify({ ...comparison, status: "running" }));
    expectError(await sfc("report", folder), 1, "comparison was interrupted", folder);
    await writeFile(file, JSON.stringify({ ...comparison, pairs: -1 }));
    expectError(await sfc("report", folder), 1, '"pairs"', file);
  });
});

describe("sfc report of something else", () => {
  it("says what it is", async () => {
    const empty = join(home, "empty");
    await mkdir(empty);
    const sae = join(home, "one sae");
    await writeSae(sae, "resid_post.0");
    for (const [path, what] of [
      [join(home, "none"), "got nothing"],
      [join(plain, "report.html"), "got a file"],
      [empty, "got an empty folder"],
      [llama, "got a model's folder"],
      [join(sae, "resid_post.0"), "got an SAE's folder"],
      [join(home, "split=train"), "got a folder of one, as [moved]*,"],
    ] as const) {
      expectError(await sfc("report", path), 1, "expected a run's or a comparison's folder", what, path);
    }
  });
});

describe("what an interruption left, damaged", () => {
  const kinds: [what: string, file: RegExp, reached: (files: string[]) => boolean, more: string[]][] = [
    ["packs", /pack-[^/]*\.safetensors$/, (files) => packsIn(files) >= 8, []],
    ["effects", /effects\.[^/]*\.parquet$/, (files) => files.some((f) => /resid_post\.0[^/]*\.seal$/.test(f)), []],
    ["sums", /sums\.[^/]*\.parquet$/, (files) => files.some((f) => /resid_post\.0[^/]*\.seal$/.test(f)), []],
    ["seals", /\.seal$/, (files) => files.some((f) => /resid_post\.0[^/]*\.seal$/.test(f)), []],
    [
      "rows and streams",
      /wave-[^/]*\.safetensors$/,
      (files) => files.some((f) => /stream-g-01/.test(f)),
      ["--weights", "streamed"],
    ],
  ];
  const damages: [how: string, damage: (path: string) => Promise<void>][] = [
    ["cut off", async (path) => truncate(path, Math.floor((await stat(path)).size * 0.7))],
    ["empty", (path) => truncate(path, 0)],
    [
      "with another byte in it",
      async (path) => {
        const bytes = await readFile(path);
        bytes[bytes.length >> 1]! ^= 0x10;
        await writeFile(path, bytes);
      },
    ],
    [
      "a folder",
      async (path) => {
        await rm(path);
        await mkdir(join(path, "x"), { recursive: true });
      },
    ],
  ];
  it.each(kinds)("%s: computed again, to the same numbers", async (what, kind, reached, more) => {
    const flags = (folder: string) => flagsTo(folder, ...more);
    let whole = plain;
    if (more.length > 0) {
      whole = join(home, `whole ${what}`);
      await succeeds(flags(whole));
    }
    const { folder } = await signalAmidst("SIGKILL", reached, flags, join(home, `damaged ${what}`));
    for (const [how, damage] of damages) {
      const copy = `${folder} ${how}`;
      await cp(folder, copy, { recursive: true });
      const files = filesUnder(copy).filter((file) => kind.test(file));
      expect(files.length, what).toBeGreaterThan(0);
      for (const file of files) await damage(join(copy, file));
      await succeeds(flags(copy));
      await expectSameRun(copy, whole);
    }
  });
});

describe("an input that changes while it is in use", () => {
  /** Its own model, SAEs and pairs, and the flags of a run on them. */
  const inputsOf = async (name: string) => {
    const model = join(home, `${name} model`);
    await cp(llama, model, { recursive: true });
    const saes = join(home, `${name} saes`);
    for (const site of ["resid_post.0", "resid_post.1"]) await writeSae(saes, site);
    const own = await writeExamples(join(home, `${name}.jsonl`), examples(30));
    const flags = (folder: string) => [
      "run",
      "--model_name",
      model,
      "--sae_source",
      saes,
      "--pairs",
      own,
      "--output_dir",
      folder,
      "--batch_size",
      "1",
    ];
    return { model, saes, pairs: own, flags };
  };
  const overwrite = async (path: string) => {
    const { atime, mtime, size } = await stat(path);
    const file = openSync(path, "r+");
    writeSync(file, Buffer.alloc(64, 0x11), 0, 64, size - 128);
    closeSync(file);
    await utimes(path, atime, mtime);
  };
  const replace = async (path: string) => {
    await writeFile(`${path}.new`, await readFile(path));
    await rename(`${path}.new`, path);
  };
  const changes: [
    what: string,
    path: (of: { model: string; saes: string; pairs: string }) => string,
    how: typeof replace,
  ][] = [
    ["weights overwritten, their time set back", ({ model }) => join(model, "model.safetensors"), overwrite],
    ["weights replaced by the same", ({ model }) => join(model, "model.safetensors"), replace],
    ["weights cut off", ({ model }) => join(model, "model.safetensors"), (path) => truncate(path, 5000)],
    ["config.json replaced", ({ model }) => join(model, "config.json"), replace],
    ["an SAE overwritten", ({ saes }) => join(saes, "resid_post.1/sae_weights.safetensors"), overwrite],
    ["an SAE's settings removed", ({ saes }) => join(saes, "resid_post.0/cfg.json"), (path) => rm(path)],
    ["pairs overwritten", (of) => of.pairs, overwrite],
  ];
  const both = changes.flatMap((change) =>
    (["held", "streamed"] as const).map((weights) => [...change, weights] as const),
  );
  // Where weights are kept bears on how they are read, and on nothing else.
  it.each(both.filter(([what, , , weights]) => weights === "held" || what.startsWith("weights")))(
    "%s: the run ends in a line that names it, never finished",
    async (what, pathOf, change, weights) => {
      const inputs = await inputsOf(`${what} ${weights}`);
      const path = pathOf(inputs);
      const reached = (files: string[]) => files.some((file) => /(pack|wave)-/.test(file));
      const flags = (folder: string) => [...inputs.flags(folder), "--weights", weights];
      const { folder, run } = await signalAmidst("SIGSTOP", reached, flags, join(home, `changed ${what} ${weights}`));
      await change(path);
      run.child.kill("SIGCONT");
      expectError(await run.ended, 1, "An input was", "while it was in use", path);
      expect((await manifestOf(folder)).status).not.toBe("finished");
      expect(existsSync(join(folder, ".lock"))).toBe(false);
    },
  );

  it("and a comparison's: the method that ran meanwhile does not count", async () => {
    const inputs = await inputsOf("compare");
    const path = join(inputs.saes, "resid_post.0/sae_weights.safetensors");
    const folder = join(home, "comparison changed");
    const run = start(["compare", ...inputs.flags(folder).slice(1, -2), "--methods", "sfc,analytic,spliced"]);
    const result = (name: string) => (files: string[]) => files.some((file) => file.includes(`${name}/result.seal`));
    expect(await until(folder, run, result("sfc"))).toBe(true);
    await overwrite(path);
    expectError(await run.ended, 1, "An input was written to while it was in use", path);
    expect(filesUnder(folder).some((file) => file.includes("spliced/result.seal"))).toBe(false);
    expect(JSON.parse(await readFile(join(folder, "compare.json"), "utf8")).status).toBe("running");
  });
});

describe("streams and limits", () => {
  it.each([
    ["closed after a line", "2>&1 >/dev/null | head -1"],
    ["closed at once", "2>&1 >/dev/null | true"],
    ["not open", "2>&- >/dev/null | true"],
    ["full", "2>/dev/full >/dev/null | true"],
  ])("stderr %s: the run goes on to its end", async (what, to) => {
    const folder = join(home, `stderr ${what}`);
    const { stdout } = await shell(`$SFC ${quoted(flagsTo(folder))} ${to}; echo exit \${PIPESTATUS[0]}`);
    expect(stdout).toContain("exit 0");
    await expectSameRun(folder, plain);
  });

  it("stderr closed: Ctrl-C still stops it, and its lock goes", async () => {
    const folder = join(home, "stderr stopped");
    const run = start(flagsTo(folder));
    run.child.stderr!.destroy();
    expect(await until(folder, run, (files) => packsIn(files) >= 3)).toBe(true);
    run.child.kill("SIGTERM");
    expect((await run.ended).code).toBe(130);
    expect(existsSync(join(folder, ".lock"))).toBe(false);
  });

  it.runIf(existsSync("/dev/full"))("stdout full: one line, exit 1", async () => {
    for (const args of [flagsTo(plain), ["models"], ["--help"]]) {
      const { code, stderr } = await shell(`$SFC ${quoted(args)} >/dev/full`);
      const lines = stderr
        .trimEnd()
        .split("\n")
        .filter((line) => line.startsWith("sfc:"));
      expect({ code, lines: lines.length }, stderr).toEqual({ code: 1, lines: 1 });
      expect(lines[0]).toBe("sfc: Cannot write to standard output (ENOSPC). Free some space, or send it elsewhere.");
      expect(stderr).not.toContain("    at ");
    }
  });

  it("a limit on the size of files: one line, and without it the same command goes on", async () => {
    const folder = join(home, "limited");
    const { code, stderr } = await shell(`ulimit -f 8; $SFC ${quoted(flagsTo(folder))}`);
    expectError({ code, stdout: "", stderr, signal: null }, 1, "room on the disk", "(EFBIG)", folder);
    await succeeds(flagsTo(folder));
    await expectSameRun(folder, plain);
  });

  it("the current folder removed: one line", async () => {
    const gone = join(home, "gone");
    await mkdir(gone);
    for (const args of [runFlags(pairs, "x"), ["report", "x"], ["pairs", "--pairs", "x"]]) {
      await mkdir(gone, { recursive: true });
      const { code, stderr, stdout } = await shell(`rmdir '${gone}'; $SFC ${quoted(args)}`, gone);
      expectError({ code, stdout, stderr, signal: null }, 1);
    }
  });

  it("few files at a time: one line, or the same numbers", async () => {
    const folder = join(home, "few files");
    const { code, stderr } = await shell(`ulimit -n 26; $SFC ${quoted(flagsTo(folder))}`);
    if (code === 0) await expectSameRun(folder, plain);
    else expect(stderr).not.toContain("bug in sfc");
  });

  it("where no folder can be made: one line, at once", async () => {
    await symlink("/no/such/folder", join(home, "nowhere"));
    for (const folder of ["/proc/x", "/dev/null/x", join(home, "nowhere"), join(home, "nowhere/x"), join(pairs, "x")]) {
      expectError(await sfc(...flagsTo(folder)), 1);
    }
  });
});

describe("a model named by the current folder", () => {
  it.each([
    [".", "", "my model"],
    ["./", "", "my model"],
    ["..", "inner", "my model"],
  ])("%j gives the folder's own name to the run's", async (name, inner, own) => {
    const model = join(home, "dot", own);
    if (!existsSync(model)) await cp(llama, model, { recursive: true });
    const cwd = join(model, inner);
    await mkdir(cwd, { recursive: true });
    const flags = ["run", "--model_name", name, "--sae_source", "dummy", "--pairs", pairs, "--quiet"];
    await succeeds(flags, run(flags, {}, cwd));
    const made = await readdir(join(cwd, "outputs"));
    expect(made).toHaveLength(1);
    expect(made[0]).toMatch(/^my_model-pairs-/);
    await rm(join(cwd, "outputs"), { recursive: true });
    if (inner) await rmdir(cwd);
  });
});
