import { useMemo, useState } from "preact/hooks";
import type { Curve, CurvePoint } from "../../src/interventions/evaluation.ts";
import { baselineWays, type ReportEvaluation } from "../../src/report/circuit.ts";
import { minus, number, percentOf, whole } from "../../src/report/format.ts";
import { mean } from "../../src/stats.ts";
import { Choice, Scroll, Section, Select } from "../controls.tsx";
import { useSplit } from "../select.ts";
import { linkTo, useSelection } from "../selection.tsx";
import { DataTable } from "../table.tsx";
import { type CurveLine, SizeChart, SizeLegend } from "./size-chart.tsx";

const nameOf = ({ way, seed }: Pick<Curve, "way" | "seed">) => (seed === null ? way : `${way} ${seed}`);
const two = (value: number) =>
  value
    .toFixed(2)
    .replace(/^-0\.00$/, "0.00")
    .replace("-", minus);
const distinct = <T,>(values: readonly T[]) => [...new Set(values)];

/** What circuits of different sizes, chosen in different ways, are worth; and circuits of one group of pairs on another's. */
export function WorthSection({ evaluation }: { evaluation: ReportEvaluation }) {
  const { curves } = evaluation;
  const groups = distinct(curves.map((curve) => curve.group));
  const splits = distinct(curves.map((curve) => curve.split)).toSorted();
  const ablations = distinct(curves.map((curve) => curve.ablation));
  const treatments = distinct(curves.map((curve) => curve.errors));
  const ways = distinct(curves.map((curve) => curve.way));
  const [group, setGroup] = useState(groups[0] ?? "");
  const [split, setSplit] = useSplit(splits);
  const [ablation, setAblation] = useState(ablations[0] ?? "mean");
  const [errors, setErrors] = useState(treatments[0] ?? "ablated");
  const shown = useMemo(
    () =>
      curves.filter(
        (curve) =>
          curve.group === group && curve.split === split && curve.ablation === ablation && curve.errors === errors,
      ),
    [curves, group, split, ablation, errors],
  );
  const lines = useMemo(
    () =>
      shown.map(
        (curve): CurveLine => ({
          name: nameOf(curve),
          way: curve.way,
          place: ways.indexOf(curve.way),
          dashed: baselineWays.includes(curve.way),
          points: curve.points,
        }),
      ),
    [shown],
  );
  const of = evaluation.pairs.find((row) => row.group === group && row.split === split);
  const first = shown.find((curve) => !baselineWays.includes(curve.way)) ?? shown[0];
  const hasCompleteness = shown.some(({ points }) => points.some(({ completeness }) => completeness !== null));
  return (
    <Section id="worth" title="What are circuits worth?">
      <p>
        A circuit is a set of features, chosen on train pairs. It is faithful if the model still shows the behaviour
        when everything else is ablated, set to {ablationText[ablation]}, at {siteText(evaluation.sites)}: faithfulness
        is 1 for the whole model and 0 where everything is ablated. It is complete if the model without the circuit no
        longer shows the behaviour: completeness near 0.
      </p>
      <p>
        Bands are 95 % intervals over the words that pairs share: they tell how much these numbers would change with
        other words of the same kind. Where bands overlap widely, the order of two ways may be chance. Where they do
        not, it still holds for these constructions, this model and these SAEs alone; and circuits under one kind of
        ablation say nothing about another.
        {ways.some((way) => baselineWays.includes(way)) && ` Dashed: ${baselineText(ways)}.`}
      </p>
      <div class="controls">
        <Select label="Pairs" values={groups} value={group} onChange={setGroup} />
        <Choice label="Split" values={splits} value={split} onChange={setSplit} />
        <Choice label="Ablated to" values={ablations} value={ablation} onChange={setAblation} />
        <Choice label="Errors" values={treatments} value={errors} onChange={setErrors} />
      </div>
      {first === undefined ? (
        <p class="empty">No circuit was measured for this choice.</p>
      ) : (
        <>
          <p class="note">
            {of !== undefined && `${whole(of.pairs)} ${split} pairs of ${whole(of.words)} words. `}
            The metric is {number(first.f_model)} logits in the whole model and {number(first.f_empty)} with everything
            ablated; SAE errors are {errors}.
            {first.whole !== null &&
              ` All features together keep ${two(first.whole)} (the horizontal line): what the SAEs' reconstruction alone costs.`}
          </p>
          <SizeLegend lines={lines} />
          <div class="curves">
            <figure>
              <figcaption>
                <b>faithfulness</b> by features in the circuit, on a logarithmic axis
              </figcaption>
              <SizeChart
                label="Faithfulness by size of the circuit, a line per way of choosing; numbers are in the table below"
                lines={lines}
                value="faithfulness"
                mark={first.whole}
                height={300}
              />
            </figure>
            {hasCompleteness && (
              <figure>
                <figcaption>
                  <b>completeness</b>: the model without the circuit
                </figcaption>
                <SizeChart
                  label="Completeness by size of the circuit, a line per way of choosing; numbers are in the table below"
                  lines={lines}
                  value="completeness"
                  mark={null}
                  height={300}
                />
              </figure>
            )}
          </div>
          <Numbers curves={shown} />
          <Cases curves={shown} circuits={evaluation.circuits} />
        </>
      )}
      {evaluation.transfer !== null && <Transfer transfer={evaluation.transfer} onChoose={setGroup} />}
    </Section>
  );
}

const ablationText: Readonly<Record<Curve["ablation"], string>> = {
  mean: "its mean over prompts of the same form",
  patch: "its value in the patch prompt",
  zero: "zero",
};

function siteText(sites: readonly string[]): string {
  if (sites.length <= 3) return sites.join(", ");
  return `${sites[0]}, ${sites[1]} … ${sites.at(-1)} (${sites.length} sites)`;
}

function baselineText(ways: readonly string[]): string {
  const texts: Readonly<Record<string, string>> = {
    random: "random features that are as active as those of a circuit",
    basis: "single numbers of the activations in place of features",
    neurons: "MLP neurons in place of features",
  };
  return ways.flatMap((way) => (texts[way] === undefined ? [] : [`${way}, ${texts[way]}`])).join("; ");
}

/** Sizes × ways, as the terminal shows them, and the areas of the curves. */
function Numbers({ curves }: { curves: readonly Curve[] }) {
  const { selection } = useSelection();
  const sizes = distinct(curves.flatMap(({ points }) => points.map(({ size }) => size))).sort((a, b) => a - b);
  const pointOf = (curve: Curve, size: number) => curve.points.find((point) => point.size === size);
  return (
    <>
      <p>Faithfulness with its interval, then completeness. A size shows its circuits case by case.</p>
      <div class="breakout">
        <DataTable
          label="Faithfulness and completeness by size and way"
          rows={sizes}
          rowKey={String}
          rowClass={(size) => (size === selection.size ? "chosen" : "")}
          csv={() => pointRows(curves)}
          columns={[
            {
              name: "features",
              of: (size) => size,
              show: (size) => <a href={linkTo({ size }, "worth-cases")}>{whole(size)}</a>,
            },
            ...curves.map((curve) => ({
              name: nameOf(curve),
              of: (size: number) => pointOf(curve, size)?.faithfulness ?? null,
              cell: (size: number) => <Point key={nameOf(curve)} point={pointOf(curve, size)} />,
            })),
          ]}
        />
      </div>
      <p>
        CPR is the area under faithfulness over the share of all features that a circuit holds, best 1; CMD the area
        between faithfulness and 1, best 0 (the measures of MIB, the mechanistic interpretability benchmark).
      </p>
      <DataTable
        label="Areas of the curves by way"
        rows={curves}
        rowKey={nameOf}
        columns={[
          { name: "way", of: nameOf },
          { name: "CPR", of: (curve) => curve.cpr, show: (curve) => two(curve.cpr) },
          { name: "CMD", of: (curve) => curve.cmd, show: (curve) => two(curve.cmd) },
        ]}
      />
    </>
  );
}

/** Every point of the curves, a row each, with its intervals. */
function pointRows(curves: readonly Curve[]) {
  const head = ["way", "seed", "features", "faithfulness", "95 % low", "95 % high", "completeness"];
  const rows = curves.flatMap(({ way, seed, points }) =>
    points.map(({ size, faithfulness, by_words: words, completeness }) => [
      way,
      seed,
      size,
      faithfulness,
      words?.low ?? null,
      words?.high ?? null,
      completeness,
    ]),
  );
  return [head, ...rows];
}

function Point({ point }: { point: CurvePoint | undefined }) {
  if (point === undefined) return <td>–</td>;
  const { faithfulness, by_words: words, by_pairs: pairs, completeness } = point;
  const title = pairs === null ? undefined : `over pairs, too narrow: ${two(pairs.low)} to ${two(pairs.high)}`;
  return (
    <td title={title}>
      {two(faithfulness)}
      {words !== null && <span class="interval"> [{`${two(words.low)}, ${two(words.high)}`}]</span>}
      {completeness !== null && <span class="interval"> {two(completeness)}</span>}
    </td>
  );
}

/** Case by case at one size: pooled numbers hide a case that lacks what another has too much. */
function Cases(props: { curves: readonly Curve[]; circuits: ReportEvaluation["circuits"] }) {
  const { curves } = props;
  const sizes = distinct(curves.flatMap(({ points }) => points.map(({ size }) => String(size)))).sort(
    (a, b) => Number(a) - Number(b),
  );
  const { selection, select } = useSelection();
  const asked = String(selection.size);
  const size = sizes.includes(asked) ? asked : (sizes[sizes.length >> 1] ?? "");
  const points = curves.map(({ points: of }) => of.find((point) => String(point.size) === size));
  const cases = distinct(points.flatMap((point) => Object.keys(point?.cases ?? {})));
  const stability = curves.map(({ group, way, ablation, seed }) =>
    mean(
      props.circuits.flatMap((one) =>
        one.group === group &&
        one.way === way &&
        one.seed === seed &&
        String(one.size) === size &&
        (one.ablation === null || one.ablation === ablation) &&
        one.stability !== null
          ? [one.stability]
          : [],
      ),
    ),
  );
  return (
    <>
      <h3 id="worth-cases">Case by case</h3>
      <p>
        Faithfulness of each case by itself: where one case lacks what another has too much, the pooled number hides it.
        Single cases have no intervals; they are wider than the bands above.
      </p>
      <div class="controls">
        <Select
          label="Features in the circuit"
          values={sizes}
          value={size}
          onChange={(next) => select({ size: Number(next) })}
        />
      </div>
      <DataTable
        label={`Faithfulness by case of circuits of ${size} features`}
        rows={cases}
        rowKey={(name) => name}
        columns={[
          { name: "case", of: (name) => name, show: (name) => <Underscored name={name} /> },
          ...curves.map((curve, i) => ({
            name: nameOf(curve),
            of: (name: string) => points[i]?.cases[name] ?? null,
            show: (name: string) => (points[i]?.cases[name] === undefined ? "–" : two(points[i].cases[name])),
          })),
        ]}
      />
      {stability.some(Number.isFinite) && (
        <p class="note">
          Stability:{" "}
          {curves
            .flatMap((curve, i) =>
              Number.isFinite(stability[i]) ? [`${nameOf(curve)} ${percentOf(stability[i]!)}`] : [],
            )
            .join(", ")}
          , the share of features that circuits have in common which were chosen again from resampled words (Jaccard).
        </p>
      )}
    </>
  );
}

/** A name that may break after its underscores on a narrow page. */
function Underscored({ name }: { name: string }) {
  return (
    <>
      {name.split(/(?<=_)/).map((part, i) => (
        <>
          {i > 0 && <wbr />}
          {part}
        </>
      ))}
    </>
  );
}

function Transfer(props: {
  transfer: NonNullable<ReportEvaluation["transfer"]>;
  /** A group was chosen, to see its curves. */
  onChoose: (group: string) => void;
}) {
  const { transfer, onChoose } = props;
  const { way, size, ablation, groups, faithfulness } = transfer;
  return (
    <>
      <h3>Do they hold elsewhere?</h3>
      <p>
        Circuits of {size} features ({way}, {ablation} ablation), chosen for the pairs of the row and measured on the
        test pairs of the column: the greener, the more faithful. On the diagonal each is measured on its own kind of
        pairs. These numbers have no intervals: look at the bands above before you compare two of them.
      </p>
      <Scroll label="Faithfulness of circuits chosen for one group of pairs on another">
        <table class="numbers heat">
          <thead>
            <tr>
              <th scope="col">chosen for</th>
              {groups.map((name) => (
                <th key={name} scope="col">
                  <Underscored name={name} />
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {groups.map((name, i) => (
              <tr key={name}>
                <th scope="row">
                  <Underscored name={name} />
                </th>
                {groups.map((other, j) => {
                  const value = faithfulness[i]?.[j] ?? Number.NaN;
                  const size = `${(100 * Math.min(1, Math.max(0, value))).toFixed(0)}%`;
                  return (
                    <td key={other} class={i === j ? "own" : undefined} style={{ "--size": size }}>
                      <button
                        type="button"
                        class="cell"
                        aria-label={`Chosen for ${name}, measured on ${other}: ${Number.isFinite(value) ? two(value) : "none"}. Show the curves of ${other}`}
                        onClick={() => onChoose(other)}
                      >
                        {Number.isFinite(value) ? two(value) : "–"}
                      </button>
                    </td>
                  );
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </>
  );
}
