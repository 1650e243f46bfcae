import { useEffect, useRef } from "preact/hooks";

/** A plot that is drawn again when its width changes. `label` says in words what it shows. */
export function Chart(props: { label: string; draw: (width: number) => Element }) {
  const box = useRef<HTMLDivElement>(null);
  const { draw } = props;
  useEffect(() => {
    const element = box.current;
    if (element === null) return;
    let drawn = 0;
    const observer = new ResizeObserver(() => {
      const width = Math.floor(element.clientWidth);
      if (width === drawn || width === 0) return;
      drawn = width;
      element.replaceChildren(draw(width));
    });
    observer.observe(element);
    return () => observer.disconnect();
  }, [draw]);
  return <div class="chart" role="img" aria-label={props.label} ref={box} />;
}
