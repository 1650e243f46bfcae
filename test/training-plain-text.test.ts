import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { modelFromConfig } from "../src/models/architectures.ts";
import { demoLexicon } from "../src/prompts/english/lexicon-demo.ts";
import { makeTokenizer } from "../src/prompts/make-tokenizer.ts";
import { loadTokenizer } from "../src/prompts/tokenizer.ts";
import { activationBatches, readAhead } from "../src/training/activations.ts";
import { demoConfig } from "../src/training/demo.ts";
import { documentsOf, mixedText, plainText, splitOf, type TextSplit } from "../src/training/plain-text.ts";
import { generatedText, type TextSource, withinVocabulary } from "../src/training/text.ts";
import { expectError, sfc, succeeds } from "./cli-harness.ts";

const json = JSON.parse(makeTokenizer(demoLexicon)["tokenizer.json"]);
const withBos = loadTokenizer(json);
const withoutBos = loadTokenizer({ ...json, post_processor: null });
const special = withBos.bos!;

/** 400 documents; each has a number of its own, and the words around it are the same in all. */
const documents = Array.from(
  { length: 400 },
  (_, i) => `The teacher likes number ${1000 + i} and the doctors like the garden.`,
);
const written = documents.join("\n\n");

describe("documents", () => {
  it("stand between blank lines, wherever their own lines end", () => {
    const text = "\n\nOne\nline\n  wrapped.\n\n \t\nTwo.\r\nAgain.\r\n\r\n\r\nThree.\n";
    expect(documentsOf(text)).toEqual(["One line wrapped.", "Two. Again.", "Three."]);
    expect(documentsOf("one\ntwo")).toEqual(["one two"]);
    expect(documentsOf(" \n \n\n")).toEqual([]);
  });

  it("are held out by their words alone, one in twenty or so", () => {
    const held = documents.filter((document) => splitOf(document) === "held-out");
    expect(held.length).toBeGreaterThan(8);
    expect(held.length).toBeLessThan(40);
    expect(documents.map(splitOf)).toEqual([...documents].reverse().map(splitOf).reverse());
  });
});

describe.each([
  ["with BOS", withBos],
  ["without BOS", withoutBos],
])("rows of plain text, %s", (_, tokenizer) => {
  const source = (split: TextSplit, seed: number | string = 1) => plainText(tokenizer, documents, split, seed, "a.txt");
  const rowsOf = (text: TextSource, piece: number | string, count = 8, length = 24) => {
    const { tokens } = text.rows(piece, count, length);
    return Array.from({ length: count }, (_, b) => [...tokens.slice(b * (length + 1), (b + 1) * (length + 1))]);
  };

  it("are the same for the same seed and piece, and others for another", () => {
    expect(rowsOf(source("train"), 3)).toEqual(rowsOf(source("train"), 3));
    expect(rowsOf(source("train"), "scale/0")).toEqual(rowsOf(source("train"), "scale/0"));
    expect(rowsOf(source("train"), 4)).not.toEqual(rowsOf(source("train"), 3));
    expect(rowsOf(source("train", 2), 3)).not.toEqual(rowsOf(source("train"), 3));
  });

  it("are packed: every token of the split once, then all again, BOS only in front", () => {
    const text = source("train");
    const rows = text.distinct(24);
    const all = rowsOf(text, 0, rows);
    expect(rowsOf(text, 1, rows)).toEqual(all);
    const first = tokenizer.bos === undefined ? 0 : 1;
    for (const row of all) {
      if (first === 1) expect(row[0]).toBe(special);
      expect(row.indexOf(special, first)).toBe(-1);
    }
    const stretches = new Set(all.map((row) => row.slice(first).join(" ")));
    const train = documents.filter((document) => splitOf(document) === "train");
    const stream = train.flatMap((document) => tokenizer.encode(`\n\n${document}`).slice(first));
    const width = 25 - first;
    expect(rows).toBe(Math.floor(stream.length / width));
    for (let row = 0; row < rows; row++) {
      expect(stretches.has(stream.slice(row * width, (row + 1) * width).join(" "))).toBe(true);
    }
  });

  it("share no document between training and held-out text", () => {
    const numbers = (split: TextSplit) => {
      const text = source(split);
      const rows = rowsOf(text, 0, text.distinct(24));
      return new Set(rows.flatMap((row) => tokenizer.decode(row).match(/1\d\d\d/g) ?? []));
    };
    const [train, held] = [numbers("train"), numbers("held-out")];
    expect(held.size).toBeGreaterThan(5);
    expect([...held].filter((number) => train.has(number))).toEqual([]);
  });

  it("mix with generated English in the share asked for", () => {
    const made = generatedText(tokenizer, demoLexicon, 1);
    const mixed = mixedText(source("train"), made, 0.25);
    const rows = rowsOf(mixed, 2);
    expect(rows.slice(0, 6)).toEqual(rowsOf(source("train"), 2, 6));
    expect(rows.slice(6)).toEqual(rowsOf(made, 2, 2));
    expect(mixed.distinct(24)).toBe(source("train").distinct(24) / 0.75);
  });

  it("are refused if there is too little text", () => {
    const text = plainText(tokenizer, documents.slice(0, 2), "train", 1, "a.txt");
    expect(() => text.rows(0, 1, 500)).toThrow(/expected at least 50[01] tokens .* in a\.txt/);
  });
});

it("rows begin with all that the tokenizer puts in front, and none of it stands between documents", () => {
  const single = [...json.post_processor.single.slice(0, 1), ...json.post_processor.single];
  const doubled = loadTokenizer({ ...json, post_processor: { ...json.post_processor, single } });
  const { tokens } = plainText(doubled, documents, "train", 1, "a.txt").rows(0, 200, 24);
  for (let row = 0; row < 200; row++) {
    const ids = [...tokens.slice(row * 25, row * 25 + 25)];
    expect(ids.slice(0, 2)).toEqual([special, special]);
    expect(ids.indexOf(special, 2)).toBe(-1);
  }
  expect(() => plainText(doubled, documents, "train", 1, "a.txt").rows(0, 1, 1)).toThrow(/shorter rows|more text/);
});

it("tokens that the model does not have are refused by name, and words without tokens do not go on for ever", () => {
  const text = plainText(withBos, documents, "train", 1, "a.txt");
  const most = Math.max(...text.rows(0, 8, 24).tokens);
  expect(withinVocabulary(text, withBos, most + 1).rows(0, 8, 24)).toEqual(text.rows(0, 8, 24));
  expect(() => withinVocabulary(text, withBos, most).rows(0, 8, 24)).toThrow(
    `text: expected tokens that the model has, below ${most}, got ${most} ("${withBos.token(most)}"). Leave it out of the text.`,
  );
  const wordless = loadTokenizer({ model: { type: "BPE", vocab: { "1": 0 }, merges: [] } });
  expect(() => generatedText(wordless, demoLexicon, 1).rows(0, 1, 16)).toThrow(
    /^text: expected a tokenizer with tokens for English words, got fewer than 17 tokens for \d+ sentences\. Train/,
  );
});

it("a reader that reads ahead gives the same pieces in order, each read once, and none beyond the last", async () => {
  const read: (string | number)[] = [];
  const inner = {
    read: async (piece: string | number) => {
      read.push(piece);
      return new Map([["embed", Float32Array.of(Number(piece))]]);
    },
    close: async () => {},
  };
  const reader = readAhead(inner, 3);
  await reader.read("7");
  for (let piece = 0; piece < 3; piece++) {
    expect((await reader.read(piece)).get("embed")).toEqual(Float32Array.of(piece));
    expect(read.at(-1)).toBe(Math.min(piece + 1, 2));
  }
  expect(read).toEqual(["7", 0, 1, 2]);
});

it("batches leave out attention sinks, tokens whose activations are far longer than the median", async () => {
  const model = modelFromConfig(
    { ...demoConfig(64), hidden_size: 2, num_attention_heads: 1, num_key_value_heads: 1, head_dim: 2 },
    "test",
  );
  const row = (n: number) => [n % 3 === 0 ? 3 : -3, 4];
  const read = async () => {
    const values = Float32Array.from(Array.from({ length: 40 }, (_, n) => (n === 8 ? [101, 0] : row(n))).flat());
    return new Map([["resid_post.0", values]]);
  };
  const source = activationBatches(model, ["resid_post.0"], { read, close: async () => {} });
  const scale = (await source.scales()).get("resid_post.0")!;
  expect(scale.mean[1]).toBe(4);
  expect(scale.deviation).toBeLessThan(3);
  const sizes: number[] = [];
  for (let n = 0; n < 4; n++) {
    const values = (await source.batch(n)).get("resid_post.0")!;
    sizes.push(values.length / 2);
    expect(values).not.toContain(101);
    expect([...values.slice(0, 2)]).toEqual(row(n));
  }
  // Row 8 of 40 falls into the first of four batches.
  expect(sizes).toEqual([9, 10, 10, 10]);
});

describe("sfc train sae --text", () => {
  let home: string;
  let file: string;
  beforeAll(async () => {
    home = await mkdtemp(join(tmpdir(), "sfc-text-"));
    file = join(home, "english.txt");
    await writeFile(file, written);
  });
  afterAll(() => rm(home, { recursive: true, force: true }));
  const flags = (folder: string, ...more: string[]) => [
    ...["train", "sae", "--sites", "resid_post", "--layers", "1", "--steps", "6", "--length", "12"],
    ...["--output_dir", join(home, folder, "saes"), ...more],
  ];

  it("trains the same SAE with the model in a thread of its own, says on which text, and measures it", async () => {
    for (const threads of ["1", "2"]) {
      const { stderr } = await succeeds(flags(threads, "--text", file, "--generated", "0.25", "--threads", threads));
      // What is left is estimated from the first step on, without what comes before it.
      expect(stderr).toMatch(/^scales of activations: .*\n(.*\n)*training 1 SAE: /m);
    }
    const weights = (threads: string) => readFile(join(home, threads, "saes/resid_post.1/sae_weights.safetensors"));
    expect((await weights("1")).equals(await weights("2"))).toBe(true);
    const text = "english.txt (75 %); generated English (25 %)";
    const { metadata } = JSON.parse(await readFile(join(home, "1/saes/resid_post.1/cfg.json"), "utf8"));
    expect(metadata).toMatchObject({ dataset_path: text, context_size: 12, prepend_bos: true });
    const record = JSON.parse(await readFile(join(home, "1/training/saes.json"), "utf8"));
    expect(record).toMatchObject({ text, length: 12, tokens: 6 * 16 * 11 });

    const { stdout } = await succeeds(flags("1", "--text", file, "--evaluate", "--json", "--tokens", "100000"));
    const [quality] = JSON.parse(stdout).sites;
    // Held-out text is short, and read once.
    expect(quality.tokens).toBeLessThan(2000);
    expect(quality.varianceExplained).toBeLessThan(1);
  }, 120_000);

  it("refuses what is no text before the work begins", async () => {
    const write = async (name: string, bytes: string | Uint8Array) => {
      await writeFile(join(home, name), bytes);
      return join(home, name);
    };
    await mkdir(join(home, "folder"));
    for (const [path, ...parts] of [
      [join(home, "none.txt"), "which does not exist"],
      [join(home, "folder"), "cannot be read"],
      [await write("empty.txt", " \n\n"), "no words"],
      [await write("binary.txt", Uint8Array.of(65, 0, 66)), "zero byte"],
      [await write("latin.txt", Uint8Array.of(0x63, 0x61, 0x66, 0xe9)), "UTF-8"],
    ] as const) {
      expectError(await sfc(...flags("bad", "--text", path)), 1, "--text", path, ...parts);
    }
    expectError(await sfc(...flags("bad", "--generated", "0.5")), 2, "--generated", "--text");
    expectError(await sfc(...flags("bad", "--text", file, "--generated", "1")), 2, "--generated");
    expectError(await sfc(...flags("bad", "--text", file, "--length", "5000")), 2, "--length", "2 to 128");
  }, 60_000);
});
