import type { ReportData } from "../../src/report/data.ts";
import { aucText, shareText } from "../../src/report/findings.ts";
import { number, percent, signed, whole } from "../../src/report/format.ts";
import { sum } from "../../src/stats.ts";
import { CaseName } from "../controls.tsx";
import type { KnownFeature } from "../known.ts";
import { DataTable } from "../table.tsx";

/** What happens without the feature: patched by itself, and set to 0. */
export function Without({ of, data }: { of: KnownFeature; data: ReportData }) {
  const { groups, ablations, name, card } = of;
  const { exact, run } = data;
  const own = groups.find(({ group, at }) => group.case === "" && group.exact[at] != null);
  const value = own?.group.exact[own.at] ?? card?.exact?.effect ?? null;
  const total = exact === null ? undefined : data.change[exact.split];
  return (
    <>
      {value === null ? (
        <p class="note">
          It was not patched by itself. <code>sfc evaluate RUN --ablate {name}</code> says what the model does without
          it{run.method === "exact" ? "" : ", --method exact what its change alone does"}.
        </p>
      ) : (
        <p>
          Patched by itself it moves <i>m</i> by <strong>{signed(value)}</strong>
          {total !== undefined && ` of the ${signed(total)} logits`} between clean and patch (exact
          {exact !== null && `, mean of ${whole(exact.pairs)} of ${whole(exact.of)} ${exact.split} pairs`}).
        </p>
      )}
      {ablations.map((ablation) => (
        <Ablated key={ablation.label} ablation={ablation} alone={ablation.features.length === 1} />
      ))}
      {ablations.length === 0 && value !== null && (
        <p class="note">
          It was not set to 0 in this run: <code>sfc evaluate RUN --ablate {name}</code>.
        </p>
      )}
    </>
  );
}

type Ablation = KnownFeature["ablations"][number];

function Ablated({ ablation, alone }: { ablation: Ablation; alone: boolean }) {
  const n = sum(ablation.accuracy.map((row) => row.n));
  const before = sum(ablation.accuracy.map((row) => row.before * row.n)) / n;
  const after = sum(ablation.accuracy.map((row) => row.after * row.n)) / n;
  return (
    <>
      <p>
        With {alone ? "it" : `it and ${ablation.features.length - 1} more of ${ablation.label}`} set to{" "}
        {ablation.value === "zero" ? "0" : "the mean"}, accuracy goes from {percent(before)} to{" "}
        <strong>{shareText(after, n)}</strong> of {whole(n)} pairs.
      </p>
      <DataTable
        label={`Accuracy by case without ${ablation.label}`}
        rows={ablation.accuracy}
        rowKey={(row) => `${row.split} ${row.case}`}
        columns={[
          { name: "case", of: (row) => row.case, show: (row) => <CaseName name={row.case} /> },
          { name: "pairs", of: (row) => row.n },
          { name: "before", of: (row) => row.before, show: (row) => percent(row.before) },
          { name: "after [95 %]", of: (row) => row.after, show: (row) => shareText(row.after, row.n) },
        ]}
      />
    </>
  );
}

/** On which of the task's groups the feature fires. */
export function FiresOn({ of: { fires }, data }: { of: KnownFeature; data: ReportData }) {
  if (fires === null || data.meaning === null) return null;
  const total = sum(fires.fires.map(({ n }) => n));
  return (
    <>
      <h4>Fires on</h4>
      <DataTable
        label={`Share of ${data.meaning.members} on which ${fires.site}/${fires.feature} fires`}
        rows={fires.fires}
        rowKey={(row) => `${row.split} ${row.group}`}
        columns={[
          { name: "group", of: (row) => `${row.group}, ${row.split}` },
          { name: "n", of: (row) => row.n },
          { name: "fires [95 %]", of: (row) => row.share, show: (row) => shareText(row.share, row.n) },
          { name: "mean", of: (row) => row.mean, show: (row) => number(row.mean) },
          {
            name: "AUC [95 %]",
            of: (row) => row.auc,
            show: (row) => (row.auc === null ? "too few" : aucText(row.auc, row.n, total - row.n)),
          },
        ]}
      />
    </>
  );
}
