import type { ComponentChildren } from "preact";
import { useMemo, useState } from "preact/hooks";
import type { Comparison, MethodAgreement } from "../../src/report/comparison.ts";
import { correlation, number, percent, signed, tiny, whole } from "../../src/report/format.ts";
import { compareSites, parseSite } from "../../src/site.ts";
import { Choice, Section, Select } from "../controls.tsx";
import { kindsOf } from "../select.ts";
import { linkTo, useSelection } from "../selection.tsx";
import { type Column, DataTable } from "../table.tsx";
import { SignedScatter } from "./scatter.tsx";
import { Over, ShareCell } from "./share.tsx";

type Pair = Pick<MethodAgreement, "a" | "b">;
const nameOf = ({ a, b }: Pair) => `${a}, ${b}`;
const isOf = (pair: Pair) => (row: Pair) => row.a === pair.a && row.b === pair.b;

/** Do the methods find the same features? Every pair of them over all sites, feature by feature, and site by site. */
export function MethodAgreementSection({ data }: { data: Comparison }) {
  const pairs = data.agreement.filter((row) => row.site === "");
  return (
    <Section id="agreement" title="Do they find the same features?">
      {pairs.length === 0 ? (
        <p class="empty">There is nothing to compare: one method alone.</p>
      ) : (
        <>
          <p>
            Every pair of methods, all sites together. Pearson and Spearman correlate the signed effects of all features
            that have one in either; signs: the share of those with an effect in both whose signs agree. Shared top 10,
            50 and 100: how many of the first method's strongest are among the second's, up to ties (within 10
            <sup>−4</sup> of the largest effect). The difference is the largest between two effects of one feature, as a
            share of the largest effect; below about 10<sup>−4</sup> it is rounding.
            {pairs.some((row) => row.pearson_by_words !== null) &&
              ` In brackets: 95 % intervals over other words, the ${whole(data.words ?? 0)} that pairs share drawn again.`}
          </p>
          <Likenesses
            label="Agreement of every pair of methods"
            head="methods"
            rows={pairs}
            text={nameOf}
            name={(row) => <Names pair={row} />}
          />
          {data.scatter.length > 0 && <Scatters data={data} />}
          <Sites data={data} pairs={pairs} />
        </>
      )}
    </Section>
  );
}

function Likenesses(props: {
  label: string;
  head: string;
  rows: readonly MethodAgreement[];
  text: (row: MethodAgreement) => string;
  name: (row: MethodAgreement) => ComponentChildren;
}) {
  const { selection } = useSelection();
  const correlated = (name: string, of: (row: MethodAgreement) => number | null): Column<MethodAgreement> => ({
    name,
    of,
    show: (row) => correlation(of(row)),
  });
  const top = (
    name: string,
    of: (row: MethodAgreement) => number | null,
    words: (row: MethodAgreement) => MethodAgreement["top_10_by_words"],
  ): Column<MethodAgreement> => ({
    name,
    of,
    cell: (row) => <Top key={name} share={of(row)} words={words(row)} />,
  });
  return (
    <DataTable
      label={props.label}
      rows={props.rows}
      rowKey={(row) => `${nameOf(row)} ${row.site}`}
      rowClass={(row) => (row.site !== "" && row.site === selection.site ? "chosen" : "")}
      columns={[
        { name: props.head, of: props.text, show: props.name },
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
        correlated("Spearman", (row) => row.spearman),
        { name: "signs", of: (row) => row.sign, show: (row) => (row.sign === null ? "–" : percent(row.sign)) },
        top(
          "top 10",
          (row) => row.top_10,
          (row) => row.top_10_by_words,
        ),
        top(
          "top 50",
          (row) => row.top_50,
          (row) => row.top_50_by_words,
        ),
        top(
          "top 100",
          (row) => row.top_100,
          (row) => row.top_100_by_words,
        ),
        {
          name: "difference",
          of: (row) => (row.scale > 0 ? row.difference / row.scale : null),
          cell: (row) => (
            <td key="difference" title={`${tiny(row.difference)} of ${signed(row.scale).slice(1)} logits`}>
              {row.scale > 0 ? relative(row.difference / row.scale) : "–"}
            </td>
          ),
        },
        { name: "features", of: (row) => row.features, show: (row) => whole(row.features) },
      ]}
    />
  );
}

/** Two names that a narrow page may put under each other, but not break. */
function Names({ pair: { a, b } }: { pair: Pair }) {
  return (
    <>
      <span class="unbroken">{a},</span> <span class="unbroken">{b}</span>
    </>
  );
}

/** Decimals only where they say something: most differences are rounding. */
function relative(share: number): string {
  return share < 0.01 ? tiny(share) : number(share);
}

function Top({ share, words }: { share: number | null; words: MethodAgreement["top_10_by_words"] }) {
  if (share === null) return <td>–</td>;
  return (
    <ShareCell share={share}>
      <Over words={words} show={(value) => String(Math.round(100 * value))} />
    </ShareCell>
  );
}

/** With four methods there are six pairs: the first method's come first, the others are asked for. */
const fewPairs = 3;

function Scatters({ data }: { data: Comparison }) {
  const kinds = ["", ...kindsOf(data.scatter.flatMap((row) => row.site))];
  const first = data.methods[0]?.name ?? "";
  const ways = [first, "all"];
  const [kind, setKind] = useState("");
  const [way, setWay] = useState(first);
  const few = data.scatter.length <= fewPairs;
  const chosen = useMemo(
    () => data.scatter.filter((row) => few || way === "all" || row.a === first || row.b === first),
    [data, way],
  );
  const shown = useMemo(
    () =>
      chosen.map((row) => ({
        ...row,
        points: row.feature
          .map((feature, i) => {
            const [site, x, y] = [row.site[i] ?? "", row.x[i] ?? 0, row.y[i] ?? 0];
            const title = `${site}/${feature}\n${row.a} ${signed(x)}\n${row.b} ${signed(y)}`;
            return { site, x, y, title, href: linkTo({ site, feature }) };
          })
          .filter(({ site }) => kind === "" || parseSite(site).kind === kind),
      })),
    [chosen, kind],
  );
  const most = Math.max(
    1e-12,
    ...shown.flatMap(({ points }) => points.flatMap(({ x, y }) => [Math.abs(x), Math.abs(y)])),
  );
  return (
    <>
      <h3>Feature by feature</h3>
      <p>
        One dot per feature, the strongest of each pair of methods: its effect by one method across, by the other
        upwards, in logits per pair. On the dotted line both say the same. Axes are square-root scales, so that small
        effects stay apart, and the same in all pictures. A dot shows what every method says of its feature.
      </p>
      <div class="controls">
        <Choice
          label="Site"
          values={kinds.length > 2 ? kinds : []}
          value={kind}
          show={(k) => (k === "" ? "all" : k)}
          onChange={setKind}
        />
        <Choice
          label="Pairs of methods"
          values={few ? [] : ways}
          value={way}
          show={(w) => (w === "all" ? "all" : `with ${w}`)}
          onChange={setWay}
        />
      </div>
      <div class="multiples scatter">
        {shown.map((row) => (
          <figure key={nameOf(row)}>
            <figcaption>
              <span>
                <b>{row.b}</b> over <b>{row.a}</b>
              </span>
              <span>{row.points.length === 1 ? "1 feature" : `${whole(row.points.length)} features`}</span>
            </figcaption>
            <SignedScatter
              points={row.points}
              most={most}
              label={`Effects by ${row.a} across and by ${row.b} upwards; how alike they are is in the table above`}
            />
          </figure>
        ))}
      </div>
    </>
  );
}

function Sites({ data, pairs }: { data: Comparison; pairs: readonly MethodAgreement[] }) {
  const [chosen, setChosen] = useState(0);
  const pair = pairs[chosen] ?? pairs[0]!;
  const rows = data.agreement
    .filter((row) => row.site !== "" && isOf(pair)(row))
    .toSorted((a, b) => compareSites(a.site, b.site));
  if (data.agreement.length === pairs.length) return null;
  return (
    <>
      <h3>Site by site</h3>
      <div class="controls">
        <Select
          label="Methods"
          values={pairs.map((_, i) => String(i))}
          value={String(chosen)}
          show={(i) => nameOf(pairs[Number(i)]!)}
          onChange={(i) => setChosen(Number(i))}
        />
      </div>
      <Likenesses
        label={`Agreement of ${nameOf(pair)} by site`}
        head="site"
        rows={rows}
        text={(row) => row.site}
        name={(row) => row.site}
      />
    </>
  );
}
