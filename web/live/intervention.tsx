import { useState } from "preact/hooks";
import type { Intervened, TypedPair } from "../../src/live/questions.ts";
import { signed } from "../../src/report/format.ts";
import { NextTokens } from "./next-tokens.tsx";

const ways = ["ablate", "scale", "set"] as const;

/** A feature that is to be changed. */
export interface Chosen {
  readonly site: string;
  readonly feature: number;
  readonly way: (typeof ways)[number];
  /** The factor, or the value that its code takes, as it is typed. */
  readonly value: string;
}

/** The features that are changed, each with how. */
export function InterventionFields(props: {
  chosen: readonly Chosen[];
  onChange: (chosen: readonly Chosen[]) => void;
}) {
  const { chosen, onChange } = props;
  const [text, setText] = useState("");
  const [, site, feature] = /^\s*([\w.]+)\/(\d+)\s*$/.exec(text) ?? [];
  const replace = (at: number, one: Partial<Chosen>) =>
    onChange(chosen.map((before, i) => (i === at ? { ...before, ...one } : before)));
  return (
    <>
      <ul class="chosen">
        {chosen.map((one, at) => (
          <li key={`${one.site}/${one.feature}`}>
            <b>
              {one.site}/{one.feature}
            </b>
            <select
              aria-label={`What is done to ${one.site}/${one.feature}`}
              value={one.way}
              onChange={(event) => replace(at, { way: event.currentTarget.value as Chosen["way"] })}
            >
              {ways.map((way) => (
                <option key={way}>{way}</option>
              ))}
            </select>
            {one.way !== "ablate" && (
              <input
                aria-label={one.way === "scale" ? "Factor" : "Value"}
                value={one.value}
                onInput={(event) => replace(at, { value: event.currentTarget.value })}
              />
            )}
            <button
              type="button"
              class="plain"
              aria-label={`Remove ${one.site}/${one.feature}`}
              onClick={() => onChange(chosen.filter((_, i) => i !== at))}
            >
              remove
            </button>
          </li>
        ))}
      </ul>
      <p>
        <label>
          Feature{" "}
          <input
            placeholder="resid_post.2/1035"
            value={text}
            onInput={(event) => setText(event.currentTarget.value)}
            spellcheck={false}
          />
        </label>{" "}
        <button
          type="button"
          disabled={site === undefined || feature === undefined}
          onClick={() => {
            onChange([...chosen, { site: site!, feature: Number(feature), way: "ablate", value: "0" }]);
            setText("");
          }}
        >
          Add
        </button>
      </p>
    </>
  );
}

/**
 * The metric and the next token before and after.
 *
 * @param pairs those of `found`, in its order
 */
export function Changes({ found, pairs }: { found: Intervened; pairs: readonly TypedPair[] }) {
  const mean = (of: "before" | "after") => found.pairs.reduce((sum, pair) => sum + pair[of], 0) / found.pairs.length;
  return (
    <>
      <p class="metric">
        m {signed(mean("before"))} before, <b>{signed(mean("after"))}</b> after, in logits
        {found.pairs.length > 1 && `, mean over ${found.pairs.length} pairs`}
      </p>
      {found.pairs.map(({ before, after, next }, i) => (
        <details key={i} open={i === 0}>
          <summary>
            {pairs[i]!.clean}: m {signed(before)} before, {signed(after)} after
          </summary>
          <NextTokens
            columns={["before", "after"]}
            rows={next.map((one) => ({ text: one.text, shares: [one.before, one.after] }))}
          />
        </details>
      ))}
    </>
  );
}
