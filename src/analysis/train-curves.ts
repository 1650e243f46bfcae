/** A line of a chart. */
export interface Series {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
  readonly color: string;
}

export interface Chart {
  readonly title: string;
  readonly x: string;
  readonly y: string;
  readonly series: readonly Series[];
  /** Whether y grows by factors. */
  readonly logarithmic?: boolean;
}

const [width, height] = [640, 320];
const frame = { left: 64, right: 150, top: 36, bottom: 44 };

/** A line chart as an SVG that can be read as text: one polyline per series, names at the right. */
export function chartSvg({ title, x, y, series, logarithmic = false }: Chart): string {
  const points = series.flatMap((s) => s.points);
  const [left, right] = extent(points.map((p) => p[0]));
  const [low, high] = extent(points.map((p) => p[1]));
  const level = (v: number) => (logarithmic ? Math.log(v) : v);
  const atX = (v: number) => frame.left + ((v - left) / (right - left || 1)) * (width - frame.left - frame.right);
  const atY = (v: number) =>
    height -
    frame.bottom -
    ((level(v) - level(low)) / (level(high) - level(low) || 1)) * (height - frame.top - frame.bottom);
  const text = (px: number, py: number, content: string, more = "") =>
    `  <text x="${px.toFixed(1)}" y="${py.toFixed(1)}"${more}>${escaped(content)}</text>`;
  const lines = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="11" fill="#555">`,
    `  <rect width="${width}" height="${height}" fill="#fff"/>`,
    text(frame.left, 20, title, ' font-size="14" fill="#222"'),
  ];
  for (const v of ticks(low, high, logarithmic)) {
    const py = atY(v);
    lines.push(
      `  <line x1="${frame.left}" x2="${width - frame.right}" y1="${py.toFixed(1)}" y2="${py.toFixed(1)}" stroke="#e4e4e4"/>`,
      text(frame.left - 6, py + 4, short(v), ' text-anchor="end"'),
    );
  }
  for (const v of ticks(left, right, false)) {
    lines.push(text(atX(v), height - frame.bottom + 16, short(v), ' text-anchor="middle"'));
  }
  lines.push(
    text((frame.left + width - frame.right) / 2, height - 8, x, ' text-anchor="middle"'),
    text(frame.left, frame.top - 4, y, ' text-anchor="end"'),
  );
  const named = new Map<string, Series>();
  for (const s of series) {
    const path = s.points.map(([px, py]) => `${atX(px).toFixed(1)},${atY(py).toFixed(1)}`).join(" ");
    lines.push(`  <polyline fill="none" stroke="${s.color}" stroke-width="1.5" points="${path}"/>`);
    named.set(s.name, s);
  }
  [...named.values()].forEach((s, i) => {
    lines.push(text(width - frame.right + 12, frame.top + 12 + 16 * i, s.name, ` fill="${s.color}"`));
  });
  return `${[...lines, "</svg>"].join("\n")}\n`;
}

function extent(values: readonly number[]): [number, number] {
  return [
    values.reduce((least, v) => Math.min(least, v), Infinity),
    values.reduce((most, v) => Math.max(most, v), -Infinity),
  ];
}

/** Round numbers from low to high: about five, or powers of ten with 2 and 5 between them. */
function ticks(low: number, high: number, logarithmic: boolean): number[] {
  if (logarithmic) {
    const all: number[] = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
      for (const m of [1, 2, 5]) all.push(m * 10 ** e);
    }
    return all.filter((v) => v >= low && v <= high);
  }
  const rough = (high - low) / 5 || 1;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * ([1, 2, 5, 10].find((m) => m * unit >= rough) ?? 10);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) =>
    Number(((first + i) * step).toPrecision(12)),
  );
}

function short(v: number): string {
  if (Math.abs(v) >= 1e6) return `${Number((v / 1e6).toPrecision(3))} M`;
  if (Math.abs(v) >= 1e4) return `${Number((v / 1e3).toPrecision(3))} k`;
  return String(Number(v.toPrecision(3)));
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}
