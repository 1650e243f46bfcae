import type { ComponentChildren } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { changed, followed, nothingSelected, type Selected, SelectionProvider } from "../selection.tsx";

/** Parts of a report inside this page: their selection stays here, since the address names the page's views. */
export function LocalSelection({ children }: { children: ComponentChildren }) {
  const [selection, setSelection] = useState(nothingSelected);
  const box = useRef<HTMLDivElement>(null);
  const selected = useMemo(
    (): Selected => ({ selection, select: (change) => setSelection((now) => changed(now, change)) }),
    [selection],
  );
  useEffect(() => {
    const follow = (event: MouseEvent) => {
      const address = followed(event);
      if (address !== null) setSelection((now) => changed(now, address.change));
    };
    const element = box.current;
    element?.addEventListener("click", follow);
    return () => element?.removeEventListener("click", follow);
  }, []);
  return (
    <SelectionProvider value={selected}>
      <div ref={box}>{children}</div>
    </SelectionProvider>
  );
}
