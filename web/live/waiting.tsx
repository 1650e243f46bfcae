import type { Asked } from "./question.ts";

/** Says that an answer is on its way, or why there is none. */
export function Waiting({ asked: { answer, error, busy }, what }: { asked: Asked<unknown>; what: string }) {
  if (error !== null) {
    return (
      <p class="problem" role="alert">
        {error}
      </p>
    );
  }
  return (
    <p class="note" role="status">
      {busy && answer === null ? `Reading ${what} …` : ""}
    </p>
  );
}
