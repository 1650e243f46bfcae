import { useState } from "preact/hooks";
import { number, seconds, signed, tokenText, whole } from "../../src/report/format.ts";
import type { RowsPage } from "../../src/serve/api.ts";
import { Scroll, Select } from "../controls.tsx";
import { Waiting } from "../live/waiting.tsx";
import { useAnswer } from "./client.ts";

/** Rows that are read at a time. */
const rowsOfPage = 100;
const any = "";

/** The rows of a run's effects.parquet, the largest first. */
export function RowsView({ run }: { run: string }) {
  const [site, setSite] = useState(any);
  const [split, setSplit] = useState(any);
  const [name, setName] = useState(any);
  const [feature, setFeature] = useState("");
  const [offset, setOffset] = useState(0);
  const asked = useAnswer("GET rows", {
    run,
    ...(site !== any && { site }),
    ...(split !== any && { split: split as "train" | "test" }),
    ...(name !== any && { case: name }),
    ...(/^-?\d+$/.test(feature) && { feature: Number(feature) }),
    offset,
    limit: rowsOfPage,
  });
  const { answer } = asked;
  const choose = (set: (value: string) => void) => (value: string) => {
    set(value);
    setOffset(0);
  };
  const choices = (values: readonly string[]) => (values.length < 2 ? values : [any, ...values]);
  return (
    <section class="section" aria-labelledby="rows-title">
      <h1 id="rows-title">Effects of {run}</h1>
      <p>Effects of features at single nodes of the prefix forest, in logits, summed over the pairs of the node.</p>
      <Waiting asked={asked} what="the effects" />
      {answer && (
        <>
          <div class="controls">
            <Select label="Site" values={choices(answer.sites)} value={site} show={orAll} onChange={choose(setSite)} />
            <Select
              label="Split"
              values={choices(answer.splits)}
              value={split}
              show={orAll}
              onChange={choose(setSplit)}
            />
            <Select label="Case" values={choices(answer.cases)} value={name} show={orAll} onChange={choose(setName)} />
            <label>
              Feature{" "}
              <input
                size={7}
                inputMode="numeric"
                value={feature}
                onInput={(event) => choose(setFeature)(event.currentTarget.value.trim())}
              />
            </label>
          </div>
          <p class="note" role="status">
            {whole(answer.matching)} of {whole(answer.all)} rows, read in {seconds(answer.seconds)}.
          </p>
          <Rows page={answer} />
          <p>
            <button type="button" disabled={offset === 0} onClick={() => setOffset(Math.max(0, offset - rowsOfPage))}>
              Larger
            </button>{" "}
            {whole(Math.min(offset + 1, answer.matching))}–{whole(Math.min(offset + rowsOfPage, answer.matching))}{" "}
            <button
              type="button"
              disabled={offset + rowsOfPage >= answer.matching}
              onClick={() => setOffset(offset + rowsOfPage)}
            >
              Smaller
            </button>
          </p>
        </>
      )}
    </section>
  );
}

const orAll = (value: string) => (value === any ? "all" : value);
const orNone = (value: number | null) => (value === null ? "" : number(value));

function Rows({ page }: { page: RowsPage }) {
  return (
    <Scroll label="Rows of effects">
      <table class="numbers">
        <thead>
          <tr>
            <th scope="col">feature</th>
            <th scope="col" class="text">
              split
            </th>
            <th scope="col" class="text">
              case
            </th>
            <th scope="col" class="text">
              token
            </th>
            <th scope="col">position</th>
            <th scope="col">node</th>
            <th scope="col">code clean</th>
            <th scope="col">code patch</th>
            <th scope="col">gradient</th>
            <th scope="col">effect</th>
          </tr>
        </thead>
        <tbody>
          {page.rows.map((row) => (
            <tr key={`${row.site}/${row.node}/${row.feature}`}>
              <th scope="row">
                {row.site}/{row.feature < 0 ? "error" : row.feature}
              </th>
              <td class="text">{row.split}</td>
              <td class="text">{row.case}</td>
              <td class="text">
                {tokenText(row.token)}
                {row.patch_token !== row.token && ` / ${tokenText(row.patch_token)}`}
              </td>
              <td>{row.position}</td>
              <td>{row.node}</td>
              <td>{orNone(row.f_clean)}</td>
              <td>{orNone(row.f_patch)}</td>
              <td>{orNone(row.gradient)}</td>
              <td>{signed(row.effect)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}
