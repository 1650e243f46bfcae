/**
 * Tokens that stand for no text of a prompt. Dictionaries are not trained on them, so rankings leave their nodes out. Every other special token (a
 * chat's turn marks, say) counts like a word.
 */
export interface OutsideText {
  /** BOS, which is one at a prompt's first position alone: elsewhere the same token can be text. */
  readonly first: ReadonlySet<number>;
  /** Padding, at any position. */
  readonly padding: ReadonlySet<number>;
}

/** Whether the token at a 0-based position stands for no text of its prompt. */
export function isOutside({ first, padding }: OutsideText, token: number, position: number): boolean {
  return padding.has(token) || (position === 0 && first.has(token));
}

/**
 * The tokens outside the text, from a parsed tokenizer_config.json: its `bos_token` and what the tokenizer puts first; its `pad_token` where that is a
 * token of its own, and not one that also ends a text or a chat's turn.
 *
 * @param bos the token that the tokenizer puts first, if it puts one
 * @param idOf the id of a token's text
 */
export function outsideText(
  config: unknown,
  bos: number | undefined,
  idOf: (token: string) => number | undefined,
): OutsideText {
  const named = (role: string): number | undefined => {
    const content = namedToken(config, role);
    return content === undefined ? undefined : idOf(content);
  };
  const first = [bos, named("bos_token")].filter((id) => id !== undefined);
  const others = new Set([...first, named("eos_token"), named("unk_token")]);
  const padding = [named("pad_token")].filter((id) => id !== undefined && !others.has(id)) as number[];
  return { first: new Set(first), padding: new Set(padding) };
}

/** The text of a token that a parsed tokenizer_config.json names, `bos_token` say: as a text, or as an added token. */
export function namedToken(config: unknown, role: string): string | undefined {
  const value = (config as Record<string, unknown> | null | undefined)?.[role];
  const content = typeof value === "object" && value !== null ? (value as { content?: unknown }).content : value;
  return typeof content === "string" ? content : undefined;
}
