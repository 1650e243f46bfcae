import type { FeatureCard } from "../../src/report/cards.ts";
import type { ReportData } from "../../src/report/data.ts";
import { signed, tokenText } from "../../src/report/format.ts";
import { CaseName } from "../controls.tsx";
import type { KnownFeature } from "../known.ts";
import { useSelection } from "../selection.tsx";
import { DataTable } from "../table.tsx";

type SplitEffects = FeatureCard["effects"][number];

/** The feature's effect by case, position and token, of the chosen split. */
export function Effects({ of, data }: { of: KnownFeature; data: ReportData }) {
  const { selection } = useSelection();
  const effects = of.card?.effects ?? [];
  const shown = effects.find(({ split }) => split === selection.split) ?? effects[0];
  if (shown === undefined) return <CasesOfGroups of={of} />;
  return (
    <>
      <Cases of={shown} name={of.name} />
      <Places of={shown} name={of.name} data={data} />
    </>
  );
}

function Cases({ of: { cases, split }, name }: { of: SplitEffects; name: string }) {
  const rows = cases.case.map((one, i) => ({
    case: one,
    effect: cases.effect[i]!,
    nodes: cases.nodes[i]!,
    pairs: cases.pairs[i]!,
  }));
  const most = Math.max(1e-12, ...rows.map(({ effect }) => Math.abs(effect)));
  return (
    <DataTable
      label={`Effect of ${name} by case, ${split}`}
      rows={rows}
      rowKey={(row) => row.case}
      columns={[
        { name: "case", of: (row) => row.case, show: (row) => <CaseName name={row.case} /> },
        { name: "pairs", of: (row) => row.pairs },
        { name: "effect", of: (row) => row.effect, show: (row) => signed(row.effect) },
        {
          name: "bar",
          of: (row) => row.effect,
          cell: (row) => <SignedBar key="bar" value={row.effect} most={most} />,
        },
      ]}
    />
  );
}

/** Where the report has no card: what its rankings by case list. */
function CasesOfGroups({ of: { groups, name } }: { of: KnownFeature }) {
  const rows = groups.map(({ group, at }) => ({
    split: group.split,
    case: group.case === "" ? "all cases" : group.case,
    effect: group.effect[at]!,
    rank: at + 1,
  }));
  if (rows.length === 0) return <p class="empty">It is in no ranking of this page.</p>;
  return (
    <DataTable
      label={`Effect of ${name} by case`}
      rows={rows}
      rowKey={(row) => `${row.split} ${row.case}`}
      columns={[
        { name: "case", of: (row) => row.case, show: (row) => <CaseName name={row.case} /> },
        { name: "split", of: (row) => row.split, text: true },
        { name: "effect", of: (row) => row.effect, show: (row) => signed(row.effect) },
        { name: "rank", of: (row) => row.rank },
      ]}
    />
  );
}

function Places({ of, name, data }: { of: SplitEffects; name: string; data: ReportData }) {
  const { positions, tokens, split } = of;
  const texts = data.cards?.tokens ?? [];
  const text = (place: number) => tokenText(texts[place] ?? "").trim();
  const byPosition = positions.position.map((position, i) => ({
    position,
    effect: positions.effect[i]!,
    nodes: positions.nodes[i]!,
    pairs: positions.pairs[i]!,
  }));
  const byToken = tokens.token.map((place, i) => {
    const patch = tokens.patch[i];
    return {
      token: text(place),
      patch: patch == null ? "" : text(patch),
      effect: tokens.effect[i]!,
      pairs: tokens.pairs[i]!,
    };
  });
  return (
    <>
      <DataTable
        label={`Effect of ${name} by position, ${split}`}
        rows={byPosition}
        rowKey={(row) => String(row.position)}
        columns={[
          { name: "position", of: (row) => row.position },
          { name: "pairs", of: (row) => row.pairs },
          { name: "nodes", of: (row) => row.nodes },
          { name: "effect", of: (row) => row.effect, show: (row) => signed(row.effect) },
        ]}
      />
      <DataTable
        label={`Effect of ${name} by token, ${split}`}
        rows={byToken}
        rowKey={(row) => `${row.token} ${row.patch}`}
        columns={[
          { name: "token", of: (row) => row.token },
          { name: "patch token", of: (row) => row.patch, text: true },
          { name: "pairs", of: (row) => row.pairs },
          { name: "effect", of: (row) => row.effect, show: (row) => signed(row.effect) },
        ]}
      />
      {Math.abs(of.other_tokens) > 0 && (
        <p class="note">
          Other tokens together: {signed(of.other_tokens)}. Parts add up to the effect on {split}.
        </p>
      )}
    </>
  );
}

function SignedBar({ value, most }: { value: number; most: number }) {
  const width = (50 * Math.abs(value)) / most;
  return (
    <td class="bar" aria-hidden="true">
      <span class="zero" style={{ left: "50%" }} />
      <span
        class={value < 0 ? "negative" : "positive"}
        style={{ left: `${(value < 0 ? 50 - width : 50).toFixed(2)}%`, width: `${width.toFixed(2)}%` }}
      />
    </td>
  );
}
