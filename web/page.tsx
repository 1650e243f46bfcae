import { useEffect, useState } from "preact/hooks";
import type { ReportData } from "../src/report/data.ts";
import { Frame } from "./frame.tsx";
import { type FeatureName, featureOf } from "./link.ts";
import { AccuracyPart } from "./parts/accuracy.tsx";
import { AgreementPart } from "./parts/agreement.tsx";
import { ChecksPart } from "./parts/checks.tsx";
import { DriversPart } from "./parts/drivers.tsx";
import { FeaturesPart } from "./parts/features.tsx";
import { ImportancePart } from "./parts/importance.tsx";
import { MeaningPart } from "./parts/meaning.tsx";
import { PromptsPart } from "./parts/prompts.tsx";
import { RunPart } from "./parts/run.tsx";
import { Summary } from "./parts/summary.tsx";

const contents = [
  ["accuracy", "Behaviour"],
  ["importance", "Layers"],
  ["features", "Features"],
  ["agreement", "Train and test"],
  ["prompts", "Prompts"],
  ["drivers", "Driving tokens"],
  ["meaning", "Meaning"],
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
  return (
    <Frame contents={contents}>
      <Summary data={data} />
      <AccuracyPart data={data} />
      <ImportancePart data={data} />
      <FeaturesPart data={data} />
      <AgreementPart data={data} />
      <PromptsPart data={data} />
      <DriversPart data={data} shown={shown} />
      <MeaningPart data={data} />
      <ChecksPart data={data} />
      <RunPart data={data} />
    </Frame>
  );
}
