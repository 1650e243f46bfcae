import { useMemo, useState } from "preact/hooks";
import { prune } from "../../src/circuit/influence.ts";
import { flowAt, graphOfReport, type ReportCircuit } from "../../src/report/circuit.ts";
import { percent, percentOf, signed, whole } from "../../src/report/format.ts";
import { Downloads } from "../chart.tsx";
import { Section, Select, Slider } from "../controls.tsx";
import { useSelection } from "../selection.tsx";
import { CircuitDrawing, pageName } from "./circuit-drawing.tsx";
import { FlowTable, selectionOf } from "./flow.tsx";

/**
 * The circuit as a graph: as much of it as two thresholds leave, and what comes to and leaves one of its nodes.
 *
 * @param cards whether the page has cards of features
 */
export function CircuitSection({ circuit, cards = true }: { circuit: ReportCircuit; cards?: boolean }) {
  const { selection, select } = useSelection();
  const graph = useMemo(() => graphOfReport(circuit), [circuit]);
  const [nodes, setNodes] = useState(circuit.start.nodes);
  const [edges, setEdges] = useState(circuit.start.edges);
  const shown = useMemo(() => prune(graph, { nodes, edges }), [graph, nodes, edges]);
  const falling = useMemo(
    () =>
      shown.nodes.toSorted(
        (a, b) =>
          Number(b.kind === "feature") - Number(a.kind === "feature") || Math.abs(b.effect) - Math.abs(a.effect),
      ),
    [shown],
  );
  const byFeature = graph.nodes.find(
    ({ site, feature }) => feature !== undefined && site === selection.site && feature === selection.feature,
  );
  const asked = graph.nodes.find(({ id }) => id === selection.node) ?? byFeature;
  const chosen = asked?.id ?? falling[0]?.id ?? "";
  const look = (node: string) => select({ node });
  const open = (id: string) => select(selectionOf(graph.nodes.find((node) => node.id === id)!));
  const flow = useMemo(() => (chosen === "" ? null : flowAt(graph, chosen)), [graph, chosen]);
  const drawn = useMemo(() => new Set(shown.nodes.map(({ id }) => id)), [shown]);
  const names = new Map(graph.nodes.map((node) => [node.id, node]));
  const listed = drawn.has(chosen) ? falling : [...falling, ...graph.nodes.filter(({ id }) => id === chosen)];
  const { replacement, completeness } = circuit.about.scores ?? { replacement: null, completeness: null };
  return (
    <Section id="circuit" title="How do they work together?">
      <p>
        The circuit as a graph, {subjectText(circuit)}. Layers go upward, from the tokens to the metric. A box is a
        feature, the error of an SAE (what it does not reconstruct) or the tokens. An edge is the part of the upper
        node's effect that comes from the lower one, along all paths that pass no other site of the graph; it is orange
        where it moves the model to the patch answer, blue where it moves it to the clean answer, and wide where it is
        strong. Bars under the names are |effect|.{cards && " A feature opens its card."}
      </p>
      <p>
        The influence of a node is the share of the metric's input that passes through it. The sliders keep the nodes of
        most influence until together they hold so much of it, and likewise the edges between these nodes.
      </p>
      <div class="controls">
        <Slider
          label="Nodes: share of influence"
          value={nodes}
          least={0.2}
          step={0.01}
          show={share}
          onChange={setNodes}
        />
        <Slider
          label="Edges: share of influence"
          value={edges}
          least={0.2}
          step={0.01}
          show={share}
          onChange={setEdges}
        />
        <Select
          label="Node"
          values={listed.map(({ id }) => id)}
          value={chosen}
          show={(id) => `${pageName(names.get(id)!)} (${signed(names.get(id)!.effect)})`}
          onChange={look}
        />
      </div>
      <p class="note" role="status">
        {whole(shown.nodes.length)} of {whole(circuit.nodes.length)} nodes and {whole(shown.edges.length)} of{" "}
        {whole(circuit.edges.value.length + circuit.left)} edges are drawn.
        {replacement !== null &&
          ` In the whole graph, ${percentOf(replacement)} of the influence of tokens and errors is the tokens'.`}
        {completeness !== null &&
          ` Of all that comes to its nodes, ${percentOf(completeness)} comes from no error and is no remainder.`}
        {circuit.left > 0 &&
          ` The ${whole(circuit.left)} weakest edges are not in this page: they count as remainders.`}
      </p>
      <div class="circuit-view">
        <Downloads name="Circuit">
          <CircuitDrawing
            graph={shown}
            chosen={chosen}
            onMove={look}
            onChoose={open}
            label="The circuit's graph: the tab key comes to the chosen node, the arrow keys go to the next one"
          />
        </Downloads>
        {flow !== null && <FlowTable flow={flow} drawn={drawn} />}
      </div>
    </Section>
  );
}

const share = (value: number) => percent(value).replace(".0", "");

function subjectText({ about: { subject, method, jacobian, slope, slopeCap } }: ReportCircuit): string {
  const made = `effects by ${method}, edges by ${jacobian === "frozen" ? "frozen" : `${jacobian}s of the`} paths with ${
    slope === "secant" ? "secant slopes" : "the slopes at the clean prompt"
  }${slopeCap === undefined ? "" : ` up to ${slopeCap}`}`;
  if (subject.kind !== "pairs") return `of one ${subject.kind}; ${made}`;
  if (subject.pairs === 1) return `of one pair; ${made}`;
  const cases = subject.cases.length <= 4 ? subject.cases.join(", ") : `${subject.cases.length} cases`;
  const split = subject.split === null ? "" : `${subject.split} `;
  return `mean over ${whole(subject.pairs)} ${split}pairs${cases === "" ? "" : ` of ${cases}`}; ${made}`;
}
