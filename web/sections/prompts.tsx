import { useState } from "preact/hooks";
import type { ReportData, ReportExample } from "../../src/report/data.ts";
import { signed, tokenText } from "../../src/report/format.ts";
import { parseSite } from "../../src/site.ts";
import { Choice, Scroll, Section, Select } from "../controls.tsx";
import { firstKind, kindsOf, sitesOfKind } from "../select.ts";

const views = ["features + error", "features", "error"] as const;

/** Which token matters at which layer, for single prompts. */
export function PromptsSection({ data }: { data: ReportData }) {
  const [index, setIndex] = useState(() => typical(data.examples));
  const sites = data.examples[0]?.sites.map((row) => row.site) ?? [];
  const [kind, setKind] = useState(() => firstKind(sites));
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
              onChange={(i) => setIndex(Number(i))}
            />
            <Choice label="Site" values={kindsOf(sites)} value={kind} onChange={setKind} />
            <Choice label="Sum of" values={views} value={view} onChange={setView} />
          </div>
          <TokenMap example={example} kind={kind} view={view} />
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

function TokenMap({ example, kind, view }: { example: ReportExample; kind: string; view: (typeof views)[number] }) {
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
  return (
    <>
      <Scroll label={`Effects of ${kind} by token and layer`}>
        <table class="map">
          <thead>
            <tr>
              <th scope="col">layer</th>
              {example.prompt.clean.map((token, t) => (
                <th key={t} scope="col" class={example.prompt.patch[t] == null ? "" : "differs"}>
                  <span>{tokenText(token).trim()}</span>
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
                <th scope="row">{row.layer}</th>
                {row.values.map((value, t) => {
                  const size = Math.abs(value) / most;
                  const token = tokenText(example.prompt.clean[t] ?? "").trim();
                  return (
                    <td
                      key={t}
                      class={value < 0 ? "negative" : "positive"}
                      style={{ "--size": `${Math.round(100 * size)}%` }}
                      title={`${row.site} at “${token}”: ${signed(value)}`}
                    >
                      {/* Small values are read out but not shown, so that the picture stays readable. */}
                      <span class={size < 0.03 ? "unseen" : ""}>{inCell(value)}</span>
                    </td>
                  );
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
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

/** Three digits at most: cells are narrow. */
function inCell(value: number): string {
  const shown = Math.abs(value).toFixed(Math.abs(value) >= 10 ? 1 : 2);
  return value < 0 ? `−${shown}` : `+${shown}`;
}
