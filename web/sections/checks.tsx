import type { ReportCheck, ReportData } from "../../src/report/data.ts";
import { number, tiny } from "../../src/report/format.ts";
import { Scroll, Section } from "../controls.tsx";

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
      <Scroll label={`Check ${name}`}>
        <table class="numbers">
          <thead>
            <tr>
              <th scope="col">Site</th>
              <th scope="col">gap</th>
              <th scope="col">scale</th>
              <th scope="col">gap / scale</th>
              <th scope="col">tolerance</th>
              <th scope="col">result</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <tr key={row.site} class={row.passed ? "" : "low"}>
                <th scope="row">{row.site === "" ? "whole run" : row.site}</th>
                <td>{tiny(row.gap)}</td>
                <td>{number(row.scale)}</td>
                <td>{tiny(relative(row))}</td>
                <td>{tiny(row.tolerance)}</td>
                <td class="text">{row.passed ? "passed" : "failed"}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </details>
  );
}
