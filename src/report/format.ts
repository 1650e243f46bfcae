import { duration } from "../amounts.ts";

export const minus = "−";
const superscripts = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** A number with three significant digits, `0.0421`, `12.3`, `1,284`; a real minus sign. */
export function number(value: number): string {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 5e-4) return tiny(value);
  const digits = Math.max(0, Math.min(6, 2 - Math.floor(Math.log10(size))));
  return value
    .toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })
    .replace("-", minus);
}

/** The same with its sign in front, for effects: `+1.20`, `−0.0421`. */
export function signed(value: number): string {
  return value > 0 ? `+${number(value)}` : number(value);
}

/** Two significant digits and a power of ten: `3.1 × 10⁻⁷`. */
export function tiny(value: number): string {
  if (value === 0) return "0";
  const [digits, exponent] = value.toExponential(1).split("e") as [string, string];
  const power = [...String(Math.abs(Number(exponent)))].map((d) => superscripts[Number(d)]).join("");
  return `${digits.replace("-", minus)} × 10${Number(exponent) < 0 ? "⁻" : ""}${power}`;
}

/** A whole number with separators. */
export function whole(value: number): string {
  return Math.round(value).toLocaleString("en");
}

/** A large count in three digits, `3.18 M`, `2.61 B`. */
export function compact(value: number): string {
  const [unit, size] = value >= 1e9 ? [" B", 1e9] : value >= 1e6 ? [" M", 1e6] : value >= 1e3 ? [" k", 1e3] : ["", 1];
  return value < 1e3 ? String(value) : `${number(value / size)}${unit}`;
}

/** A share as percent; 100 % only when it is all, 0 % only when it is none. */
export function percent(share: number): string {
  if (share === 0 || share === 1) return `${100 * share} %`;
  const shown = Math.min(99.9, Math.max(0.1, 100 * share));
  return `${shown.toFixed(1)} %`;
}

/** A share of any size as percent with three significant digits: errors and gaps can be tiny, or above 100 %. */
export function percentOf(share: number): string {
  return Number.isFinite(share) ? `${number(100 * share)} %` : "–";
}

/**
 * A correlation with as many digits as it needs to stay apart from 1: `0.982`, `0.99998`, `> 0.999999`. 1 only when it is 1 in every digit.
 */
export function correlation(value: number | null): string {
  if (value === null || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1) return value < 0 ? `${minus}1` : "1";
  const digits = Math.max(3, Math.ceil(-Math.log10(1 - size)));
  if (digits > 6) return value < 0 ? `< ${minus}0.999999` : "> 0.999999";
  return value.toFixed(digits).replace("-", minus);
}

/** How many times: `0.31`, `1`, `9.4`, `38`. */
export function multiple(ratio: number): string {
  if (ratio === 1) return "1";
  return ratio < 1 ? ratio.toPrecision(2) : ratio < 9.95 ? ratio.toFixed(1) : whole(ratio);
}

/** Seconds, `0.62 s`, `45.3 s`, `3 min 12 s`. */
export function seconds(value: number): string {
  return value < 99.95 ? `${value.toFixed(value < 9.995 ? 2 : 1)} s` : duration(value);
}

/** A token so that nothing of it is invisible: line breaks and tabs as signs, a lone space as ␣. */
export function tokenText(token: string): string {
  const shown = token.replaceAll("\n", "⏎").replaceAll("\t", "⇥");
  return shown.trim() === "" ? shown.replaceAll(" ", "␣") : shown;
}

/** A text in which no line ends between a number and its sign, `%` or `×`. */
export function unbroken(text: string): string {
  return text.replace(/(\d) ([%×])/g, "$1\u00a0$2");
}

/** What a path, an address or `organisation/name` ends with. */
export function lastPart(path: string): string {
  return path
    .replace(/[\\/]+$/, "")
    .split(/[\\/]/)
    .at(-1)!;
}
