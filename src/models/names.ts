/** Names that begin so are of models with one of these `model_type`s; with none, of models that cannot be run here. The first that fits counts. */
const families: readonly (readonly [RegExp, readonly string[]])[] = [
  [/^gpt-?neo(?!-?x)|^gpt-?j|^opt-|^phi|^tiny-?stories|^mixtral|^bloom|^mamba|^falcon|^olmo|^(gelu|solu)-/, []],
  [/^(distil)?gpt-?2/, ["gpt2"]],
  [/^pythia|^gpt-?neox/, ["gpt_neox"]],
  [/^gemma-?2(-|$)/, ["gemma2"]],
  [/^gemma-?3(-|$)/, ["gemma3", "gemma3_text"]],
  [/^gemma-\d+b/, ["gemma"]],
  [/^(meta-|tiny-?|code)?llama|^smollm/, ["llama"]],
  [/^mistral/, ["mistral"]],
  [/^qwen-?(1\.5|2|2\.5)(-|$)/, ["qwen2"]],
  [/^qwen-?3(-|$)/, ["qwen3"]],
];

/**
 * Whether a model's name, as some file spells it, is clearly not that of the model at hand: it is of another architecture, or every name of the model
 * that tells its size tells another one, another version, or another of the kinds base and instruct, deduplicated and not.
 *
 * @param said the name in the file, as `gpt2-small` or `google/gemma-2-2b`
 * @param modelType of the model at hand
 * @param names what the model at hand is called: by its path, its repository, its config.json
 */
export function isOtherModel(said: string, modelType: string, names: readonly string[]): boolean {
  const types = families.find(([pattern]) => pattern.test(plain(said)))?.[1];
  if (types && !types.includes(modelType)) return true;
  const wanted = marks(said);
  const own = names.map(marks).filter(({ size }) => size !== undefined);
  if (wanted.size === undefined || own.length === 0) return false;
  return !own.some(
    (one) =>
      one.size === wanted.size &&
      one.isTuned === wanted.isTuned &&
      one.isDeduped === wanted.isDeduped &&
      (one.version === undefined || wanted.version === undefined || one.version === wanted.version),
  );
}

/** The last part of a path, in small letters, without revision, ending and number format. */
function plain(name: string): string {
  const last = name.replace(/\/+$/, "").replace(/@.*$/, "").split("/").at(-1)!.toLowerCase();
  return last.replace(/\.gguf$/, "").replace(/[-._](iq?\d|q\d|bf16|f16|f32|fp16|8bit|4bit).*$/, "");
}

function marks(name: string) {
  const text = plain(name);
  return {
    size: /(?:^|[-_ ])(\d+(?:\.\d+)?[mb])(?=$|[-_ ])/.exec(text)?.[1],
    version: /(?:llama|qwen|smollm|gemma)-?(\d+(?:\.\d+)?)(?=$|[-_ ])/.exec(text)?.[1],
    isTuned: /(?:^|[-_ ])(it|instruct|chat)(?=$|[-_ ])/.test(text),
    isDeduped: /(?:^|[-_ ])deduped(?=$|[-_ ])/.test(text),
  };
}
