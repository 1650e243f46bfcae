import { useState } from "preact/hooks";
import type { LiveAnswer, LiveAsks, LiveKind } from "../../src/live/questions.ts";

/** What there is of an answer. `answer` is the last one, also while another is asked for. */
export interface Asked<T> {
  readonly answer: T | null;
  readonly error: string | null;
  readonly busy: boolean;
}

/** Asks whoever does the live work. It throws an Error with one line for the reader. */
export type AskLive = <K extends LiveKind>(
  kind: K,
  request: LiveAsks[K]["request"],
) => Promise<LiveAnswer & LiveAsks[K]["found"]>;

/** An answer beside what was asked: what is typed may have changed since. */
export type Replied<K extends LiveKind> = LiveAnswer &
  LiveAsks[K]["found"] & { readonly request: LiveAsks[K]["request"] };

/** A question that is asked when a button is pressed. */
export function useQuestion<K extends LiveKind>(
  ask: AskLive,
  kind: K,
): [Asked<Replied<K>>, (request: LiveAsks[K]["request"]) => void] {
  const [asked, setAsked] = useState<Asked<Replied<K>>>({ answer: null, error: null, busy: false });
  const put = (request: LiveAsks[K]["request"]) => {
    setAsked({ answer: null, error: null, busy: true });
    ask(kind, request).then(
      (answer) => setAsked({ answer: { ...answer, request }, error: null, busy: false }),
      (error: Error) => setAsked({ answer: null, error: error.message, busy: false }),
    );
  };
  return [asked, put];
}
