import * as Plot from "@observablehq/plot";
import { useCallback, useState } from "preact/hooks";
import type { Split } from "../../src/prompts/pairs.ts";
import type { ReportData, SiteImportance } from "../../src/report/data.ts";
import { number, percent, signed } from "../../src/report/format.ts";
import { parseSite } from "../../src/site.ts";
import { linearTicks } from "../axis.ts";
import { Chart } from "../chart.tsx";
import { Section } from "../controls.tsx";
import { kindsOf, sitesOfKind, splitsOf, unitOf } from "../select.ts";
import { linkTo } from "../selection.tsx";
import { type Column, DataTable } from "../table.tsx";
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
          " Below each, the error's share: what the dictionary could not express, |error| / (Σ|effect| + |error|)."}{" "}
        Sites of the residual stream describe the same stream at another depth: their sums are not added up. A bar leads
        to the features of its site.
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
    .map((row) => ({ ...row, layer: parseSite(row.site).layer, href: linkTo({ site: row.site }, "features") }));
  const main = splitsOf(data)[0] ?? "train";
  const layers = [...new Set(rows.map((row) => row.layer))].sort((a, b) => a - b);
  const best = rows.reduce((a, b) => (b.split === main && b.importance > a.importance ? b : a));
  const axis = (width: number) => ({
    domain: layers,
    label: null,
    tickSize: 0,
    tickFormat: (layer: number) => (layers.length * 22 < width || layer % 5 === 0 ? String(layer) : ""),
  });
  const upward = linearTicks(0, most, 4);
  const shares = linearTicks(0, mostError, 2, (v) => `${+(100 * v).toPrecision(2)} %`);
  const marginLeft = Math.max(upward.room, mostError > 0 ? shares.room : 0);
  const common = { marginLeft, marginRight: 4, style: { fontFamily: "inherit", fontSize: "12px" } };
  const drawImportance = useCallback(
    (width: number) =>
      Plot.plot({
        ...common,
        width,
        height: 170,
        marginTop: 12,
        marginBottom: 22,
        x: axis(width),
        y: {
          domain: [0, most],
          ticks: upward.ticks,
          tickFormat: upward.tickFormat,
          tickSize: 0,
          label: null,
          grid: true,
        },
        marks: [
          Plot.barY(rows, {
            filter: (row) => row.split === main,
            x: "layer",
            y: "importance",
            fill: "var(--bar)",
            title: describe,
            tip: tipStyle,
            href: "href",
            ariaLabel: (row: SiteImportance) => describe(row).replaceAll("\n", ", "),
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
          ticks: shares.ticks,
          tickSize: 0,
          tickFormat: shares.tickFormat,
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
            href: "href",
            ariaLabel: (row: SiteImportance) => describe(row).replaceAll("\n", ", "),
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
        height={170}
        draw={drawImportance}
      />
      {mostError > 0 && (
        <>
          <p class="axis-title">error share</p>
          <Chart
            label={`Error share of ${kind} by layer; numbers are in the table below`}
            height={74}
            draw={drawError}
          />
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
  const splits = splitsOf(data);
  const explains = data.importance.some((row) => row.explained !== null);
  const leavesOut = data.importance.some((row) => (row.leftOut ?? 0) > 0);
  const kinds = kindsOf(data.importance.map((row) => row.site));
  const sites = kinds.flatMap((kind) =>
    sitesOfKind(
      data.importance.map((row) => row.site),
      kind,
    ),
  );
  const found = new Map(data.importance.map((row) => [`${row.split} ${row.site}`, row]));
  const column = (
    split: Split,
    name: string,
    of: (row: SiteImportance) => number | null,
    show: (value: number) => string,
  ): Column<string> => {
    const value = (site: string) => {
      const row = found.get(`${split} ${site}`);
      return row === undefined ? null : of(row);
    };
    return { name, of: value, show: (site) => (value(site) === null ? "–" : show(value(site)!)) };
  };
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
        <DataTable
          label="Importance by site"
          rows={sites}
          rowKey={(site) => site}
          columns={[
            { name: "site", of: (site) => site, show: (site) => <a href={linkTo({ site }, "features")}>{site}</a> },
            ...splits.flatMap((split) => [
              column(split, split, (row) => row.importance, number),
              column(split, `${split}: error share`, (row) => row.errorShare, percent),
              ...(explains
                ? [
                    column(
                      split,
                      `${split}: explained`,
                      (row) => row.explained,
                      (v) => `${(100 * v).toFixed(1).replace("-", "−")} %`,
                    ),
                  ]
                : []),
              ...(leavesOut ? [column(split, `${split}: left out`, (row) => row.leftOut, percent)] : []),
            ]),
          ]}
        />
      )}
    </details>
  );
}
