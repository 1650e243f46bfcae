import type { Comparison } from "../../src/report/comparison.ts";
import { signed } from "../../src/report/format.ts";
import { useSelection } from "../selection.tsx";
import { DataTable } from "../table.tsx";
import { Panel } from "./panel.tsx";

/** What every method says of the feature that the selection names. Nothing without one. */
export function ComparedFeature({ data }: { data: Comparison }) {
  const { site, feature } = useSelection().selection;
  if (site === null || feature === null) return null;
  const name = `${site}/${feature}`;
  const effects = new Map<string, number>();
  for (const pair of data.scatter) {
    const at = pair.feature.findIndex((one, i) => one === feature && pair.site[i] === site);
    if (at < 0) continue;
    effects.set(pair.a, pair.x[at]!);
    effects.set(pair.b, pair.y[at]!);
  }
  const rows = data.methods.flatMap((method) =>
    effects.has(method.name) ? [{ name: method.name, effect: effects.get(method.name)! }] : [],
  );
  return (
    <Panel name={name}>
      {rows.length === 0 ? (
        <p class="empty">{name} is not among the strongest of any two methods.</p>
      ) : (
        <>
          <p>
            Its effect by every method, mean over all pairs in logits. Where a method is missing, the feature is among
            the strongest of no pair with it.
          </p>
          <DataTable
            label={`Effect of ${name} by method`}
            rows={rows}
            rowKey={(row) => row.name}
            columns={[
              { name: "method", of: (row) => row.name },
              { name: "effect", of: (row) => row.effect, show: (row) => signed(row.effect) },
            ]}
          />
          <p class="note">
            The report of <code>sfc run</code> has its contexts, and what happens without it.
          </p>
        </>
      )}
    </Panel>
  );
}
