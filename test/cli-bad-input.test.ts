import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { cp, mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  copyProgram,
  examples,
  expectComplete,
  expectError,
  expectNothingHalfWritten,
  fixtures,
  llama,
  runFlags,
  sfc,
  start,
  succeeds,
  writeExamples,
  writeSae,
} from "./cli-harness.ts";

let home: string;
let pairs: string;
let output: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-bad-"));
  pairs = await writeExamples(join(home, "pairs.jsonl"), examples(8));
  output = join(home, "run");
});
afterAll(() => rm(home, { recursive: true, force: true }));

/** A run with other flags; later flags win. */
const run = (...more: string[]) => sfc(...runFlags(pairs, output, ...more));

/** A copy of the small Llama with one file changed. */
async function model(name: string, file: string, change: (bytes: Buffer) => Buffer | string): Promise<string> {
  const folder = join(home, name);
  await cp(llama, folder, { recursive: true });
  await writeFile(join(folder, file), change(await readFile(join(folder, file))));
  return folder;
}

function replaced(bytes: Buffer, text: string, by: string): Buffer {
  const at = bytes.indexOf(text);
  if (at < 0) throw new Error(`no ${text} in the file`);
  return Buffer.concat([bytes.subarray(0, at), Buffer.from(by), bytes.subarray(at + text.length)]);
}

describe("a model that cannot be used", () => {
  const weights = "model.safetensors";
  const cases: [what: string, file: string, change: (bytes: Buffer) => Buffer | string, parts: string[]][] = [
    ["weights cut short", weights, (b) => b.subarray(0, b.length / 2), ["bytes", "cut short or damaged"]],
    ["a file of three bytes", weights, (b) => b.subarray(0, 3), ["at least 8 bytes"]],
    [
      "a header longer than its file",
      weights,
      (b) => {
        b.writeBigUInt64LE(BigInt(b.length), 0);
        return b;
      },
      ["safetensors header", "a length of"],
    ],
    ["a flipped byte in the header", weights, (b) => Buffer.from(b.fill(0xff, 20, 21)), ["safetensors header", "JSON"]],
    ["an unknown number format", weights, (b) => replaced(b, '"F32"', '"I31"'), ["dtype of tensor", '"I31"']],
    [
      "a weight that is not a number",
      weights,
      (b) => {
        b.writeFloatLE(Number.NaN, b.length - 4);
        return b;
      },
      ["finite numbers", "NaN"],
    ],
    ["a config that is not JSON", "config.json", () => "{", ["config.json"]],
    ["another kind of model", "config.json", (b) => replaced(b, '"llama"', '"mamba"'), ["model_type", "mamba"]],
    [
      "weights of another width",
      "config.json",
      (b) => replaced(b, '"hidden_size": 32', '"hidden_size": 64'),
      ["shape"],
    ],
    ["a tokenizer that is not one", "tokenizer.json", () => "[]", ["tokenizer.json"]],
  ];
  it.each(cases)("%s", async (what, file, change, parts) => {
    const folder = await model(what, file, change);
    const to = join(home, `run on ${what}`);
    expectError(await run("--model_name", folder, "--output_dir", to), 1, folder, ...parts);
    await expectNothingHalfWritten(to);
  });

  it("repaired: the same command goes on", async () => {
    const what = "a weight that is not a number";
    await cp(join(llama, weights), join(home, what, weights));
    const to = join(home, `run on ${what}`);
    await succeeds(runFlags(pairs, to, "--model_name", join(home, what), "--output_dir", to));
    await expectComplete(to);
  });

  it("an unknown name", async () => {
    expectError(await run("--model_name", "no-such-model"), 1, '"no-such-model"', "--model_name");
  });

  it.each(["./nope", "../no/such/folder", "nope.gguf", "~/nope", "nope/"])(
    "a local path of nothing: %s",
    async (path) => {
      expectError(await run("--model_name", path), 1, `No such folder or file (${path}). Check --model_name.`);
    },
  );

  it("a folder without config.json", async () => {
    const folder = join(home, "empty");
    await mkdir(folder);
    expectError(await run("--model_name", folder), 1, "config.json", folder);
  });

  it("but the pairs of sfc bench are read before a model", async () => {
    const ended = await sfc("bench", "--model_name", "no-such-model", "--pairs", join(home, "nope.jsonl"));
    expectError(ended, 1, "--pairs", "nope.jsonl");
  });

  it("also for sfc pairs", async () => {
    const ended = await sfc("pairs", "--model_name", "no-such-model", "--output", join(home, "out.jsonl"));
    expectError(ended, 1, '"no-such-model"');
    expect(existsSync(join(home, "out.jsonl"))).toBe(false);
  });
});

describe("SAEs that cannot be used", () => {
  /** A folder with one SAE, of resid_post of the last block. */
  async function saes(name: string, change: (bytes: Buffer) => Buffer = (b) => b): Promise<string> {
    const folder = join(home, name);
    await writeSae(folder, "resid_post.1");
    const weights = join(folder, "resid_post.1/sae_weights.safetensors");
    await writeFile(weights, change(await readFile(weights)));
    return folder;
  }

  it("of another width than the model", async () => {
    const source = join(fixtures, "dictionaries/saes");
    expectError(await run("--sae_source", source), 1, "SAE width", "expected 32", "got 8", source);
  });

  it("a place that does not exist", async () => {
    expectError(await run("--sae_source", join(home, "nowhere")), 1, join(home, "nowhere"), "--sae_source");
  });

  it("a folder without any", async () => {
    expectError(await run("--sae_source", join(fixtures, "training")), 1, join(fixtures, "training"));
  });

  it("none in the model's own folder", async () => {
    const ended = await sfc("run", "--model_name", llama, "--pairs", pairs, "--output_dir", output);
    expectError(ended, 1, llama, "--sae_source");
  });

  it("a kind asked for by name that has none", async () => {
    const source = await saes("one site");
    expectError(await run("--sae_source", source, "--sites", "resid_post,mlp_out"), 1, "mlp_out", "--sites");
  });

  it("a site asked for by kind and layer that has none", async () => {
    const source = await saes("one kind and layer");
    const ended = await run("--sae_source", source, "--sites", "resid_post", "--layers", "0-1");
    expectError(ended, 1, "expected one for resid_post.0, got only resid_post.1", "--layers");
  });

  it("a layer asked for that has none, alone or among others", async () => {
    const source = await saes("one layer");
    for (const layers of ["0", "0-1"]) {
      expectError(await run("--sae_source", source, "--layers", layers), 1, "a site in block 0", "--layers");
    }
  });

  it("a file cut short", async () => {
    const source = await saes("cut short", (b) => b.subarray(0, b.length - 4));
    expectError(await run("--sae_source", source), 1, "sae_weights.safetensors", "cut short");
  });

  it("weights that are not numbers", async () => {
    const source = await saes("not numbers", (b) => {
      b.writeFloatLE(Number.NaN, b.length - 4);
      return b;
    });
    const to = join(home, "not numbers run");
    expectError(await run("--sae_source", source, "--output_dir", to), 1, "finite numbers", "sae_weights.safetensors");
    await expectNothingHalfWritten(to);
  });

  it("leave no folder behind", () => expect(existsSync(output)).toBe(false));
});

it("a program without its report page says so before it computes", async () => {
  const program = await copyProgram(join(home, "no page"));
  await rm(join(home, "no page/dist/web"), { recursive: true });
  expectError(await start(runFlags(pairs, output), program).ended, 1, "dist/web/report.html", "npm run build");
  expect(existsSync(output)).toBe(false);
});

describe("flags that cannot be understood", () => {
  const cases: [flags: string[], code: 1 | 2, parts: string[]][] = [
    [["--layers", "2"], 2, ["--layers", "0 to 1", "got 2"]],
    [["--layers", "x"], 2, ["--layers", '"x"']],
    [["--layers", "3-1"], 2, ["--layers", '"3-1"']],
    [["--layers", ""], 2, ["--layers"]],
    [["--sites", "heads"], 2, ["--sites", "heads", "resid_post"]],
    [["--seed", "abc"], 2, ["--seed", "abc"]],
    [["--seed", "1.5"], 2, ["--seed", "1.5"]],
    [["--num_examples", "0"], 2, ["--num_examples", "'0'"]],
    [["--batch_size", "-3"], 2, ["--batch_size"]],
    [["--score", "magic"], 2, ["--score", "gradient-activation"]],
    [["--colour", "red"], 2, ["--colour", "--help"]],
    [["--output_dir"], 2, ["--output_dir"]],
    [["extra"], 2, ["extra", "--shard"]],
    [["--num_examples", "-3"], 2, ["--num_examples", "from 1 up"]],
    [["--task", "sums"], 2, ["--task", "sums"]],
  ];
  it.each(cases)("%j", async (flags, code, parts) => {
    const [command, ...rest] = runFlags(pairs, output);
    // --task bears on the pairs only without a file of them.
    const before = flags[0] === "--task" ? rest.filter((arg) => arg !== "--pairs" && arg !== pairs) : rest;
    expectError(await sfc(command!, ...before, ...flags), code, ...parts);
    expect(existsSync(output)).toBe(false);
  });

  it("a command that does not exist", async () => {
    expectError(await sfc("analyse"), 2, "analyse", "--help");
  });
});

describe("--help", () => {
  const commands = [
    "",
    "run",
    "compare",
    "pairs",
    "report",
    "models",
    "pull",
    "bench",
    "train",
    "train lm",
    "train sae",
  ];
  it.each(commands)("of sfc %s", async (command) => {
    const words = command.split(" ").filter((word) => word !== "");
    const { code, stdout, stderr } = await sfc(...words, "--help");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toContain(`Usage: ${["sfc", ...words].join(" ")}`);
    const prose = stdout.split("\n").filter((line) => !line.startsWith("  "));
    expect(prose.filter((line) => line.length > 80)).toEqual([]);
  });

  it.each([
    [["rnu"], "sfc --help"],
    [["run", "--taks", "pronoun"], "sfc run --help"],
    [["train", "lm"], "sfc train lm --help"],
    [["pull"], "sfc pull --help"],
  ])("is what the error of sfc %j leads to", async (args, help) => {
    expectError(await sfc(...args), 2, `See ${help}.`);
  });

  it("says what float64 costs", async () => {
    const { stdout } = await sfc("run", "--help");
    expect(stdout.replace(/\s+/g, " ")).toContain("float64 keeps all packs in memory");
  });
});

describe("what is no file", () => {
  // Opening a pipe waits for whoever writes to it, and no signal ends that.
  const pipe = (path: string) => spawnSync("mkfifo", [path]).status === 0;

  it("is not waited for, whichever flag names it", async ({ skip }) => {
    const path = join(home, "pipe.jsonl");
    if (!pipe(path)) skip();
    const other = join(home, "other");
    for (const flags of [
      runFlags(path, other),

      runFlags(pairs, other, "--sae_source", path),
      ["pairs", "--pairs", path],
      ["train", "sae", "--text", path, "--steps", "1", "--output_dir", other],
      ["report", path],
    ]) {
      expectError(await sfc(...flags), 1, path);
    }
  });

  it("is not read without an end", async () => {
    const ended = await sfc("train", "sae", "--text", "/dev/zero", "--steps", "1", "--output_dir", join(home, "other"));
    expectError(ended, 1, "--text", "not a file, but a pipe or a device");
  });

  it("is not replaced by a file", async ({ skip }) => {
    const path = join(home, "out.jsonl");
    if (!pipe(path)) skip();
    const ended = await sfc("pairs", "--num_examples", "2", "--output", path);
    expectError(ended, 1, "got a pipe or a device", path);
    expect((await stat(path)).isFIFO()).toBe(true);
  });
});

describe("numbers that no memory holds", () => {
  const sae = ["train", "sae", "--sites", "resid_post", "--layers", "2", "--steps", "1"];
  it.each([
    [
      ["run", "--method", "analytic-ig", "--steps", "1000000000"],
      ["--steps", "at most 99999"],
    ],
    [
      ["compare", "--methods", "analytic,analytic-ig", "--steps", "1000000000"],
      ["--steps", "at most 99999"],
    ],
    [
      [...sae, "--expansion", "1000000000"],
      ["--expansion", "at most 1024"],
    ],
    [
      [...sae, "--active", "1000000000"],
      ["--active: expected at most", "got 1000000000"],
    ],
    [
      [...sae, "--threads", "1000000000"],
      ["--threads", "at most 256"],
    ],
  ])("%j is refused before anything is computed", async (flags, parts) => {
    expectError(await sfc(...flags, "--output_dir", join(home, "none")), 2, ...parts);
  });
});
