import { useMemo, useState } from "preact/hooks";
import { countText } from "../../src/amounts.ts";
import type { Interval } from "../../src/interventions/clusters.ts";
import type { FeatureSpread } from "../../src/interventions/spread.ts";
import type { Split } from "../../src/prompts/pairs.ts";
import type { ReportData, TopFeatures } from "../../src/report/data.ts";
import { number, percent, signed, whole } from "../../src/report/format.ts";
import { sum } from "../../src/stats.ts";
import { Choice, Section, Select } from "../controls.tsx";
import { kindsOf, nameOf, sitesOfKind, splitsOf, unitOf, useKind, useSplit } from "../select.ts";
import { linkTo, useSelection } from "../selection.tsx";
import { DataTable } from "../table.tsx";

const few = 8;
/** With fewer words a run gives no intervals. */
const leastWords = 5;

/** The strongest features of each layer with signed bars, by kind of site, split and case. */
export function FeaturesSection({ data }: { data: ReportData }) {
  const sites = data.features.map((group) => group.site);
  const splits = splitsOf(data);
  const cases = useMemo(() => [...new Set(data.features.map((group) => group.case))], [data]);
  const { selection, select } = useSelection();
  const [kind, setKind] = useKind(sites);
  const [split, setSplit] = useSplit(splits);
  const name = cases.find((one) => one === selection.case) ?? "";
  const [all, setAll] = useState(false);
  const groups = sitesOfKind(sites, kind)
    .map((site) => data.features.find((g) => g.site === site && g.split === split && g.case === name))
    .filter((group) => group !== undefined);
  const values = groups.flatMap((g) => [
    ...g.effect,
    g.error ?? 0,
    ...g.spread
      .slice(0, all ? data.limits.features : few)
      .flatMap((of) => (of ? [of.by_words.low, of.by_words.high] : [])),
  ]);
  const range = { low: Math.min(0, ...values), high: Math.max(0, ...values) };
  const patched = groups.some((group) => group.exact.some((value) => value !== null));
  const spread = groups.some((group) => group.spread.some((value) => value !== null));
  return (
    <Section id="features" title="Which features?">
      <p>
        The strongest features of each layer by |{nameOf[data.run.score]}|, in {unitOf[data.run.score]}, all bars on one
        scale.
        {patched &&
          data.exact !== null &&
          ` ${besideText(groups)} exact is what the feature does when it is patched by itself, on ${whole(data.exact.pairs)} of ${whole(data.exact.of)} pairs.`}
        {" A row opens the feature's card: what it reads, and what happens without it."}
      </p>
      <p>{spread ? spreadText(data, split) : noSpreadText(data, split, name)}</p>
      <div class="controls">
        <Choice label="Site" values={kindsOf(sites)} value={kind} onChange={setKind} />
        <Choice label="Split" values={splits} value={split} onChange={setSplit} />
        <Select
          label="Case"
          values={cases}
          value={name}
          show={(c) => (c === "" ? "all cases" : c)}
          onChange={(next) => select({ case: next })}
        />
      </div>
      {groups.length === 0 ? (
        <p class="empty">No feature has a row for this choice.</p>
      ) : (
        <div class={patched || spread ? "multiples features exact" : "multiples features"}>
          {groups.map((group) => (
            <Site
              key={group.site}
              group={group}
              range={range}
              rows={all ? data.limits.features : few}
              patched={patched}
              spread={spread}
              column={numberOf(data)}
            />
          ))}
        </div>
      )}
      {groups.some((group) => group.feature.length > few) && (
        <button type="button" class="plain" onClick={() => setAll(!all)} aria-expanded={all}>
          {all ? `Show the first ${few} of each layer` : `Show up to ${data.limits.features} of each layer`}
        </button>
      )}
      {groups.length > 0 && <AsTable groups={groups} column={numberOf(data)} />}
    </Section>
  );
}

function Site(props: {
  group: TopFeatures;
  range: Range;
  rows: number;
  patched: boolean;
  spread: boolean;
  column: string;
}) {
  const { group, range, patched, spread, column } = props;
  const { selection, select } = useSelection();
  const { site } = group;
  const open = (feature: number) => select({ site, feature });
  return (
    <table class="bars">
      <caption>
        {group.site}
        {group.stability10 !== null && <span>top 10: {Math.round(100 * group.stability10)} % stable</span>}
      </caption>
      <thead class={patched || spread ? "small" : "unseen"}>
        <tr>
          <th scope="col">feature</th>
          <th scope="col">
            <span class="unseen">bar</span>
          </th>
          <th scope="col">{column}</th>
          {spread && (
            <>
              <th scope="col" class="spread">
                ± words
              </th>
              <th scope="col" class="spread ranks">
                rank
              </th>
            </>
          )}
          {group.beside.map(({ kind }) => (
            <th key={kind} scope="col">
              {kind}
            </th>
          ))}
          {patched && <th scope="col">exact</th>}
        </tr>
      </thead>
      <tbody>
        {group.feature.slice(0, props.rows).map((feature, i) => {
          const effect = group.effect[i] ?? 0;
          const own = group.spread[i] ?? null;
          return (
            <tr
              key={feature}
              class={selection.site === site && selection.feature === feature ? "chosen row" : "row"}
              onClick={(event) => {
                if ((event.target as Element).closest("a") === null) open(feature);
              }}
              title={`${group.site}/${feature}: ${signed(effect)}, ${whole(group.nodes[i] ?? 0)} nodes${own ? spreadTitle(own) : ""}`}
            >
              <th scope="row">
                <a href={linkTo({ site, feature })} aria-label={`${site}/${feature}, ${signed(effect)}`}>
                  {feature}
                </a>
              </th>
              <td class="bar" aria-hidden="true">
                <Bar value={effect} range={range} />
                {own !== null && <Whisker spread={own} range={range} />}
              </td>
              <td class="value">{signed(effect)}</td>
              {spread && (
                <>
                  <td class="value spread">{own && halfOf(own.by_words)}</td>
                  <td class="value spread ranks">{own && rangeText(own.ranks)}</td>
                </>
              )}
              {group.beside.map(({ kind, effect: beside }) => (
                <Known key={kind} value={beside[i] ?? null} />
              ))}
              {patched && <Known value={group.exact[i] ?? null} />}
            </tr>
          );
        })}
        {group.error !== null && (
          <tr class="error">
            <th scope="row">error</th>
            <td class="bar" aria-hidden="true">
              <Bar value={group.error} range={range} />
            </td>
            <td class="value">{signed(group.error)}</td>
            {spread && (
              <>
                <td class="spread" />
                <td class="spread ranks" />
              </>
            )}
            {group.beside.map(({ kind }) => (
              <td key={kind} />
            ))}
            {patched && <td />}
          </tr>
        )}
      </tbody>
    </table>
  );
}

/** All of the features shown, in one table that can be sorted and saved. */
function AsTable({ groups, column }: { groups: readonly TopFeatures[]; column: string }) {
  const [shown, setShown] = useState(false);
  const rows = groups.flatMap((group) =>
    group.feature.map((feature, i) => ({
      site: group.site,
      feature,
      effect: group.effect[i]!,
      place: i + 1,
      spread: group.spread[i] ?? null,
      nodes: group.nodes[i]!,
      exact: group.exact[i] ?? null,
      beside: group.beside.map(({ effect }) => effect[i] ?? null),
    })),
  );
  type Row = (typeof rows)[number];
  const value = (name: string, of: (row: Row) => number | null) => ({
    name,
    of,
    show: (row: Row) => (of(row) === null ? "" : signed(of(row)!)),
  });
  const first = groups[0]!;
  return (
    <details onToggle={(event) => setShown(event.currentTarget.open)}>
      <summary>As one table, to sort and to save</summary>
      {shown && (
        <DataTable
          label={`Features of ${first.site.split(".")[0]}, ${first.split}, ${first.case === "" ? "all cases" : first.case}`}
          rows={rows}
          rowKey={(row) => `${row.site}/${row.feature}`}
          columns={[
            {
              name: "feature",
              of: (row) => `${row.site}/${row.feature}`,
              show: ({ site, feature }) => <a href={linkTo({ site, feature })}>{`${site}/${feature}`}</a>,
            },
            { name: "rank at its site", of: (row) => row.place },
            value(column, (row) => row.effect),
            value("95 % low", (row) => row.spread?.by_words.low ?? null),
            value("95 % high", (row) => row.spread?.by_words.high ?? null),
            ...first.beside.map(({ kind }, i) => value(kind, (row) => row.beside[i] ?? null)),
            value("exact", (row) => row.exact),
            { name: "nodes", of: (row) => row.nodes },
          ]}
        />
      )}
    </details>
  );
}

/** What the numbers are, in a word. */
function numberOf({ run }: ReportData): string {
  if (run.score !== "effect") return "score";
  if (run.method === "secant" || run.method === "exact") return run.method;
  return run.method.endsWith("-ig") ? "integrated" : "first-order";
}

/** What the numbers beside the run's own are, as the beginning of a sentence. */
function besideText(groups: readonly TopFeatures[]): string {
  const kinds = [...new Set(groups.flatMap(({ beside }) => beside.map(({ kind }) => kind)))];
  if (kinds.length === 0) return "Beside the bars,";
  const texts = {
    "first-order": "first-order is the slope at the clean prompt times the feature's change",
    secant: "secant takes each sublayer's mean slope between its clean and its patch input",
  };
  return `Beside the bars, ${kinds.map((kind) => texts[kind]).join(", ")};`;
}

/** What the whiskers, "± words" and the ranks are. */
function spreadText(data: ReportData, split: Split): string {
  const words = data.words[split] ?? 0;
  const pairs = sum(data.accuracy.map((row) => (row.split === split ? row.pairs : 0)));
  const narrow = pairs > words ? ", too narrow because pairs share words" : "";
  return `Whiskers are 95 % intervals over other words: the ${whole(words)} words that the ${split} pairs share are drawn again and again. Their thick part is the interval over single pairs${narrow}. "± words" is half a whisker, "rank" the 95 % interval of the rank; "stable" is what the ten strongest and those of a draw have in common (Jaccard).`;
}

/** Why there are no intervals. */
function noSpreadText({ run, words }: ReportData, split: Split, name: string): string {
  const count = words[split];
  if (run.score !== "effect" || count === undefined) return "";
  if (name !== "") return "Intervals are known for all cases together.";
  return `There are no intervals: the ${split} pairs share ${countText(count, "word")}, and fewer than ${leastWords} say little about others.`;
}

function spreadTitle({ by_words: words, by_pairs: pairs, ranks, in_top_10 }: FeatureSpread): string {
  return `\n95 % over words: ${signed(words.low)} to ${signed(words.high)}\nover single pairs: ${signed(pairs.low)} to ${signed(pairs.high)}\nrank ${rangeText(ranks)}, in the top 10 of ${percent(in_top_10)} of draws`;
}

/** Half the width of an interval, two digits of it. */
function halfOf({ low, high }: Interval): string {
  const half = (high - low) / 2;
  return half >= 1e-3 && half < 10 ? half.toPrecision(2) : number(half);
}

const rangeText = ({ low, high }: Interval) => (low === high ? String(low) : `${low}–${high}`);

/** A number of a feature, if it was measured. */
function Known({ value }: { value: number | null }) {
  return <td class="value">{value === null ? "" : signed(value)}</td>;
}

/** The values that a bar can show; 0 lies inside. */
interface Range {
  readonly low: number;
  readonly high: number;
}

/** The interval over words as a line, that over pairs as its thick part. */
function Whisker({ spread: { by_words, by_pairs }, range: { low, high } }: { spread: FeatureSpread; range: Range }) {
  const place = (v: number) => (high > low ? (100 * (v - low)) / (high - low) : 0);
  const style = (of: Interval) => ({
    left: `${place(of.low).toFixed(2)}%`,
    width: `${(place(of.high) - place(of.low)).toFixed(2)}%`,
  });
  return (
    <>
      <span class="whisker" style={style(by_words)} />
      <span class="whisker thick" style={style(by_pairs)} />
    </>
  );
}

/** A bar from 0 to the right for positive, to the left for negative values. */
function Bar({ value, range: { low, high } }: { value: number; range: Range }) {
  const place = (v: number) => (high > low ? (100 * (v - low)) / (high - low) : 0);
  const [left, width] = [place(Math.min(0, value)), place(Math.abs(value)) - place(0)];
  return (
    <>
      <span class="zero" style={{ left: `${place(0).toFixed(2)}%` }} />
      <span
        class={value < 0 ? "negative" : "positive"}
        style={{ left: `${left.toFixed(2)}%`, width: `${width.toFixed(2)}%` }}
      />
    </>
  );
}
