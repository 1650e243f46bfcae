import { bytesText } from "../../src/amounts.ts";
import { citationOf } from "../../src/report/citation.ts";
import type { ReportData } from "../../src/report/data.ts";
import { seconds, whole } from "../../src/report/format.ts";
import { Copied, Fact, Section } from "../controls.tsx";

/** What was run, so that it can be run again, and what it cost. */
export function RunSection({ data }: { data: ReportData }) {
  const { run } = data;
  const total = run.phases.reduce((sum, phase) => sum + phase.seconds, 0);
  const longest = Math.max(0, ...run.phases.map((phase) => phase.seconds));
  return (
    <Section id="run" title="What was run">
      <p>This command makes the run again:</p>
      <Copied label="The command" text={run.command} />
      <p>To cite it:</p>
      <Copied label="The citation" text={citationOf(data)} />
      <dl class="facts">
        <Fact name="Model">
          {run.model.name} <Hash value={run.model.sha256} />
        </Fact>
        <Fact name="Dictionaries">
          {run.dictionaries.dummy ? (
            <strong>{run.dictionaries.name} (random directions)</strong>
          ) : (
            run.dictionaries.name
          )}{" "}
          <Hash value={run.dictionaries.sha256} />
        </Fact>
        <Fact name="Task">{run.task}</Fact>
        <Fact name="Method">
          {run.method}, scored by {run.score}
        </Fact>
        <Fact name="Seed">{run.seed}</Fact>
        <Fact name="Status">{run.status}</Fact>
        {run.options.map(({ name, value }) => (
          <Fact key={name} name={name}>
            {value}
          </Fact>
        ))}
        {run.counts.map(({ name, value }) => (
          <Fact key={name} name={name}>
            {whole(value)}
          </Fact>
        ))}
        <Fact name="Versions">{run.versions.map(({ name, value }) => `${name} ${value}`).join(", ")}</Fact>
        <Fact name="Peak memory">{run.peakBytes === null ? "not measured" : bytesText(run.peakBytes)}</Fact>
        <Fact name="Time">{seconds(total)}</Fact>
      </dl>
      {total > 0 && (
        <table class="bars phases">
          <caption>Seconds per phase</caption>
          <tbody>
            {run.phases.map((phase) => (
              <tr key={phase.name}>
                <th scope="row">{phase.name}</th>
                <td class="bar plain" aria-hidden="true">
                  <span style={{ width: `${((100 * phase.seconds) / longest).toFixed(2)}%` }} />
                </td>
                <td>{seconds(phase.seconds)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      <p class="note">
        Lists in this file are cut off at {data.limits.features} features per site, split and case, {data.limits.points}{" "}
        points per scatter plot and {data.limits.examples} prompts; the run's folder has all of them, as Parquet.
      </p>
    </Section>
  );
}

function Hash({ value }: { value: string | null }) {
  if (value === null) return null;
  return (
    <code class="hash" title={`sha256 ${value}`}>
      {value.slice(0, 12)}
    </code>
  );
}
