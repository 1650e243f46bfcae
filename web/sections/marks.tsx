/** Corners of the marks on a line, in a circle of radius 1: lines are told apart by shape as well as by colour. */
const shapes: readonly (readonly (readonly [x: number, y: number])[])[] = [
  polygon(20, 0, 0.85),
  polygon(4, Math.PI / 4, 1),
  polygon(3, -Math.PI / 2, 1.1),
  polygon(4, 0, 1.1),
  polygon(3, Math.PI / 2, 1.1),
  Array.from({ length: 10 }, (_, i) => polar(i % 2 === 0 ? 1.25 : 0.5, -Math.PI / 2 + (i * Math.PI) / 5)),
];

function polar(radius: number, angle: number): [number, number] {
  return [radius * Math.cos(angle), radius * Math.sin(angle)];
}

function polygon(corners: number, turn: number, radius: number): [number, number][] {
  return Array.from({ length: corners }, (_, i) => polar(radius, turn + (2 * Math.PI * i) / corners));
}

const shapeOf = (place: number) => shapes[place % shapes.length]!;

/** Colour of the line at a place among all lines of a chart. */
export const colourOf = (place: number) => `var(--series-${place % shapes.length})`;

/** From the seventh line on colours and shapes come again, with dashed lines. */
export const dashOf = (place: number) => (place < shapes.length ? "none" : "4 3");

/** The marks on a line, for Plot. */
export function symbolOf(place: number) {
  return {
    draw: (path: CanvasPath, area: number) => trace(path, shapeOf(place), Math.sqrt(area / Math.PI)),
  };
}

/** A line with its mark, for a legend. */
export function LineKey({ place, dash = dashOf(place) }: { place: number; dash?: string }) {
  const corners = shapeOf(place).map(([x, y]) => `${(5 * x).toFixed(2)} ${(5 * y).toFixed(2)}`);
  return (
    <svg width="28" height="14" viewBox="-14 -7 28 14" aria-hidden="true">
      <path d="M-14 0H14" stroke={colourOf(place)} stroke-width="2" stroke-dasharray={dash} />
      <path d={`M${corners.join("L")}Z`} fill={colourOf(place)} />
    </svg>
  );
}

function trace(path: CanvasPath, corners: readonly (readonly [number, number])[], radius: number): void {
  for (const [i, [x, y]] of corners.entries()) {
    if (i === 0) path.moveTo(radius * x, radius * y);
    else path.lineTo(radius * x, radius * y);
  }
  path.closePath();
}
