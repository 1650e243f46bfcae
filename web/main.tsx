/// <reference types="vite/client" />
import { render } from "preact";
import { isComparison, type PageData } from "../src/report/page.ts";
import { ComparisonPage } from "./comparison-page.tsx";
import { Page } from "./page.tsx";

const text = document.getElementById("sfc-report")?.textContent?.trim() ?? "";
const root = document.getElementById("page") as HTMLElement;

if (text !== "") {
  show(JSON.parse(text) as PageData);
} else if (import.meta.env.DEV) {
  // The development server shows invented data: a run at /report.html, methods side by side at /report.html?comparison.
  show(
    location.search === "?comparison"
      ? (await import("./sample-comparison.ts")).sampleComparison(1)
      : (await import("./sample.ts")).sampleReport(1),
  );
} else {
  root.textContent = "This is the empty page of a report. Fill it with: sfc report <folder of a run>";
}

function show(data: PageData): void {
  root.replaceChildren();
  if (isComparison(data)) {
    document.title = `Methods side by side: ${data.task} in ${data.model.name} · analytic-sfc`;
    render(<ComparisonPage data={data} />, root);
  } else {
    document.title = `${data.run.task} in ${data.run.model.name} · analytic-sfc`;
    render(<Page data={data} />, root);
  }
}
