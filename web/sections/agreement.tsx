import { useMemo } from "preact/hooks";
import type { Interval } from "../../src/interventions/clusters.ts";
import type { ReportData, SiteAgreement } from "../../src/report/data.ts";
import { signed, whole } from "../../src/report/format.ts";
import { Choice, Section } from "../controls.tsx";
import { kindsOf, nameOf, sitesOfKind, unitOf, useKind } from "../select.ts";
import { linkTo, useSelection } from "../selection.tsx";
import { SignedScatter } from "./scatter.tsx";

/** Do the same features matter on prompts that were not used to find them? */
export function AgreementSection({ data }: { data: ReportData }) {
  const sites = data.agreement.map((row) => row.site);
  const [kind, setKind] = useKind(sites);
  const rows = sitesOfKind(sites, kind).map((site) => data.agreement.find((row) => row.site === site) as SiteAgreement);
  const most = Math.max(0, ...rows.flatMap((row) => [...row.train, ...row.test].map(Math.abs)));
  return (
    <Section id="agreement" title="Do they hold on new prompts?">
      {rows.length === 0 ? (
        <p class="empty">
          There is nothing to compare: this run has one split only. A test split shows whether the same features matter
          for words that were not used to find them.
        </p>
      ) : (
        <>
          <p>
            One dot per feature: its {nameOf[data.run.score]} on train across, on test upwards, in{" "}
            {unitOf[data.run.score]} (the strongest {data.limits.points}). A dot opens the feature's card. Axes are
            square-root scales, so that small effects stay apart. Spearman's ρ is over all features with a row in both
            splits.
            {rows.some((row) => row.overlap10ByWords !== null) &&
              " In brackets: 95 % intervals over other words, those of both splits drawn again."}
          </p>
          <div class="controls">
            <Choice label="Site" values={kindsOf(sites)} value={kind} onChange={setKind} />
          </div>
          <div class="multiples scatter">
            {rows.map((row) => (
              <Scatter key={row.site} row={row} most={most} />
            ))}
          </div>
        </>
      )}
    </Section>
  );
}

function Scatter({ row, most }: { row: SiteAgreement; most: number }) {
  const { selection } = useSelection();
  const points = useMemo(
    () =>
      row.feature.map((feature, i) => {
        const [x, y] = [row.train[i] ?? 0, row.test[i] ?? 0];
        const title = `${row.site}/${feature}\ntrain ${signed(x)}\ntest ${signed(y)}`;
        return { x, y, title, href: linkTo({ site: row.site, feature }) };
      }),
    [row],
  );
  const rho = row.spearman === null ? "–" : row.spearman.toFixed(2).replace("-", "−");
  const { site, feature } = selection;
  const chosen = site === row.site && feature !== null ? linkTo({ site, feature }) : null;
  return (
    <figure class={site === row.site ? "chosen" : undefined}>
      <figcaption>
        <b>{row.site}</b>
        <span>
          Spearman ρ {rho}, {whole(row.both)} features
        </span>
        <span>
          shared of top 10: {wholePercent(row.overlap10)}
          {bracket(row.overlap10ByWords)}
        </span>
        <span>
          of top 50: {wholePercent(row.overlap50)}
          {bracket(row.overlap50ByWords)}
        </span>
      </figcaption>
      <SignedScatter
        points={points}
        most={most}
        chosen={chosen}
        label={`${row.site} on train against test: effects of features, Spearman ${rho}`}
      />
    </figure>
  );
}

function bracket(of: Interval | null): string {
  return of === null ? "" : ` [${Math.round(100 * of.low)}–${Math.round(100 * of.high)}]`;
}

function wholePercent(share: number | null): string {
  return share === null ? "–" : `${Math.round(100 * share)} %`;
}
