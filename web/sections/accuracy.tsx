import type { CaseAccuracy, ReportData } from "../../src/report/data.ts";
import { signed, whole } from "../../src/report/format.ts";
import { CaseName, Scroll, Section } from "../controls.tsx";
import { splitsOf } from "../select.ts";
import { ShareCell } from "./share.tsx";

/** Does the model show the behaviour at all? By case and split. */
export function AccuracySection({ data }: { data: ReportData }) {
  const splits = splitsOf(data);
  const cases = [...new Set(data.accuracy.map((row) => row.case))];
  const rows = new Map(data.accuracy.map((row) => [`${row.split} ${row.case}`, row]));
  const patched = data.accuracy.some((row) => row.patchMean !== null);
  return (
    <Section id="accuracy" title="Does the model do it?">
      <p>
        Share of pairs for which the clean answer has the larger logit at the end of the clean prompt
        {patched && ", and the mean of m at the clean and at the patch prompt in logits"}. A behaviour that is not there
        has no features to find.
      </p>
      {cases.length === 0 ? (
        <p class="empty">The run holds no pairs.</p>
      ) : (
        <Scroll label="Accuracy by case">
          <table class="numbers">
            <thead>
              <tr>
                <th scope="col" rowSpan={2}>
                  Case
                </th>
                {splits.map((split) => (
                  <th key={split} scope="colgroup" class="first" colSpan={patched ? 4 : 3}>
                    {split}
                  </th>
                ))}
              </tr>
              <tr>
                {splits.map((split) => [
                  <th key={`${split} n`} scope="col" class="first">
                    pairs
                  </th>,
                  <th key={`${split} a`} scope="col">
                    accuracy
                  </th>,
                  <th key={`${split} c`} scope="col">
                    m clean
                  </th>,
                  patched && (
                    <th key={`${split} p`} scope="col">
                      m patch
                    </th>
                  ),
                ])}
              </tr>
            </thead>
            <tbody>
              {cases.map((name) => (
                <tr key={name}>
                  <th scope="row">
                    <CaseName name={name} />
                  </th>
                  {splits.map((split) => (
                    <Cells key={split} row={rows.get(`${split} ${name}`)} patched={patched} />
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
      {splits.length === 1 && <p class="empty">This run has no {splits[0] === "train" ? "test" : "train"} split.</p>}
    </Section>
  );
}

function Cells({ row, patched }: { row: CaseAccuracy | undefined; patched: boolean }) {
  if (row === undefined) return <td colSpan={patched ? 4 : 3}>–</td>;
  return (
    <>
      <td class="first">{whole(row.pairs)}</td>
      <ShareCell share={row.accuracy} alarmBelow={0.8} />
      <td>{signed(row.cleanMean)}</td>
      {patched && <td>{row.patchMean === null ? "–" : signed(row.patchMean)}</td>}
    </>
  );
}
