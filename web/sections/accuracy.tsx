import type { CaseAccuracy, ReportData } from "../../src/report/data.ts";
import { shareIntervalText } from "../../src/report/findings.ts";
import { signed, whole } from "../../src/report/format.ts";
import { CaseName, Section } from "../controls.tsx";
import { splitsOf } from "../select.ts";
import { linkTo } from "../selection.tsx";
import { type Column, DataTable } from "../table.tsx";
import { ShareCell } from "./share.tsx";

/** Does the model show the behaviour at all? By case and split. */
export function AccuracySection({ data }: { data: ReportData }) {
  const splits = splitsOf(data);
  const cases = [...new Set(data.accuracy.map((row) => row.case))];
  const rows = new Map(data.accuracy.map((row) => [`${row.split} ${row.case}`, row]));
  const patched = data.accuracy.some((row) => row.patchMean !== null);
  const columns = splits.flatMap((split): Column<string>[] => {
    const of = (name: string) => rows.get(`${split} ${name}`);
    const value = (name: string, take: (row: CaseAccuracy) => number | null, show: (value: number) => string) => ({
      name: `${split}: ${name}`,
      of: (one: string) => (of(one) === undefined ? null : take(of(one)!)),
      show: (one: string) => {
        const found = of(one) === undefined ? null : take(of(one)!);
        return found === null ? "–" : show(found);
      },
    });
    return [
      value("pairs", (row) => row.pairs, whole),
      {
        name: `${split}: accuracy [95 %]`,
        of: (one) => of(one)?.accuracy ?? null,
        cell: (one) => {
          const row = of(one);
          if (row === undefined) return <td key={split}>–</td>;
          return (
            <ShareCell key={split} share={row.accuracy} alarmBelow={0.8}>
              {" "}
              <small>{shareIntervalText(row.accuracy, row.pairs)}</small>
            </ShareCell>
          );
        },
      },
      value("m clean", (row) => row.cleanMean, signed),
      ...(patched ? [value("m patch", (row) => row.patchMean, signed)] : []),
    ];
  });
  return (
    <Section id="accuracy" title="Does the model do it?">
      <p>
        Share of pairs for which the clean answer has the larger logit at the end of the clean prompt, with Wilson's 95
        % interval as if pairs shared no words
        {patched && ", and the mean of m at the clean and at the patch prompt in logits"}. A behaviour that is not there
        has no features to find. A case leads to its features.
      </p>
      {cases.length === 0 ? (
        <p class="empty">The run holds no pairs.</p>
      ) : (
        <DataTable
          label="Accuracy by case"
          rows={cases}
          rowKey={(name) => name}
          columns={[
            {
              name: "case",
              of: (name) => name,
              show: (name) => (
                <a href={linkTo({ case: name }, "features")}>
                  <CaseName name={name} />
                </a>
              ),
            },
            ...columns,
          ]}
        />
      )}
      {splits.length === 1 && <p class="empty">This run has no {splits[0] === "train" ? "test" : "train"} split.</p>}
    </Section>
  );
}
