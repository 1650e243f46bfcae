import type { Comparison } from "./comparison.ts";
import type { ReportData } from "./data.ts";

const opening = '<script type="application/json" id="sfc-report">';
const closing = "</script>";

/** What the built page can show: a run, or methods side by side. */
export type PageData = ReportData | Comparison;

/** Tells the two apart: only a comparison has `methods`. */
export function isComparison(data: PageData): data is Comparison {
  return "methods" in data;
}

/**
 * The report as one HTML file that needs no network: the built page with the data inside.
 *
 * `<` is written as `\u003c`, so no token's text can end the script element; the page reads it back unchanged.
 *
 * @param template the built page, `dist/web/report.html`
 * @throws Error if the template has not exactly one empty place for the data
 */
export function reportPage(template: string, data: PageData): string {
  const [before, after, ...more] = template.split(opening + closing);
  if (before === undefined || after === undefined || more.length > 0) {
    throw new Error(`internal: expected one empty ${opening} in the report's template. Build it again: npm run build`);
  }
  const json = JSON.stringify(data).replaceAll("<", "\\u003c");
  return before + opening + json + closing + after;
}
