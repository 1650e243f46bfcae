import { useMemo, useState } from "preact/hooks";
import type { Comparison } from "../../src/report/comparison.ts";
import { percentOf, signed } from "../../src/report/format.ts";
import { compareSites, parseSite } from "../../src/site.ts";
import { median } from "../../src/stats.ts";
import { Choice, Section } from "../controls.tsx";
import { useSelection } from "../selection.tsx";
import { DataTable } from "../table.tsx";
import { Series, SeriesLegend, seriesOf } from "./series.tsx";

type SumRow = Comparison["sums"][number];
const views = ["of the mean", "median over pairs"] as const;

/** Do the effects of a residual site add up to what patching all of it does? */
export function SumsSection({ data }: { data: Comparison }) {
  const byPair = data.sums.some((row) => row.median_gap !== null);
  const [view, setView] = useState<(typeof views)[number]>(views[0]);
  const gapOf = (row: SumRow) => (view === views[0] ? row.gap : row.median_gap);
  const methods = useMemo(
    () =>
      seriesOf(
        data,
        data.methods.filter(({ name }) => data.sums.some((row) => row.method === name)),
      ),
    [data],
  );
  const values = useMemo(
    () =>
      data.sums.flatMap((row) => {
        const value = gapOf(row);
        return value === null ? [] : [{ method: row.method, layer: parseSite(row.site).layer, value }];
      }),
    [data, view],
  );
  const axis = useMemo(() => {
    const most = Math.max(1e-12, ...values.map((row) => row.value));
    const tickFormat = (v: number) => `${+(100 * v).toPrecision(1)} %`;
    return { domain: [0, most], type: "pow" as const, exponent: 0.5, ticks: rootTicks(most), tickFormat };
  }, [values]);
  const total = data.sums[0]?.total ?? 0;
  return (
    <Section id="sums" title="Do they add up?">
      <p>
        Patching a whole residual site gives <i>m</i>(patch) − <i>m</i>(clean), here {signed(total)} logits in the mean
        over pairs. The effects of the site, the error's included, should add up to it; the gap is what a linear method
        misses, in percent of it.
      </p>
      <p>
        <strong>Median gap over the layers:</strong>{" "}
        {methods
          .map(
            ({ name }) =>
              `${name} ${percentOf(median(values.filter((v) => v.method === name).map((v) => v.value)) ?? Number.NaN)}`,
          )
          .join(", ")}
        .
      </p>
      <div class="controls">
        <Choice label="Gap" values={byPair ? views : []} value={view} onChange={setView} />
      </div>
      <SeriesLegend methods={methods} />
      <figure class="wide">
        <figcaption>
          <span>
            <b>gap</b> by layer, on a square-root scale
          </span>
        </figcaption>
        <Series
          label="Gap between the sum of effects and the total effect by layer, a line per method; numbers are in the table below"
          methods={methods}
          rows={values}
          y={axis}
          show={percentOf}
          siteOf={siteOf}
          table="sums-numbers"
        />
      </figure>
      <Numbers data={data} methods={methods.map(({ name }) => name)} gapOf={gapOf} />
    </Section>
  );
}

const siteOf = (layer: number) => `resid_post.${layer}`;

/** Round numbers (1, 2, 5 times a power of ten) that lie well apart on a square-root scale from 0 to `most`. */
function rootTicks(most: number): number[] {
  const ticks = [0];
  const power = 10 ** (Math.floor(Math.log10(most)) - 2);
  for (const tick of [1, 2, 5, 10, 20, 50, 100, 200, 500].map((v) => v * power)) {
    if (tick <= most && Math.sqrt(tick) - Math.sqrt(ticks.at(-1)!) >= 0.17 * Math.sqrt(most)) ticks.push(tick);
  }
  return ticks;
}

function Numbers(props: { data: Comparison; methods: readonly string[]; gapOf: (row: SumRow) => number | null }) {
  const { data, methods, gapOf } = props;
  const { selection } = useSelection();
  const rows = new Map(data.sums.map((row) => [`${row.method} ${row.site}`, row]));
  const sites = [...new Set(data.sums.map((row) => row.site))].sort(compareSites);
  return (
    <div id="sums-numbers">
      <DataTable
        label="Gap by layer and method"
        rows={sites}
        rowKey={(site) => site}
        rowClass={(site) => (site === selection.site ? "chosen" : "")}
        columns={[
          { name: "site", of: (site) => site },
          ...methods.map((name) => {
            const rowOf = (site: string) => rows.get(`${name} ${site}`);
            const value = (site: string) => (rowOf(site) === undefined ? null : gapOf(rowOf(site)!));
            return {
              name,
              of: value,
              cell: (site: string) => {
                const [row, gap] = [rowOf(site), value(site)];
                return (
                  <td key={name} title={row && `sum ${signed(row.sum)}, total ${signed(row.total)} logits`}>
                    {gap === null ? "–" : percentOf(gap)}
                  </td>
                );
              },
            };
          }),
        ]}
      />
    </div>
  );
}
