import { basename } from "node:path";
import { readRegular } from "../bytes/file.node.ts";
import { messageOf, UserError } from "../errors.ts";
import { demoLexicon } from "../prompts/english/lexicon-demo.ts";
import type { Tokenizer } from "../prompts/tokenizer.ts";
import { documentsOf, mixedText, plainText, type TextSplit } from "../training/plain-text.ts";
import { generatedText, heldOutText, type TextSource, withinVocabulary } from "../training/text.ts";

/** Which text SAEs are trained or measured on. */
export interface TextChoice {
  /** Files of plain text; generated English alone if there are none. */
  readonly files: readonly string[];
  /** The share of generated English beside them. */
  readonly generated: number;
  readonly seed: number;
}

/** What to call a text in SAELens' `dataset_path`. */
export function nameOf({ files, generated }: TextChoice): string {
  if (files.length === 0) return "generated English";
  const names = files.map((file) => basename(file)).join(", ");
  if (generated === 0) return names;
  return `${names} (${percent(1 - generated)}); generated English (${percent(generated)})`;
}

function percent(share: number): string {
  return `${Number((100 * share).toFixed(1))} %`;
}

/**
 * Reads the files of a text and makes the rows of one of its splits.
 *
 * @param vocabulary how many tokens the model has
 * @throws UserError if a file cannot be read, is not UTF-8 text or has no words
 */
export async function openText(
  { files, generated, seed }: TextChoice,
  split: TextSplit,
  tokenizer: Tokenizer,
  vocabulary: number,
): Promise<TextSource> {
  const name = split === "train" ? `${seed}/dictionaries` : heldOutText(seed);
  const made = withinVocabulary(generatedText(tokenizer, demoLexicon, name), tokenizer, vocabulary);
  if (files.length === 0) return made;
  const documents: string[] = [];
  for (const file of files) documents.push(...documentsOf(await readText(file)));
  const plain = withinVocabulary(plainText(tokenizer, documents, split, name, files.join(", ")), tokenizer, vocabulary);
  return generated === 0 ? plain : mixedText(plain, made, generated);
}

/**
 * A file of plain text.
 *
 * @throws UserError if it cannot be read, is not UTF-8 text or is empty
 */
export async function readText(file: string): Promise<string> {
  const bytes = await readRegular(file).catch((error) => {
    const why =
      error.code === "ENOENT" ? "which does not exist" : `which cannot be read (${error.code ?? messageOf(error)})`;
    throw new UserError(`--text: expected a file of plain text, got ${file}, ${why}. Check the path.`);
  });
  const fail = (got: string): never => {
    throw new UserError(`--text: expected plain text in UTF-8, got ${got} in ${file}. Convert it, or leave it out.`);
  };
  if (bytes.includes(0)) fail("a zero byte");
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return fail("other bytes");
  }
  return text.trim() === "" ? fail("no words") : text;
}
