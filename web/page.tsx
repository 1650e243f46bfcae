import { useMemo } from "preact/hooks";
import type { ReportData } from "../src/report/data.ts";
import { FeaturePanel } from "./card/feature-card.tsx";
import { Frame } from "./frame.tsx";
import { Known } from "./known.ts";
import { FeatureSearch } from "./search.tsx";
import { AccuracySection } from "./sections/accuracy.tsx";
import { AgreementSection } from "./sections/agreement.tsx";
import { ChecksSection } from "./sections/checks.tsx";
import { CircuitSection } from "./sections/circuit.tsx";
import { DriversSection } from "./sections/drivers.tsx";
import { FeaturesSection } from "./sections/features.tsx";
import { ImportanceSection } from "./sections/importance.tsx";
import { MeaningSection } from "./sections/meaning.tsx";
import { PromptsSection } from "./sections/prompts.tsx";
import { RunSection } from "./sections/run.tsx";
import { Summary } from "./sections/summary.tsx";
import { WorthSection } from "./sections/worth.tsx";
import { type Selected, SelectionProvider, useAddressSelection } from "./selection.tsx";

const contents = [
  ["found", "Found"],
  ["circuit", "Circuit"],
  ["features", "Features"],
  ["meaning", "Meaning"],
  ["worth", "Worth"],
  ["drivers", "Tokens"],
  ["prompts", "Prompts"],
  ["importance", "Layers"],
  ["agreement", "Test"],
  ["accuracy", "Behaviour"],
  ["checks", "Checks"],
  ["run", "Run"],
] as const;

/** The report of a run as a page of its own, which keeps the selection in its address. */
export function Page({ data }: { data: ReportData }) {
  return <Report data={data} selected={useAddressSelection()} />;
}

/** The whole report of a run: what was found, the circuit or the ranking, then the evidence. */
export function Report({ data, selected }: { data: ReportData; selected: Selected }) {
  const known = useMemo(() => new Known(data), [data]);
  const { circuit, evaluation } = data;
  const there = contents.filter(
    ([id]) => (id !== "circuit" || circuit !== null) && (id !== "worth" || evaluation !== null),
  );
  return (
    <SelectionProvider value={selected}>
      <Frame contents={there} search={<FeatureSearch known={known} />} beside={<FeaturePanel known={known} />}>
        <Summary data={data} />
        {circuit !== null && <CircuitSection circuit={circuit} />}
        <FeaturesSection data={data} />
        <MeaningSection data={data} />
        {evaluation !== null && <WorthSection evaluation={evaluation} />}
        <DriversSection data={data} />
        <PromptsSection data={data} />
        <ImportanceSection data={data} />
        <AgreementSection data={data} />
        <AccuracySection data={data} />
        <ChecksSection data={data} />
        <RunSection data={data} />
      </Frame>
    </SelectionProvider>
  );
}
