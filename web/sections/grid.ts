const steps: Readonly<Record<string, readonly [down: number, right: number]>> = {
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
};

/** Moves the keyboard's place among the links in a table's cells, heads included; only the one with the place is reached by the tab key. */
export function moveInGrid(event: KeyboardEvent): void {
  const step = steps[event.key];
  const link = event.target instanceof Element ? event.target.closest("a") : null;
  const cell = link?.closest<HTMLTableCellElement>("td, th");
  if (step === undefined || link === null || !cell) return;
  const rows = [...(event.currentTarget as HTMLTableElement).rows];
  const row = rows.indexOf(cell.parentElement as HTMLTableRowElement);
  const next = rows[row + step[0]]?.cells[cell.cellIndex + step[1]]?.querySelector("a");
  if (!next) return;
  event.preventDefault();
  link.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}
