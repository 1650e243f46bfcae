import { useState } from "preact/hooks";
import { number, tokenText } from "../../src/report/format.ts";

/**
 * Tokens on a ground that is the stronger, the larger the feature's code is there. A token tells its code when it is chosen: the tab key comes to the
 * marked one, the arrow keys go to the others.
 */
export function Shaded(props: {
  tokens: readonly string[];
  /** The patch prompt's token where it differs. */
  patch?: readonly (string | null)[];
  /** Null where the code is not kept. */
  codes: readonly (number | null)[];
  /** The code of the strongest ground. */
  most: number;
  marked: number;
}) {
  const { tokens, patch, codes, most, marked } = props;
  const [chosen, setChosen] = useState<number | null>(null);
  const entry = chosen ?? marked;
  const move = (event: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key] ?? 0;
    const next = entry + step;
    if (step === 0 || next < 0 || next >= tokens.length) return;
    event.preventDefault();
    setChosen(next);
    (event.currentTarget as HTMLElement).querySelectorAll<HTMLElement>(".token")[next]?.focus();
  };
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: arrow keys move among the buttons inside
    <span class="prompt shaded" onKeyDown={move}>
      {tokens.map((token, t) => {
        const text = tokenText(token);
        const code = codes[t] ?? null;
        const other = patch?.[t] ?? null;
        const word = text.trimStart();
        const size = code === null ? 0 : Math.min(1, code / most);
        const classes = ["token", code === null ? "unknown" : "", t === marked ? "peak" : ""];
        return (
          <span key={t}>
            {text.startsWith(" ") && " "}
            <button
              type="button"
              class={classes.filter((one) => one !== "").join(" ")}
              style={{ "--size": `${Math.round(100 * size)}%` }}
              tabIndex={t === entry ? 0 : -1}
              aria-pressed={t === chosen}
              title={codeText(code)}
              onClick={() => setChosen(t === chosen ? null : t)}
            >
              {other === null ? (
                word
              ) : (
                <ruby>
                  {word}
                  <rp> (patch: </rp>
                  <rt>{tokenText(other).trim()}</rt>
                  <rp>)</rp>
                </ruby>
              )}
            </button>
          </span>
        );
      })}
      <span class="told" role="status">
        {chosen !== null && `“${tokenText(tokens[chosen] ?? "").trim()}”: ${codeText(codes[chosen] ?? null)}`}
      </span>
    </span>
  );
}

const codeText = (code: number | null) => (code === null ? "activation not kept" : `activation ${number(code)}`);
