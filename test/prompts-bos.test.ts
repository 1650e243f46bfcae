import { describe, expect, it } from "vitest";
import { withBos } from "../src/prompts/bos.ts";
import { loadTokenizer } from "../src/prompts/tokenizer.ts";

/** Words between spaces; some are special, and some of these are put in front. */
function words(put: readonly string[], config: unknown = {}, specials = ["<pad>", "<bos>", "<|endoftext|>"]) {
  const all = [...specials, "a", "b", "[UNK]"];
  const added = specials.map((content, id) => ({ id, content, special: true, normalized: false }));
  const front = put.map((id) => ({ SpecialToken: { id, type_id: 0 } }));
  return loadTokenizer(
    {
      added_tokens: added.map((one) => ({ ...one, single_word: false, lstrip: false, rstrip: false })),
      normalizer: null,
      pre_tokenizer: { type: "WhitespaceSplit" },
      post_processor: {
        type: "TemplateProcessing",
        single: [...front, { Sequence: { id: "A", type_id: 0 } }],
        pair: [],
        special_tokens: Object.fromEntries(put.map((id) => [id, { id, ids: [all.indexOf(id)], tokens: [id] }])),
      },
      decoder: null,
      model: { type: "WordLevel", vocab: Object.fromEntries(all.map((word, id) => [word, id])), unk_token: "[UNK]" },
    },
    config,
  );
}
const [pad, bos, end, a, b] = [0, 1, 2, 3, 4];

describe("--bos yes", () => {
  it.each([
    ["that tokenizer_config.json names", { bos_token: "<|endoftext|>" }, {}, end],
    ["that config.json names", {}, { bos_token_id: end }, end],
    ["by its usual name", {}, {}, bos],
    ["by its usual name where config.json names a word", {}, { bos_token_id: a }, bos],
  ])("puts the token %s in front, as BOS in every sense", (_, tokenizerConfig, config, token) => {
    const made = withBos(words([], tokenizerConfig), "yes", config, "m");
    expect(made.encode("a b")).toEqual([token, a, b]);
    expect(made).toMatchObject({ bos: token, bosToken: token });
    expect([...made.outside.first]).toEqual([token]);
    expect(made.answerToken("a", " b")).toBe(b);
  });

  it("puts none in front of a text that brings it, nor a second one where the tokenizer puts it", () => {
    expect(withBos(words([]), "yes", {}, "m").encode("<bos> a")).toEqual([bos, a]);
    expect(withBos(words(["<bos>"]), "yes", {}, "m").encode("a")).toEqual([bos, a]);
    const other = words(["<bos>"], { bos_token: "<|endoftext|>" });
    expect(withBos(other, "yes", {}, "m").encode("a")).toEqual([bos, a]);
  });

  it("is refused where no token is known to be BOS", () => {
    const message =
      /^--bos yes: expected a tokenizer that says which token is BOS, got none in folder\. .*"bos_token"\.$/;
    expect(() => withBos(words([], {}, ["<pad>"]), "yes", {}, "folder")).toThrow(message);
    expect(() => withBos(words([], {}, ["<pad>"]), "yes", { bos_token_id: 999 }, "folder")).toThrow(message);
  });

  it("leaves BOS out of padding", () => {
    const made = withBos(words([], { pad_token: "<pad>" }, ["<pad>"]), "yes", { bos_token_id: pad }, "m");
    expect(made.outside.padding.size).toBe(0);
  });
});

describe("--bos no", () => {
  it.each([[["<bos>"]], [["<bos>", "<bos>"]], [[]]])("leaves out what the tokenizer puts: %j", (put) => {
    const made = withBos(words(put), "no", {}, "m");
    expect(made.encode("a b")).toEqual([a, b]);
    expect(made).toMatchObject({ bos: undefined, bosToken: bos });
    expect(made.answerToken("a", " b")).toBe(b);
  });

  it("leaves what a text brings, and what the tokenizer puts behind BOS", () => {
    expect(withBos(words(["<bos>"]), "no", {}, "m").encode("<bos> a")).toEqual([bos, a]);
    expect(withBos(words(["<bos>", "<|endoftext|>"]), "no", {}, "m").encode("a")).toEqual([end, a]);
  });
});

it("--bos auto is the tokenizer's own", () => {
  for (const put of [[], ["<bos>"]]) {
    const own = words(put);
    expect(withBos(own, "auto", {}, "m").encode("a <bos> b")).toEqual(own.encode("a <bos> b"));
  }
});
