import { useState } from "preact/hooks";
import type { LiveFound, RankedSite, ReadPair } from "../../src/live/effects.ts";
import { number, percentOf, signed, tokenText, whole } from "../../src/report/format.ts";
import { Choice, Scroll } from "../controls.tsx";
import { PromptText } from "../sections/tokens.tsx";
import { firstKind, kindsOf, sitesOfKind } from "../select.ts";
import { NextTokens } from "./next-tokens.tsx";

const few = 6;

/** What a few pairs show: the metric, the next token, the strongest features of each site. */
export function FoundEffects(props: { found: LiveFound; onFeature: (site: string, feature: number) => void }) {
  const { found, onFeature } = props;
  const sites = found.sites.map(({ site }) => site);
  const [kind, setKind] = useState(() => firstKind(sites));
  const [all, setAll] = useState(false);
  const shown = sitesOfKind(sites, kind).map((name) => found.sites.find(({ site }) => site === name)!);
  const values = shown.flatMap(({ features }) => features.map(({ effect }) => effect));
  const range = { low: Math.min(0, ...values), high: Math.max(0, ...values) };
  return (
    <>
      {found.pairs.map((pair, i) => (
        <Pair key={i} pair={pair} open={found.pairs.length === 1} />
      ))}
      <p class="metric">
        m(patch) − m(clean) = <b>{signed(found.change)}</b> logits
        {found.pairs.length > 1 && `, mean over ${found.pairs.length} pairs`}
      </p>
      <div class="controls">
        <Choice label="Site" values={kindsOf(sites)} value={kind} onChange={setKind} />
      </div>
      <div class="multiples">
        {shown.map((site) => (
          <Site
            key={site.site}
            site={site}
            range={range}
            rows={all ? site.features.length : few}
            onFeature={onFeature}
          />
        ))}
      </div>
      <button type="button" class="plain" onClick={() => setAll(!all)} aria-expanded={all}>
        {all ? `Show the first ${few} of each site` : "Show more of each site"}
      </button>
    </>
  );
}

function Pair({ pair, open }: { pair: ReadPair; open: boolean }) {
  const prompt = { clean: pair.clean, patch: pair.patch.map((token, i) => (token === pair.clean[i] ? null : token)) };
  return (
    <details open={open}>
      <summary>
        <PromptText prompt={prompt} />: m {signed(pair.m_clean)} clean, {signed(pair.m_patch)} patch
      </summary>
      <NextTokens
        columns={["clean", "patch"]}
        rows={pair.next.map(({ text, clean, patch }) => ({ text, shares: [clean, patch] }))}
      />
    </details>
  );
}

function Site(props: {
  site: RankedSite;
  range: { readonly low: number; readonly high: number };
  rows: number;
  onFeature: (site: string, feature: number) => void;
}) {
  const { site, range, rows, onFeature } = props;
  const place = (value: number) => `${(100 * (value - range.low)) / (range.high - range.low || 1)}%`;
  return (
    <Scroll label={`Features of ${site.site}`}>
      <table class="bars live">
        <caption>
          {site.site}
          <span>
            Σ|effect| {number(site.importance)}
            {site.explained !== null && `, explains ${percentOf(site.explained)}`}
            {site.error !== null && `, error ${signed(site.error)}`}
          </span>
        </caption>
        <thead class="unseen">
          <tr>
            <th scope="col">feature</th>
            <th scope="col">bar</th>
            <th scope="col">effect</th>
          </tr>
        </thead>
        <tbody>
          {site.features.slice(0, rows).map(({ feature, effect, at, nodes }) => (
            <tr
              key={feature}
              title={`strongest at ${tokenText(at.clean)} (token ${at.position}): code ${number(at.f_clean)} clean, ${number(at.f_patch)} patch; changes at ${whole(nodes)} nodes`}
            >
              <th scope="row">
                <button
                  type="button"
                  class="plain"
                  aria-label={`Change ${site.site}/${feature}`}
                  onClick={() => onFeature(site.site, feature)}
                >
                  {feature}
                </button>
              </th>
              <td class="bar">
                <span class="zero" style={{ left: place(0) }} />
                <span
                  class={effect < 0 ? "negative" : "positive"}
                  style={{
                    left: place(Math.min(0, effect)),
                    width: `calc(${place(Math.max(0, effect))} - ${place(Math.min(0, effect))})`,
                  }}
                />
              </td>
              <td>{signed(effect)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}
