import type { DriverContext, FeatureDrivers, ReportData } from "../../src/report/data.ts";
import { number, signed, whole } from "../../src/report/format.ts";
import { Choice, Section, Select } from "../controls.tsx";
import { firstKind, kindsOf, sitesOfKind } from "../select.ts";
import { linkTo, useSelection } from "../selection.tsx";
import { PromptText } from "./tokens.tsx";

/** What the strongest features read: the tokens with their largest effects, in their prompts. */
export function DriversSection({ data }: { data: ReportData }) {
  const { selection, select } = useSelection();
  const sites = data.drivers.map((row) => row.site);
  const site = sites.find((one) => one === selection.site) ?? strongestSite(data.drivers);
  const setSite = (next: string) => select({ site: next });
  const kind = site.split(".")[0] ?? "";
  const rows = data.drivers.filter((row) => row.site === site);
  const changeKind = (next: string) => {
    const layer = site.split(".")[1];
    const found = sitesOfKind(sites, next);
    setSite(found.find((s) => s.split(".")[1] === layer) ?? found[0] ?? site);
  };
  return (
    <Section id="drivers" title="What drives them?">
      {data.drivers.length === 0 ? (
        <p class="empty">
          {data.run.score === "gradient" ? (
            <>
              The gradient score is not kept per token, so driving tokens cannot be shown. Use{" "}
              <code>--score effect</code> to see them.
            </>
          ) : (
            "No feature has a row at a token."
          )}
        </p>
      ) : (
        <>
          <p>
            The tokens at which the top {data.limits.drivers} features of a site have their largest effects, each token
            once. The word above a word is the one in the patch prompt. Codes are the feature's activation at that
            token; the effect is the mean over the pairs that are alike up to there.
          </p>
          <div class="controls">
            <Choice label="Site" values={kindsOf(sites)} value={kind} onChange={changeKind} />
            <Select
              label="Layer"
              values={sitesOfKind(sites, kind)}
              value={site}
              show={(s) => s.split(".")[1] ?? s}
              onChange={setSite}
            />
          </div>
          {rows.map((row, i) => {
            const asked = rows.some(({ feature }) => feature === selection.feature);
            const open = asked ? selection.feature === row.feature : i < 2;
            return <Feature key={`${site}/${row.feature}/${open}`} row={row} open={open} />;
          })}
        </>
      )}
    </Section>
  );
}

function strongestSite(drivers: readonly FeatureDrivers[]): string {
  const kind = firstKind(drivers.map((row) => row.site));
  const best = drivers
    .filter((row) => row.site.startsWith(kind))
    .reduce<FeatureDrivers | null>((a, b) => (a !== null && Math.abs(a.effect) >= Math.abs(b.effect) ? a : b), null);
  return best?.site ?? "";
}

function Feature({ row, open }: { row: FeatureDrivers; open: boolean }) {
  return (
    <details class="feature" open={open}>
      <summary>
        <b>
          {row.site}/{row.feature}
        </b>
        <span>
          {" "}
          {signed(row.effect)} logits per pair{row.exact !== null && `, exact ${signed(row.exact)}`}
        </span>
      </summary>
      <p>
        <a href={linkTo({ site: row.site, feature: row.feature })}>
          All of {row.site}/{row.feature}
        </a>
      </p>
      <ol class="contexts">
        {row.contexts.map((context) => (
          <Context
            key={`${context.case} ${context.split} ${context.prompt.clean.join("")} ${context.position}`}
            context={context}
            href={linkTo({ site: row.site, feature: row.feature })}
          />
        ))}
      </ol>
    </details>
  );
}

function Context({ context, href }: { context: DriverContext; href: string }) {
  return (
    <li>
      <p>
        <PromptText prompt={context.prompt} marked={context.position} sign={context.effect} href={href} />
      </p>
      <p class="note">
        <span class={context.effect < 0 ? "effect negative" : "effect positive"}>{signed(context.effect)}</span> code{" "}
        {number(context.codeClean)}
        {context.codePatch !== null && `, patch ${number(context.codePatch)}`}; {context.case}, {context.split},{" "}
        {context.pairs === 1 ? "1 pair" : `${whole(context.pairs)} pairs`}
      </p>
    </li>
  );
}
