import { UserError } from "../errors.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Whether texts begin with BOS: as the tokenizer has it, always, or never. */
export const bosChoices = ["auto", "yes", "no"] as const;
/** Whether texts begin with BOS: as the tokenizer decides, always, or never. */
export type BosChoice = (typeof bosChoices)[number];

/** What published tokenizers call BOS, in the order of preference. */
const usualNames = ["<bos>", "<s>", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>"];

/**
 * The tokenizer with BOS in front of every text, or without it. A text that brings BOS itself gets no second one.
 *
 * BOS is the token that tokenizer_config.json names or the tokenizer puts; else that of config.json; else the special token with a usual name.
 *
 * @param config the parsed config.json
 * @param where names the files in errors
 * @throws UserError if BOS is asked for and no token is known to be it
 */
export function withBos(
  tokenizer: Tokenizer,
  choice: BosChoice,
  config: Readonly<Record<string, unknown>>,
  where: string,
): Tokenizer {
  const token = tokenizer.bosToken ?? configured(tokenizer, config) ?? named(tokenizer);
  const { bos: put } = tokenizer;
  if (choice === "no" && put !== undefined) {
    const front = tokenizer.encode("");
    const count = front.findIndex((id) => id !== put);
    const encode = (text: string) => tokenizer.encode(text).slice(count < 0 ? front.length : count);
    return { ...tokenizer, bos: undefined, bosToken: token, encode };
  }
  if (choice !== "yes" || put !== undefined) return { ...tokenizer, bosToken: token };
  if (token === undefined) {
    throw new UserError(
      `--bos yes: expected a tokenizer that says which token is BOS, got none in ${where}. Name it there in tokenizer_config.json, as "bos_token".`,
    );
  }
  const { special, outside } = tokenizer;
  return {
    ...tokenizer,
    bos: token,
    bosToken: token,
    special: new Set([...special, token]),
    outside: {
      first: new Set([...outside.first, token]),
      padding: new Set([...outside.padding].filter((id) => id !== token)),
    },
    encode(text) {
      const ids = tokenizer.encode(text);
      return ids[0] === token ? ids : [token, ...ids];
    },
  };
}

function configured({ special }: Tokenizer, { bos_token_id: id }: Readonly<Record<string, unknown>>) {
  return typeof id === "number" && special.has(id) ? id : undefined;
}

function named(tokenizer: Tokenizer): number | undefined {
  const ids = new Map([...tokenizer.special].map((id) => [tokenizer.token(id), id]));
  return usualNames.map((name) => ids.get(name)).find((id) => id !== undefined);
}
