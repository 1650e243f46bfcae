import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { useSelection } from "../selection.tsx";

/**
 * What is told of the feature that the selection names, beside the page. It takes the keyboard's place when it opens, and gives it back when it closes;
 * Escape closes it.
 */
export function Panel({ name, children }: { name: string; children: ComponentChildren }) {
  const { select } = useSelection();
  const head = useRef<HTMLHeadingElement>(null);
  const before = useRef<Element | null>(null);
  useEffect(() => {
    before.current ??= document.activeElement;
    head.current?.focus({ preventScroll: true });
    head.current?.closest(".card")?.scrollTo(0, 0);
  }, [name]);
  useEffect(
    () => () => {
      const back = before.current;
      if (back instanceof HTMLElement || back instanceof SVGElement) back.focus({ preventScroll: true });
    },
    [],
  );
  const close = () => select({ feature: null });
  return (
    <aside
      class="card"
      aria-labelledby="card-title"
      onKeyDown={(event) => {
        if (event.key === "Escape") close();
      }}
    >
      <header>
        <h2 id="card-title" tabIndex={-1} ref={head}>
          {name}
        </h2>
        <button type="button" class="close" aria-label={`Close the card of ${name}`} onClick={close}>
          ×
        </button>
      </header>
      {children}
    </aside>
  );
}
