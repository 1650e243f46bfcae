import { bytesText } from "../../src/amounts.ts";
import { comparisonCommand } from "../../src/report/citation.ts";
import type { Comparison } from "../../src/report/comparison.ts";
import { seconds, whole } from "../../src/report/format.ts";
import { Copied, Fact, Section } from "../controls.tsx";
import { layersOf } from "../select.ts";

/** What was run, so that it can be run again, and on what. */
export function ComparisonRunSection({ data }: { data: Comparison }) {
  const { machine, dictionaries } = data;
  const total = data.methods.reduce((sum, method) => sum + method.loading_seconds + method.seconds, 0);
  const options = Object.entries(data.options).filter(([, value]) => value !== null);
  return (
    <Section id="run" title="What was run">
      <p>This command makes the comparison again:</p>
      <Copied label="The command" text={comparisonCommand(data)} />
      <dl class="facts">
        <Fact name="Model">{data.model.name}</Fact>
        <Fact name="Dictionaries">
          {dictionaries.dummy ? <strong>{dictionaries.source} (random directions)</strong> : dictionaries.source}
        </Fact>
        <Fact name="Sites">{layersOf(dictionaries.sites)}</Fact>
        <Fact name="Task">{data.task}</Fact>
        <Fact name="Status">{data.status}</Fact>
        {options.map(([name, value]) => (
          <Fact key={name} name={name}>
            {String(value)}
          </Fact>
        ))}
        <Fact name="Versions">
          {Object.entries(data.versions)
            .map(([name, value]) => `${name} ${value}`)
            .join(", ")}
        </Fact>
        <Fact name="Machine">
          {machine.cpu}, {machine.cores === 1 ? "1 core" : `${whole(machine.cores)} cores`},{" "}
          {bytesText(machine.memory_bytes)}
        </Fact>
        <Fact name="Time">{seconds(total)}, loading included</Fact>
      </dl>
      <p class="note">
        Scatter plots hold the strongest features of each pair of methods; all numbers of this page are in{" "}
        <code>compare.json</code> beside it.
      </p>
    </Section>
  );
}
