import { existsSync, lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rm, symlink, truncate, utimes, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, test } from "vitest";
import { bytesText } from "../src/amounts.ts";
import { StoppedError } from "../src/errors.ts";
import { fetchBlob } from "../src/hub/blob.ts";
import { cachedSnapshot } from "../src/hub/cache.ts";
import { checkRepo, checkRevision, download, type HubFile, type HubSink, listRepo } from "../src/hub/client.ts";
import { planPull, pull, silent, stoppable } from "../src/hub/pull.ts";
import { type HubSettings, hubSettings } from "../src/hub/settings.ts";
import { commitOf, gitSha1, HubServer, type ServedRepo, sha256 } from "./hub-server.ts";

const id = "tiny/model";
const large = Buffer.from(Array.from({ length: 200_000 }, (_, i) => (i * 7919) % 251));
const repo: ServedRepo = {
  files: {
    "config.json": '{"model_type": "llama"}',
    "model.safetensors": large,
    "deep/folder/a b+ü.npz": Buffer.from("weights"),
    "empty.txt": "",
  },
  revisions: ["v1", "refs/pr/2"],
};

let home: string;
let hub: HubServer;
let settings: HubSettings;
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-hub-"));
  hub = await new HubServer({ [id]: repo, "tiny/gated": { ...repo, gated: true } }).start();
  settings = { endpoint: hub.url, pause: 0.01, timeout: 60, cache: join(home, "hub"), offline: false, symlinks: true };
});
afterEach(async () => {
  await hub.stop();
  await rm(home, { recursive: true, force: true });
});

/** Files under a folder that may not be there. */
function filesUnder(folder: string): string[] {
  if (!existsSync(folder)) return [];
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => !entry.isDirectory()).map((entry) => join(entry.parentPath, entry.name));
}

/** A sink in memory. */
function memorySink(begin: Uint8Array = new Uint8Array()): HubSink & { bytes: Buffer } {
  return {
    bytes: Buffer.from(begin),
    get size() {
      return this.bytes.length;
    },
    async append(bytes) {
      this.bytes = Buffer.concat([this.bytes, bytes]);
    },
    async restart() {
      this.bytes = Buffer.alloc(0);
    },
  };
}

const fileOf = async (path: string): Promise<HubFile> => {
  const { files } = await listRepo(settings, id, "main");
  return files.find((file) => file.path === path)!;
};

/** Pulls everything of a repository, or some files, and gives the snapshot's folder. */
async function pullAll(wanted?: readonly string[], from = id, revision = "main", s = settings): Promise<string> {
  const plan = await planPull(s, from, revision, (files) => files.filter((f) => wanted?.includes(f.path) ?? true));
  await pull(s, [plan], silent);
  return plan.folder;
}

const messageOf = (work: Promise<unknown>) =>
  work.then(
    () => "no error",
    (error: Error) => error.message,
  );

describe("a list of files", () => {
  it("has paths, lengths and hashes: SHA-256 of large files, git's SHA-1 of others", async () => {
    const { commit, files } = await listRepo(settings, id, "main");
    expect(commit).toBe(commitOf(id, repo));
    expect(files).toHaveLength(4);
    expect(files[0]).toEqual({ path: "config.json", size: 23, blob: gitSha1('{"model_type": "llama"}') });
    expect(files[1]).toMatchObject({ path: "model.safetensors", size: large.length, sha256: sha256(large) });
    expect(files[3]).toMatchObject({ size: 0, blob: "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391" });
  });

  it("comes page by page", async () => {
    hub.pageSize = 2;
    expect((await listRepo(settings, id, "main")).files).toHaveLength(4);
    expect(hub.asked.filter(({ path }) => path.includes("/tree/"))).toHaveLength(3);
  });

  it("of a branch with slashes in its name, and of a commit", async () => {
    for (const revision of ["v1", "refs/pr/2", commitOf(id, repo)]) {
      expect((await listRepo(settings, id, revision)).commit).toBe(commitOf(id, repo));
    }
  });

  test.each([
    ["../../outside.json"],
    ["a/../../outside.json"],
    ["/etc/outside.json"],
    ["a\\..\\outside.json"],
    ["C:outside.json"],
    ["a//b.json"],
    ["./a.json"],
    [""],
    ["a\nb.json"],
  ])("with the path %j is refused", async (path) => {
    hub.tamper = (entry) => (entry.path === "config.json" ? { ...entry, path } : entry);
    expect(await messageOf(pullAll())).toMatch(/^hub file: expected a path inside the repository, got ".*" from .*\.$/);
    expect(filesUnder(home)).toEqual([]);
  });

  test.each([
    [{ oid: "../../../outside" }],
    [{ oid: "ABCDEF".repeat(7).slice(0, 40) }],
    [{ size: -1 }],
    [{ size: "12" }],
    [{ lfs: { oid: "../x" } }],
    [{ lfs: {} }],
  ])("with the entry %j is none of a hub's", async (change) => {
    hub.tamper = (entry) => ({ ...entry, ...change });
    expect(await messageOf(pullAll())).toMatch(/^hub: expected a file's path, size and hash, got something else from/);
    expect(filesUnder(home)).toEqual([]);
  });

  it("that never ends is refused", async () => {
    hub.pageSize = 0;
    expect(await messageOf(listRepo(settings, id, "main"))).toContain("an end of the list");
  });
});

describe("names", () => {
  test.each(["a/b/c", "a b/c", "../x", "a/..", "a/b--c", "", "a/", "-a/b", "a/b.", `a/${"b".repeat(97)}`])(
    "%j is no repository",
    (name) => expect(() => checkRepo(name)).toThrow(/^hub repository: expected organisation\/name, got /),
  );
  test.each(["gpt2", "google/gemma-2-2b", "ctigges/pythia-70m-deduped__res-sm_processed", "a/b.c"])(
    "%j is one",
    checkRepo,
  );
  test.each(["..", "a/../b", "/a", "a//b", "a b", "", "a\\b", ".hidden"])("%j is no revision", (name) =>
    expect(() => checkRevision(name)).toThrow(/^revision: expected a branch, tag or commit, got /),
  );
});

describe("a download", () => {
  it("goes on where a cut connection ended, several times", async () => {
    hub.faults.set("model.safetensors", [{ cutAfter: 50_000 }, { cutAfter: 60_000 }, { cutAfter: 1 }]);
    const sink = memorySink();
    await download(settings, id, commitOf(id, repo), await fileOf("model.safetensors"), sink);
    expect(sink.bytes.equals(large)).toBe(true);
    const ranges = hub.downloads.map(({ range }) => Number(/^bytes=(\d+)-$/.exec(range ?? "bytes=0-")?.[1]));
    expect(ranges).toHaveLength(4);
    expect(ranges).toEqual(ranges.toSorted((a, b) => a - b));
    expect(ranges[3]).toBeGreaterThan(0);
  });

  it("begins anew where the server ignores ranges or gives another one", async () => {
    const file = await fileOf("model.safetensors");
    for (const [fault, requests] of [
      ["ignore the range", 1],
      ["another range", 2],
    ] as const) {
      hub.asked.length = 0;
      hub.faults.set("model.safetensors", [fault]);
      const sink = memorySink(large.subarray(0, 70_000));
      await download(settings, id, commitOf(id, repo), file, sink);
      expect(sink.bytes.equals(large)).toBe(true);
      expect(hub.downloads).toHaveLength(requests);
    }
  });

  it("is not cut because it is slow, but where nothing comes any more", async () => {
    const patient = { ...settings, timeout: 1.5 };
    const file = await fileOf("model.safetensors");
    hub.faults.set("model.safetensors", [{ pieceEvery: 5 }]);
    const slow = memorySink();
    await download(patient, id, commitOf(id, repo), file, slow);
    expect(slow.bytes.equals(large)).toBe(true);
    expect(hub.downloads).toHaveLength(1);
    hub.faults.set("model.safetensors", [{ stallAfter: 1000 }]);
    const stalled = memorySink();
    await download(patient, id, commitOf(id, repo), file, stalled);
    expect(stalled.bytes.equals(large)).toBe(true);
    expect(hub.downloads).toHaveLength(3);
    expect(hub.downloads[2]!.range).toBe("bytes=1000-");
  });

  it("is tried again after 429 and 503, after as long as the server asks", async () => {
    hub.faults.set("model.safetensors", [{ status: 503 }, { status: 429, retryAfter: 1 }]);
    const began = performance.now();
    await download(settings, id, commitOf(id, repo), await fileOf("model.safetensors"), memorySink());
    expect(performance.now() - began).toBeGreaterThan(950);
  });

  it("ends after several tries without a new byte", async () => {
    hub.faults.set("model.safetensors", Array(50).fill({ status: 503 }));
    const file = await fileOf("model.safetensors");
    const message = await messageOf(download(settings, id, commitOf(id, repo), file, memorySink()));
    expect(message).toMatch(/^hub: expected an answer, got status 503, 6 times, from http.*HF_HUB_OFFLINE=1/);
    expect(hub.downloads).toHaveLength(6);
  });

  it("that always breaks off at the same place ends as well, also where ranges are ignored", async () => {
    const file = await fileOf("model.safetensors");
    const commit = commitOf(id, repo);
    for (const fault of ["too short", "too long"] as const) {
      hub.faults.set("model.safetensors", Array(50).fill(fault));
      const message = await messageOf(download(settings, id, commit, file, memorySink()));
      expect(message).toMatch(/^hub: expected an answer, got (more than 200000 bytes|\d+ of 200000 bytes)/);
    }
    expect(hub.downloads.length).toBeLessThan(60);
  });

  it("stops at once when asked to, with what came in the part for the next one", async () => {
    hub.faults.set("model.safetensors", [{ stallAfter: 30_000 }]);
    let stop = false;
    const stopped = pullWith({
      ...silent,
      stopped: () => stop,
      set: (done) => {
        stop ||= done >= 30_000;
      },
    });
    await expect(stopped).rejects.toThrow(StoppedError);
    const [part] = readdirSync(join(settings.cache, "models--tiny--model/blobs")).filter((f) =>
      f.endsWith(".incomplete"),
    );
    expect(part).toBe(`${sha256(large)}.sfc.incomplete`);
    const folder = await pullAll();
    expect(readFileSync(join(folder, "model.safetensors")).equals(large)).toBe(true);
    expect(hub.downloads.at(-1)!.range).toMatch(/^bytes=[1-9]\d*-$/);
  });
});

async function pullWith(reporter: typeof silent): Promise<void> {
  await stoppable(settings, reporter, async (s) => {
    const plan = await planPull(s, id, "main", (files) => files);
    await pull(s, [plan], reporter);
  });
}

describe("the token", () => {
  beforeEach(() => {
    hub.tokens.add("hf_secret");
    settings = { ...settings, token: "hf_secret", tokenFrom: "HF_TOKEN" };
  });

  it("goes to the hub and not to the place that it redirects to", async () => {
    await pullAll(undefined, "tiny/gated");
    const [atHub, atStorage] = [
      hub.asked.filter(({ at }) => at === "hub"),
      hub.asked.filter(({ at }) => at === "storage"),
    ];
    expect(atStorage.length).toBe(2);
    expect(new Set(atStorage.map(({ authorization }) => authorization))).toEqual(new Set([undefined]));
    expect(new Set(atHub.map(({ authorization }) => authorization))).toEqual(new Set(["Bearer hf_secret"]));
  });

  it("does not go to an address of another origin that the list goes on at", async () => {
    const other = await new HubServer({ [id]: repo }).start();
    hub.pageSize = 2;
    Object.defineProperty(hub, "url", { get: () => other.url });
    expect((await listRepo(settings, id, "main")).files).toHaveLength(4);
    expect(other.asked.map(({ authorization }) => authorization)).toEqual([undefined]);
    await other.stop();
  });

  it("that the hub does not know is named by where it came from", async () => {
    settings = { ...settings, token: "hf_old", tokenFrom: "/home/me/token" };
    expect(await messageOf(pullAll())).toMatch(
      /^token: expected one that the hub knows, got another one \(\/home\/me\/token\) for http.*\. Make one at http.*\/settings\/tokens and set HF_TOKEN/,
    );
  });
});

describe("what cannot be had says what to do:", () => {
  it("a repository that does not exist", async () => {
    expect(await messageOf(pullAll(undefined, "tiny/none"))).toMatch(
      /^hub repository: expected one that exists and may be read, got "tiny\/none" \(status 401\) at .*set HF_TOKEN\.$/,
    );
  });
  it("a revision that does not exist", async () => {
    expect(await messageOf(pullAll(undefined, id, "v2"))).toMatch(
      /^revision: expected a branch, tag or commit of tiny\/model, got "v2" at /,
    );
  });
  it("a file that is gone", async () => {
    const file = { ...(await fileOf("config.json")), path: "gone.json" };
    const message = await messageOf(download(settings, id, commitOf(id, repo), file, memorySink()));
    expect(message).toMatch(/^hub file gone\.json: expected one in tiny\/model, got none at /);
  });
  it("a gated repository: small files are asked for first, so that it is known at once", async () => {
    expect(await messageOf(pullAll(undefined, "tiny/gated"))).toMatch(
      new RegExp(
        `^hub repository tiny/gated: .*got none \\(it is gated\\).*Accept the licence at ${hub.url}/tiny/gated and`,
      ),
    );
    const asked = hub.asked.filter(({ path }) => path.includes("/resolve/"));
    expect(asked.map(({ path }) => path.split("/").at(-1))).toEqual(["a b+ü.npz"]);
  });
  it("a hub that does not answer", async () => {
    await hub.stop();
    expect(await messageOf(pullAll())).toMatch(/^hub: expected an answer, got ECONNREFUSED, 3 times, from http/);
  });
  it("an address that is no hub", async () => {
    hub.tamper = () => ({ hello: "world", type: "file" });
    expect(await messageOf(pullAll())).toContain("Check HF_ENDPOINT.");
  });
});

describe("the cache", () => {
  const folderOfRepo = () => join(settings.cache, "models--tiny--model");
  const commit = commitOf(id, repo);

  it("is laid out as Python's library does", async () => {
    await pullAll();
    const at = (path: string) => join(folderOfRepo(), path);
    expect(readdirSync(at("blobs")).sort()).toEqual(
      [sha256(large), sha256("weights"), gitSha1('{"model_type": "llama"}'), gitSha1("")].sort(),
    );
    expect(readFileSync(at("refs/main"), "utf8")).toBe(commit);
    expect(readlinkSync(at(`snapshots/${commit}/model.safetensors`))).toBe(`../../blobs/${sha256(large)}`);
    expect(readlinkSync(at(`snapshots/${commit}/deep/folder/a b+ü.npz`))).toBe(
      `../../../../blobs/${sha256("weights")}`,
    );
    const tree = JSON.parse(readFileSync(at(`trees/${commit}.json`), "utf8"));
    expect(tree.format_version).toBe(1);
    expect(tree.files["model.safetensors"]).toEqual({
      size: large.length,
      blob_id: gitSha1(large),
      lfs_sha256: sha256(large),
      lfs_size: large.length,
    });
    expect(filesUnder(join(settings.cache, ".locks"))).toEqual([]);
  });

  it("means the snapshot that is whole until the next one is", async () => {
    await pullAll();
    const moved = "2".repeat(40);
    const next = Buffer.alloc(1000, 2);
    hub.repos.set(id, { ...repo, files: { ...repo.files, "model.safetensors": next }, commit: moved });
    hub.faults.set("model.safetensors", Array(50).fill({ status: 503 }));
    await expect(pullAll()).rejects.toThrow("status 503");
    expect((await cachedSnapshot(settings.cache, id, "main"))?.commit).toBe(commit);
    hub.faults.clear();
    await pullAll();
    expect((await cachedSnapshot(settings.cache, id, "main"))?.commit).toBe(moved);
  });

  it("is not fetched again, nor is a file that another snapshot has", async () => {
    await pullAll();
    const before = hub.downloads.length;
    await pullAll();
    expect(hub.downloads.length).toBe(before);
    const moved = "1".repeat(40);
    hub.repos.set(id, { ...repo, files: { ...repo.files, "config.json": '{"model_type": "gpt2"}' }, commit: moved });
    const folder = await pullAll();
    expect(hub.downloads.slice(before).map(({ path }) => path.split("/").at(-1))).toEqual(["config.json"]);
    expect(folder).toContain(moved);
    expect(readFileSync(join(folder, "model.safetensors")).equals(large)).toBe(true);
    expect((await cachedSnapshot(settings.cache, id, "main"))?.commit).toBe(moved);
  });

  it("keeps the names of branches with slashes", async () => {
    await pullAll(["config.json"], id, "refs/pr/2");
    expect(readFileSync(join(folderOfRepo(), "refs/refs/pr/2"), "utf8")).toBe(commit);
    expect((await cachedSnapshot(settings.cache, id, "refs/pr/2"))?.folder).toBe(
      join(folderOfRepo(), "snapshots", commit),
    );
    expect(await cachedSnapshot(settings.cache, id, "main")).toBeUndefined();
  });

  it("without links holds copies", async () => {
    const folder = await pullAll(undefined, id, "main", { ...settings, symlinks: false });
    expect(lstatSync(join(folder, "model.safetensors")).isFile()).toBe(true);
    expect(readFileSync(join(folder, "model.safetensors")).equals(large)).toBe(true);
  });

  it("replaces a file of another length, and a link that leads nowhere", async () => {
    const folder = await pullAll();
    const blob = join(folderOfRepo(), "blobs", sha256(large));
    await truncate(blob, 1000);
    await pullAll();
    expect(readFileSync(join(folder, "model.safetensors")).equals(large)).toBe(true);
    await rm(blob);
    await pullAll();
    expect(readFileSync(join(folder, "model.safetensors")).equals(large)).toBe(true);
  });

  it("takes what Python's library has put there", async () => {
    // As huggingface_hub of before version 2 leaves it: no trees, a lock per file, a ref.
    const base = folderOfRepo();
    await mkdir(join(base, "blobs"), { recursive: true });
    await mkdir(join(base, "refs"));
    await mkdir(join(base, "snapshots", commit), { recursive: true });
    await mkdir(join(settings.cache, ".locks/models--tiny--model"), { recursive: true });
    await writeFile(join(settings.cache, `.locks/models--tiny--model/${sha256(large)}.lock`), "");
    await writeFile(join(base, "refs/main"), commit);
    await writeFile(join(base, "blobs", sha256(large)), large);
    await symlink(`../../blobs/${sha256(large)}`, join(base, "snapshots", commit, "model.safetensors"));
    const folder = await pullAll(["config.json", "model.safetensors"]);
    expect(hub.downloads.map(({ path }) => path.split("/").at(-1))).toEqual(["config.json"]);
    expect((await readdir(folder)).sort()).toEqual(["config.json", "model.safetensors"]);
  });

  it("goes on with what an ended process has left, its own or Python's", async () => {
    const blobs = join(folderOfRepo(), "blobs");
    const names = [
      `${sha256(large)}.sfc.incomplete`,
      `${sha256(large)}.incomplete`,
      `${sha256(large)}.0a1b2c3d.incomplete`,
    ];
    for (const name of names) {
      await rm(folderOfRepo(), { recursive: true, force: true });
      await mkdir(blobs, { recursive: true });
      await writeFile(join(blobs, name), large.subarray(0, 150_000));
      const longAgo = new Date(Date.now() - 3_600_000);
      await utimes(join(blobs, name), longAgo, longAgo);
      const folder = await pullAll(["model.safetensors"]);
      expect(hub.downloads.at(-1)!.range).toBe("bytes=150000-");
      expect(readFileSync(join(folder, "model.safetensors")).equals(large)).toBe(true);
      expect(readdirSync(blobs)).toEqual([sha256(large)]);
    }
  });

  it("leaves a part alone that Python may be writing just now", async () => {
    const blobs = join(folderOfRepo(), "blobs");
    await mkdir(blobs, { recursive: true });
    await writeFile(join(blobs, `${sha256(large)}.incomplete`), large.subarray(0, 150_000));
    await pullAll(["model.safetensors"]);
    expect(hub.downloads.at(-1)!.range).toBeUndefined();
    expect(readdirSync(blobs)).toContain(`${sha256(large)}.incomplete`);
  });

  it("never takes contents with another hash: they are fetched once more, then it is an error", async () => {
    for (const path of ["model.safetensors", "config.json"]) {
      hub.faults.set(path, ["flip a byte"]);
      const folder = await pullAll([path]);
      expect(readFileSync(join(folder, path)).equals(Buffer.from(repo.files[path] as string))).toBe(true);
      await rm(settings.cache, { recursive: true });
      hub.faults.set(path, ["flip a byte", "flip a byte"]);
      expect(await messageOf(pullAll([path]))).toMatch(
        new RegExp(
          `^hub file ${path}: expected contents with the hash [0-9a-f]+, got others, twice, from tiny/model at `,
        ),
      );
      expect(filesUnder(settings.cache).filter((file) => file.includes("blobs"))).toEqual([]);
      await rm(settings.cache, { recursive: true });
    }
  });

  it("does not go on with a damaged part", async () => {
    const blobs = join(folderOfRepo(), "blobs");
    await mkdir(blobs, { recursive: true });
    await writeFile(join(blobs, `${sha256(large)}.sfc.incomplete`), Buffer.alloc(100_000, 1));
    const folder = await pullAll(["model.safetensors"]);
    expect(readFileSync(join(folder, "model.safetensors")).equals(large)).toBe(true);
    await rm(settings.cache, { recursive: true });
    await mkdir(blobs, { recursive: true });
    await writeFile(join(blobs, `${sha256(large)}.sfc.incomplete`), Buffer.alloc(300_000, 1));
    expect(readFileSync(join(await pullAll(["model.safetensors"]), "model.safetensors")).equals(large)).toBe(true);
  });

  it("lets one of two calls download while the other waits", async () => {
    hub.faults.set("model.safetensors", [{ pieceEvery: 2 }]);
    const file = await fileOf("model.safetensors");
    const waited: string[] = [];
    const one = () => fetchBlob(settings, id, commit, file, { onBytes() {}, onWait: (who) => waited.push(who) });
    await Promise.all([one(), one()]);
    expect(hub.downloads).toHaveLength(1);
    expect(waited).toEqual([`process ${process.pid} on ${hostname()}`]);
  });

  it("does not wait for a process that has ended", async () => {
    const locks = join(settings.cache, ".locks/models--tiny--model");
    await mkdir(locks, { recursive: true });
    await writeFile(
      join(locks, `${sha256(large)}.sfc.lock`),
      JSON.stringify({ pid: 2 ** 22 + 1, host: hostname(), begun: null }),
    );
    await pullAll(["model.safetensors"]);
    expect(filesUnder(locks)).toEqual([]);
  });

  it("waits for a process on another machine, unless it has not been heard of for long", async () => {
    const locks = join(settings.cache, ".locks/models--tiny--model");
    const lock = join(locks, `${sha256(large)}.sfc.lock`);
    await mkdir(locks, { recursive: true });
    await writeFile(lock, JSON.stringify({ pid: 1, host: "another", begun: null }));
    const lines: string[] = [];
    const waiting = pullWith({ ...silent, line: (text) => lines.push(text), stopped: () => lines.length > 1 });
    await expect(waiting).rejects.toThrow(StoppedError);
    expect(lines[1]).toMatch(
      /^Waiting for process 1 on another \(last sign of life [\d.]+ s ago\), which downloads model\.safetensors\.$/,
    );
    const longAgo = new Date(Date.now() - 3_600_000);
    await utimes(lock, longAgo, longAgo);
    await pullAll(["model.safetensors"]);
    expect(existsSync(lock)).toBe(false);
  });

  it("says what and how much before it downloads, and counts bytes", async () => {
    const told: string[] = [];
    let last = 0;
    const plan = await planPull(settings, id, "main", (files) => files);
    expect(filesUnder(home)).toEqual([]);
    await pull(settings, [plan], {
      ...silent,
      line: (text) => told.push(text),
      begin: (phase, total) => told.push(`${phase} ${total}`),
      set: (done) => {
        last = done;
      },
    });
    const bytes = large.length + 23 + 7;
    expect(told).toEqual([
      `Downloading 4 files, 200 kB, of tiny/model from ${hub.url} to ${settings.cache}.`,
      `download ${bytes}`,
    ]);
    expect(last).toBe(bytes);
  });
});

describe("the environment", () => {
  const of = (env: NodeJS.ProcessEnv) => hubSettings({ ...env });
  const here = () => join(home, "hf");

  it("has Python's defaults", async () => {
    expect(await of({ HF_HOME: here() })).toEqual({
      endpoint: "https://huggingface.co",
      cache: join(here(), "hub"),
      offline: false,
      symlinks: true,
    });
    expect((await of({ XDG_CACHE_HOME: here() })).cache).toBe(join(here(), "huggingface/hub"));
    expect((await of({ HF_HOME: here(), HF_HUB_CACHE: "/elsewhere" })).cache).toBe("/elsewhere");
    expect((await of({ HF_HOME: here(), HF_ENDPOINT: "http://127.0.0.1:8080/" })).endpoint).toBe(
      "http://127.0.0.1:8080",
    );
  });

  test.each([
    ["1", true],
    ["true", true],
    ["YES", true],
    ["0", false],
    ["", false],
  ])("HF_HUB_OFFLINE=%s", async (HF_HUB_OFFLINE, offline) => {
    expect((await of({ HF_HOME: here(), HF_HUB_OFFLINE })).offline).toBe(offline);
  });

  it("has a token: HF_TOKEN, else that of HF_TOKEN_PATH, else that of HF_HOME", async () => {
    await mkdir(here());
    await writeFile(join(here(), "token"), "hf_home\n");
    await writeFile(join(home, "other"), "hf_other\r\n");
    const env = { HF_HOME: here() };
    expect(await of(env)).toMatchObject({ token: "hf_home", tokenFrom: join(here(), "token") });
    const path = join(home, "other");
    expect(await of({ ...env, HF_TOKEN_PATH: path })).toMatchObject({ token: "hf_other", tokenFrom: path });
    const both = await of({ ...env, HF_TOKEN_PATH: path, HF_TOKEN: " hf_env " });
    expect(both).toMatchObject({ token: "hf_env", tokenFrom: "HF_TOKEN" });
  });

  it("that makes no sense is refused", async () => {
    await expect(of({ HF_ENDPOINT: "huggingface.co" })).rejects.toThrow(/^HF_ENDPOINT: expected an address with http/);
    await expect(of({ HF_TOKEN: "two words" })).rejects.toThrow(/^token: expected one line .* in HF_TOKEN\./);
  });
});

test("bytes in words", () => {
  expect([0, 999, 1000, 12_345, 302_131_416, 999_600_000, 7_855_416_816].map(bytesText)).toEqual([
    "0 bytes",
    "999 bytes",
    "1.0 kB",
    "12 kB",
    "302 MB",
    "1.0 GB",
    "7.9 GB",
  ]);
});
