import { existsSync } from "node:fs";
import { cp, mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  canMount,
  examples,
  expectComplete,
  expectError,
  expectSameRun,
  filesUnder,
  llama,
  manifestOf,
  mountSmall,
  runFlags,
  sfc,
  signalAmidst,
  succeeds,
  unmount,
  writeExamples,
  writeSae,
} from "./cli-harness.ts";

let home: string;
let pairs: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-output-"));
  pairs = await writeExamples(join(home, "pairs.jsonl"), examples(24));
});
afterAll(() => rm(home, { recursive: true, force: true }));

/** Every file with its time of change, and the folder's own. */
async function times(folder: string): Promise<[string, number][]> {
  const names = [".", ...filesUnder(folder)];
  return Promise.all(names.map(async (name) => [name, (await stat(join(folder, name))).mtimeMs]));
}

describe("a finished run", () => {
  let folder: string;
  let flags: string[];
  let summary: string;
  beforeAll(async () => {
    folder = join(home, "finished");
    flags = runFlags(pairs, folder);
    summary = (await succeeds(flags)).stdout;
    await expectComplete(folder);
  });

  it("is shown again by the same command, whatever the spelling and the batch size, and no file is touched", async () => {
    const before = await times(folder);
    for (const same of [flags, [...flags.map((arg) => arg.replace(/^--(\w+)_/, "--$1-")), "--batch-size=3"]]) {
      const { stdout } = await succeeds(same);
      expect(stdout).toContain("holds the finished run with these options");
      expect(stdout).toContain(summary.trimEnd().split("\n").slice(1).join("\n"));
    }
    expect(await times(folder)).toEqual(before);
  });

  it("is not mixed with a run with other options, which are named", async () => {
    const before = await times(folder);
    const ended = await sfc(...flags, "--seed", "2", "--layers", "1");
    expectError(ended, 1, "--layers unset here, 1 asked; --seed 1 here, 2 asked", folder, "--output_dir", "--force");
    expect(await times(folder)).toEqual(before);
  });

  it("is not shown for pairs that have changed since", async () => {
    const before = await times(folder);
    const own = await readFile(pairs);
    try {
      await writeExamples(pairs, examples(23));
      expectError(await sfc(...flags), 1, "pairs", folder, "--force");
    } finally {
      await writeFile(pairs, own);
    }
    expect(await times(folder)).toEqual(before);
  });

  it("was finished when its last file was in place", async () => {
    const { mtimeMs } = await stat(join(folder, "report.html"));
    expect(Date.parse((await manifestOf(folder)).finished)).toBeGreaterThanOrEqual(Math.floor(mtimeMs));
  });

  it("is not shown for a model that has changed since, nor for SAEs that have", async () => {
    const [model, saes, path] = [join(home, "model"), join(home, "saes"), join(home, "of changed files")];
    await cp(llama, model, { recursive: true });
    await writeSae(saes, "mlp_out.0");
    await writeSae(saes, "resid_post.1");
    const own = runFlags(pairs, path, "--model_name", model, "--sae_source", saes);
    await succeeds(own);
    expect((await succeeds(own)).stdout).toContain("holds the finished run");
    const before = await times(path);

    await writeSae(saes, "resid_post.1", 0.2);
    expectError(await sfc(...own), 1, "got other SAEs at resid_post.1", path, "--force");
    const weights = join(model, "model.safetensors");
    const bytes = await readFile(weights);
    bytes.writeFloatLE(0.125, bytes.length - 4);
    await writeFile(weights, bytes);
    expectError(await sfc(...own), 1, "got another model and other SAEs at resid_post.1", path, "--force");
    expect(await times(path)).toEqual(before);
  });

  it("has its report written again by sfc report", async () => {
    const report = await readFile(join(folder, "report.html"), "utf8");
    await rm(join(folder, "report.html"));
    expect((await succeeds(["report", folder])).stdout).toContain(join(folder, "report.html"));
    expect(await readFile(join(folder, "report.html"), "utf8")).toBe(report);
  });

  it("is replaced with --force", async () => {
    await succeeds([...flags, "--seed", "2", "--force"]);
    await expectComplete(folder);
    expect(await manifestOf(folder)).toMatchObject({ seed: 2, options: { seed: 2 } });
  });

  it("that another version wrote is replaced with --force alone", async () => {
    const path = join(home, "other version");
    await succeeds(runFlags(pairs, path));
    await writeFile(join(path, "run.json"), JSON.stringify({ ...(await manifestOf(path)), speed: 1 }));
    expectError(await sfc(...runFlags(pairs, path)), 1, "another version", '"speed"', path, "--force");
    expect((await manifestOf(path)).speed).toBe(1);
    await succeeds(runFlags(pairs, path, "--force"));
    await expectComplete(path);
  });
});

describe("a place that is not a run's", () => {
  it("a folder with other files, with --force too", async () => {
    const folder = join(home, "thesis");
    await mkdir(folder);
    await writeFile(join(folder, "chapter.md"), "one");
    for (const more of [[], ["--force"]]) {
      expectError(await sfc(...runFlags(pairs, folder, ...more)), 1, "chapter.md", folder, "--output_dir");
    }
    expect(filesUnder(folder)).toEqual(["chapter.md"]);
  });

  it("a folder whose run.json is another program's", async () => {
    const folder = join(home, "other");
    await mkdir(folder);
    await writeFile(join(folder, "run.json"), '{"jobs": []}');
    const ended = await sfc(...runFlags(pairs, folder, "--force"));
    expectError(ended, 1, folder, "run.json");
    expect(ended.stderr.match(/Choose another/g)).toHaveLength(1);
    expect(await readFile(join(folder, "run.json"), "utf8")).toBe('{"jobs": []}');
  });

  it("a file, and a path below one", async () => {
    const file = join(home, "notes.txt");
    await writeFile(file, "notes");
    expectError(await sfc(...runFlags(pairs, file)), 1, "a file", file, "--output_dir");
    expectError(await sfc(...runFlags(pairs, join(file, "run"))), 1, "a file", join(file, "run"));
    expect(await readFile(file, "utf8")).toBe("notes");
  });

  it("no run's folder for sfc report", async () => {
    expectError(await sfc("report", home), 1, "expected a run's or a comparison's folder", `at ${home}`);
  });
});

it("two runs at once: the second one is refused and the first one is undisturbed", async () => {
  const flags = (folder: string) => runFlags(pairs, folder);
  const { folder, run } = await signalAmidst(
    "SIGSTOP",
    (files) => files.includes("run.json"),
    flags,
    join(home, "twice"),
  );
  const ended = await sfc(...flags(folder));
  run.child.kill("SIGCONT");
  expectError(ended, 1, "no other run", `process ${run.child.pid}`, folder);
  expect((await run.ended).code).toBe(0);
  await expectComplete(folder);
});

describe.skipIf(!canMount())("a disk (needs the right to mount)", () => {
  it("that is full: the error says so, and with more room the same command goes on to the same numbers", async () => {
    const disk = join(home, "disk");
    await mkdir(disk);
    const folder = join(disk, "run");
    const flags = runFlags(pairs, folder);
    await succeeds(runFlags(pairs, join(home, "roomy")));
    let size = 40;
    const phases = new Set<string>();
    if (!mountSmall(disk, size)) throw new Error("cannot mount any more");
    try {
      for (let ended = await sfc(...flags); ended.code !== 0; ended = await sfc(...flags)) {
        expectError(ended, 1, "room on the disk", "full", "resumes the work", folder);
        const files = filesUnder(folder);
        expect(files.filter((file) => /\.part$|\.lock/.test(file))).toEqual([]);
        expect(files.includes("run.json") ? (await manifestOf(folder)).status : "failed").not.toBe("finished");
        phases.add(ended.stderr.match(/^\w+(?=: [\d.]+ s$)/gm)?.at(-1) ?? "reading");
        size += 240;
        expect(size).toBeLessThan(8000);
        mountSmall(disk, size, { remount: true });
      }
      // The disk was full in the passes, among the sites and when the tables were put together.
      expect(phases.size, [...phases].join()).toBeGreaterThanOrEqual(3);
      await expectSameRun(folder, join(home, "roomy"));
    } finally {
      unmount(disk);
    }
  });

  it("that is read-only", async () => {
    const disk = join(home, "read-only");
    await mkdir(disk);
    if (!mountSmall(disk, 64, { readOnly: true })) throw new Error("cannot mount any more");
    try {
      expectError(await sfc(...runFlags(pairs, join(disk, "run"))), 1, join(disk, "run"), "can be written");
      expect(existsSync(join(disk, "run"))).toBe(false);
    } finally {
      unmount(disk);
    }
  });
});
