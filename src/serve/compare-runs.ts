import { text } from "../results/database.ts";
import type { Manifest } from "../results/manifest.ts";
import type { ComparedFeature, ComparedSite, CompareRequest, RunsCompared } from "./api.ts";
import { taskOf } from "./listing.ts";
import type { Places } from "./places.ts";
import { type Queries, tableProblem } from "./queries.ts";
import { finishedRun, tableOf } from "./rows.ts";

type Row = Omit<ComparedFeature, "in"> & { readonly site: string };

/**
 * Two runs side by side: at each site with the same SAE, the features that are among the strongest of both, or of one alone, with the effects of both.
 *
 * @throws Refused if one of them is no finished run of the folder
 */
export async function compareRuns(
  { places, queries }: { readonly places: Places; readonly queries: Queries },
  request: CompareRequest,
): Promise<RunsCompared> {
  const [left, right] = [await finishedRun(places, request.left), await finishedRun(places, request.right)];
  const tables = [
    await tableOf(places, request.left, "features.parquet"),
    await tableOf(places, request.right, "features.parquet"),
  ] as const;
  const { sites, apart } = commonSites(left.manifest, right.manifest);
  const { split, top } = request;
  const found = await queries
    .ask(JSON.stringify([tables, request]), async (database) => {
      const [l, r] = tables.map(
        ({ path }) =>
          `(SELECT site, feature, effect, rank FROM ${database.files(path)}
            WHERE split = ${text(split)} AND "case" = '' AND feature >= 0 AND site IN (${["", ...sites].map(text)}))`,
      ) as [string, string];
      const rows = await database.rows<Row>(
        `SELECT site, feature, l.effect AS "left", r.effect AS "right", l.rank AS left_rank, r.rank AS right_rank
         FROM ${l} l FULL JOIN ${r} r USING (site, feature) WHERE l.rank <= ${top} OR r.rank <= ${top}
         ORDER BY greatest(abs(coalesce(l.effect, 0)), abs(coalesce(r.effect, 0))) DESC, feature`,
      );
      const correlations = await database.rows<{ site: string; correlation: number | null }>(
        `SELECT site, corr(l.effect, r.effect) AS correlation FROM ${l} l JOIN ${r} r USING (site, feature) GROUP BY site`,
      );
      return { rows, correlations };
    })
    .catch((error) => {
      throw tableProblem(error, "features.parquet");
    });
  return {
    sites: sites.map((site) => comparedSite(site, found, top)),
    apart,
    notes: notesOf(left.manifest, right.manifest, split),
  };
}

function comparedSite(
  site: string,
  {
    rows,
    correlations,
  }: { readonly rows: readonly Row[]; readonly correlations: readonly { site: string; correlation: number | null }[] },
  top: number,
): ComparedSite {
  const among = (rank: number | null) => rank !== null && rank <= top;
  const features = rows
    .filter((row) => row.site === site)
    .map(({ site: _, ...row }): ComparedFeature => {
      const [inLeft, inRight] = [among(row.left_rank), among(row.right_rank)];
      return { ...row, in: inLeft && inRight ? "both" : inLeft ? "left" : "right" };
    });
  const count = (where: ComparedFeature["in"]) => features.filter((row) => row.in === where).length;
  const correlation = correlations.find((row) => row.site === site)?.correlation ?? null;
  return {
    site,
    counts: { both: count("both"), left: count("left"), right: count("right") },
    correlation: correlation !== null && Number.isFinite(correlation) ? correlation : null,
    features,
  };
}

/** The sites whose SAEs are the same in both runs, in the left run's order, and why others are not compared. */
function commonSites(left: Manifest, right: Manifest) {
  const others = new Map(right.dictionaries.map((dictionary) => [dictionary.site, dictionary]));
  const sites: string[] = [];
  const apart: { site: string; reason: string }[] = [];
  for (const { site, sha256, dummy } of left.dictionaries) {
    const other = others.get(site);
    others.delete(site);
    if (!other) apart.push({ site, reason: "the left run alone has it" });
    // Random directions follow from the seed.
    else if (sha256 !== other.sha256 || dummy !== other.dummy || (dummy && left.seed !== right.seed))
      apart.push({ site, reason: "the runs have different SAEs there" });
    else sites.push(site);
  }
  for (const site of others.keys()) apart.push({ site, reason: "the right run alone has it" });
  return { sites, apart };
}

function notesOf(left: Manifest, right: Manifest, split: CompareRequest["split"]): string[] {
  const [a, b] = [left, right].map(({ options }) =>
    String(options.score === "effect" ? options.method : options.score),
  );
  return [
    ...(left.model?.sha256 === right.model?.sha256 ? [] : ["The runs are of different models."]),
    ...(a === b ? [] : [`The left run's numbers are by ${a}, the right run's by ${b}.`]),
    ...(left.options.score === right.options.score ? [] : ["They have other units: compare ranks, not sizes."]),
    ...(pairsKey(left) === pairsKey(right)
      ? []
      : [`The runs are of other pairs: ${pairsText(left)} on the left, ${pairsText(right)} on the right.`]),
    ...[left, right].flatMap((run, i) =>
      run.accuracy.some((row) => row.split === split)
        ? []
        : [`The ${i === 0 ? "left" : "right"} run has no ${split} split, so it has none of these features.`],
    ),
  ];
}

/** What runs of the same pairs have in common. */
function pairsKey({ options, accuracy }: Manifest): string {
  const { task, pairs, clean, patch, answers, answer_tokens, num_examples, seed, keep, bos } = options;
  const counts = accuracy.map((row) => [row.split, row.case, row.pairs]);
  return JSON.stringify([task, pairs, clean, patch, answers, answer_tokens, num_examples, seed, keep, bos, counts]);
}

const pairsText = ({ options, counts }: Manifest) => `${counts.pairs} of ${taskOf(options)} (seed ${options.seed})`;
