import * as Plot from "@observablehq/plot";
import { useCallback } from "preact/hooks";
import type { CurvePoint } from "../../src/interventions/evaluation.ts";
import { linearTicks } from "../axis.ts";
import { Chart } from "../chart.tsx";
import { linkTo } from "../selection.tsx";
import { colourOf, LineKey, symbolOf } from "./marks.tsx";
import { tipStyle } from "./tip.ts";

/** One way of choosing circuits: its values over the sizes. */
export interface CurveLine {
  /** With its seed, where it has one. */
  readonly name: string;
  readonly way: string;
  /** What colour and shape hang on: the same for all seeds. */
  readonly place: number;
  readonly dashed: boolean;
  readonly points: readonly CurvePoint[];
}

const dash = "5 4";

/** Colour, shape and dashes of every way. */
export function SizeLegend({ lines }: { lines: readonly CurveLine[] }) {
  const ways = lines.filter((line, i) => lines.findIndex(({ way }) => way === line.way) === i);
  return (
    <ul class="legend series">
      {ways.map(({ way, place, dashed }) => (
        <li key={way}>
          <LineKey place={place} {...(dashed && { dash })} />
          {way}
        </li>
      ))}
    </ul>
  );
}

/** A line per way over the size of the circuit, with its interval as a band. */
export function SizeChart(props: {
  label: string;
  lines: readonly CurveLine[];
  value: "faithfulness" | "completeness";
  /** A horizontal line: what all features together have. */
  mark: number | null;
  height: number;
}) {
  const { lines, value, mark, height } = props;
  const draw = useCallback(
    (width: number) => {
      const rows = lines.flatMap((line) =>
        line.points.flatMap((point) => {
          const y = point[value];
          // A size of 0 has no place on a logarithmic axis.
          if (y === null || point.size === 0) return [];
          const interval = value === "faithfulness" ? point.by_words : null;
          return [{ line, size: point.size, y, interval, href: linkTo({ size: point.size }, "worth-cases") }];
        }),
      );
      const sizes = [...new Set(rows.map(({ size }) => size))].sort((a, b) => a - b);
      const values = rows.flatMap(({ y, interval }) => [y, interval?.low ?? y, interval?.high ?? y]);
      const most = Math.max(1, mark ?? 0, ...values);
      const least = Math.min(0, ...values);
      const tips = sizes.map((size) => {
        const here = rows.filter((row) => row.size === size);
        const texts = here.map(({ line, y, interval }) => {
          const band = interval === null ? "" : ` [${interval.low.toFixed(2)}, ${interval.high.toFixed(2)}]`;
          return `${line.name} ${y.toFixed(2)}${band}`;
        });
        return {
          size,
          href: here[0]!.href,
          y: Math.max(...here.map(({ y }) => y)),
          title: [`${size} features`, ...texts].join("\n"),
        };
      });
      const upward = linearTicks(least, most, 5);
      return Plot.plot({
        width,
        height,
        marginLeft: upward.room,
        marginRight: 14,
        marginTop: 14,
        marginBottom: 26,
        style: { fontFamily: "inherit", fontSize: "12px" },
        x: {
          type: "log",
          label: null,
          tickSize: 0,
          ticks: apart(sizes, width - upward.room - 14),
          tickFormat: String,
          nice: false,
        },
        y: {
          label: null,
          tickSize: 0,
          grid: true,
          ticks: upward.ticks,
          tickFormat: upward.tickFormat,
          domain: [least, most],
        },
        marks: [
          Plot.ruleY([0, 1], { stroke: "var(--muted)", strokeWidth: 0.8 }),
          mark === null ? null : Plot.ruleY([mark], { stroke: "var(--ink)", strokeWidth: 1.5, strokeDasharray: "1 3" }),
          ...lines.flatMap((line) => {
            const own = rows.filter((row) => row.line === line).toSorted((a, b) => a.size - b.size);
            const stroke = colourOf(line.place);
            return [
              Plot.areaY(own, {
                filter: ({ interval }) => interval !== null,
                x: "size",
                y1: ({ interval }) => interval?.low,
                y2: ({ interval }) => interval?.high,
                fill: stroke,
                fillOpacity: 0.13,
              }),
              Plot.line(own, {
                x: "size",
                y: "y",
                stroke,
                strokeWidth: line.dashed ? 1.4 : 2,
                ...(line.dashed && { strokeDasharray: dash }),
              }),
              Plot.dot(own, {
                x: "size",
                y: "y",
                r: line.dashed ? 3.2 : 4,
                fill: stroke,
                symbol: symbolOf(line.place),
                href: "href",
                ariaLabel: ({ size, y }: { size: number; y: number }) =>
                  `${line.name}, ${size} features: ${value} ${y.toFixed(2)}`,
              }),
            ];
          }),
          Plot.tip(tips, Plot.pointerX({ x: "size", y: "y", title: "title", ...tipStyle })),
        ],
      });
    },
    [lines, value, mark, height],
  );
  return <Chart label={props.label} height={height} draw={draw} />;
}

/** Of some sizes those whose numbers do not run into each other on a logarithmic axis of `width` pixels; the largest always. */
function apart(sizes: readonly number[], width: number): number[] {
  const [first, last] = [sizes[0] ?? 1, sizes.at(-1) ?? 1];
  const at = (size: number) => (last > first ? (width * Math.log(size / first)) / Math.log(last / first) : 0);
  const room = (size: number) => 8 + 7 * String(size).length;
  const kept: number[] = [];
  for (const size of sizes) {
    const before = kept.at(-1);
    const clear = before === undefined || at(size) - at(before) >= room(size);
    if (clear) kept.push(size);
    else if (size === last) kept[kept.length - 1] = size;
  }
  return kept;
}
