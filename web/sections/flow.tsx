import type { GraphNode } from "../../src/circuit/graph.ts";
import type { Flow, FlowEnd } from "../../src/report/circuit.ts";
import { number, percentOf, signed } from "../../src/report/format.ts";
import { type Change, linkTo, useSelection } from "../selection.tsx";
import { pageName } from "./circuit-drawing.tsx";

/** Ends of edges that are named, the strongest. */
const named = 8;
/** A gap below this share of the effect is rounding, and the rule's error. */
const negligible = 0.005;

/** What comes to one node and what leaves it, whether drawn or not. */
export function FlowTable(props: {
  flow: Flow;
  /** Ids of the nodes that are drawn beside it; null where none are. */
  drawn: ReadonlySet<string> | null;
}) {
  const { flow, drawn } = props;
  const { select } = useSelection();
  const onChoose = (node: GraphNode) => select(selectionOf(node));
  const { node } = flow;
  const name = pageName(node);
  const isSource = flow.inflow.length === 0 && node.remainder === undefined;
  const gap = node.effect - flow.in - (node.remainder ?? 0);
  const elsewhere = node.effect - flow.out;
  const counts = (value: number) => Math.abs(value) > negligible * Math.abs(node.effect);
  return (
    <section class="flow" aria-label={`Flow at ${name}`} aria-live="polite">
      <h3>
        {drawn !== null && node.site !== undefined && node.feature !== undefined ? (
          <a href={linkTo({ site: node.site, feature: node.feature })}>{name}</a>
        ) : (
          name
        )}
      </h3>
      {node.kind === "metric" && <p class="note">{node.token}</p>}
      {node.label !== undefined && <p class="note">{node.label}</p>}
      <p class="note">
        {node.kind === "metric" ? "Change" : "Effect"} {signed(node.effect)} logits
        {node.position !== undefined && `, at position ${node.position}`}
        {node.activation !== undefined &&
          `; activation ${number(node.activation)}${node.patchActivation === undefined ? "" : ` → ${number(node.patchActivation)}`}`}
        .{drawn !== null && !drawn.has(node.id) && " Not drawn at these thresholds."}
      </p>
      {isSource ? (
        <p class="note">Nothing in the graph leads into it.</p>
      ) : (
        <Ends head="Comes in from" ends={flow.inflow} drawn={drawn} onChoose={onChoose} of={node.effect}>
          <Row name="no edge (remainder)" value={node.remainder ?? 0} of={node.effect} />
          {counts(gap) && <Row name="not explained by edges" value={gap} of={node.effect} />}
          <Row name={node.kind === "metric" ? "change" : "effect"} value={node.effect} of={node.effect} total />
        </Ends>
      )}
      {node.kind !== "metric" && (
        <Ends head="Goes out to" ends={flow.outflow} drawn={drawn} onChoose={onChoose} of={node.effect}>
          {counts(elsewhere) && <Row name="what the graph lacks" value={elsewhere} of={node.effect} />}
          <Row name="effect" value={node.effect} of={node.effect} total />
        </Ends>
      )}
    </section>
  );
}

/** What looking at a node selects: the card of a feature, the flow of any other. */
export function selectionOf({ id, site, feature }: GraphNode): Change {
  return feature === undefined || site === undefined ? { node: id } : { site, feature, node: id };
}

function Ends(props: {
  head: string;
  ends: readonly FlowEnd[];
  drawn: ReadonlySet<string> | null;
  onChoose: (node: GraphNode) => void;
  of: number;
  children: preact.ComponentChildren;
}) {
  const { head, ends, drawn, onChoose, of } = props;
  const rest = ends.slice(named);
  return (
    <table class="numbers">
      <thead>
        <tr>
          <th scope="col">{head}</th>
          <th scope="col">logits</th>
          <th scope="col">share</th>
        </tr>
      </thead>
      <tbody>
        {ends.slice(0, named).map(({ node, value }) => (
          <Row
            key={node.id}
            name={<Named node={node} drawn={drawn === null || drawn.has(node.id)} onChoose={onChoose} />}
            value={value}
            of={of}
          />
        ))}
        {rest.length > 0 && (
          <Row name={`${rest.length} more`} value={rest.reduce((sum, { value }) => sum + value, 0)} of={of} />
        )}
        {props.children}
      </tbody>
    </table>
  );
}

function Named({ node, drawn, onChoose }: { node: GraphNode; drawn: boolean; onChoose: (node: GraphNode) => void }) {
  const at = node.position === undefined ? "" : ` @${node.position}`;
  return (
    <button
      type="button"
      class={drawn ? "plain node" : "plain node hidden"}
      title={drawn ? undefined : "not drawn at these thresholds"}
      onClick={() => onChoose(node)}
    >
      {pageName(node)}
      {at}
    </button>
  );
}

function Row(props: { name: preact.ComponentChildren; value: number; of: number; total?: boolean }) {
  return (
    <tr class={props.total ? "total" : undefined}>
      <th scope="row">{props.name}</th>
      <td>{signed(props.value)}</td>
      <td>{props.of === 0 ? "–" : percentOf(props.value / props.of)}</td>
    </tr>
  );
}
