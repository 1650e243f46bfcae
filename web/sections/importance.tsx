import * as Plot from "@observablehq/plot";
import { useCallback, useState } from "preact/hooks";
import type { ReportData, SiteImportance } from "../../src/report/data.ts";
import { number, percent, signed } from "../../src/report/format.ts";
import { parseSite } from "../../src/site.ts";
import { Chart } from "../chart.tsx";
import { Scroll, Section } from "../controls.tsx";
import { kindsOf, sitesOfKind, splitsOf, unitOf } from "../select.ts";
import { tipStyle } from "./tip.ts";

/** Where in the model it happens: Σ|effect| per layer and kind of site, and how much the dictionaries miss. */
export function ImportanceSection({ data }: { data: ReportData }) {
  const sites = data.importance.map((row) => row.site);
  const kinds = kindsOf(sites);
  const splits = splitsOf(data);
  const most = Math.max(0, ...data.importance.map((row) => row.importance));
  const mostError = Math.max(0, ...data.importance.map((row) => row.errorShare ?? 0));
  return (
    <Section id="importance" title="Where in the model?">
      <p>
        Σ<sub>i</sub> |{data.run.score === "effect" ? "effect" : "score"}
        <sub>i</sub>| over the features of a site, in {unitOf[data.run.score]}, on one scale
        {splits.length > 1 && "; bars are train, the line across each is test"}.
        {mostError > 0 &&
          " Below each, the error's share: what the dictionary could not express, |error| / (Σ|effect| + |error|)."}
      </p>
      {kinds.length === 0 ? (
        <p class="empty">The ranking holds no sites.</p>
      ) : (
        <>
          <div class="multiples">
            {kinds.map((kind) => (
              <Kind key={kind} kind={kind} data={data} most={most} mostError={mostError} />
            ))}
          </div>
          <Numbers data={data} />
        </>
      )}
    </Section>
  );
}

function Kind(props: { kind: string; data: ReportData; most: number; mostError: number }) {
  const { kind, data, most, mostError } = props;
  const rows = data.importance
    .filter((row) => parseSite(row.site).kind === kind)
    .map((row) => ({ ...row, layer: parseSite(row.site).layer }));
  const main = splitsOf(data)[0] ?? "train";
  const layers = [...new Set(rows.map((row) => row.layer))].sort((a, b) => a - b);
  const best = rows.reduce((a, b) => (b.split === main && b.importance > a.importance ? b : a));
  const axis = (width: number) => ({
    domain: layers,
    label: null,
    tickSize: 0,
    tickFormat: (layer: number) => (layers.length * 22 < width || layer % 5 === 0 ? String(layer) : ""),
  });
  const common = { marginLeft: 40, marginRight: 4, style: { fontFamily: "inherit", fontSize: "12px" } };
  const drawImportance = useCallback(
    (width: number) =>
      Plot.plot({
        ...common,
        width,
        height: 170,
        marginTop: 12,
        marginBottom: 22,
        x: axis(width),
        y: { domain: [0, most], ticks: 4, tickSize: 0, label: null, grid: true },
        marks: [
          Plot.barY(rows, {
            filter: (row) => row.split === main,
            x: "layer",
            y: "importance",
            fill: "var(--bar)",
            title: describe,
            tip: tipStyle,
            insetLeft: 1,
            insetRight: 1,
          }),
          Plot.tickY(rows, {
            filter: (row) => row.split !== main,
            x: "layer",
            y: "importance",
            stroke: "var(--ink)",
            strokeWidth: 1.5,
          }),
          Plot.ruleY([0], { stroke: "var(--muted)" }),
        ],
      }),
    [data],
  );
  const drawError = useCallback(
    (width: number) =>
      Plot.plot({
        ...common,
        width,
        height: 74,
        marginTop: 12,
        marginBottom: 22,
        x: axis(width),
        y: {
          domain: [0, mostError],
          ticks: 2,
          tickSize: 0,
          tickFormat: (v: number) => `${+(100 * v).toFixed(1)} %`,
          label: null,
          grid: true,
        },
        marks: [
          Plot.barY(rows, {
            filter: (row) => row.split === main && row.errorShare !== null,
            x: "layer",
            y: "errorShare",
            fill: "var(--error)",
            title: describe,
            tip: tipStyle,
            insetLeft: 1,
            insetRight: 1,
          }),
          Plot.ruleY([0], { stroke: "var(--muted)" }),
        ],
      }),
    [data],
  );
  return (
    <figure>
      <figcaption>
        <b>{kind}</b> by layer
      </figcaption>
      <Chart
        label={`Importance of ${kind} by layer; the largest is ${best.site} with ${number(best.importance)}`}
        draw={drawImportance}
      />
      {mostError > 0 && (
        <>
          <p class="axis-title">error share</p>
          <Chart label={`Error share of ${kind} by layer; numbers are in the table below`} draw={drawError} />
        </>
      )}
    </figure>
  );
}

function describe(row: SiteImportance): string {
  const error = row.errorShare === null ? "" : `\nerror share ${percent(row.errorShare)}`;
  return `${row.site}, ${row.split}\n${number(row.importance)}${error}`;
}

/** The metric's change by split, in brackets. */
function changes({ change }: ReportData): string {
  const parts = Object.entries(change).map(([split, value]) => `${signed(value)} logits on ${split}`);
  return parts.length === 0 ? "" : ` (${parts.join(", ")})`;
}

function Numbers({ data }: { data: ReportData }) {
  const [open, setOpen] = useState(false);
  const kinds = kindsOf(data.importance.map((row) => row.site));
  const splits = splitsOf(data);
  const rows = new Map(data.importance.map((row) => [`${row.split} ${row.site}`, row]));
  const explains = data.importance.some((row) => row.explained !== null);
  const leavesOut = data.importance.some((row) => (row.leftOut ?? 0) > 0);
  const sites = kinds.flatMap((kind) =>
    sitesOfKind(
      data.importance.map((row) => row.site),
      kind,
    ),
  );
  return (
    <details onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>The same as numbers</summary>
      {open && explains && (
        <p>
          Explained: what the effects of a site and its error add up to, as a share of the metric's change, m(patch) −
          m(clean){changes(data)}.{" "}
          {leavesOut && "Left out: the share of Σ|effect| at BOS and padding, which the rankings do not count."}
        </p>
      )}
      {open && (
        <Scroll label="Importance as numbers">
          <table class="numbers">
            <thead>
              <tr>
                <th scope="col">Site</th>
                {splits.map((split) => [
                  <th key={`${split} i`} scope="col">
                    {split}
                  </th>,
                  <th key={`${split} e`} scope="col">
                    error share
                  </th>,
                  explains && (
                    <th key={`${split} x`} scope="col">
                      explained
                    </th>
                  ),
                  leavesOut && (
                    <th key={`${split} l`} scope="col">
                      left out
                    </th>
                  ),
                ])}
              </tr>
            </thead>
            <tbody>
              {sites.map((site) => (
                <tr key={site}>
                  <th scope="row">{site}</th>
                  {splits.map((split) => {
                    const row = rows.get(`${split} ${site}`);
                    return [
                      <td key={`${split} i`}>{row === undefined ? "–" : number(row.importance)}</td>,
                      <td key={`${split} e`}>
                        {row === undefined || row.errorShare === null ? "–" : percent(row.errorShare)}
                      </td>,
                      explains && (
                        <td key={`${split} x`}>
                          {row === undefined || row.explained === null
                            ? "–"
                            : `${(100 * row.explained).toFixed(1).replace("-", "−")} %`}
                        </td>
                      ),
                      leavesOut && <td key={`${split} l`}>{row?.leftOut == null ? "–" : percent(row.leftOut)}</td>,
                    ];
                  })}
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
    </details>
  );
}
