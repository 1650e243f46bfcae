import { ticks } from "d3";
import { minus } from "../src/report/format.ts";

/** A tick's number with as few digits as it needs. */
export function tickText(value: number): string {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size < 1e-3 || size >= 1e5 ? value.toExponential(0) : String(Number(value.toPrecision(3)));
  return text.replaceAll("-", minus).replace("e+", "e");
}

/** Room for labels left of an axis, in pixels: none loses its sign or its first digit. */
export const roomFor = (labels: readonly string[]) => 10 + 7 * Math.max(1, ...labels.map(({ length }) => length));

/** Ticks of a linear axis with the room that their labels need. */
export function linearTicks(least: number, most: number, count: number, text: (value: number) => string = tickText) {
  const values = most > least ? ticks(least, most, count) : [least];
  return { ticks: values, tickFormat: text, room: roomFor(values.map(text)) };
}

/**
 * Ticks of an axis from −most to most on which a value has the place of its square root: 0, round numbers near the ends, and further ones where
 * their labels do not touch.
 *
 * @param pixels length of the axis
 */
export function rootTicks(most: number, pixels: number): number[] {
  if (!(most > 0)) return [0];
  const power = Math.floor(Math.log10(most));
  const round = [power, power - 1, power - 2].flatMap((p) => [5, 2, 1].map((digit) => digit * 10 ** p));
  const kept: number[] = [];
  const place = (value: number) => (pixels / 2) * Math.sqrt(value / most);
  for (const value of round.filter((one) => one <= most)) {
    const gap = 14 + 7 * tickText(-value).length;
    const outer = kept.at(-1);
    if ((outer === undefined || place(outer) - place(value) >= gap) && place(value) >= gap) kept.push(value);
  }
  return [...kept.map((value) => -value), 0, ...kept.toReversed()];
}
