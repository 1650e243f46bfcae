import { useState } from "preact/hooks";
import type { ReportData, ReportExample } from "../../src/report/data.ts";
import { signed, tokenText } from "../../src/report/format.ts";
import { parseSite } from "../../src/site.ts";
import { Choice, Scroll, Section, Select } from "../controls.tsx";
import { saveCsv } from "../download.ts";
import { kindsOf, sitesOfKind, useKind } from "../select.ts";
import { linkTo, useSelection } from "../selection.tsx";
import { moveInGrid } from "./grid.ts";

const views = ["features + error", "features", "error"] as const;

/** Which token matters at which layer, for single prompts. */
export function PromptsSection({ data }: { data: ReportData }) {
  const { selection, select } = useSelection();
  const { prompt } = selection;
  const index = prompt !== null && prompt < data.examples.length ? prompt : typical(data.examples);
  const sites = data.examples[0]?.sites.map((row) => row.site) ?? [];
  const [kind, setKind] = useKind(sites);
  const [view, setView] = useState<(typeof views)[number]>("features + error");
  const example = data.examples[index];
  return (
    <Section id="prompts" title="At which token?">
      {example === undefined ? (
        <p class="empty">
          {data.run.score === "gradient" ? (
            <>
              The gradient score is not kept per token, so there is no map of tokens × layers. Use{" "}
              <code>--score effect</code> to see one.
            </>
          ) : (
            "The run keeps no effects per token, so there is no map of tokens × layers."
          )}
        </p>
      ) : (
        <>
          <p>
            {data.run.score === "effect" ? "Effects" : "Scores"} of one prompt in logits, summed over the features of a
            site at each token. Where pairs begin alike they share their tokens, and a number is the mean over the pairs
            that share it.
            {data.run.score === "effect" &&
              " Up to the first token that differs nothing can change, so effects there are 0."}
          </p>
          <div class="controls">
            <Select
              label="Prompt"
              values={data.examples.map((_, i) => String(i))}
              value={String(index)}
              show={(i) => titleOf(data.examples[Number(i)] as ReportExample)}
              onChange={(i) => select({ prompt: Number(i) })}
            />
            <Choice label="Site" values={kindsOf(sites)} value={kind} onChange={setKind} />
            <Choice label="Sum of" values={views} value={view} onChange={setView} />
          </div>
          <TokenMap example={example} index={index} kind={kind} view={view} />
          <AtToken example={example} index={index} kind={kind} />
        </>
      )}
    </Section>
  );
}

/** The first prompt of middling length: one that says something, and fits. */
function typical(examples: readonly ReportExample[]): number {
  const lengths = examples.map((example) => example.prompt.clean.length);
  const middle = lengths.toSorted((a, b) => a - b)[Math.floor(lengths.length / 2)] ?? 0;
  return Math.max(0, lengths.indexOf(middle));
}

function titleOf(example: ReportExample): string {
  const text = example.prompt.clean.map(tokenText).join("");
  return `${example.case}: ${text.length > 70 ? `${text.slice(0, 67)}…` : text}`;
}

interface MapOf {
  readonly example: ReportExample;
  /** Its place among the examples. */
  readonly index: number;
  readonly kind: string;
}

/** Tokens across, layers downwards; the tab key comes to one cell, the arrow keys go to the others. */
function TokenMap({ example, index, kind, view }: MapOf & { view: (typeof views)[number] }) {
  const { selection } = useSelection();
  const bySite = new Map(example.sites.map((row) => [row.site, row]));
  const sites = sitesOfKind([...bySite.keys()], kind);
  const rows = sites.map((site) => {
    const row = bySite.get(site);
    const values = example.prompt.clean.map((_, t) => {
      const [features, error] = [row?.features[t] ?? 0, row?.error[t] ?? 0];
      return view === "features" ? features : view === "error" ? error : features + error;
    });
    return { site, layer: parseSite(site).layer, values };
  });
  const most = Math.max(1e-12, ...rows.flatMap((row) => row.values.map(Math.abs)));
  const isChosen = (site: string, token: number) => selection.site === site && selection.token === token;
  const inMap = rows.some(({ site }) => site === selection.site) && selection.token !== null;
  const isEntry = (site: string, token: number) =>
    inMap ? isChosen(site, token) : site === rows[0]?.site && token === 0;
  const texts = example.prompt.clean.map((token) => tokenText(token).trim());
  return (
    <>
      <Scroll label={`Effects of ${kind} by token and layer`}>
        <table class="map" onKeyDown={moveInGrid}>
          <thead>
            <tr>
              <th scope="col">layer</th>
              {example.prompt.clean.map((token, t) => (
                <th key={t} scope="col" class={example.prompt.patch[t] == null ? "" : "differs"}>
                  <a
                    href={linkTo({ prompt: index, token: t })}
                    tabIndex={-1}
                    aria-current={selection.token === t ? "true" : undefined}
                  >
                    {tokenText(token).trim()}
                  </a>
                  {example.prompt.patch[t] != null && (
                    <span class="patch">
                      <span class="unseen">patch: </span>
                      {tokenText(example.prompt.patch[t] as string).trim()}
                    </span>
                  )}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <tr key={row.site}>
                <th scope="row">
                  <a href={linkTo({ site: row.site }, "features")} tabIndex={-1} aria-label={`Features of ${row.site}`}>
                    {row.layer}
                  </a>
                </th>
                {row.values.map((value, t) => {
                  const size = Math.abs(value) / most;
                  const token = tokenText(example.prompt.clean[t] ?? "").trim();
                  return (
                    <td
                      key={t}
                      class={`${value < 0 ? "negative" : "positive"}${isChosen(row.site, t) ? " chosen" : ""}`}
                      style={{ "--size": `${Math.round(100 * size)}%` }}
                      title={`${row.site} at “${token}”: ${signed(value)}`}
                    >
                      <a
                        href={linkTo({ site: row.site, prompt: index, token: t })}
                        tabIndex={isEntry(row.site, t) ? 0 : -1}
                        aria-label={`${row.site} at “${token}”: ${inCell(value)}`}
                      >
                        {/* Small values are read out but not shown, so that the picture stays readable. */}
                        {size < 0.03 ? "" : inCell(value)}
                      </a>
                    </td>
                  );
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      <p class="downloads">
        <button
          type="button"
          class="plain"
          aria-label="Save as CSV: effects by token and layer"
          onClick={() =>
            saveCsv(`${kind} by token, ${example.case}`, [
              ["site", ...texts.map((text, t) => `${t} ${text}`)],
              ...rows.map((row) => [row.site, ...row.values]),
            ])
          }
        >
          CSV
        </button>
      </p>
      <p class="note">
        Clean answer <q>{example.cleanAnswer.trim()}</q>, m = {signed(example.cleanMetric)} at the clean prompt
        {example.patchMetric !== null && (
          <>
            ; patch answer <q>{example.patchAnswer.trim()}</q>, m = {signed(example.patchMetric)} at the patch prompt
          </>
        )}
        . Strongest colour: ±{signed(most).slice(1)} logits. Split: {example.split}.
      </p>
    </>
  );
}

/** The strongest features at the chosen token, of the chosen site or of every layer. */
function AtToken({ example, index, kind }: MapOf) {
  const { selection } = useSelection();
  const { token } = selection;
  if (token === null || selection.prompt !== index || token >= example.prompt.clean.length) {
    return (
      <p class="note">A cell names the strongest features at its token and layer; a token those of every layer.</p>
    );
  }
  const chosen = sitesOfKind(
    example.sites.map(({ site }) => site),
    kind,
  );
  const sites = chosen.includes(selection.site ?? "") ? [selection.site!] : chosen;
  const text = tokenText(example.prompt.clean[token] ?? "").trim();
  return (
    <section class="at-token" aria-label={`Strongest features at “${text}”`} aria-live="polite">
      <h3>At “{text}”</h3>
      <dl>
        {sites.map((site) => {
          const row = example.sites.find((one) => one.site === site)!;
          const { feature, effect } = row.top[token] ?? { feature: [], effect: [] };
          return (
            <div key={site}>
              <dt>{site}</dt>
              <dd>
                {feature.length === 0 && "no feature changes here"}
                {feature.map((one, i) => (
                  <a key={one} href={linkTo({ site, feature: one })}>
                    {one} <span>{signed(effect[i]!)}</span>
                  </a>
                ))}
              </dd>
            </div>
          );
        })}
      </dl>
    </section>
  );
}

/** Three digits at most: cells are narrow. */
function inCell(value: number): string {
  const shown = Math.abs(value).toFixed(Math.abs(value) >= 10 ? 1 : 2);
  return value < 0 ? `−${shown}` : `+${shown}`;
}
