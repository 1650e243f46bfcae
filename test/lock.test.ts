import { mkdtemp, readFile, rm, stat, utimes, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { type Holder, type LockOptions, lockHolder, tryLock } from "../src/storage/lock.ts";

let home: string;
let file: string;
let count = 0;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-lock-"));
});
beforeEach(() => {
  file = join(home, `lock-${count++}`);
});
afterAll(() => rm(home, { recursive: true, force: true }));

/** Leaves a lock of another process, last touched so many seconds ago. */
async function left(holder: Partial<Holder>, seconds = 0): Promise<void> {
  await writeFile(file, JSON.stringify({ pid: 1, host: "elsewhere", begun: null, space: null, job: null, ...holder }));
  const then = new Date(Date.now() - 1000 * seconds);
  await utimes(file, then, then);
}
const own = async () => JSON.parse(await readFile(file, "utf8")) as Holder;
/** Whether a lock can be had that another process has left. */
async function isTaken(options?: LockOptions): Promise<boolean> {
  const lock = await tryLock(file, options);
  if (!("release" in lock)) return false;
  expect((await own()).pid).toBe(process.pid);
  await lock.release();
  return true;
}

describe("a lock of another machine", () => {
  it("is left alone however old it is, and told with its job and its silence", async () => {
    await left({ pid: 77, job: "12" }, 3720);
    expect(await tryLock(file)).toEqual({
      holder: "process 77 on elsewhere (job 12, last sign of life 1 h 02 min ago)",
      file,
    });
    expect(await lockHolder(file)).toContain("process 77 on elsewhere");
    expect((await own()).pid).toBe(77);
  });

  it("is taken over by a later start of the same job, and by no other", async () => {
    await left({ job: "12" });
    expect(await isTaken({ job: "13" })).toBe(false);
    expect(await isTaken()).toBe(false);
    expect(await isTaken({ job: "12" })).toBe(true);
    // A process in no job is not of the same one as another in none.
    await left({});
    expect(await isTaken({ job: undefined })).toBe(false);
  });

  it("is taken over once its holder is known to have ended", async () => {
    await left({ job: "12" });
    const asked: Holder[] = [];
    const hasEnded = (answer: boolean) => async (holder: Holder) => asked.push(holder) > 0 && answer;
    expect(await isTaken({ hasEnded: hasEnded(false) })).toBe(false);
    expect(await lockHolder(file, { hasEnded: hasEnded(true) })).toBeNull();
    expect(await isTaken({ hasEnded: hasEnded(true) })).toBe(true);
    expect(asked[0]).toMatchObject({ host: "elsewhere", job: "12" });
  });
});

describe("a lock of another container with this machine's name", () => {
  const container = { host: hostname(), pid: 2 ** 22 + 1, space: "pid:[1]" };
  it("is left alone while it is touched, though its process number says nothing here", async () => {
    await left(container, 60);
    expect(await isTaken()).toBe(false);
  });
  it("is taken over when it is silent, or from before the machine was started", async () => {
    await left(container, 130);
    expect(await isTaken()).toBe(true);
    await left({ ...container, begun: "an earlier boot/5" });
    expect(await isTaken()).toBe(true);
  });
});

describe("a lock that is held", () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] }));
  afterEach(() => void vi.useRealTimers());

  it("is touched again and again", async () => {
    const lock = await tryLock(file);
    await utimes(file, new Date(0), new Date(0));
    vi.advanceTimersByTime(10_000);
    await vi.waitFor(async () => expect((await stat(file)).mtimeMs).toBeGreaterThan(1e12));
    if ("release" in lock) await lock.release();
    expect(await lockHolder(file)).toBeNull();
  });

  it("is seen to be lost when another has taken it over, and that one's stays", async () => {
    const lock = await tryLock(file, { job: "12" });
    if (!("release" in lock)) throw new Error("not taken");
    expect(lock.isLost()).toBe(false);
    await left({ pid: 5, job: "12" });
    vi.advanceTimersByTime(10_000);
    expect(lock.isLost()).toBe(true);
    await lock.release();
    expect((await own()).pid).toBe(5);
  });
});
