import { bytesText } from "../../src/amounts.ts";
import type { ComparedMethod, Comparison } from "../../src/report/comparison.ts";
import { multiple, seconds, whole } from "../../src/report/format.ts";
import { Section } from "../controls.tsx";
import { DataTable } from "../table.tsx";

/** Time and memory of every method, with the ratios to the first. */
export function CostSection({ data }: { data: Comparison }) {
  const { methods } = data;
  const first = methods[0]?.name ?? "the first";
  return (
    <Section id="cost" title="What do they cost?">
      <p>
        Time is from the loaded model to the last effect, memory is resident memory of the process: on top of the loaded
        model, and at its peak.
        {methods.length > 1 && ` The right column is how many times that of ${first}.`}
      </p>
      {methods.length === 0 ? (
        <p class="empty">No method has been measured.</p>
      ) : (
        <>
          <div class="multiples costs">
            <Bars title="Time" methods={methods} value={(m) => m.seconds} show={seconds} />
            <Bars title="Memory on top of the model" methods={methods} value={(m) => m.above_bytes} show={bytesText} />
            <Bars
              title="Peak memory"
              note="grey: held once the model was loaded"
              methods={methods}
              value={(m) => m.peak_bytes}
              base={(m) => Math.min(m.loaded_bytes, m.peak_bytes)}
              show={bytesText}
            />
          </div>
          <Numbers methods={methods} />
        </>
      )}
    </Section>
  );
}

function Bars(props: {
  title: string;
  note?: string;
  methods: readonly ComparedMethod[];
  value: (method: ComparedMethod) => number;
  /** The share of the value that is the same work for all. */
  base?: (method: ComparedMethod) => number;
  show: (value: number) => string;
}) {
  const { methods, value, show } = props;
  const most = Math.max(...methods.map(value));
  const width = (v: number) => `${(most > 0 ? (100 * v) / most : 0).toFixed(2)}%`;
  return (
    <table class="bars costs">
      <caption>
        {props.title}
        {props.note !== undefined && <span>{props.note}</span>}
      </caption>
      <thead class="unseen">
        <tr>
          <th scope="col">method</th>
          <th scope="col">bar</th>
          <th scope="col">value</th>
          <th scope="col">times that of {methods[0]?.name}</th>
        </tr>
      </thead>
      <tbody>
        {methods.map((method) => {
          const base = props.base?.(method) ?? 0;
          return (
            <tr key={method.name}>
              <th scope="row">{method.name}</th>
              <td class="bar plain" aria-hidden="true">
                <span style={{ width: width(value(method)) }} />
                {base > 0 && <span class="base" style={{ width: width(base) }} />}
              </td>
              <td>{show(value(method))}</td>
              <td class="ratio">{ratio(value(method), value(methods[0]!))}</td>
            </tr>
          );
        })}
      </tbody>
    </table>
  );
}

function ratio(value: number, first: number): string {
  return first > 0 ? `${multiple(value / first)} ×` : "–";
}

function Numbers({ methods }: { methods: readonly ComparedMethod[] }) {
  return (
    <details>
      <summary>The same as numbers</summary>
      <DataTable
        label="Time and memory by method"
        rows={methods}
        rowKey={(method) => method.name}
        columns={[
          { name: "method", of: (method) => method.name },
          {
            name: "pairs per batch",
            of: (method) => method.batch,
            show: (method) => (method.batch === null ? "forest" : whole(method.batch)),
          },
          {
            name: "steps",
            of: (method) => method.steps,
            show: (method) =>
              method.steps === null ? "–" : `${method.steps}${method.rule === null ? "" : `, ${method.rule}`}`,
          },
          { name: "rows of effects", of: (method) => method.rows, show: (method) => whole(method.rows) },
          { name: "loading", of: (method) => method.loading_seconds, show: (m) => seconds(m.loading_seconds) },
          { name: "time", of: (method) => method.seconds, show: (method) => seconds(method.seconds) },
          { name: "model loaded", of: (method) => method.loaded_bytes, show: (m) => bytesText(m.loaded_bytes) },
          { name: "on top", of: (method) => method.above_bytes, show: (method) => bytesText(method.above_bytes) },
          { name: "peak", of: (method) => method.peak_bytes, show: (method) => bytesText(method.peak_bytes) },
        ]}
      />
    </details>
  );
}
