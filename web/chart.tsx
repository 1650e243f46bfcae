import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { savePng, saveSvg } from "./download.ts";

/**
 * A plot that is drawn again when its width changes. Marks inside links lead somewhere: the tab key comes to one of them, the arrow keys go to the
 * others, and a click near a mark counts as one on it.
 *
 * @param label says in words what it shows
 * @param height that it will have, so that nothing moves when it is drawn
 */
export function Chart(props: { label: string; height: number; draw: (width: number) => Element }) {
  const box = useRef<HTMLDivElement>(null);
  const { draw, height } = props;
  useLayoutEffect(() => {
    const element = box.current;
    if (element === null) return;
    let drawn = 0;
    const drawAgain = () => {
      const width = Math.floor(element.clientWidth);
      if (width === drawn || width === 0) return;
      drawn = width;
      const plot = draw(width);
      nameMarks(plot);
      element.replaceChildren(plot);
      if (plot.querySelector("a") === null) element.setAttribute("role", "img");
    };
    drawAgain();
    const observer = new ResizeObserver(drawAgain);
    observer.observe(element);
    return () => observer.disconnect();
  }, [draw]);
  return (
    <Downloads name={props.label}>
      {/* biome-ignore lint/a11y/useSemanticElements: a fieldset is for controls of a form */}
      <div
        class="chart"
        role="group"
        style={{ minHeight: `${height}px` }}
        aria-label={props.label}
        ref={box}
        onKeyDown={moveAmongMarks}
        onClick={clickNearest}
      />
    </Downloads>
  );
}

/** A figure with the buttons that save its drawing. */
export function Downloads({ name, children }: { name: string; children: ComponentChildren }) {
  const box = useRef<HTMLDivElement>(null);
  const short = name.split(/[,;:]/)[0]!;
  const take = (save: (name: string, drawing: SVGSVGElement) => unknown) => {
    const drawing = box.current?.querySelector<SVGSVGElement>("svg:not([aria-hidden])");
    if (drawing) save(short, drawing);
  };
  return (
    <div class="drawing" ref={box}>
      {children}
      <p class="downloads">
        <button type="button" class="plain" aria-label={`Save as SVG: ${short}`} onClick={() => take(saveSvg)}>
          SVG
        </button>
        <button type="button" class="plain" aria-label={`Save as PNG: ${short}`} onClick={() => take(savePng)}>
          PNG
        </button>
      </p>
    </div>
  );
}

/** Plot names groups of marks, which says nothing to a reader; what a link leads to is said by the link. */
function nameMarks(plot: Element): void {
  for (const group of plot.querySelectorAll<SVGGElement>("g[aria-label], g[aria-description]")) {
    group.dataset.mark = group.getAttribute("aria-label") ?? "";
    group.removeAttribute("aria-label");
    group.removeAttribute("aria-description");
  }
  const links = [...plot.querySelectorAll("a")];
  if (links.length === 0) return;
  plot.querySelectorAll("g").forEach((group) => {
    if (group.querySelector("a") === null && group.closest("a") === null) group.setAttribute("aria-hidden", "true");
  });
  links.forEach((link, i) => {
    const mark = link.querySelector("[aria-label]");
    link.setAttribute("aria-label", mark?.getAttribute("aria-label") ?? "");
    mark?.removeAttribute("aria-label");
    link.setAttribute("tabindex", i === 0 ? "0" : "-1");
  });
}

const steps: Readonly<Record<string, number>> = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

function moveAmongMarks(event: KeyboardEvent): void {
  const step = steps[event.key];
  const box = event.currentTarget as HTMLElement;
  const links = [...box.querySelectorAll<SVGAElement>("svg a")];
  const at = links.indexOf(document.activeElement as unknown as SVGAElement);
  if (step === undefined || at < 0) return;
  event.preventDefault();
  const next = links[(at + step + links.length) % links.length]!;
  links[at]!.setAttribute("tabindex", "-1");
  next.setAttribute("tabindex", "0");
  next.focus();
}

/** Marks are small: Plot knows the one under or near the pointer. */
function clickNearest(event: MouseEvent): void {
  if ((event.target as Element).closest("a") !== null) return;
  const near = (event.currentTarget as HTMLElement).querySelector("svg") as
    | (SVGSVGElement & { value?: unknown })
    | null;
  const href = (near?.value as { href?: string } | null | undefined)?.href;
  if (href === undefined) return;
  const link = document.createElement("a");
  link.href = href;
  near!.parentElement!.append(link);
  link.click();
  link.remove();
}
