import type { TypedPair } from "../../src/live/questions.ts";

const fields = [
  ["clean", "Clean prompt"],
  ["clean_answer", "Clean answer"],
  ["patch", "Patch prompt"],
  ["patch_answer", "Patch answer"],
] as const;

/** All pairs that are typed: the one in the fields, and one for each line of the others. */
export function typedPairs(pair: TypedPair, more: string): TypedPair[] {
  const lines = more.split("\n").filter((line) => line.trim() !== "");
  const others = lines.map((line) => {
    const [clean = "", patch = "", clean_answer = "", patch_answer = ""] = line
      .split(line.includes("\t") ? "\t" : "|")
      .map((part) => part.trim());
    return { clean, patch, clean_answer, patch_answer };
  });
  return [pair, ...others];
}

/** Fields for a pair, and for more of them by lines. */
export function PairFields(props: {
  pair: TypedPair;
  more: string;
  onPair: (pair: TypedPair) => void;
  onMore: (more: string) => void;
}) {
  const { pair, more, onPair, onMore } = props;
  return (
    <>
      <div class="pair">
        {fields.map(([name, title]) => (
          <label key={name}>
            {title}
            <input
              value={pair[name]}
              onInput={(event) => onPair({ ...pair, [name]: event.currentTarget.value })}
              spellcheck={false}
            />
          </label>
        ))}
      </div>
      <details>
        <summary>More pairs</summary>
        <label class="more">
          One a line: clean prompt | patch prompt | clean answer | patch answer (or tabs between them)
          <textarea rows={6} value={more} onInput={(event) => onMore(event.currentTarget.value)} spellcheck={false} />
        </label>
      </details>
    </>
  );
}
