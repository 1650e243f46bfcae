import { useState } from "preact/hooks";
import type { MethodName } from "../../src/effects/method.ts";
import type { LiveSubject } from "../../src/live/questions.ts";
import { ask } from "./client.ts";
import { placeLink } from "./place.ts";

/** Keeps what was found: an answer as JSON, or its pairs as a whole run. */
export function Keep(props: { id: string; run?: LiveSubject & { readonly method: MethodName } }) {
  const { id, run } = props;
  const [name, setName] = useState("");
  const [told, setTold] = useState<{ readonly text: string; readonly isProblem: boolean } | null>(null);
  const act = (asked: Promise<string>) =>
    asked.then(
      (text) => setTold({ text, isProblem: false }),
      (error: Error) => setTold({ text: error.message, isProblem: true }),
    );
  const save = async () => `Saved as ${(await ask("POST live/save", { id, name })).file}.`;
  const start = async ({ model, pairs, method }: NonNullable<typeof run>) => {
    await ask("POST work/start", { name, model, method, of: { pairs } });
    location.hash = placeLink("work");
    return "The run has begun.";
  };
  return (
    <>
      <p class="keep">
        <label>
          Name <input value={name} onInput={(event) => setName(event.currentTarget.value)} spellcheck={false} />
        </label>{" "}
        <button type="button" disabled={name === ""} onClick={() => void act(save())}>
          Save as JSON
        </button>{" "}
        {run && (
          <button type="button" disabled={name === ""} onClick={() => void act(start(run))}>
            Make a run of these pairs
          </button>
        )}
      </p>
      {told && (
        <p class={told.isProblem ? "problem" : "note"} role="status">
          {told.text}
        </p>
      )}
    </>
  );
}
