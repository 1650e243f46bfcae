import { UserError } from "../errors.ts";
import { parseSite, type SiteKind } from "../site.ts";
import type { Dictionary } from "./dictionary.ts";

/** What there is to know of a model to tell whether a dictionary can be used with it; a `Model` has all of it. */
export interface Host {
  readonly layers: number;
  /** The longest prompt, in tokens. */
  readonly maxLength: number;
  /** Kinds of sites that it has, with their widths. */
  readonly sites: Readonly<Partial<Record<SiteKind, number>>>;
  /** Kinds of sites that are the whole output of a module of transformers. */
  readonly moduleSites: readonly SiteKind[];
  /** Whether all that reads the residual stream takes its mean out first. */
  readonly ignoresMean: boolean;
  /** Whether attention's values have a bias. */
  readonly valueBias: boolean;
}

/**
 * The dictionary as it reads the activations of a model. What its files say of the model that it was trained on must not contradict this one; what
 * leaves a doubt is in its warnings.
 *
 * @throws UserError if it is a transcoder, if the model has no such site or one of another width, if the model goes on with the output of the module that the dictionary
 *   reads before it is the site, or if the activations differ in a way that is not covered
 */
export function fitDictionary(dictionary: Dictionary, host: Host): Dictionary {
  refuseTranscoder(dictionary);
  const { writes: site, name, trainedOn = {} } = dictionary;
  const { kind, layer } = parseSite(site);
  const width = host.sites[kind];
  if (width === undefined || layer >= host.layers) {
    throw new UserError(`SAE: expected a site of the model, got ${site} in ${name}. Use SAEs of this model.`);
  }
  checkWidths(dictionary, width);
  const { module, centredWeights, foldedValueBiases, contextSize } = trainedOn;
  const isWithin = module !== undefined && !host.moduleSites.includes(kind);
  if (isWithin && module.isSure) {
    throw new UserError(
      `SAE: expected one of what ${kind === "embed" ? "block 0 reads" : "is added to the residual stream"}, got one of ${module.name}'s output, which this model changes before (by a norm, a scale or positions), in ${name}. Use other SAEs, or leave ${site} out with --sites and --layers.`,
    );
  }
  if (foldedValueBiases && host.valueBias) {
    throw new UserError(
      `model_from_pretrained_kwargs.fold_value_biases: expected false for SAEs of ${site}, got none in a training by SAELens before 3.19.2, for which that meant true, for ${name}. Write false into cfg.json if the heads were trained with their biases.`,
    );
  }
  const warnings = [...(dictionary.warnings ?? [])];
  if (isWithin) {
    warnings.push(
      `SAEs named like ${module.name.replace(/\d+$/, "<layer>")} are taken for ${kind}, what the model adds to its residual stream. If they were trained on the output of the module itself, which this model changes before, their effects are wrong.`,
    );
  }
  if (centredWeights === "byDefault" && host.ignoresMean) {
    warnings.push(
      'The SAEs were trained by SAELens before 3.19.2, which took the mean out of the weights that write to the residual stream: they read activations less their mean. If these were trained otherwise, write "model_from_pretrained_kwargs": {"center_writing_weights": false} into cfg.json.',
    );
  }
  if (contextSize !== undefined && contextSize > host.maxLength) {
    warnings.push(
      `The SAEs were trained on texts of ${contextSize} tokens; this model takes at most ${host.maxLength}, so it is hardly the one that they were trained on.`,
    );
  }
  const fitted = dictionary.forModel?.(host.ignoresMean) ?? dictionary;
  return warnings.length > 0 ? { ...fitted, warnings } : fitted;
}

/** Refuses what reads one site and writes another, or adds a linear map of what it reads: all that uses dictionaries supposes neither. */
function refuseTranscoder({ reads, writes, skip, name }: Dictionary): void {
  if (reads === writes && skip === undefined) return;
  const got = reads === writes ? "a linear map of its input besides" : `one that reads ${reads} and writes ${writes}`;
  throw new UserError(
    `SAE: expected one that reads and writes one site, got ${got} in ${name}. Transcoders are not supported.`,
  );
}

/** Refuses a dictionary that was not trained on activations of this length, or whose decoder's rows are of another. */
function checkWidths({ writes: site, inputWidth, outputWidth, name }: Dictionary, expected: number): void {
  if (inputWidth !== expected) {
    throw new UserError(
      `SAE width: expected ${expected}, the model's at ${site}, got ${inputWidth} in ${name}. Use SAEs of this model.`,
    );
  }
  if (outputWidth !== inputWidth) {
    throw new UserError(
      `SAE decoder rows: expected ${inputWidth} numbers, as many as the encoder reads at ${site}, got ${outputWidth} in ${name}. Check that it is an SAE.`,
    );
  }
}

/**
 * What to say of prompts that are unlike the texts that dictionaries were trained on: with or without BOS in front, or longer.
 *
 * @param prompts token ids
 * @param bos the tokens that are BOS in front of a prompt
 */
export function unlikeTraining(
  dictionaries: Iterable<Dictionary>,
  prompts: readonly ArrayLike<number>[],
  bos: ReadonlySet<number>,
): string[] {
  const trained = [...dictionaries].map(({ trainedOn = {} }) => trainedOn);
  const withBos = prompts.filter((prompt) => bos.has(prompt[0]!)).length;
  const longest = prompts.reduce((most, { length }) => Math.max(most, length), 0);
  const shortest = trained.reduce((least, { contextSize }) => Math.min(least, contextSize ?? least), Infinity);
  const count = (wanted: boolean) => trained.filter((one) => one.bos === wanted).length;
  const which = (some: number) => (some === trained.length ? "The SAEs" : `${some} of ${trained.length} SAEs`);
  const lines: string[] = [];
  if (count(true) > 0 && withBos < prompts.length) {
    const got =
      withBos === 0 ? "this tokenizer puts none" : `${prompts.length - withBos} of ${prompts.length} prompts have none`;
    lines.push(`${which(count(true))} were trained with BOS in front (prepend_bos); ${got}. --bos yes puts it there.`);
  }
  if (count(false) > 0 && withBos > 0) {
    const got = withBos === prompts.length ? "the prompts have it" : `${withBos} of ${prompts.length} prompts have it`;
    lines.push(
      `${which(count(false))} were trained without BOS in front (prepend_bos); ${got}. --bos no leaves out the tokenizer's.`,
    );
  }
  if (longest > shortest) {
    lines.push(`The SAEs were trained on texts of ${shortest} tokens; prompts have up to ${longest}.`);
  }
  return lines;
}
