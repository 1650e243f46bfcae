import type { Comparison } from "../src/report/comparison.ts";
import { Frame } from "./frame.tsx";
import { ComparisonRunSection } from "./sections/comparison-run.tsx";
import { ComparisonSummary } from "./sections/comparison-summary.tsx";
import { CostSection } from "./sections/cost.tsx";
import { ExactnessSection } from "./sections/exactness.tsx";
import { MethodAgreementSection } from "./sections/method-agreement.tsx";
import { SumsSection } from "./sections/sums.tsx";

/** Methods side by side. What was not computed has no section on the page. */
export function ComparisonPage({ data }: { data: Comparison }) {
  const [exact, sums] = [data.exactness.length > 0, data.sums.length > 0];
  const contents = [
    ["cost", "Cost"],
    ["agreement", "Agreement"],
    ...(exact ? ([["exactness", "Against exact"]] as const) : []),
    ...(sums ? ([["sums", "Sums"]] as const) : []),
    ["run", "Run"],
  ] as const;
  return (
    <Frame contents={contents}>
      <ComparisonSummary data={data} />
      <CostSection data={data} />
      <MethodAgreementSection data={data} />
      {exact && <ExactnessSection data={data} />}
      {sums && <SumsSection data={data} />}
      <ComparisonRunSection data={data} />
    </Frame>
  );
}
