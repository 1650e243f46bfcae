import { useState } from "preact/hooks";
import { correlation, signed, whole } from "../../src/report/format.ts";
import type { ComparedSite, FolderItem } from "../../src/serve/api.ts";
import { Choice, Scroll, Select } from "../controls.tsx";
import { Waiting } from "../live/waiting.tsx";
import { firstKind, kindsOf, sitesOfKind } from "../select.ts";
import { useAnswer } from "./client.ts";
import { placeLink } from "./place.ts";

const splits = ["train", "test"] as const;
const tops = ["10", "20", "50", "100"] as const;
const titles = { both: "in both", left: "left alone", right: "right alone" } as const;

/** Two runs of the folder side by side; the address names them. */
export function CompareView({ of }: { of: readonly string[] }) {
  const asked = useAnswer("GET folder", {});
  const runs = asked.answer?.items.filter(({ kind, status }) => kind === "run" && status === "finished") ?? [];
  return (
    <section class="section" aria-labelledby="compare-title">
      <h1 id="compare-title">Two runs compared</h1>
      <Waiting asked={asked} what="the folder" />
      {asked.answer &&
        (runs.length < 2 ? (
          <p class="empty">There have to be two finished runs in the folder.</p>
        ) : (
          <Chosen runs={runs} left={of[0] ?? runs[1]!.name} right={of[1] ?? runs[0]!.name} />
        ))}
    </section>
  );
}

function Chosen({ runs, left, right }: { runs: readonly FolderItem[]; left: string; right: string }) {
  const [split, setSplit] = useState<(typeof splits)[number]>("train");
  const [top, setTop] = useState<(typeof tops)[number]>("20");
  const [kind, setKind] = useState("");
  const asked = useAnswer("GET compare", { left, right, split, top: Number(top) });
  const names = runs.map(({ name }) => name);
  const go = (a: string, b: string) => {
    location.hash = placeLink("compare", a, b);
  };
  const { answer } = asked;
  const sites = answer?.sites.map(({ site }) => site) ?? [];
  const shownKind = kindsOf(sites).includes(kind) ? kind : firstKind(sites);
  const shown = sitesOfKind(sites, shownKind).map((name) => answer!.sites.find(({ site }) => site === name)!);
  return (
    <>
      <div class="controls">
        <Select label="Left" values={names} value={left} onChange={(name) => go(name, right)} />
        <Select label="Right" values={names} value={right} onChange={(name) => go(left, name)} />
        <Choice label="Split" values={splits} value={split} onChange={setSplit} />
        <Choice label="Strongest" values={tops} value={top} onChange={setTop} />
      </div>
      <Waiting asked={asked} what="both runs" />
      {answer && (
        <>
          {answer.notes.map((line) => (
            <p key={line}>{line}</p>
          ))}
          {answer.apart.length > 0 && (
            <p>Not compared: {answer.apart.map(({ site, reason }) => `${site} (${reason})`).join("; ")}.</p>
          )}
          <div class="controls">
            <Choice label="Site" values={kindsOf(sites)} value={shownKind} onChange={setKind} />
          </div>
          {shown.map((site) => (
            <Site key={site.site} site={site} />
          ))}
        </>
      )}
    </>
  );
}

function Site({ site: { site, counts, correlation: r, features } }: { site: ComparedSite }) {
  const values = features.flatMap(({ left, right }) => [left ?? 0, right ?? 0]);
  const largest = Math.max(...values.map(Math.abs), 1e-30);
  return (
    <>
      <h3>{site}</h3>
      <p>
        {whole(counts.both)} features among the strongest of both, {whole(counts.left)} of the left run alone,{" "}
        {whole(counts.right)} of the right run alone. Correlation of all effects that both have: {correlation(r)}.
      </p>
      <Scroll label={`Features of ${site}`}>
        <table class="numbers compared">
          <thead>
            <tr>
              <th scope="col">feature</th>
              <th scope="col" class="text">
                among the strongest
              </th>
              <th scope="col">left, logits</th>
              <th scope="col">rank</th>
              <th scope="col">right, logits</th>
              <th scope="col">rank</th>
            </tr>
          </thead>
          <tbody>
            {features.map((row) => (
              <tr key={row.feature}>
                <th scope="row">{row.feature}</th>
                <td class="text">{titles[row.in]}</td>
                <Effect value={row.left} largest={largest} />
                <td>{row.left_rank}</td>
                <Effect value={row.right} largest={largest} />
                <td>{row.right_rank}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </>
  );
}

function Effect({ value, largest }: { value: number | null; largest: number }) {
  if (value === null) return <td>–</td>;
  return (
    <td class={`share ${value < 0 ? "negative" : "positive"}`} style={{ "--share": Math.abs(value) / largest }}>
      <span class="fill" />
      <span class="over">{signed(value)}</span>
    </td>
  );
}
