import { useMemo } from "preact/hooks";
import type { Comparison } from "../../src/report/comparison.ts";
import { correlation, percent, percentOf, whole } from "../../src/report/format.ts";
import { compareSites, parseSite } from "../../src/site.ts";
import { Findings, Section } from "../controls.tsx";
import { integratedAgainstPlain, linearMethods } from "../methods.ts";
import { kindsOf } from "../select.ts";
import { useSelection } from "../selection.tsx";
import { DataTable } from "../table.tsx";
import { Series, SeriesLegend, seriesOf } from "./series.tsx";
import { Over } from "./share.tsx";

type Exactness = Comparison["exactness"][number];

/** How near the linear methods come to patching each feature by itself: by layer, and over all sites. */
export function ExactnessSection({ data }: { data: Comparison }) {
  const methods = useMemo(() => seriesOf(data, linearMethods(data)), [data]);
  const findings = integratedAgainstPlain(data);
  const kinds = kindsOf(data.exactness.map((row) => row.site).filter((site) => site !== ""));
  const values = useMemo(
    () =>
      data.exactness
        .filter((row): row is Exactness & { pearson: number } => row.site !== "" && row.pearson !== null)
        .map((row) => ({ ...parseSite(row.site), method: row.method, value: row.pearson })),
    [data],
  );
  const axis = useMemo(() => ({ domain: [lowest(values.map((row) => row.value)), 1], nice: true }), [values]);
  const byKind = useMemo(() => kinds.map((kind) => values.filter((row) => row.kind === kind)), [values]);
  const sitesOfKinds = useMemo(() => kinds.map((kind) => (layer: number) => `${kind}.${layer}`), [data]);
  const overall = data.exactness.filter((row) => row.site === "");
  return (
    <Section id="exactness" title="How near are they to the truth?">
      <p>
        <i>exact</i> gives one feature at one node its patch value and computes the metric again: the truth that the
        linear methods approximate. Here they are compared over the features that were patched.
      </p>
      {findings.length > 0 && <Findings label="Integrated methods against the gradient alone" findings={findings} />}
      {overall.length > 0 && <Errors rows={overall} />}
      <p class="note">
        error = Σ|effect − exact| / Σ|exact|; 100 % is what calling every effect 0 would give. In brackets: 95 %
        intervals over other words.
      </p>
      {kinds.length > 0 && (
        <>
          <h3>By layer</h3>
          <p>
            Pearson correlation with exact over the features of a site, all pictures on one scale. Lines that coincide
            lie inside one another.
          </p>
          <SeriesLegend methods={methods} />
          <div class="multiples">
            {kinds.map((kind, i) => (
              <figure key={kind}>
                <figcaption>
                  <b>{kind}</b> by layer
                </figcaption>
                <Series
                  label={`Pearson correlation with exact at ${kind} by layer, a line per method; numbers are in the table below`}
                  methods={methods}
                  rows={byKind[i]!}
                  y={axis}
                  show={correlation}
                  siteOf={sitesOfKinds[i]!}
                  table="exactness-numbers"
                />
              </figure>
            ))}
          </div>
          <BySite data={data} methods={methods.map(({ name }) => name)} />
        </>
      )}
    </Section>
  );
}

/** Where the axis of correlations begins: at 0 or above while none is negative. */
function lowest(values: readonly number[]): number {
  const least = Math.min(1, ...values);
  return Math.max(-1, Math.min(0.9, Math.floor(10 * least) / 10));
}

function Errors({ rows }: { rows: readonly Exactness[] }) {
  return (
    <DataTable
      label="Each method against exact, all sites together"
      rows={rows}
      rowKey={(row) => row.method}
      columns={[
        { name: "method", of: (row) => row.method, show: (row) => <span class="unbroken">{row.method}</span> },
        {
          name: "Pearson",
          of: (row) => row.pearson,
          show: (row) => (
            <>
              {correlation(row.pearson)}
              <Over words={row.pearson_by_words} show={correlation} />
            </>
          ),
        },
        {
          name: "error",
          of: (row) => row.error,
          show: (row) => (
            <>
              {row.error === null ? "–" : percentOf(row.error)}
              <Over words={row.error_by_words} show={percentOf} />
            </>
          ),
        },
        { name: "Spearman", of: (row) => row.spearman, show: (row) => correlation(row.spearman) },
        { name: "signs", of: (row) => row.sign, show: (row) => (row.sign === null ? "–" : percent(row.sign)) },
        { name: "features", of: (row) => row.features, show: (row) => whole(row.features) },
      ]}
    />
  );
}

function BySite({ data, methods }: { data: Comparison; methods: readonly string[] }) {
  const { selection } = useSelection();
  const rows = new Map(data.exactness.map((row) => [`${row.method} ${row.site}`, row]));
  const sites = [...new Set(data.exactness.map((row) => row.site))].filter((site) => site !== "").sort(compareSites);
  return (
    <details id="exactness-numbers" open={sites.includes(selection.site ?? "")}>
      <summary>The same as numbers</summary>
      <DataTable
        label="Each method against exact by site"
        rows={sites}
        rowKey={(site) => site}
        rowClass={(site) => (site === selection.site ? "chosen" : "")}
        columns={[
          { name: "site", of: (site) => site },
          ...methods.flatMap((name) => {
            const of = (site: string) => rows.get(`${name} ${site}`);
            return [
              {
                name: `${name}: Pearson`,
                of: (site: string) => of(site)?.pearson ?? null,
                show: (site: string) => correlation(of(site)?.pearson ?? null),
              },
              {
                name: `${name}: error`,
                of: (site: string) => of(site)?.error ?? null,
                show: (site: string) => (of(site)?.error == null ? "–" : percentOf(of(site)!.error!)),
              },
            ];
          }),
        ]}
      />
    </details>
  );
}
