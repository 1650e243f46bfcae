import { useId, useState } from "preact/hooks";
import type { Known } from "./known.ts";
import { useSelection } from "./selection.tsx";

/** Suggestions that are given at once. */
const suggested = 200;

/** Whether an input comes from a suggestion that was chosen: what is typed may be the beginning of a longer name. */
const isChosen = ({ inputType }: Pick<InputEvent, "inputType">) =>
  inputType === undefined || inputType === "insertReplacementText";

/** Opens the card of a feature that is asked for by its number or its whole name. */
export function FeatureSearch({ known }: { known: Known }) {
  const { select } = useSelection();
  const [missing, setMissing] = useState<string | null>(null);
  const [list, note] = [useId(), useId()];
  const open = (text: string): boolean => {
    const name = known.search(text)[0];
    if (name === undefined) return false;
    const cut = name.lastIndexOf("/");
    select({ site: name.slice(0, cut), feature: Number(name.slice(cut + 1)) });
    return true;
  };
  return (
    <search class="search">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          const field = event.currentTarget.elements.namedItem("feature") as HTMLInputElement;
          const text = field.value.trim();
          if (text === "") return;
          const found = open(text);
          setMissing(found ? null : text);
          if (found) field.value = "";
        }}
      >
        <input
          type="search"
          name="feature"
          list={list}
          aria-label="Feature"
          aria-describedby={missing === null ? undefined : note}
          placeholder="find a feature"
          autoComplete="off"
          onInput={(event) => {
            setMissing(null);
            const { value } = event.currentTarget;
            if (isChosen(event) && known.has(value) && open(value)) event.currentTarget.value = "";
          }}
        />
        <datalist id={list}>
          {known.names.slice(0, suggested).map((name) => (
            <option key={name} value={name} />
          ))}
        </datalist>
      </form>
      <p id={note} class="search-note" role="status">
        {missing !== null && `No feature “${missing}” in this report.`}
      </p>
    </search>
  );
}
