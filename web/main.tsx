/// <reference types="vite/client" />
import { render } from "preact";
import type { ReportData } from "../src/report/data.ts";
import { Page } from "./page.tsx";

const text = document.getElementById("sfc-report")?.textContent?.trim() ?? "";
const root = document.getElementById("page") as HTMLElement;

if (text !== "") {
  show(JSON.parse(text) as ReportData);
} else if (import.meta.env.DEV) {
  show((await import("./sample.ts")).sampleReport(1));
} else {
  root.textContent = "This is the empty page of a report. Fill it with: sfc report <folder of a run>";
}

function show(data: ReportData): void {
  root.replaceChildren();
  document.title = `${data.run.task} in ${data.run.model.name} · analytic-sfc`;
  render(<Page data={data} />, root);
}
