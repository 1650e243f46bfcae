import { execFileSync } from "node:child_process";
import {
  chmodSync,
  closeSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { StoppedError, UserError } from "../src/errors.ts";
import { InputFiles } from "../src/storage/input-files.ts";

let home: string;
let file: string;
let inputs: InputFiles;
beforeEach(async () => {
  home = mkdtempSync(join(tmpdir(), "sfc-inputs-"));
  file = join(home, "weights.bin");
  writeFileSync(file, "0123456789");
  // Whatever is written from now on is written at another time, however coarse the system's clock.
  const past = new Date(Date.now() - 60_000);
  utimesSync(file, past, past);
  inputs = new InputFiles();
  await (await (await inputs.folder(home)).open("weights.bin"))!.close();
  await new Promise((resolve) => setTimeout(resolve, 20));
});
afterEach(() => rmSync(home, { recursive: true, force: true }));

const writeInPlace = () => {
  const handle = openSync(file, "r+");
  writeSync(handle, "9", 0);
  closeSync(handle);
};

describe("an input that changes", () => {
  it.each<[string, () => void, string]>([
    ["is written to in place", writeInPlace, "was written to"],
    ["grows", () => writeFileSync(file, "more", { flag: "a" }), "was written to"],
    ["is cut off", () => truncateSync(file, 3), "was written to"],
    [
      "is replaced by one of the same length and time",
      () => {
        execFileSync("cp", ["-p", file, `${file}.new`]);
        renameSync(`${file}.new`, file);
      },
      "was replaced",
    ],
    [
      "is written to and its time set back",
      () => {
        execFileSync("cp", ["-p", file, join(home, "time")]);
        writeInPlace();
        execFileSync("touch", ["-r", join(home, "time"), file]);
      },
      "was written to",
    ],
    ["is removed", () => rmSync(file), "was removed"],
    [
      "becomes a folder",
      () => {
        rmSync(file);
        mkdirSync(file);
      },
      "was removed",
    ],
  ])("and %s is named", (_, change, what) => {
    inputs.check();
    change();
    expect(() => inputs.check()).toThrow(UserError);
    expect(() => inputs.check()).toThrow(
      `An input ${what} while it was in use (${file}). Run the same command again when nothing changes its inputs.`,
    );
    // In another process that was told how it had been, as well.
    const told = JSON.parse(JSON.stringify(inputs.states()));
    expect(() => new InputFiles(told).check()).toThrow(file);
  });

  it("is refused when it is opened again", async () => {
    const folder = await inputs.folder(home);
    writeInPlace();
    expect(() => folder.open("weights.bin")).toThrow("was written to");
    expect(() => inputs.watch(file)).toThrow("was written to");
  });

  it("is the reason of whatever else went wrong, but for a wish to stop", () => {
    const error = new Error("the model overflows");
    expect(inputs.reasonOf(error)).toBe(error);
    writeInPlace();
    expect((inputs.reasonOf(error) as Error).message).toContain("was written to");
    const stopped = new StoppedError();
    expect(inputs.reasonOf(stopped)).toBe(stopped);
  });

  it("behind a link is seen too, and so is a link that leads elsewhere", () => {
    const link = join(home, "link");
    symlinkSync(file, link);
    const linked = new InputFiles();
    linked.watch(link);
    linked.check();
    rmSync(link);
    writeFileSync(join(home, "other"), "0123456789");
    symlinkSync(join(home, "other"), link);
    expect(() => linked.check()).toThrow("was replaced");
  });
});

it("an input that gets a link or other permissions, or is read, has not changed", () => {
  linkSync(file, join(home, "backup"));
  inputs.check();
  chmodSync(file, 0o600);
  inputs.check();
  rmSync(join(home, "backup"));
  inputs.check();
  inputs.watch(file);
  writeInPlace();
  expect(() => inputs.check()).toThrow("was written to");
});

it("what is no file is not watched", () => {
  const others = new InputFiles();
  for (const path of [home, "/dev/null", join(home, "none")]) others.watch(path);
  expect(others.states()).toEqual([]);
});
