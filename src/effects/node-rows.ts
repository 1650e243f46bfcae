import type { Capture, SiteCapture } from "../capture/capture.ts";

/**
 * The activations that a site's nodes need, and those of some other forward nodes, each once: rows[R,D], for each node the row of its clean and of its
 * patch prefix, and the rows of the others; `place` has the rows by those of the capture, in order.
 */
export function rowsOf(
  { plan }: Capture,
  { x, width: D }: SiteCapture,
  nodes: Int32Array,
  forwardNodes: readonly number[] = [],
) {
  const { backward } = plan.forest;
  const place = new Map<number, number>();
  const find = (forward: number) => {
    const row = plan.row[forward]!;
    if (row < 0) throw new Error("internal: activations of a changed prefix were not kept");
    const known = place.get(row);
    if (known !== undefined) return known;
    place.set(row, place.size);
    return place.size - 1;
  };
  const clean = nodes.map((node) => find(backward.clean[node]!));
  const patch = nodes.map((node) => find(backward.patch[node]!));
  const others = forwardNodes.map(find);
  const rows = x.slice(0, place.size * D);
  for (const [row, at] of place) rows.set(x.subarray(row * D, (row + 1) * D), at * D);
  return { rows, place, clean, patch, others };
}
