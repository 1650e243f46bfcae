import { useMemo } from "preact/hooks";
import { flowAt, graphOfReport } from "../../src/report/circuit.ts";
import type { ReportData } from "../../src/report/data.ts";
import { number, percent } from "../../src/report/format.ts";
import type { Known, KnownFeature } from "../known.ts";
import { FlowTable } from "../sections/flow.tsx";
import { linkTo } from "../selection.tsx";
import { DataTable } from "../table.tsx";

/** What comes to the feature and what leaves it in the circuit's graph. */
export function InCircuit({ of, data }: { of: KnownFeature; data: ReportData }) {
  const { circuit } = data;
  const graph = useMemo(() => (circuit === null ? null : graphOfReport(circuit)), [circuit]);
  const nodes = circuit?.nodes.filter(({ site, feature }) => site === of.site && feature === of.feature) ?? [];
  if (graph === null) return null;
  if (nodes.length === 0) return <p class="note">It is not in the circuit's graph.</p>;
  return (
    <>
      {nodes.map(({ id }) => (
        <FlowTable key={id} flow={flowAt(graph, id)} drawn={null} />
      ))}
    </>
  );
}

/** Features of its site that are like it: by decoder row, and by where they are active. */
export function Neighbours({ of: { card, site, name }, known }: { of: KnownFeature; known: Known }) {
  if (card === null) return null;
  const link = (feature: number) =>
    known.has(`${site}/${feature}`) ? <a href={linkTo({ site, feature })}>{feature}</a> : feature;
  const similar = card.similar.feature.map((feature, i) => ({ feature, value: card.similar.cosine[i]! }));
  const together = card.together.feature.map((feature, i) => ({ feature, value: card.together.jaccard[i]! }));
  return (
    <div class="pair-of-tables">
      {similar.length > 0 && (
        <DataTable
          label={`Features with decoder rows like that of ${name}`}
          rows={similar}
          rowKey={(row) => String(row.feature)}
          columns={[
            { name: "similar decoder", of: (row) => row.feature, show: (row) => link(row.feature) },
            { name: "cosine", of: (row) => row.value, show: (row) => number(row.value) },
          ]}
        />
      )}
      {together.length > 0 && (
        <DataTable
          label={`Features active at the same prompt tokens as ${name}`}
          rows={together}
          rowKey={(row) => String(row.feature)}
          columns={[
            { name: "active together", of: (row) => row.feature, show: (row) => link(row.feature) },
            { name: "Jaccard", of: (row) => row.value, show: (row) => percent(row.value) },
          ]}
        />
      )}
    </div>
  );
}
