import type { ComponentChildren } from "preact";
import { useMemo, useState } from "preact/hooks";
import { Scroll } from "./controls.tsx";
import { saveCsv } from "./download.ts";

/** A column of a table. */
export interface Column<Row> {
  readonly name: string;
  /** What it is sorted by, and what the CSV file has. */
  readonly of: (row: Row) => number | string | null;
  /** What the page shows; `of` as it is by default. */
  readonly show?: (row: Row) => ComponentChildren;
  /** Replaces the whole cell, `td` included. */
  readonly cell?: (row: Row) => ComponentChildren;
  readonly text?: boolean;
}

/** Of more rows than `most`, the first `first` are shown until all are asked for. */
const long = { most: 200, first: 50 };

interface Order {
  readonly column: number;
  readonly falling: boolean;
}

/**
 * A table that is sorted by the column whose head is clicked, and that can be saved as CSV. The first column names the row.
 *
 * @param label what it holds, also the file's name
 */
export function DataTable<Row>(props: {
  label: string;
  rows: readonly Row[];
  columns: readonly Column<Row>[];
  rowKey: (row: Row) => string;
  rowClass?: (row: Row) => string;
  class?: string;
  /** The rows of the CSV file with their head, where it has other columns than the page. */
  csv?: () => readonly (readonly (string | number | null)[])[];
}) {
  const { label, rows, columns, rowKey } = props;
  const [order, setOrder] = useState<Order | null>(null);
  const [whole, setWhole] = useState(false);
  const inOrder = useMemo(() => {
    const of = order === null ? undefined : columns[order.column]?.of;
    return of === undefined || order === null ? rows : sorted(rows, of, order.falling);
  }, [rows, columns, order]);
  const isLong = rows.length > long.most;
  const shown = isLong && !whole ? inOrder.slice(0, long.first) : inOrder;
  const change = (column: number) =>
    setOrder(
      order?.column === column ? (order.falling ? { column, falling: false } : null) : { column, falling: true },
    );
  return (
    <div class="data-table">
      <Scroll label={label}>
        <table class={props.class ?? "numbers"}>
          <thead>
            <tr>
              {columns.map(({ name, text }, i) => {
                const sorting = order?.column === i ? (order.falling ? "descending" : "ascending") : "none";
                return (
                  <th key={name} scope="col" aria-sort={sorting} class={text && i > 0 ? "text" : undefined}>
                    <button type="button" class="sort" onClick={() => change(i)}>
                      {name}
                      <span class="arrow" aria-hidden="true">
                        {sorting === "none" ? "" : sorting === "descending" ? "▼" : "▲"}
                      </span>
                    </button>
                  </th>
                );
              })}
            </tr>
          </thead>
          <tbody>
            {shown.map((row) => (
              <tr key={rowKey(row)} class={props.rowClass?.(row)}>
                {columns.map((column, i) => {
                  if (column.cell) return column.cell(row);
                  const content = column.show ? column.show(row) : column.of(row);
                  if (i === 0) {
                    return (
                      <th key={column.name} scope="row">
                        {content}
                      </th>
                    );
                  }
                  return (
                    <td key={column.name} class={column.text ? "text" : undefined}>
                      {content}
                    </td>
                  );
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      {isLong && (
        <button type="button" class="plain" aria-expanded={whole} onClick={() => setWhole(!whole)}>
          {whole ? `Show the first ${long.first}` : `Show all ${rows.length} rows`}
        </button>
      )}
      <p class="downloads">
        <button
          type="button"
          class="plain"
          aria-label={`Save as CSV: ${label}`}
          onClick={() => saveCsv(label, props.csv?.() ?? csvOf(columns, inOrder))}
        >
          CSV
        </button>
      </p>
    </div>
  );
}

const csvOf = <Row,>(columns: readonly Column<Row>[], rows: readonly Row[]) => [
  columns.map(({ name }) => name),
  ...rows.map((row) => columns.map(({ of }) => of(row))),
];

/** Rows by a value, missing ones last whichever way. */
function sorted<Row>(rows: readonly Row[], of: (row: Row) => number | string | null, falling: boolean): Row[] {
  return rows.toSorted((a, b) => {
    const [x, y] = [of(a), of(b)];
    if (x === null || y === null) return Number(x === null) - Number(y === null);
    const rising =
      typeof x === "number" && typeof y === "number"
        ? x - y
        : String(x).localeCompare(String(y), "en", { numeric: true });
    return falling ? -rising : rising;
  });
}
