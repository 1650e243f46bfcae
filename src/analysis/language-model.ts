import { StoppedError } from "../errors.ts";
import type { LoadedModel } from "../models/weights.ts";
import { type Reporter, type Watching, watchingReporter } from "../progress.ts";
import type { Tokenizer } from "../prompts/tokenizer.ts";
import { compareSites, type SiteName, siteKinds, siteName } from "../site.ts";
import type { OpenedModel } from "./opened.ts";
import { type AnsweredPrompt, capturePrompts, type PromptActivations, type PromptGradients } from "./prompts.ts";

/** A language model that is ready to run. */
export interface LanguageModel extends AsyncDisposable {
  /** As asked for. */
  readonly name: string;
  /** L */
  readonly layers: number;
  /** D, the width of the residual stream. */
  readonly width: number;
  /** All sites of the model, in order of computation. */
  readonly sites: readonly SiteName[];
  readonly tokenizer: Tokenizer;
  /** What whoever reads its numbers has to know. */
  readonly warnings: readonly string[];
  /** The model bound to its weights, device and precision, for the parts of this library (`analytic-sfc/capture` and others). */
  readonly loaded: LoadedModel;
  /**
   * The model's files.
   *
   * @internal
   */
  readonly files: OpenedModel;
  /**
   * Activations of prompts at some sites, x[T,D] for each prompt. Prefixes that prompts share are computed once.
   *
   * @throws UserError if a site does not exist or a prompt is too long
   */
  capture<S extends SiteName>(
    prompts: readonly string[],
    sites: readonly S[],
    watching?: Watching,
  ): Promise<PromptActivations<S>>;
  /**
   * Activations of prompts with answers, and the gradients of the metric m = logit(patch answer) − logit(clean answer) at the prompt's end:
   * x[T,D] and g[T,D] = ∂m/∂x for each prompt by itself, m[P] in logits.
   *
   * @throws UserError if a site does not exist, a prompt is too long, or an answer is not one token
   */
  capture<S extends SiteName>(
    prompts: readonly AnsweredPrompt[],
    sites: readonly S[],
    watching?: Watching,
  ): Promise<PromptGradients<S>>;
  /** Closes the model's files; those of SAEs stay open. */
  close(): Promise<void>;
}

/** A language model of files that are open, and of the model in them bound to its weights. */
export function languageModel(files: OpenedModel, loaded: LoadedModel): LanguageModel {
  const { name, model, tokenizer, warnings } = files;
  const close = () => files.close();
  return {
    name,
    layers: model.layers,
    width: model.width,
    sites: sitesOf(loaded),
    tokenizer,
    warnings,
    loaded,
    files,
    capture: <S extends SiteName>(
      prompts: readonly (string | AnsweredPrompt)[],
      sites: readonly S[],
      watching: Watching = {},
    ) =>
      watched(
        watching,
        ({ set, stopped }) =>
          capturePrompts(loaded, tokenizer, prompts, sites, { onProgress: set, stopped }) as Promise<
            PromptGradients<S>
          >,
      ),
    close,
    [Symbol.asyncDispose]: close,
  };
}

/** All sites of a model, in order of computation. */
function sitesOf({ model }: LoadedModel): SiteName[] {
  return siteKinds
    .filter((kind) => model.sites[kind] !== undefined)
    .flatMap((kind) =>
      kind === "embed" ? ["embed"] : Array.from({ length: model.layers }, (_, layer) => siteName({ kind, layer })),
    )
    .sort(compareSites);
}

/** Does work that an aborted signal ends with its reason. */
export async function watched<T>(watching: Watching, work: (reporter: Reporter) => Promise<T>): Promise<T> {
  watching.signal?.throwIfAborted();
  try {
    return await work(watchingReporter(watching));
  } catch (error) {
    if (error instanceof StoppedError) watching.signal?.throwIfAborted();
    throw error;
  }
}
