import type { Comparison } from "../src/report/comparison.ts";
import { ComparedFeature } from "./card/compared-feature.tsx";
import { Frame } from "./frame.tsx";
import { ComparisonRunSection } from "./sections/comparison-run.tsx";
import { ComparisonSummary } from "./sections/comparison-summary.tsx";
import { CostSection } from "./sections/cost.tsx";
import { ExactnessSection } from "./sections/exactness.tsx";
import { MethodAgreementSection } from "./sections/method-agreement.tsx";
import { SumsSection } from "./sections/sums.tsx";
import { SelectionProvider, useAddressSelection } from "./selection.tsx";

/** Methods side by side. What was not computed has no section on the page. */
export function ComparisonPage({ data }: { data: Comparison }) {
  const selected = useAddressSelection();
  const [exact, sums] = [data.exactness.length > 0, data.sums.length > 0];
  const contents = [
    ["cost", "Cost"],
    ["agreement", "Agreement"],
    ...(exact ? ([["exactness", "Against exact"]] as const) : []),
    ...(sums ? ([["sums", "Sums"]] as const) : []),
    ["run", "Run"],
  ] as const;
  return (
    <SelectionProvider value={selected}>
      <Frame contents={contents} beside={<ComparedFeature data={data} />}>
        <ComparisonSummary data={data} />
        <CostSection data={data} />
        <MethodAgreementSection data={data} />
        {exact && <ExactnessSection data={data} />}
        {sums && <SumsSection data={data} />}
        <ComparisonRunSection data={data} />
      </Frame>
    </SelectionProvider>
  );
}
