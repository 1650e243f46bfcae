import { UserError } from "../errors.ts";
import { ConfigReader, shown } from "./config.ts";
import { gemma } from "./gemma.ts";
import { gemma2 } from "./gemma2.ts";
import { gemma3 } from "./gemma3.ts";
import { gemma3Text } from "./gemma3_text.ts";
import { gptNeox } from "./gpt_neox.ts";
import { gpt2 } from "./gpt2.ts";
import { llama } from "./llama.ts";
import { mistral } from "./mistral.ts";
import type { Model } from "./model.ts";
import { qwen2 } from "./qwen2.ts";
import { qwen3 } from "./qwen3.ts";

/** The architectures, by the `model_type` of config.json. */
const architectures: Readonly<Record<string, (c: ConfigReader) => Model>> = {
  llama,
  mistral,
  qwen2,
  qwen3,
  gemma,
  gemma2,
  gemma3_text: gemma3Text,
  gemma3,
  gpt2,
  gpt_neox: gptNeox,
};

/** Names of the architectures that can be run. */
export const modelTypes = Object.keys(architectures);

/**
 * The model that a config.json describes.
 *
 * @param where the folder, for messages
 * @param allowedFields unknown fields to go on with, as `Model.ignoredFields` then says
 * @throws UserError if the architecture is unknown, a field is not understood, or an allowed one is
 */
export function modelFromConfig(
  config: Readonly<Record<string, unknown>>,
  where: string,
  allowedFields: readonly string[] = [],
): Model {
  checkModelType(config, where);
  const c = new ConfigReader(config, where, new Set(allowedFields));
  const model = architectures[config.model_type as string]!(c);
  const ignoredFields = c.done();
  const other = allowedFields.find((field) => !ignoredFields.includes(field));
  if (other !== undefined) {
    throw new UserError(
      `--allow_config_field ${other}: expected an unknown field, got one that is missing or understood in config.json of ${where}. Leave it out.`,
    );
  }
  return ignoredFields.length > 0 ? { ...model, ignoredFields } : model;
}

/** @throws UserError if a config.json is not of an architecture that can be run */
export function checkModelType(config: Readonly<Record<string, unknown>>, where: string): void {
  const type = config.model_type;
  if (typeof type === "string" && Object.hasOwn(architectures, type)) return;
  const got = shown(type);
  throw new UserError(
    `model_type: expected one of ${modelTypes.join(", ")}, got ${got} in config.json of ${where}. ` +
      "Choose a model of a supported architecture.",
  );
}
