import { readdirSync, statSync } from "node:fs";
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import {
  canMount,
  examples,
  expectError,
  filesUnder,
  llama,
  manifestOf,
  mountSmall,
  run as runCommand,
  start,
  succeeds as succeeded,
  unmount,
  until,
  writeExamples,
  writeSae,
} from "./cli-harness.ts";
import { commitOf, HubServer, sha256 } from "./hub-server.ts";

/** Files of the small Llama, in two shards too, and of SAEs of it. */
const files: Record<string, Buffer> = {};
const saes: Record<string, Buffer> = {};
let folder: string;
let pairs: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "sfc-hub-cli-"));
  pairs = await writeExamples(join(folder, "pairs.jsonl"), examples(8));
  for (const name of ["config.json", "tokenizer.json", "model.safetensors"]) {
    files[name] = await readFile(join(llama, name));
  }
  for (const [site, value] of [
    ["resid_post.0", 0.1],
    ["resid_post.1", 0.2],
    ["mlp_out.1", 0.3],
  ] as const) {
    await writeSae(join(folder, "saes"), site, value);
    for (const name of ["cfg.json", "sae_weights.safetensors"]) {
      saes[`small/${site}/${name}`] = await readFile(join(folder, "saes", site, name));
    }
  }
});
afterAll(() => rm(folder, { recursive: true, force: true }));

let home: string;
let hub: HubServer;
let env: NodeJS.ProcessEnv;
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-hub-home-"));
  const unwanted = { "pytorch_model.bin": "p", "README.md": "# r", "onnx/model.onnx": "o", "flax_model.msgpack": "f" };
  hub = await new HubServer({
    "tiny/llama": { files: { ...files, ...unwanted } },
    "tiny/saes": { files: { ...saes, "README.md": "# SAEs" } },
    "tiny/pickled": {
      files: { "config.json": files["config.json"]!, "tokenizer.json": "{}", "pytorch_model.bin": "p" },
    },
    "openai-community/gpt2": { files },
    "google/gemma-2-2b": { files, gated: true },
  }).start();
  env = { HF_HOME: home, HF_ENDPOINT: hub.url };
  for (const name of ["HF_TOKEN", "HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"]) env[name] = "";
});
afterEach(async () => {
  await hub.stop();
  await rm(home, { recursive: true, force: true });
});

const sfc = (args: readonly string[], more: NodeJS.ProcessEnv = {}) => runCommand(args, { ...env, ...more });
const alone = (args: readonly string[]) => start(args, undefined, env).ended;
const succeeds = (args: readonly string[], more: NodeJS.ProcessEnv = {}) => succeeded(args, sfc(args, more));

const snapshotOf = (id: string) =>
  join(home, "hub", `models--${id.replace("/", "--")}`, "snapshots", commitOf(id, hub.repos.get(id)!));
const downloaded = () => hub.downloads.map(({ path }) => path.split("/").slice(5).join("/"));
const run = (model: string, source: string | null, to: string, ...more: string[]) => [
  ...["run", "--model_name", model, "--pairs", pairs, "--output_dir", join(home, to), ...more],
  ...(source === null ? [] : ["--sae_source", source]),
];

describe("sfc pull", () => {
  it("fetches what is needed of a model and nothing else, and says where it is", async () => {
    const { stdout, stderr } = await succeeds(["pull", "tiny/llama"]);
    expect((await filesIn("tiny/llama")).sort()).toEqual(["config.json", "model.safetensors", "tokenizer.json"]);
    expect(stdout).toMatch(/^tiny\/llama: 3 files, \d+ kB, in /);
    expect(stdout.trimEnd().endsWith(snapshotOf("tiny/llama"))).toBe(true);
    expect(stderr).toMatch(
      /^listing: .*\nDownloading 3 files, \d+ kB, of tiny\/llama from http.*\ndownload: [\d.]+ s\n$/,
    );
    const again = await succeeds(["pull", "tiny/llama"]);
    expect(again.stdout).toBe(stdout);
    expect(again.stderr).not.toContain("Downloading");
    expect(downloaded()).toHaveLength(3);
  });

  it("--dry_run lists files and sizes, and leaves nothing behind", async () => {
    const { stdout } = await succeeds(["pull", "tiny/llama", "--dry-run", "--sae_source", "tiny/saes/small"]);
    expect(stdout).toMatch(/^file +size +state\ntiny\/llama\/config\.json +\d+ bytes +to fetch\n/);
    expect(stdout).toContain("tiny/saes/small/mlp_out.1/sae_weights.safetensors");
    expect(stdout).toMatch(/To fetch: 9 files, \d+ kB, into /);
    expect(filesUnder(home)).toEqual([]);
    expect(hub.downloads).toEqual([]);
    await succeeds(["pull", "tiny/llama"]);
    const then = await succeeds(["pull", "tiny/llama", "tiny/saes/small", "--dry_run"]);
    expect(then.stdout).toMatch(/model\.safetensors +\d+ kB +cached/);
    expect(then.stdout).toContain("To fetch: 6 files");
  });

  it("fetches shards as the index says", async () => {
    const shards = { "model-00001-of-00002.safetensors": "one", "model-00002-of-00002.safetensors": "two" };
    const index = JSON.stringify({ weight_map: { a: "model-00001-of-00002.safetensors" } });
    const { "model.safetensors": _, ...rest } = files;
    const model = { ...rest, ...shards, "model.safetensors.index.json": index, "consolidated.safetensors": "no" };
    hub.repos.set("tiny/shards", { files: model });
    await succeeds(["pull", "tiny/shards"]);
    expect((await filesIn("tiny/shards")).sort()).toEqual(
      ["config.json", "tokenizer.json", "model.safetensors.index.json", ...Object.keys(shards)].sort(),
    );
    const { "model-00002-of-00002.safetensors": __, ...one } = model;
    hub.repos.set("tiny/half", { files: one });
    expectError(await sfc(["pull", "tiny/half"]), 1, "model-00002-of-00002.safetensors", "tiny/half");
  });

  it("fetches shards without an index, as their names count them", async () => {
    const shards = { "model-00001-of-00002.safetensors": "one", "model-00002-of-00002.safetensors": "two" };
    const { "model.safetensors": _, ...rest } = files;
    hub.repos.set("tiny/counted", { files: { ...rest, ...shards } });
    await succeeds(["pull", "tiny/counted"]);
    expect((await filesIn("tiny/counted")).sort()).toEqual(
      ["config.json", "tokenizer.json", ...Object.keys(shards)].sort(),
    );
  });

  it("an architecture that cannot be run is refused before its weights are fetched", async () => {
    hub.repos.set("tiny/mamba", { files: { ...files, "config.json": '{"model_type": "mamba"}' } });
    const refused = await sfc(["pairs", "--model_name", "tiny/mamba", "--pairs", pairs]);
    expectError(refused, 1, "model_type: expected one of", 'got "mamba" in config.json of tiny/mamba');
    expect(await filesIn("tiny/mamba")).not.toContain("model.safetensors");
  });

  it("a model without safetensors says what it has instead", async () => {
    expectError(await sfc(["pull", "tiny/pickled"]), 1, "got only pytorch_model.bin in tiny/pickled", "safetensors");
  });

  it("a preset that is gated says how to get it, and then gets it", async () => {
    const refused = await sfc(["pull", "gemma-2-2b"]);
    expectError(
      refused,
      1,
      "google/gemma-2-2b",
      "gated",
      `Accept the licence at ${hub.url}/google/gemma-2-2b`,
      "HF_TOKEN",
    );
    hub.tokens.add("hf_mine");
    const { stdout } = await succeeds(["pull", "gemma-2-2b"], { HF_TOKEN: "hf_mine" });
    expect(stdout).toContain("SAEs for gemma-2-2b: sfc pull gemma-scope-2b-pt-res-16k");
    expectError(await sfc(["pull", "gemma-2-2b"], { HF_TOKEN: "hf_no" }), 1, "token: expected one that the hub knows");
  });

  it("says what it does not understand", async () => {
    expectError(await sfc(["pull", "nothing"]), 1, '"nothing"', "sfc models");
    expectError(await sfc(["pull", "tiny/none"]), 1, '"tiny/none"', "Check the name");
    expectError(await sfc(["pull", "tiny/llama@v9"]), 1, '"v9"');
    expectError(await sfc(["pull", "tiny/llama", "--revision", "v9"]), 1, '"v9"');
    expectError(await sfc(["pull", "tiny/saes/large"]), 1, "none of them in tiny/saes/large");
    expectError(await sfc(["pull", "gpt2-res-jb", "--sites", "heads"]), 2, "--sites");
    expectError(await sfc(["pull", "gpt2-res-jb", "--layers", "12"]), 1, "block 12");
    expectError(await sfc(["pull"]), 2, "names");
    expectError(await sfc(["pull", "tiny/llama"], { HF_HUB_OFFLINE: "1" }), 1, "HF_HUB_OFFLINE");
    expect((await succeeds(["pull", "demo"])).stdout).toBe("demo is part of this package.\n");
  });

  it("goes on after kill -9 and after Ctrl-C with what is there", async () => {
    const part = join(home, "hub/models--tiny--llama/blobs", partOf("model.safetensors"));
    for (const signal of ["SIGKILL", "SIGINT"] as const) {
      await rm(join(home, "hub"), { recursive: true, force: true });
      hub.asked.length = 0;
      hub.faults.set("model.safetensors", [{ stallAfter: 20_000 }]);
      const pull = start(["pull", "tiny/llama"], undefined, env);
      expect(await until(home, pull, () => sizeOf(part) >= 20_000)).toBe(true);
      pull.child.kill(signal);
      const ended = await pull.ended;
      if (signal === "SIGINT") {
        expect(ended).toMatchObject({ code: 130, stdout: "" });
        expect(ended.stderr).toContain("Stopped. The same command resumes it.");
      }
      const { stderr } = await succeeds(["pull", "tiny/llama"]);
      expect(stderr).toContain("(20 kB are there from before)");
      expect(hub.downloads.at(-1)!.range).toBe("bytes=20000-");
      expect(filesUnder(join(home, "hub")).filter((name) => /incomplete|lock|part$/.test(name))).toEqual([]);
    }
  });

  it("two at once share one download", async () => {
    hub.faults.set("model.safetensors", [{ pieceEvery: 10 }]);
    const both = await Promise.all([1, 2].map(() => succeeded([], alone(["pull", "tiny/llama"]))));
    expect(both[0]!.stdout).toBe(both[1]!.stdout);
    expect(downloaded().filter((name) => name === "model.safetensors")).toHaveLength(1);
    expect(
      (await readFile(join(snapshotOf("tiny/llama"), "model.safetensors"))).equals(files["model.safetensors"]!),
    ).toBe(true);
  });

  it.skipIf(!canMount())("a disk that is full before, fills meanwhile, or cannot be written is told", async () => {
    const disk = join(home, "disk");
    await mkdir(disk);
    const at = { HF_HUB_CACHE: join(disk, "hub") };
    try {
      expect(mountSmall(disk, 64)).toBe(true);
      expectError(await sfc(["pull", "tiny/llama"], at), 1, "of room on the disk, got", "HF_HUB_CACHE", disk);
      mountSmall(disk, 512, { remount: true });
      hub.faults.set("model.safetensors", [{ pieceEvery: 10 }]);
      const pull = start(["pull", "tiny/llama"], undefined, { ...env, ...at });
      const part = join(disk, "hub/models--tiny--llama/blobs", partOf("model.safetensors"));
      expect(await until(disk, pull, () => sizeOf(part) >= 10_000)).toBe(true);
      await writeFile(join(disk, "filler"), Buffer.alloc(600 * 1024)).catch(() => {});
      expectError(await pull.ended, 1, "room on the disk, got a full one (ENOSPC)", "HF_HUB_CACHE", "resumes");
      await rm(join(disk, "filler"));
      await succeeds(["pull", "tiny/llama"], at);
      expect(hub.downloads.at(-1)!.range).toMatch(/^bytes=[1-9]\d*-$/);
      mountSmall(disk, 512, { remount: true, readOnly: true });
      await succeeds(["pull", "tiny/llama"], at);
      expectError(await sfc(["pull", "gpt2"], at), 1, "a place that can be written, got no permission", "HF_HUB_CACHE");
    } finally {
      unmount(disk);
    }
  });
});

async function filesIn(id: string): Promise<string[]> {
  return readdirSync(snapshotOf(id));
}

const partOf = (name: string) => `${sha256(files[name]!)}.sfc.incomplete`;
const sizeOf = (path: string) => statSync(path, { throwIfNoEntry: false })?.size ?? 0;

describe("sfc run", () => {
  it("downloads a model and SAEs by their paths on the hub, and gives the numbers of local ones", async () => {
    const { stderr } = await succeeds(run("tiny/llama", "tiny/saes/small", "hub run"));
    expect(stderr).toContain("Downloading 3 files");
    expect(stderr).toContain("Downloading 6 files");
    expect(stderr).toMatch(/^download: /m);
    await succeeds(run(llama, join(folder, "saes"), "local run"));
    const [there, here] = [await manifestOf(join(home, "hub run")), await manifestOf(join(home, "local run"))];
    expect(there.model).toEqual({ ...here.model, name: "tiny/llama" });
    expect(there.dictionaries.map((d: { sha256: string }) => d.sha256)).toEqual(
      here.dictionaries.map((d: { sha256: string }) => d.sha256),
    );
    expect(await readFile(join(home, "hub run/ranking.json"), "utf8")).toBe(
      await readFile(join(home, "local run/ranking.json"), "utf8"),
    );
  });

  it("uses what is cached without the network, and with HF_HUB_OFFLINE", async () => {
    await succeeds(["pull", "tiny/llama", "tiny/saes/small"]);
    const before = hub.asked.length;
    await succeeds(run("tiny/llama", "tiny/saes/small", "one"));
    expect(hub.asked.length).toBe(before);
    await succeeds(run("tiny/llama", "tiny/saes/small/resid_post.1", "two"), { HF_HUB_OFFLINE: "1" });
    await hub.stop();
    await succeeds(run("tiny/llama@main", "tiny/saes/small", "three", "--sites", "resid_post"));
  });

  it("what is not cached: HF_HUB_OFFLINE names the file and the way to get it", async () => {
    const offline = { HF_HUB_OFFLINE: "1" };
    const none = await sfc(run("gpt2", "dummy", "none"), offline);
    expectError(none, 1, "hub file config.json: expected one of openai-community/gpt2", "sfc pull gpt2");
    expect(hub.asked).toEqual([]);
    await succeeds(["pull", "gpt2"]);
    await rm(join(snapshotOf("openai-community/gpt2"), "tokenizer.json"));
    const some = await sfc(run("gpt2", "dummy", "some"), offline);
    expectError(some, 1, "hub file tokenizer.json", snapshotOf("openai-community/gpt2"), "sfc pull gpt2");
    // With the network the one that lacks is fetched.
    const { stderr } = await succeeds(run("gpt2", "dummy", "whole"));
    expect(stderr).not.toContain("Downloading");
    expect(downloaded()).toHaveLength(3);
  });

  it("uses a cache that only Python's library has filled, where the hub does not answer", async () => {
    await succeeds(["pull", "tiny/llama", "tiny/saes/small"]);
    for (const id of ["tiny--llama", "tiny--saes"]) {
      await rm(join(home, `hub/models--${id}/trees`), { recursive: true });
    }
    await hub.stop();
    const { stderr } = await succeeds(run("tiny/llama", "tiny/saes/small", "python"));
    expect(stderr).toContain("Cannot reach the hub; using the cached tiny/llama.");
  });

  it("a preset of SAEs of another model is refused before anything is fetched", async () => {
    await succeeds(["pull", "gpt2"]);
    hub.asked.length = 0;
    expectError(await sfc(run("gpt2", "gemma-scope-2b-pt-res-16k", "wrong")), 1, "gpt2", "gemma-2-2b", "gpt2-v5-32k");
    // The default SAEs: the model that is served here is none of 768 numbers.
    expectError(await sfc(run("gpt2", null, "default")), 1, "gpt2-res-jb");
    expect(hub.asked).toEqual([]);
  });

  it("a model that has no SAEs says so", async () => {
    expectError(await sfc(run("tiny/llama", null, "no SAEs")), 1, "sfc train sae", "--sae_source dummy");
  });

  it("two SAEs for one site are refused before anything is fetched", async () => {
    const [a, b] = ["layer_0/width_16k/average_l0_7/params.npz", "layer_0/width_16k/average_l0_9/params.npz"];
    hub.repos.set("tiny/scope", { files: { [a]: "a", [b]: "b" } });
    const ended = await sfc(run("tiny/llama", "tiny/scope", "two"));
    expectError(ended, 1, "expected one for resid_post.0", a, b, "Name the folder");
    expect(downloaded().filter((name) => name.endsWith(".npz"))).toEqual([]);
  });

  it("a local folder comes before the hub", async () => {
    const here = join(home, "here");
    await cp(llama, join(here, "tiny/llama"), { recursive: true });
    await writeFile(join(here, "tiny/llama/config.json"), "{");
    const ended = await sfc(run(join(here, "tiny/llama"), "dummy", "local"));
    expectError(ended, 1, "config.json");
    expect(hub.asked).toEqual([]);
  });
});

it("sfc pairs takes names of the hub, and sfc train sae wants a folder for what it makes", async () => {
  const { stdout } = await succeeds(["pairs", "--model_name", "tiny/llama", "--pairs", pairs]);
  expect(stdout).toContain("8 of 8 pairs can be used");
  expectError(await sfc(["train", "sae", "--model_name", "tiny/llama"]), 2, "--output_dir");
});

describe("sfc models", () => {
  it("says what is cached, as text and as JSON", async () => {
    const before = (await succeeds(["models"])).stdout;
    expect(before).toMatch(/^gpt2 +124 M +openai-community\/gpt2 +no$/m);
    expect(before).toMatch(/^gemma-scope-2b-pt-res-16k \* +gemma-2-2b +resid_post +16384 +26 +7\.9 GB +no$/m);
    expect(before).not.toContain("tiny/llama");
    await succeeds(["pull", "gpt2", "tiny/llama"]);
    const after = (await succeeds(["models"])).stdout;
    expect(after).toMatch(/^gpt2 +124 M +openai-community\/gpt2 +\d+ kB$/m);
    expect(after).toMatch(/^tiny\/llama +llama +tiny\/llama +yes$/m);
    await rm(join(snapshotOf("openai-community/gpt2"), "config.json"));
    expect((await succeeds(["models"])).stdout).toMatch(/^gpt2 .* kB, not all$/m);
    const json = JSON.parse((await succeeds(["models", "--json"])).stdout);
    expect(json.models.map(({ name }: { name: string }) => name)).toEqual(
      expect.arrayContaining(["demo", "smollm2-135m", "pythia-70m-deduped", "gpt2", "tinyllama", "gemma-2-2b"]),
    );
    expect(json.saes[0]).toMatchObject({
      name: "gemma-scope-2b-pt-res-16k",
      model: "gemma-2-2b",
      count: 26,
      cached: 0,
    });
  });
});
