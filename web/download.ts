/** Gives a file to the reader. */
export function save(name: string, content: Blob): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A table as comma-separated values (RFC 4180): the names of its columns, then its rows. */
export function csvText(rows: readonly (readonly (string | number | null)[])[]): string {
  const field = (value: string | number | null) => {
    const text = value === null ? "" : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => `${row.map(field).join(",")}\r\n`).join("");
}

/** Saves a table as `<name>.csv`. */
export function saveCsv(name: string, rows: readonly (readonly (string | number | null)[])[]): void {
  save(`${fileName(name)}.csv`, new Blob([csvText(rows)], { type: "text/csv;charset=utf-8" }));
}

/** Properties that a drawing takes from the page's style, and what they are where nothing was said. */
const painted = {
  fill: "rgb(0, 0, 0)",
  "fill-opacity": "1",
  stroke: "none",
  "stroke-width": "1px",
  "stroke-dasharray": "none",
  "stroke-opacity": "1",
  "stroke-linecap": "butt",
  opacity: "1",
  "font-family": "",
  "font-size": "",
  "font-weight": "400",
  "text-anchor": "start",
} as const;

/** A drawing of the page as SVG that stands alone: with the colours and fonts that the page gives it, on the page's ground, and without its links. */
export function svgText(drawing: SVGSVGElement): string {
  const copy = drawing.cloneNode(true) as SVGSVGElement;
  const [from, to] = [drawing, copy].map((root) => [root, ...root.querySelectorAll<SVGElement>("*")]) as [
    SVGElement[],
    SVGElement[],
  ];
  for (const [i, element] of from.entries()) {
    const style = getComputedStyle(element);
    const own = to[i]!;
    own.removeAttribute("class");
    own.removeAttribute("style");
    for (const [name, usual] of Object.entries(painted)) {
      const value = style.getPropertyValue(name);
      if (value !== usual && value !== "") own.setAttribute(name, value);
    }
  }
  for (const style of copy.querySelectorAll("style")) style.remove();
  for (const link of copy.querySelectorAll("a")) link.replaceWith(...link.childNodes);
  const { width, height } = drawing.getBoundingClientRect();
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", String(width));
  copy.setAttribute("height", String(height));
  const ground = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of Object.entries({ width: "100%", height: "100%", fill: groundOf(drawing) })) {
    ground.setAttribute(name, value);
  }
  copy.prepend(ground);
  return new XMLSerializer().serializeToString(copy);
}

const groundOf = (element: Element) => getComputedStyle(element.ownerDocument.body).backgroundColor;

/** Saves a drawing as `<name>.svg`. */
export function saveSvg(name: string, drawing: SVGSVGElement): void {
  save(`${fileName(name)}.svg`, new Blob([svgText(drawing)], { type: "image/svg+xml" }));
}

/** Saves a drawing as `<name>.png`, with twice as many dots as the page has. */
export async function savePng(name: string, drawing: SVGSVGElement): Promise<void> {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svgText(drawing))}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [2 * image.width, 2 * image.height];
  canvas.getContext("2d")?.drawImage(image, 0, 0, canvas.width, canvas.height);
  const content = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, "image/png"));
  if (content !== null) save(`${fileName(name)}.png`, content);
}

/** A name that every system takes for a file. */
export const fileName = (name: string) =>
  name
    .toLowerCase()
    .replace(/[^a-z0-9.]+/g, "-")
    .replace(/^-|-$/g, "");
