import type { ReportCheck, ReportData } from "../../src/report/data.ts";
import { number, tiny } from "../../src/report/format.ts";
import { Section } from "../controls.tsx";
import { linkTo } from "../selection.tsx";
import { DataTable } from "../table.tsx";

/** Do the numbers hold? Every check of the run, folded by name. */
export function ChecksSection({ data }: { data: ReportData }) {
  const names = [...new Set(data.checks.map((check) => check.name))];
  return (
    <Section id="checks" title="Do the numbers hold?">
      {names.length === 0 ? (
        <p class="empty">The run holds no checks.</p>
      ) : (
        <>
          <p>
            Identities that must be true if nothing went wrong. A check passes when its gap, relative to the scale (the
            sum of |effects| that it is about), is within the tolerance.
          </p>
          {names.map((name) => (
            <Check key={name} name={name} rows={data.checks.filter((check) => check.name === name)} />
          ))}
        </>
      )}
    </Section>
  );
}

const relative = (check: ReportCheck) => (check.gap === 0 ? 0 : check.gap / check.scale);

function Check({ name, rows }: { name: string; rows: readonly ReportCheck[] }) {
  const passed = rows.filter((row) => row.passed).length;
  const worst = rows.reduce((a, b) => (relative(b) / b.tolerance > relative(a) / a.tolerance ? b : a));
  const failed = passed < rows.length;
  return (
    <details class="check" open={failed}>
      <summary>
        <span class={failed ? "verdict failed" : "verdict"}>{failed ? "failed" : "passed"}</span>
        <b>{name}</b>
        <span>
          {passed} of {rows.length}, worst gap {tiny(relative(worst))} of the scale, tolerance {tiny(worst.tolerance)}
        </span>
      </summary>
      <DataTable
        label={`Check ${name}`}
        rows={rows}
        rowKey={(row) => row.site}
        rowClass={(row) => (row.passed ? "" : "low")}
        columns={[
          {
            name: "site",
            of: (row) => row.site,
            show: ({ site }) => (site === "" ? "whole run" : <a href={linkTo({ site }, "features")}>{site}</a>),
          },
          { name: "gap", of: (row) => row.gap, show: (row) => tiny(row.gap) },
          { name: "scale", of: (row) => row.scale, show: (row) => number(row.scale) },
          { name: "gap / scale", of: relative, show: (row) => tiny(relative(row)) },
          { name: "tolerance", of: (row) => row.tolerance, show: (row) => tiny(row.tolerance) },
          { name: "result", of: (row) => (row.passed ? "passed" : "failed"), text: true },
        ]}
      />
    </details>
  );
}
