import * as Plot from "@observablehq/plot";
import { useCallback } from "preact/hooks";
import { Chart } from "../chart.tsx";
import { tipStyle } from "./tip.ts";

/** One dot of a scatter plot, and what is said of it under the pointer. */
export interface Point {
  readonly x: number;
  readonly y: number;
  readonly title: string;
}

/**
 * Effects against effects, with the diagonal on which both are equal. Both axes are square-root scales of both signs: most features have small
 * effects, and this keeps them apart.
 *
 * @param most both axes go from −most to +most
 */
export function SignedScatter({ points, most, label }: { points: readonly Point[]; most: number; label: string }) {
  const draw = useCallback(
    (width: number) => {
      const domain = [-most * 1.05, most * 1.05];
      const axis = { domain, type: "pow", exponent: 0.5, ticks: 5, tickSize: 0, label: null } as const;
      return Plot.plot({
        width,
        height: Math.min(width, 260),
        marginLeft: 34,
        marginBottom: 22,
        marginTop: 8,
        marginRight: 8,
        style: { fontFamily: "inherit", fontSize: "12px" },
        x: axis,
        y: axis,
        marks: [
          Plot.ruleX([0], { stroke: "var(--rule)" }),
          Plot.ruleY([0], { stroke: "var(--rule)" }),
          Plot.line(
            domain.map((v) => [v, v]),
            { stroke: "var(--muted)", strokeDasharray: "2 3" },
          ),
          Plot.dot(points, { x: "x", y: "y", r: 2.5, fill: "var(--bar)", fillOpacity: 0.65 }),
          Plot.tip(points, Plot.pointer({ x: "x", y: "y", title: "title", ...tipStyle })),
        ],
      });
    },
    [points, most],
  );
  return <Chart label={label} draw={draw} />;
}
