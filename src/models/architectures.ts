import { UserError } from "../errors.ts";
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
const architectures: Readonly<Record<string, (config: Readonly<Record<string, unknown>>, where: string) => Model>> = {
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
 * @throws UserError if the architecture is unknown or a field is not understood
 */
export function modelFromConfig(config: Readonly<Record<string, unknown>>, where: string): Model {
  const type = String(config.model_type);
  const make = Object.hasOwn(architectures, type) ? architectures[type] : undefined;
  if (!make) {
    throw new UserError(
      `model_type: expected one of ${modelTypes.join(", ")}, got ${JSON.stringify(config.model_type) ?? "nothing"} in config.json of ${where}. ` +
        "Choose a model of a supported architecture.",
    );
  }
  return make(config, where);
}
