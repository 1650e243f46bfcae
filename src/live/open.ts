import { openFiles } from "../analysis/opened.ts";
import { type Folder, subfolder } from "../bytes/folder.ts";
import { heldDictionary } from "../dictionaries/held.ts";
import { openDictionaries } from "../dictionaries/open.ts";
import { keptSessions } from "../graph/kept-sessions.ts";
import type { Device } from "../graph/runtime.ts";
import { parameterCount } from "../models/model.ts";
import { heldWeights, loadedModel } from "../models/weights.ts";
import type { OpenLive } from "./answers.ts";

/** Sessions that stay open while nobody uses them: of a few shapes of prompts, each with a pass or two and its encoders. */
export const idleSessions = 24;

/** What is opened, and what computes it. */
export interface LivePlace {
  /** What the model is called. */
  readonly name: string;
  /** The model's files, with its SAEs in `saes`. They have to stay where they are. */
  readonly folder: Folder;
  readonly device: Device;
  readonly precision: "float32" | "float64";
}

/** Opens a model with its own SAEs from files that are at hand, all of its weights in memory. @throws UserError if they cannot be used */
export async function openLive({ name, folder, device, precision }: LivePlace): Promise<OpenLive> {
  const inputs = { folder: async () => folder, check() {} };
  const place = { name, path: name, folder: name, gguf: undefined, inputs, allowedFields: [], bos: "auto" } as const;
  const { model, checkpoint, tokenizer, warnings } = await openFiles(place);
  const weights = await heldWeights(model, checkpoint, precision);
  const saes = await openDictionaries(subfolder(folder, "saes"));
  return {
    name,
    tokenizer,
    warnings,
    loaded: loadedModel(model, weights, { dtype: precision, device, kept: keptSessions(idleSessions) }),
    dictionaries: new Map([...saes].map(([site, dictionary]) => [site, heldDictionary(dictionary)])),
    weightBytes: (precision === "float64" ? 8 : 4) * parameterCount(model),
  };
}
