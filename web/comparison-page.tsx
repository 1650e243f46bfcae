import type { Comparison } from "../src/report/comparison.ts";
import { Frame } from "./frame.tsx";
import { ComparisonRunPart } from "./parts/comparison-run.tsx";
import { ComparisonSummary } from "./parts/comparison-summary.tsx";
import { CostPart } from "./parts/cost.tsx";
import { ExactnessPart } from "./parts/exactness.tsx";
import { MethodAgreementPart } from "./parts/method-agreement.tsx";
import { SumsPart } from "./parts/sums.tsx";

/** Methods side by side. What was not computed has no part on the page. */
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
      <CostPart data={data} />
      <MethodAgreementPart data={data} />
      {exact && <ExactnessPart data={data} />}
      {sums && <SumsPart data={data} />}
      <ComparisonRunPart data={data} />
    </Frame>
  );
}
