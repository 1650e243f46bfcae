import { countText } from "../../amounts.ts";
import { type CircuitGraph, type GraphEdge, type GraphNode, graphNodeName, graphPlaces } from "../graph.ts";
import {
  boxHeight,
  characterWidth,
  edgeCurve,
  edgeLook,
  isCause,
  type Layout,
  layoutOf,
  type PlacedNode,
  textCells,
} from "./layout.ts";
import { subjectText } from "./subject.ts";
import { element, xmlText } from "./xml.ts";

/** How a circuit is drawn. */
export interface SvgOptions {
  /** Pixels; layers with many nodes take several rows to stay within it. 1,400 by default. */
  readonly width?: number;
  /** The first line; by default model and prompts. */
  readonly title?: string;
}

const [margin, head, foot, bandLabels] = [20, 92, 76, 92];

// Variables, so that a page can set its own; every selector begins with the drawing's class, since a style inside a page counts for all of it.
const style = `
.circuit { --paper: #fffdfa; --band: #f5f2ec; --box: #fffdfa; --ink: #1f2328; --muted: #5f6368; --positive: #c25700; --negative: #2b6cb0; --error: #85807a; }
@media (prefers-color-scheme: dark) {
.circuit { --paper: #16181c; --band: #1e2126; --box: #282c33; --ink: #e4e2dd; --muted: #a2a6ad; --positive: #f0913a; --negative: #69a7e0; --error: #8b8f98; }
}
.circuit text { font: 10.3px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: var(--ink); }
.circuit text.title { font: 600 15px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
.circuit text.note, .circuit text.side { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--muted); }
.circuit .paper { fill: var(--paper); }
.circuit .band { fill: var(--band); }
.circuit .edge { fill: none; stroke-linecap: round; }
.circuit .edge:hover { stroke-opacity: 1; }
.circuit .node rect { fill: var(--box); stroke: var(--muted); }
.circuit .node .bar { stroke: none; }
.circuit .node text { text-anchor: middle; }
.circuit .error rect:first-of-type { stroke: var(--error); stroke-dasharray: 3 2; }
.circuit .bias rect:first-of-type { stroke: var(--error); stroke-dasharray: 1 2; }
.circuit .metric rect:first-of-type, .circuit .token rect:first-of-type { stroke: var(--ink); stroke-width: 1.4; }
.circuit .edge.positive { stroke: var(--positive); }
.circuit .edge.negative { stroke: var(--negative); }
.circuit .positive .bar { fill: var(--positive); }
.circuit .negative .bar { fill: var(--negative); }
`;

/**
 * A drawing of a circuit: layers go upward, tokens at the bottom and the metric at the top; edges are orange where they raise the metric and blue where
 * they lower it, wide by |value|; a bar under each name shows the node's |effect|. It follows the viewer's light or dark theme, needs no script
 * and no other file; names and values come up where the pointer rests.
 *
 * Meant for pruned graphs (`prune`): up to about 100 nodes and 300 edges it stays legible.
 *
 * @throws UserError if the graph is broken (`graphPlaces`)
 */
export function graphSvg(
  graph: CircuitGraph,
  { width = 1400, title = `${graph.about.model}: ${subjectText(graph.about.subject)}` }: SvgOptions = {},
): string {
  const places = graphPlaces(graph);
  const layout = layoutOf(graph, width - bandLabels - 2 * margin);
  const at = (id: string) => layout.nodes[places.get(id)!]!;
  const fullWidth = Math.max(720, layout.width + bandLabels + 2 * margin);
  const fullHeight = head + layout.height + foot;
  const largest = {
    effect: largestOf(graph.nodes.filter(isCause).map(({ effect }) => effect)),
    edge: largestOf(graph.edges.map(({ value }) => value)),
  };
  const edges = graph.edges.toSorted((a, b) => Math.abs(a.value) - Math.abs(b.value));
  const inside = [
    ...bandsOf(layout),
    ...edges.map((edge) => edgePath(edge, at(edge.source), at(edge.target), largest.edge)),
    ...layout.nodes.map((placed) => nodeBox(placed, largest.effect)),
  ];
  const notes = notesOf(graph, largest.edge);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" class="circuit" role="img" width="${round(fullWidth)}" height="${round(fullHeight)}" viewBox="0 0 ${round(fullWidth)} ${round(fullHeight)}">`,
    element("title", {}, xmlText(title)),
    `<style>${style}</style>`,
    element("rect", { class: "paper", width: "100%", height: "100%" }),
    element("text", { class: "title", x: margin, y: 30 }, xmlText(visible(title))),
    ...notes.map((note, i) => element("text", { class: "note", x: margin, y: 50 + 17 * i }, xmlText(note))),
    `<g transform="translate(${round((fullWidth - bandLabels - layout.width) / 2 + bandLabels)} ${head})">`,
    ...inside,
    "</g>",
    ...legend(fullHeight - margin, largest.edge),
    "</svg>",
    "",
  ].join("\n");
}

function notesOf({ about, nodes, edges }: CircuitGraph, largestEdge: number): string[] {
  const { metric, method, jacobian, slope, thresholds } = about;
  const kept = thresholds === undefined ? "" : `; kept to ${thresholds.nodes} and ${thresholds.edges} of the influence`;
  return [
    `metric: ${metric}; effects: ${method}; edges: ${jacobian} paths, ${slope} slopes, at most ${logits(largestEdge)}`,
    `${countText(nodes.length, "node")}, ${countText(edges.length, "edge")}${kept}`,
  ];
}

function bandsOf({ bands, columns, width, height }: Layout): string[] {
  const pad = 12;
  return [
    ...bands.flatMap(({ name, top, height: tall }) => [
      element("rect", {
        class: "band",
        x: round(-bandLabels),
        y: round(top - pad),
        width: round(width + bandLabels + pad),
        height: round(tall + 2 * pad),
        rx: 6,
      }),
      element("text", { class: "side", x: round(pad - bandLabels), y: round(top + tall / 2 + 4) }, xmlText(name)),
    ]),
    ...columns.map(({ name, left, width: wide }) =>
      element(
        "text",
        { class: "side", x: round(left + wide / 2), y: round(height + 30), "text-anchor": "middle" },
        xmlText(visible(name)),
      ),
    ),
  ];
}

function edgePath({ value }: GraphEdge, from: PlacedNode, to: PlacedNode, largest: number): string {
  const look = edgeLook(largest === 0 ? 0 : Math.abs(value) / largest);
  return element(
    "path",
    {
      class: `edge ${value < 0 ? "negative" : "positive"}`,
      d: edgeCurve(from, to),
      "stroke-width": round(look.width),
      "stroke-opacity": round(look.opacity, 2),
    },
    element("title", {}, xmlText(`${graphNodeName(from.node)} → ${graphNodeName(to.node)}: ${logits(value, true)}`)),
  );
}

function nodeBox({ node, name, x, y, width }: PlacedNode, largest: number): string {
  const [left, top] = [x - width / 2, y - boxHeight / 2];
  const share = largest === 0 || !isCause(node) ? 0 : Math.abs(node.effect) / largest;
  return element(
    "g",
    { class: `node ${node.kind} ${node.effect < 0 ? "negative" : "positive"}` },
    [
      element("title", {}, xmlText(titleOfNode(node))),
      element("rect", {
        x: round(left),
        y: round(top),
        width: round(width),
        height: boxHeight,
        rx: node.kind === "token" || node.kind === "metric" ? 2 : 7,
      }),
      share === 0
        ? ""
        : element("rect", {
            class: "bar",
            x: round(left + 5),
            y: round(top + boxHeight - 4),
            width: round(Math.max(1, share * (width - 10))),
            height: 2.4,
            rx: 1.2,
          }),
      // A font of another width than expected is fitted to the box.
      element(
        "text",
        {
          x: round(x),
          y: round(y + 3),
          textLength: round(characterWidth * textCells(name)),
          lengthAdjust: "spacingAndGlyphs",
        },
        xmlText(visible(name)),
      ),
    ].join(""),
  );
}

function titleOfNode(node: GraphNode): string {
  const { token, position, label, effect, activation, patchActivation, cumulative, kind } = node;
  const where = position === undefined ? "" : ` at position ${position}${token === undefined ? "" : ` “${token}”`}`;
  return [
    `${graphNodeName(node)}${where}`,
    ...(label === undefined ? [] : [label]),
    `${kind === "metric" ? "value" : "effect"} ${logits(effect, true)}`,
    ...(activation === undefined
      ? []
      : [
          `activation ${activation.toPrecision(3)}${patchActivation === undefined ? "" : ` → ${patchActivation.toPrecision(3)}`}`,
        ]),
    ...(cumulative === undefined ? [] : [`among the nodes that hold ${cumulative.toFixed(3)} of the influence`]),
  ].join("\n");
}

function legend(y: number, largest: number): string[] {
  const entries: [mark: string, text: string][] = [
    [line("positive", y), `raises the metric (widest ${logits(largest)})`],
    [line("negative", y), "lowers it"],
  ];
  let x = margin;
  return entries.map(([mark, text]) => {
    const at = x;
    x += 44 + 6.6 * text.length + 24;
    return `<g transform="translate(${round(at)} 0)">${mark}${element("text", { class: "note", x: 38, y: y + 4 }, xmlText(text))}</g>`;
  });
}

const line = (sign: "positive" | "negative", y: number) =>
  element("path", { class: `edge ${sign}`, d: `M2 ${round(y)}H30`, "stroke-width": 5, "stroke-opacity": 0.8 });

const largestOf = (values: readonly number[]) =>
  values.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);

/** Line breaks and tabs would be drawn as blanks. */
const visible = (text: string) => text.replaceAll("\n", "⏎").replaceAll("\t", "→").replaceAll("\r", "↵");

function logits(value: number, signed = false): string {
  return `${signed && value > 0 ? "+" : ""}${Number(value.toPrecision(3))} logits`.replace("-", "−");
}

const round = (value: number, digits = 1) => Number(value.toFixed(digits));
