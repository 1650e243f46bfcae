import { parseSite, siteKinds } from "../../site.ts";
import { type CircuitGraph, type GraphNode, graphNodeName, graphTokens } from "../graph.ts";

/** A node with the middle of its box; sizes in pixels, y downwards. */
export interface PlacedNode {
  readonly node: GraphNode;
  readonly name: string;
  readonly x: number;
  readonly y: number;
  readonly width: number;
}

/** A horizontal strip of the drawing: a layer, or a site where columns are positions. */
export interface Band {
  readonly name: string;
  readonly top: number;
  readonly height: number;
}

/** A vertical strip: a kind of site, or a position; `left` and `width` are those of its nodes. */
export interface Column {
  readonly name: string;
  readonly left: number;
  readonly width: number;
}

export interface Layout {
  readonly width: number;
  readonly height: number;
  readonly nodes: readonly PlacedNode[];
  /** From top to bottom. */
  readonly bands: readonly Band[];
  readonly columns: readonly Column[];
}

/** Height of a node's box, and the width of a character of its name, in pixels. */
export const boxHeight = 20;
export const characterWidth = 6.2;

const [boxGap, rowGap, bandGap, columnGap, stairs, sweeps] = [10, 9, 46, 34, 22, 12];

/** Nodes of one band and column, as rows of a brick wall. */
interface Cell {
  readonly band: number;
  /** −1: over the whole width. */
  readonly column: number;
  readonly members: number[];
}

/**
 * Places a circuit's nodes in layers that go upward, tokens at the bottom and the metric at the top. Where the graph sums over positions, each layer
 * has its sites side by side; where it has positions, these are the columns and each site has a strip of its own.
 *
 * Columns get wider, and cells less high, as long as the drawing stays within `maxWidth` pixels. Within a cell nodes are ordered so that edges cross
 * little (by the mean place of their neighbours, in sweeps); rows are shifted against each other, so that an edge reaches its box between those
 * below.
 *
 * @param nameOf what stands in a node's box
 */
export function layoutOf(
  graph: CircuitGraph,
  maxWidth: number,
  nameOf: (node: GraphNode) => string = graphNodeName,
): Layout {
  const names = graph.nodes.map(nameOf);
  const widths = names.map((name) => 16 + characterWidth * textCells(name));
  const byPosition = graph.nodes.some(({ position }) => position !== undefined);
  const { cells, bandNames, columnNames } = cellsOf(graph, byPosition);
  const step = (cell: Cell) => boxGap + Math.max(...cell.members.map((n) => widths[n]!));
  const perRow = rowLengths(cells, step, columnNames.length, bandNames.length, maxWidth);
  const rowsOf = (cell: Cell) => Math.ceil(cell.members.length / perRow(cell));
  const slotsOf = (cell: Cell) => Math.ceil(cell.members.length / rowsOf(cell)) + (rowsOf(cell) > 1 ? 0.5 : 0);
  const widthOf = (cell: Cell) => step(cell) * slotsOf(cell) - boxGap;

  const columns: Column[] = [];
  for (const [c, name] of columnNames.entries()) {
    const left = columns.length === 0 ? 0 : columns.at(-1)!.left + columns.at(-1)!.width + columnGap;
    const inside = cells.filter(({ column }) => column === c).map(widthOf);
    columns.push({ name, left, width: Math.max(characterWidth * textCells(name), ...inside) });
  }
  const columnsWidth = columns.length === 0 ? 0 : columns.at(-1)!.left + columns.at(-1)!.width;
  const width = Math.max(columnsWidth, ...cells.filter(({ column }) => column < 0).map(widthOf));

  // Sites side by side stand on stairs, in the order in which the layer computes them, so that edges between them go upward too.
  const rowsHeight = (cell: Cell) => rowsOf(cell) * (boxHeight + rowGap) - rowGap;
  const stairOf = (cell: Cell) => (byPosition || cell.column < 0 ? 0 : cell.column * stairs);
  const bands: Band[] = [];
  for (const [b, name] of bandNames.entries()) {
    const inside = cells.filter(({ band }) => band === b);
    const lowest = Math.min(...inside.map(stairOf));
    const top = b === 0 ? 0 : bands[b - 1]!.top + bands[b - 1]!.height + bandGap;
    bands.push({ name, top, height: Math.max(...inside.map((cell) => rowsHeight(cell) + stairOf(cell) - lowest)) });
  }

  const x = new Float64Array(graph.nodes.length);
  const y = new Float64Array(graph.nodes.length);
  const place = (cell: Cell) => {
    const [rows, size, span] = [rowsOf(cell), step(cell), widthOf(cell)];
    const whole = cell.column < 0 ? { left: 0, width } : columns[cell.column]!;
    const band = bands[cell.band]!;
    const stair = stairOf(cell) - Math.min(...cells.filter((other) => other.band === cell.band).map(stairOf));
    const bottom = band.top + band.height - stair - boxHeight / 2;
    for (const [i, n] of cell.members.entries()) {
      const row = i % rows;
      x[n] =
        whole.left + (whole.width - span) / 2 + size * (Math.floor(i / rows) + (row % 2) / 2) + (size - boxGap) / 2;
      y[n] = bottom - row * (boxHeight + rowGap);
    }
  };
  for (const cell of cells) place(cell);
  const neighbours = neighboursOf(graph);
  for (let sweep = 0; sweep < sweeps; sweep++) {
    for (const cell of sweep % 2 === 0 ? cells : cells.toReversed()) {
      const wanted = new Map(cell.members.map((n) => [n, neighbours[n]!.meanOf(x) ?? x[n]!]));
      cell.members.sort((a, b) => wanted.get(a)! - wanted.get(b)! || a - b);
      place(cell);
    }
  }
  return {
    width,
    height: bands.length === 0 ? 0 : bands.at(-1)!.top + bands.at(-1)!.height,
    nodes: graph.nodes.map((node, n) => ({ node, name: names[n]!, x: x[n]!, y: y[n]!, width: widths[n]! })),
    bands,
    columns,
  };
}

/** The path of an edge, as SVG has it: out of the upper side of one box into the lower side of another. */
export function edgeCurve(from: PlacedNode, to: PlacedNode): string {
  const [y1, y2] = [from.y - boxHeight / 2, to.y + boxHeight / 2];
  const pull = Math.max(26, (y1 - y2) / 2);
  const numbers = (...values: number[]) => values.map((value) => Number(value.toFixed(1))).join(" ");
  return `M${numbers(from.x, y1)}C${numbers(from.x, y1 - pull, to.x, y2 + pull, to.x, y2)}`;
}

/** Width in pixels, and opacity, of an edge that is a share of the largest. */
export const edgeLook = (share: number) => ({ width: 0.7 + 6.3 * share, opacity: 0.22 + 0.6 * Math.sqrt(share) });

/** Whether a node is a cause: tokens and the metric have the whole effect, next to which features would have none. */
export const isCause = ({ kind }: GraphNode) => kind !== "metric" && kind !== "token";

/** The width of a text in monospaced cells: wide characters (CJK, emoji) take two. */
export function textCells(text: string): number {
  let cells = 0;
  for (const character of text) {
    const code = character.codePointAt(0)!;
    cells += (code >= 0x1100 && code <= 0x115f) || (code >= 0x2e80 && code < 0xfb00) || code >= 0x1f000 ? 2 : 1;
  }
  return cells;
}

/** The cells of a graph from top to bottom; only bands and columns that have nodes. */
function cellsOf(
  graph: CircuitGraph,
  byPosition: boolean,
): { cells: Cell[]; bandNames: string[]; columnNames: string[] } {
  const tokens = graphTokens(graph.about);
  const keyed = graph.nodes.map((node) => ({ band: bandOf(node, byPosition), column: columnOf(node, byPosition) }));
  const last = Math.max(...keyed.map(({ column }) => column));
  const distinct = (values: number[]) => [...new Set(values)].sort((a, b) => a - b);
  const bandKeys = distinct(keyed.map(({ band }) => band.place)).reverse();
  const columnKeys = distinct(keyed.map(({ column }) => column).filter((column) => column >= 0));
  const cells = new Map<string, Cell>();
  for (const [n, { band, column }] of keyed.entries()) {
    const at = byPosition && column < 0 ? last : column;
    const key = `${band.place} ${at}`;
    const cell = cells.get(key) ?? { band: bandKeys.indexOf(band.place), column: columnKeys.indexOf(at), members: [] };
    cell.members.push(n);
    cells.set(key, cell);
  }
  return {
    cells: [...cells.values()].sort((a, b) => a.band - b.band || a.column - b.column),
    bandNames: bandKeys.map((place) => keyed.find(({ band }) => band.place === place)!.band.name),
    columnNames: columnKeys.map((c) => {
      if (!byPosition) return siteKinds[c]!;
      // A node that has the token says it already.
      return graph.nodes.some((node) => node.kind === "token" && node.position === c)
        ? ""
        : (tokens?.[c] ?? `position ${c}`);
    }),
  };
}

function bandOf({ kind, site }: GraphNode, byPosition: boolean): { readonly place: number; readonly name: string } {
  if (kind === "metric" || site === undefined) return { place: Number.MAX_SAFE_INTEGER, name: "metric" };
  if (kind === "token") return { place: -2, name: "tokens" };
  if (site === "embed") return { place: -1, name: "embed" };
  const at = parseSite(site);
  return byPosition
    ? { place: at.layer * siteKinds.length + siteKinds.indexOf(at.kind), name: site }
    : { place: at.layer, name: `layer ${at.layer}` };
}

/** The position, or the place of the kind of site; −1 for what stands over the whole width. */
function columnOf({ kind, site, position }: GraphNode, byPosition: boolean): number {
  if (byPosition) return position ?? -1;
  return kind === "metric" || site === undefined || site === "embed" ? -1 : siteKinds.indexOf(parseSite(site).kind);
}

/** How many boxes a row of a cell has: columns are widened one by one, first where that saves most height. */
function rowLengths(
  cells: readonly Cell[],
  step: (cell: Cell) => number,
  columnCount: number,
  bandCount: number,
  maxWidth: number,
): (cell: Cell) => number {
  const lengths = new Array<number>(columnCount).fill(1);
  const sizes = lengths.map((_, c) => Math.max(...cells.filter(({ column }) => column === c).map(step)));
  const widthWith = (counts: readonly number[]) =>
    counts.reduce((sum, count, c) => sum + sizes[c]! * (count + 0.5) + columnGap, -columnGap);
  const heights = (counts: readonly number[]) => {
    const rows = new Array<number>(bandCount).fill(0);
    for (const { band, column, members } of cells) {
      if (column >= 0) rows[band] = Math.max(rows[band]!, Math.ceil(members.length / counts[column]!));
    }
    // Squares, so that the highest band counts most, and a column that ties with another still gains.
    return rows.reduce((sum, count) => sum + count * count, 0) + 1e-3 * cellRows(counts);
  };
  const cellRows = (counts: readonly number[]) =>
    cells.reduce((sum, { column, members }) => sum + (column < 0 ? 0 : Math.ceil(members.length / counts[column]!)), 0);
  for (;;) {
    const wider = lengths
      .map((_, c) => lengths.map((count, other) => count + (other === c ? 1 : 0)))
      .filter((counts) => widthWith(counts) <= maxWidth)
      .sort((a, b) => heights(a) - heights(b))[0];
    if (wider === undefined || heights(wider) >= heights(lengths)) break;
    lengths.splice(0, lengths.length, ...wider);
  }
  return (cell) => (cell.column < 0 ? Math.max(1, Math.floor(maxWidth / step(cell) - 0.5)) : lengths[cell.column]!);
}

interface Neighbours {
  /** Mean of these coordinates over the neighbours, weighed by |value|; null without any. */
  meanOf(x: Float64Array): number | null;
}

function neighboursOf({ nodes, edges }: CircuitGraph): Neighbours[] {
  const places = new Map(nodes.map(({ id }, n) => [id, n]));
  const lists: [place: number, weight: number][][] = nodes.map(() => []);
  for (const { source, target, value } of edges) {
    const [s, t] = [places.get(source)!, places.get(target)!];
    lists[s]!.push([t, Math.abs(value)]);
    lists[t]!.push([s, Math.abs(value)]);
  }
  return lists.map((list) => ({
    meanOf(x) {
      const weight = list.reduce((sum, [, w]) => sum + w, 0);
      return weight === 0 ? null : list.reduce((sum, [n, w]) => sum + w * x[n]!, 0) / weight;
    },
  }));
}
