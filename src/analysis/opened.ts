import type { Folder } from "../bytes/folder.ts";
import { type Checkpoint, openCheckpoint } from "../models/checkpoint.ts";
import { fittedModel } from "../models/fitted.ts";
import type { Model } from "../models/model.ts";
import { type BosChoice, withBos } from "../prompts/bos.ts";
import { loadTokenizer, type Tokenizer } from "../prompts/tokenizer.ts";

/** The files that a job reads, and whether they are as they were: what is found is worth something only if none changed meanwhile. */
export interface Inputs {
  /** A folder whose files are watched from when they are opened. @throws UserError if it cannot be read */
  folder(path: string): Promise<Folder>;
  /** @throws UserError if a file is not as it was when it was first opened, naming it */
  check(): void;
}

/** A model whose files are open: their headers have been read, the weights not. */
export interface OpenedModel extends AsyncDisposable {
  /** As asked for. */
  readonly name: string;
  readonly model: Model;
  readonly checkpoint: Checkpoint;
  readonly tokenizer: Tokenizer;
  /** The folder that holds the model's files. */
  readonly folder: string;
  /** All files that were opened for the job: the model's, and those of SAEs and pairs that are opened with it. */
  readonly inputs: Inputs;
  /** What whoever reads the numbers has to know of the model. */
  readonly warnings: readonly string[];
  /** Closes the model's files, and those of the SAEs that were opened with it. */
  close(): Promise<void>;
}

/** Which files are a model, and how they are read. */
export interface ModelPlace {
  /** As asked for. */
  readonly name: string;
  /** The model's folder or GGUF file, for messages. */
  readonly path: string;
  readonly folder: string;
  /** The GGUF file's name in the folder; undefined for the layout of Hugging Face. */
  readonly gguf: string | undefined;
  /** Takes note of the files that are opened. */
  readonly inputs: Inputs;
  /** Unknown fields of config.json to go on with. */
  readonly allowedFields: readonly string[];
  /** Whether texts begin with BOS. */
  readonly bos: BosChoice;
}

/** Opens a model's files. @throws UserError if they are no model, or one that cannot be run */
export async function openFiles({
  name,
  path,
  folder,
  gguf,
  inputs,
  allowedFields,
  bos,
}: ModelPlace): Promise<OpenedModel> {
  const opened = await openCheckpoint(await inputs.folder(folder), gguf, allowedFields);
  try {
    const { model, checkpoint, warnings } = await fittedModel(opened, path, allowedFields);
    const loaded = loadTokenizer(
      checkpoint.tokenizer,
      checkpoint.tokenizerConfig,
      gguf === undefined ? `${folder}/tokenizer.json` : path,
    );
    const tokenizer = withBos(loaded, bos, checkpoint.config, path);
    const close = () => checkpoint.close();
    return {
      name,
      model,
      checkpoint,
      tokenizer,
      folder,
      inputs,
      warnings,
      close,
      [Symbol.asyncDispose]: close,
    };
  } catch (error) {
    await opened.close();
    throw error;
  }
}
