import * as Plot from "@observablehq/plot";
import { useCallback } from "preact/hooks";
import type { ComparedMethod, Comparison } from "../../src/report/comparison.ts";
import { Chart } from "../chart.tsx";
import { tipStyle } from "./tip.ts";

/** One method's value at one layer. */
export interface LayerValue {
  readonly method: string;
  readonly layer: number;
  readonly value: number;
}

/** Corners of the marks on a line, in a circle of radius 1: lines are told apart by shape as well as by colour. */
const shapes: readonly (readonly (readonly [x: number, y: number])[])[] = [
  polygon(20, 0, 0.85),
  polygon(4, Math.PI / 4, 1),
  polygon(3, -Math.PI / 2, 1.1),
  polygon(4, 0, 1.1),
  polygon(3, Math.PI / 2, 1.1),
  Array.from({ length: 10 }, (_, i) => polar(i % 2 === 0 ? 1.25 : 0.5, -Math.PI / 2 + (i * Math.PI) / 5)),
];

function polar(radius: number, angle: number): [number, number] {
  return [radius * Math.cos(angle), radius * Math.sin(angle)];
}

function polygon(corners: number, turn: number, radius: number): [number, number][] {
  return Array.from({ length: corners }, (_, i) => polar(radius, turn + (2 * Math.PI * i) / corners));
}

/** A method and its place among all that were compared: what its colour and shape hang on, in every chart of the page. */
export interface SeriesMethod {
  readonly name: string;
  readonly place: number;
}

/** Some of a comparison's methods with their places. */
export function seriesOf(data: Comparison, methods: readonly ComparedMethod[]): SeriesMethod[] {
  return methods.map((method) => ({ name: method.name, place: data.methods.indexOf(method) }));
}

const shapeOf = (place: number) => shapes[place % shapes.length]!;
const colourOf = (place: number) => `var(--series-${place % shapes.length})`;
/** From the seventh method on colours and shapes come again, with dashed lines. */
const dashOf = (place: number) => (place < shapes.length ? "none" : "4 3");

/** Shape and colour of every method's line. */
export function SeriesLegend({ methods }: { methods: readonly SeriesMethod[] }) {
  return (
    <ul class="legend series">
      {methods.map(({ name, place }) => (
        <li key={name}>
          <svg width="28" height="14" viewBox="-14 -7 28 14" aria-hidden="true">
            <path d="M-14 0H14" stroke={colourOf(place)} stroke-width="2" stroke-dasharray={dashOf(place)} />
            <path
              d={`M${shapeOf(place)
                .map(([x, y]) => `${(5 * x).toFixed(2)} ${(5 * y).toFixed(2)}`)
                .join("L")}Z`}
              fill={colourOf(place)}
            />
          </svg>
          {name}
        </li>
      ))}
    </ul>
  );
}

/**
 * A line per method over the layers. Lines that coincide lie inside one another, the first widest, so that none is hidden; the tip names all
 * methods of a layer.
 */
export function Series(props: {
  label: string;
  methods: readonly SeriesMethod[];
  rows: readonly LayerValue[];
  /** The y axis: its domain, scale and ticks. */
  y: Plot.ScaleOptions;
  show: (value: number) => string;
}) {
  const { methods, rows, y, show } = props;
  const draw = useCallback(
    (width: number) => {
      const layers = [...new Set(rows.map((row) => row.layer))].sort((a, b) => a - b);
      // Marks get smaller where many layers leave little room.
      const room = Math.min(1, (width - 56) / layers.length / 14);
      const tips = layers.map((layer) => {
        const here = rows.filter((row) => row.layer === layer);
        const lines = here.map((row) => `${row.method} ${show(row.value)}`);
        return {
          layer,
          top: Math.max(...here.map((row) => row.value)),
          title: [`layer ${layer}`, ...lines].join("\n"),
        };
      });
      return Plot.plot({
        width,
        height: 220,
        marginLeft: 46,
        marginRight: 10,
        marginTop: 12,
        marginBottom: 24,
        style: { fontFamily: "inherit", fontSize: "12px" },
        x: {
          type: "point",
          domain: layers,
          label: null,
          tickSize: 0,
          tickFormat: (layer: number) => (layers.length * 22 < width || layer % 5 === 0 ? String(layer) : ""),
        },
        y: { label: null, tickSize: 0, grid: true, ticks: 4, ...y },
        marks: [
          ...methods.flatMap(({ name, place }, i) => {
            const own = rows.filter((row) => row.method === name).toSorted((a, b) => a.layer - b.layer);
            const [stroke, strokeDasharray] = [colourOf(place), dashOf(place)];
            const symbol = {
              draw: (path: CanvasPath, area: number) => trace(path, shapeOf(place), Math.sqrt(area / Math.PI)),
            };
            return [
              Plot.line(own, {
                x: "layer",
                y: "value",
                stroke,
                strokeDasharray,
                strokeWidth: Math.max(1.5, 6.5 - 1.5 * i),
              }),
              Plot.dot(own, { x: "layer", y: "value", r: room * Math.max(3.5, 7.5 - i), fill: stroke, symbol }),
            ];
          }),
          Plot.tip(tips, Plot.pointerX({ x: "layer", y: "top", title: "title", ...tipStyle })),
        ],
      });
    },
    [methods, rows, y, show],
  );
  return <Chart label={props.label} draw={draw} />;
}

function trace(path: CanvasPath, corners: readonly (readonly [number, number])[], radius: number): void {
  for (const [i, [x, y]] of corners.entries()) {
    if (i === 0) path.moveTo(radius * x, radius * y);
    else path.lineTo(radius * x, radius * y);
  }
  path.closePath();
}
