import { useEffect, useMemo, useState } from "preact/hooks";
import type { ReportData } from "../src/report/data.ts";
import { Frame } from "./frame.tsx";
import { type FeatureName, featureOf } from "./link.ts";
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

const contents = [
  ["accuracy", "Behaviour"],
  ["importance", "Layers"],
  ["features", "Features"],
  ["agreement", "Train and test"],
  ["prompts", "Prompts"],
  ["drivers", "Driving tokens"],
  ["meaning", "Meaning"],
  ["circuit", "Circuit"],
  ["worth", "Worth"],
  ["checks", "Checks"],
  ["run", "Run"],
] as const;

/** The whole report of a run. */
export function Page({ data }: { data: ReportData }) {
  const [shown, setShown] = useState<FeatureName | null>(null);
  useEffect(() => {
    const follow = () => {
      const feature = featureOf(location.hash);
      if (feature === null) return;
      setShown(feature);
      document.getElementById("drivers")?.scrollIntoView();
    };
    follow();
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  const known = useMemo(() => new Set(data.drivers.map((row) => `${row.site}/${row.feature}`)), [data]);
  const { circuit, evaluation } = data;
  const there = contents.filter(
    ([id]) => (id !== "circuit" || circuit !== null) && (id !== "worth" || evaluation !== null),
  );
  return (
    <Frame contents={there}>
      <Summary data={data} />
      <AccuracySection data={data} />
      <ImportanceSection data={data} />
      <FeaturesSection data={data} />
      <AgreementSection data={data} />
      <PromptsSection data={data} />
      <DriversSection data={data} shown={shown} />
      <MeaningSection data={data} />
      {circuit !== null && <CircuitSection circuit={circuit} known={known} />}
      {evaluation !== null && <WorthSection evaluation={evaluation} />}
      <ChecksSection data={data} />
      <RunSection data={data} />
    </Frame>
  );
}
