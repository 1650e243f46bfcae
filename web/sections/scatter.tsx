import * as Plot from "@observablehq/plot";
import { useCallback } from "preact/hooks";
import { roomFor, rootTicks, tickText } from "../axis.ts";
import { Chart } from "../chart.tsx";
import { tipStyle } from "./tip.ts";

/** One dot of a scatter plot, what is said of it, and where it leads. */
export interface Point {
  readonly x: number;
  readonly y: number;
  readonly title: string;
  readonly href: string;
}

const tall = 260;

/**
 * Effects against effects, with the diagonal on which both are equal. Both axes are square-root scales of both signs: most features have small
 * effects, and this keeps them apart.
 *
 * @param most both axes go from −most to +most
 */
export function SignedScatter(props: {
  points: readonly Point[];
  most: number;
  label: string;
  chosen?: string | null;
}) {
  const { points, most, label, chosen = null } = props;
  const draw = useCallback(
    (width: number) => {
      const end = most * 1.05;
      const domain = [-end, end];
      const height = Math.min(width, tall);
      const axis = { domain, type: "pow", exponent: 0.5, tickSize: 0, tickFormat: tickText, label: null } as const;
      const upward = rootTicks(end, height - 30);
      const marginLeft = roomFor(upward.map(tickText));
      return Plot.plot({
        width,
        height,
        marginLeft,
        marginBottom: 22,
        marginTop: 8,
        marginRight: 14,
        style: { fontFamily: "inherit", fontSize: "12px" },
        x: { ...axis, ticks: rootTicks(end, width - marginLeft - 14) },
        y: { ...axis, ticks: upward },
        marks: [
          Plot.ruleX([0], { stroke: "var(--rule)" }),
          Plot.ruleY([0], { stroke: "var(--rule)" }),
          Plot.line(
            domain.map((v) => [v, v]),
            { stroke: "var(--muted)", strokeDasharray: "2 3" },
          ),
          Plot.dot(points, {
            x: "x",
            y: "y",
            r: (point: Point) => (point.href === chosen ? 6 : 2.5),
            fill: "var(--bar)",
            fillOpacity: 0.65,
            stroke: (point: Point) => (point.href === chosen ? "var(--ink)" : "none"),
            href: "href",
            ariaLabel: (point: Point) => point.title.replaceAll("\n", ", "),
          }),
          Plot.tip(points, Plot.pointer({ x: "x", y: "y", title: "title", ...tipStyle })),
        ],
        r: { type: "identity" },
        color: { type: "identity" },
      });
    },
    [points, most, chosen],
  );
  return <Chart label={label} height={tall} draw={draw} />;
}
