import * as Plot from "@observablehq/plot";
import { useCallback } from "preact/hooks";
import type { ComparedMethod, Comparison } from "../../src/report/comparison.ts";
import type { SiteName } from "../../src/site.ts";
import { Chart } from "../chart.tsx";
import { linkTo } from "../selection.tsx";
import { colourOf, dashOf, LineKey, symbolOf } from "./marks.tsx";
import { tipStyle } from "./tip.ts";

/** One method's value at one layer. */
export interface LayerValue {
  readonly method: string;
  readonly layer: number;
  readonly value: number;
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

/** Shape and colour of every method's line. */
export function SeriesLegend({ methods }: { methods: readonly SeriesMethod[] }) {
  return (
    <ul class="legend series">
      {methods.map(({ name, place }) => (
        <li key={name}>
          <LineKey place={place} />
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
  /** The site that the marks of a layer lead to, in the table of the numbers. */
  siteOf: (layer: number) => SiteName;
  /** Id of that table. */
  table: string;
}) {
  const { methods, rows, y, show, siteOf, table } = props;
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
          href: linkTo({ site: siteOf(layer) }, table),
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
            return [
              Plot.line(own, {
                x: "layer",
                y: "value",
                stroke,
                strokeDasharray,
                strokeWidth: Math.max(1.5, 6.5 - 1.5 * i),
              }),
              Plot.dot(own, {
                x: "layer",
                y: "value",
                r: room * Math.max(3.5, 7.5 - i),
                fill: stroke,
                symbol: symbolOf(place),
                href: (row: LayerValue) => linkTo({ site: siteOf(row.layer) }, table),
                ariaLabel: (row: LayerValue) => `${name}, layer ${row.layer}: ${show(row.value)}`,
              }),
            ];
          }),
          Plot.tip(tips, Plot.pointerX({ x: "layer", y: "top", title: "title", ...tipStyle })),
        ],
      });
    },
    [methods, rows, y, show, siteOf, table],
  );
  return <Chart label={props.label} height={220} draw={draw} />;
}
