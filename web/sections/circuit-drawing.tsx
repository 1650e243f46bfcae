import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
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
} from "../../src/circuit/export/layout.ts";
import { type CircuitGraph, type GraphNode, graphNodeName } from "../../src/circuit/graph.ts";
import { signed, tokenText } from "../../src/report/format.ts";
import { Scroll } from "../controls.tsx";

const [margin, bandLabels, foot] = [12, 64, 34];
/** A drawing is not squeezed further than this: it scrolls sideways instead. */
const leastWidth = 560;

/** What a node is called in running text and lists: the metric's own name is a formula. */
export const pageName = (node: GraphNode) => (node.kind === "metric" ? "metric" : graphNodeName(node));

/** What stands in a node's box: layer and kind of site are told by where it is. */
function shortName({ kind, feature, token }: GraphNode): string {
  if (kind === "feature") return String(feature);
  if (kind === "token") return token === undefined ? "tokens" : tokenText(token);
  return kind;
}

/**
 * A circuit's graph in layers that go upward. One of its nodes is chosen by a click or with the arrow keys, which go to the next node in their
 * direction; the edges of the chosen node stand out.
 */
export function CircuitDrawing(props: {
  graph: CircuitGraph;
  chosen: string;
  /** An arrow key went to a node. */
  onMove: (id: string) => void;
  /** A node was clicked, or entered. */
  onChoose: (id: string) => void;
  label: string;
}) {
  const { graph, chosen, onMove, onChoose } = props;
  const box = useRef<HTMLDivElement>(null);
  const width = Math.max(leastWidth, useWidth(box));
  const layout = useMemo(() => layoutOf(graph, width - bandLabels - 2 * margin, shortName), [graph, width]);
  const refocus = useRef(false);
  useLayoutEffect(() => {
    if (!refocus.current) return;
    refocus.current = false;
    box.current?.querySelector<SVGGElement>('[tabindex="0"][role="button"]')?.focus();
  }, [chosen]);
  const move = (event: KeyboardEvent) => {
    const direction = directions[event.key];
    const from = layout.nodes.find(({ node }) => node.id === entry);
    if (direction === undefined || from === undefined) return;
    event.preventDefault();
    const next = nextIn(layout, from, direction);
    if (next === undefined) return;
    refocus.current = true;
    onMove(next.node.id);
  };
  const places = useMemo(() => new Map(layout.nodes.map((placed) => [placed.node.id, placed])), [layout]);
  const entry = places.has(chosen) ? chosen : layout.nodes.at(-1)?.node.id;
  const near = new Set([
    chosen,
    ...graph.edges.flatMap(({ source, target }) => (source === chosen ? [target] : target === chosen ? [source] : [])),
  ]);
  const picked = places.has(chosen);
  const [fullWidth, fullHeight] = [layout.width + bandLabels + 2 * margin, layout.height + foot + 2 * margin];
  const largest = Math.max(1e-12, ...graph.nodes.filter(isCause).map(({ effect }) => Math.abs(effect)));
  return (
    <div ref={box}>
      <Scroll label={props.label}>
        {/* biome-ignore lint/a11y/noSvgWithoutTitle: the box around it has a name, and a title would come up over all of it */}
        <svg
          class={picked ? "circuit picked" : "circuit"}
          width={fullWidth}
          height={fullHeight}
          viewBox={`0 0 ${fullWidth} ${fullHeight}`}
          onKeyDown={move}
        >
          <g transform={`translate(${bandLabels + margin} ${margin})`}>
            <Bands layout={layout} />
            <Edges graph={graph} places={places} chosen={chosen} />
            {layout.nodes.map((placed) => (
              <NodeBox
                key={placed.node.id}
                placed={placed}
                largest={largest}
                chosen={placed.node.id === chosen}
                near={near.has(placed.node.id)}
                entry={placed.node.id === entry}
                onChoose={onChoose}
              />
            ))}
          </g>
        </svg>
      </Scroll>
    </div>
  );
}

function useWidth(box: { readonly current: HTMLDivElement | null }): number {
  const [width, setWidth] = useState(0);
  // Before anything is painted, so that what lies below does not move.
  useLayoutEffect(() => {
    if (box.current === null) return;
    setWidth(Math.floor(box.current.clientWidth));
    const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry!.contentRect.width)));
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  return width;
}

function Bands({ layout: { bands, columns, width, height } }: { layout: Layout }) {
  const pad = 10;
  return (
    <>
      {bands.map(({ name, top, height: tall }) => (
        <g key={name}>
          <rect
            class="band"
            x={-bandLabels}
            y={top - pad}
            width={width + bandLabels + pad}
            height={tall + 2 * pad}
            rx="6"
          />
          <text class="side" x={8 - bandLabels} y={top + tall / 2 + 4}>
            {name}
          </text>
        </g>
      ))}
      {columns.map(({ name, left, width: wide }) => (
        <text key={name} class="side middle" x={left + wide / 2} y={height + pad + 20}>
          {name}
        </text>
      ))}
    </>
  );
}

function Edges(props: { graph: CircuitGraph; places: ReadonlyMap<string, PlacedNode>; chosen: string }) {
  const { graph, places, chosen } = props;
  const largest = Math.max(1e-12, ...graph.edges.map(({ value }) => Math.abs(value)));
  const isOf = ({ source, target }: CircuitGraph["edges"][number]) => source === chosen || target === chosen;
  // The strongest last, those of the chosen node above all.
  const order = graph.edges.toSorted(
    (a, b) => Number(isOf(a)) - Number(isOf(b)) || Math.abs(a.value) - Math.abs(b.value),
  );
  return (
    <>
      {order.map((edge) => {
        const [from, to] = [places.get(edge.source)!, places.get(edge.target)!];
        const look = edgeLook(Math.abs(edge.value) / largest);
        return (
          <path
            key={`${edge.source} ${edge.target}`}
            class={`edge ${edge.value < 0 ? "negative" : "positive"}${isOf(edge) ? " own" : ""}`}
            d={edgeCurve(from, to)}
            stroke-width={look.width.toFixed(1)}
            stroke-opacity={look.opacity.toFixed(2)}
          >
            <title>{`${pageName(from.node)} → ${pageName(to.node)}: ${signed(edge.value)} logits`}</title>
          </path>
        );
      })}
    </>
  );
}

function NodeBox(props: {
  placed: PlacedNode;
  largest: number;
  chosen: boolean;
  near: boolean;
  /** Whether the tab key comes to this node. */
  entry: boolean;
  onChoose: (id: string) => void;
}) {
  const { node, name, x, y, width } = props.placed;
  const share = isCause(node) ? Math.abs(node.effect) / props.largest : 0;
  const where = node.position === undefined ? "" : ` at position ${node.position}`;
  const text = `${pageName(node)}${where}, ${node.kind === "metric" ? "change" : "effect"} ${signed(node.effect)} logits`;
  const classes = ["node", node.kind, node.effect < 0 ? "negative" : "positive", ...(props.near ? ["near"] : [])];
  return (
    // biome-ignore lint/a11y/useSemanticElements: HTML buttons cannot stand in an SVG
    <g
      class={classes.join(" ")}
      role="button"
      // In lower case: elements of an SVG take attributes as they are spelled.
      tabindex={props.entry ? 0 : -1}
      aria-pressed={props.chosen}
      aria-label={text}
      transform={`translate(${(x - width / 2).toFixed(1)} ${(y - boxHeight / 2).toFixed(1)})`}
      onClick={() => props.onChoose(node.id)}
      onKeyDown={(event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        props.onChoose(node.id);
      }}
    >
      <title>{text}</title>
      <rect
        class="box"
        width={width.toFixed(1)}
        height={boxHeight}
        rx={node.kind === "token" || node.kind === "metric" ? 2 : 7}
      />
      {share > 0 && (
        <rect class="bar" x="5" y={boxHeight - 4} width={Math.max(1, share * (width - 10)).toFixed(1)} height="2.4" />
      )}
      {/* A font of another width than expected is fitted to the box. */}
      <text
        x={(width / 2).toFixed(1)}
        y={boxHeight / 2 + 3}
        textLength={(characterWidth * textCells(name)).toFixed(1)}
        lengthAdjust="spacingAndGlyphs"
      >
        {name}
      </text>
    </g>
  );
}

type Direction = readonly [x: number, y: number];
const directions: Readonly<Record<string, Direction>> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

/** The nearest node in a direction, those far to its side last. */
function nextIn({ nodes }: Layout, from: PlacedNode, [dx, dy]: Direction): PlacedNode | undefined {
  let [best, least]: [PlacedNode | undefined, number] = [undefined, Number.POSITIVE_INFINITY];
  for (const one of nodes) {
    const along = (one.x - from.x) * dx + (one.y - from.y) * dy;
    const aside = Math.abs((one.x - from.x) * dy) + Math.abs((one.y - from.y) * dx);
    // Sideways keys stay in their row as long as there is one, upward keys may go to the side a little.
    const distance = along + (dx === 0 ? 0.5 : 8) * aside;
    if (along > 1 && distance < least) [best, least] = [one, distance];
  }
  return best;
}
