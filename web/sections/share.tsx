import type { ComponentChildren } from "preact";
import type { Interval } from "../../src/interventions/clusters.ts";
import { percent } from "../../src/report/format.ts";

/** A table's cell with a share in [0, 1] as a number over a bar. Alarming when it is low and low is bad. */
export function ShareCell(props: { share: number; alarmBelow?: number; title?: string; children?: ComponentChildren }) {
  const low = props.share < (props.alarmBelow ?? 0);
  return (
    <td class={low ? "share low" : "share"} title={props.title}>
      <span class="fill" style={{ "--share": props.share }} />
      <span class="over">
        {percent(props.share)}
        {props.children}
      </span>
    </td>
  );
}

/** The interval of a number over words, in brackets behind it; nothing where there is none. */
export function Over({ words, show }: { words: Interval | null; show: (value: number) => string }) {
  if (words === null) return null;
  return <span class="interval">{` [${show(words.low)}–${show(words.high)}]`}</span>;
}
