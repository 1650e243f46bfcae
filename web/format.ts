const minus = "−";
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

/** A share as percent; 100 % only when it is all, 0 % only when it is none. */
export function percent(share: number): string {
  if (share === 0 || share === 1) return `${100 * share} %`;
  const shown = Math.min(99.9, Math.max(0.1, 100 * share));
  return `${shown.toFixed(1)} %`;
}

/** Bytes as MiB or GiB. */
export function bytes(value: number): string {
  return value >= 2 ** 30 ? `${(value / 2 ** 30).toFixed(2)} GiB` : `${Math.round(value / 2 ** 20)} MiB`;
}

/** Seconds, `0.62 s`, `3 min 12 s`. */
export function seconds(value: number): string {
  if (value < 100) return `${value < 10 ? value.toFixed(2) : value.toFixed(1)} s`;
  return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

/** A token so that nothing of it is invisible: line breaks and tabs as signs, a lone space as ␣. */
export function tokenText(token: string): string {
  const shown = token.replaceAll("\n", "⏎").replaceAll("\t", "⇥");
  return shown.trim() === "" ? shown.replaceAll(" ", "␣") : shown;
}

/** What a path, an address or `organisation/name` ends with. */
export function lastPart(path: string): string {
  return path
    .replace(/[\\/]+$/, "")
    .split(/[\\/]/)
    .at(-1)!;
}
