import type { Ablation } from "../../src/circuit/meaning.ts";
import type { ReportData } from "../../src/report/data.ts";
import { aucText, shareIntervalText } from "../../src/report/findings.ts";
import { number, percent, signed, whole } from "../../src/report/format.ts";
import { sum } from "../../src/stats.ts";
import { CaseName, Section } from "../controls.tsx";
import { splitsOf } from "../select.ts";
import { linkTo, useSelection } from "../selection.tsx";
import { type Column, DataTable } from "../table.tsx";
import { Named } from "./named.tsx";
import { ShareCell } from "./share.tsx";

/** What single features stand for, and whether the model needs them. */
export function MeaningSection({ data }: { data: ReportData }) {
  const { meaning } = data;
  return (
    <Section id="meaning" title="What do they mean?">
      {meaning === null ? (
        <p class="empty">{whyNot(data)}</p>
      ) : (
        <>
          <Firing meaning={meaning} />
          {meaning.ablations.map((ablation) => (
            <After key={ablation.label} ablation={ablation} />
          ))}
        </>
      )}
    </Section>
  );
}

/** Why nothing was measured. */
function whyNot(data: ReportData): string {
  if (!splitsOf(data).includes("test")) return "Not measured: it is measured on the test split, and this run has none.";
  if (data.run.score !== "effect") return "Not measured: only runs that rank by effects measure it.";
  return "Not measured: it looks at residual sites in the middle third of the model's layers, in float32, and this run has none.";
}

type Row = Ablation["features"][number];

function Firing({ meaning }: { meaning: Ablation }) {
  const { selection } = useSelection();
  const groups = new Map<string, number>();
  for (const { fires } of meaning.features) for (const f of fires) groups.set(`${f.group}, ${f.split}`, f.n);
  const toldOf = (row: Row) =>
    row.fires.reduce<Row["fires"][number] | null>(
      (best, f) => (f.auc !== null && f.auc > (best?.auc ?? -1) ? f : best),
      null,
    );
  const columns = [...groups].map(([group, n]): Column<Row> => {
    const of = (row: Row) => row.fires.find((f) => `${f.group}, ${f.split}` === group);
    return {
      name: `${group}: fires [95 %], n = ${whole(n)}`,
      of: (row) => of(row)?.share ?? null,
      cell: (row) => {
        const fires = of(row);
        if (fires === undefined) return <td key={group}>–</td>;
        return (
          <ShareCell key={group} share={fires.share} title={`mean activation ${number(fires.mean)}`}>
            {" "}
            <small>{shareIntervalText(fires.share, fires.n)}</small>
          </ShareCell>
        );
      },
    };
  });
  return (
    <>
      <p>
        How often each feature is active at all, among the {meaning.members}, with Wilson's 95 % interval. AUC is the
        probability that a random member of the named group has the larger activation than one of another group: at 1
        the feature tells them apart, at 0.5 it says nothing; its interval is Newcombe's. Both take members for
        independent, and are too narrow where these share words. Where a group, or the others, have fewer than five
        members, there are too few to say.
      </p>
      <DataTable
        label="Share of tokens on which each feature fires"
        class="numbers firing"
        rows={meaning.features}
        rowKey={(row) => `${row.site}/${row.feature}`}
        rowClass={(row) => (row.site === selection.site && row.feature === selection.feature ? "chosen" : "")}
        columns={[
          {
            name: "feature",
            of: (row) => `${row.site}/${row.feature}`,
            show: ({ site, feature }) => <a href={linkTo({ site, feature })}>{`${site}/${feature}`}</a>,
          },
          { name: "effect", of: (row) => row.effect, show: (row) => signed(row.effect) },
          ...columns,
          {
            name: "AUC [95 %]",
            of: (row) => toldOf(row)?.auc ?? null,
            show: (row) => {
              const told = toldOf(row);
              if (told === null || told.auc === null) return "too few";
              const others = sum(row.fires.map(({ n }) => n)) - told.n;
              const text = aucText(told.auc, told.n, others);
              return (
                <>
                  {told.auc >= 0.95 ? <b>{text}</b> : text} <small>{told.group}</small>
                </>
              );
            },
          },
        ]}
      />
    </>
  );
}

function points(share: number): string {
  return `${share < 0 ? "−" : ""}${Math.abs(100 * share).toFixed(1)} points`;
}

function After({ ablation }: { ablation: Ablation["ablations"][number] }) {
  type Change = (typeof ablation.accuracy)[number];
  const share = (key: string, of: (row: Change) => number) => (row: Change) => (
    <ShareCell key={key} share={of(row)} alarmBelow={0.8} title={percent(of(row))}>
      {" "}
      <small>{shareIntervalText(of(row), row.n)}</small>
    </ShareCell>
  );
  return (
    <>
      <h3>Without {ablation.label}</h3>
      <p>
        Accuracy when the codes of{" "}
        {ablation.features.length === 1 ? "one feature" : `${ablation.features.length} features`} are set to{" "}
        {ablation.value === "zero" ? "0" : "their mean"}:{" "}
        <span class="names">
          <Named text={ablation.features.join(", ")} />
        </span>
        . In brackets: Wilson's 95 % interval, as if pairs shared no words.
      </p>
      <DataTable
        label={`Accuracy without ${ablation.label}`}
        rows={ablation.accuracy}
        rowKey={(row) => `${row.split} ${row.case}`}
        columns={[
          {
            name: "case",
            of: (row) => row.case,
            show: (row) => (
              <a href={linkTo({ case: row.case, split: row.split }, "features")}>
                <CaseName name={row.case} />
              </a>
            ),
          },
          { name: "split", of: (row) => row.split, text: true },
          { name: "pairs", of: (row) => row.n, show: (row) => whole(row.n) },
          { name: "before [95 %]", of: (row) => row.before, cell: share("before", (row) => row.before) },
          { name: "after [95 %]", of: (row) => row.after, cell: share("after", (row) => row.after) },
          { name: "change", of: (row) => row.after - row.before, show: (row) => points(row.after - row.before) },
        ]}
      />
    </>
  );
}
