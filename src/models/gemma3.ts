import type { ConfigReader } from "./config.ts";
import { gemma3Text } from "./gemma3_text.ts";
import type { Model } from "./model.ts";

/**
 * Gemma 3 of 4B and up (arXiv:2503.19786), which also sees pictures: its text model, for prompts of text alone.
 *
 * @param c reads config.json of a checkpoint with `model_type` gemma3, the text model's within `text_config`
 * @throws UserError for a field that is not understood
 */
export function gemma3(c: ConfigReader): Model {
  const own = c.within("text_config");
  own.only("model_type", "gemma3_text");
  const tied = own.flag("tie_word_embeddings", c.flag("tie_word_embeddings", true));
  c.only("tie_word_embeddings", tied);
  c.without("vision_config", "mm_tokens_per_image");
  c.without(
    "image_token_index",
    "boi_token_index",
    "eoi_token_index",
    "image_token_id",
    "boi_token_id",
    "eoi_token_id",
  );
  // Both parts are loaded in the format that the whole names.
  const text = c.within("text_config", { tie_word_embeddings: tied, ...c.format() });
  const unused = ["vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."];
  return { ...gemma3Text(text), modelType: "gemma3", unused };
}
