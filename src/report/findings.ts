import type { Ablation } from "../circuit/meaning.ts";
import { effectKinds, type MethodName } from "../effects/method.ts";
import type { Interval } from "../interventions/clusters.ts";
import { parseSite } from "../site.ts";
import { aucInterval, shareInterval, sum } from "../stats.ts";
import { baselineWays } from "./circuit.ts";
import type { ReportData, TopFeatures } from "./data.ts";
import { number, percent, signed, whole } from "./format.ts";

/** A sentence of what was found: the claim, the numbers that it rests on, and the part of the page that shows them. Features are written `site/feature`. */
export interface Finding {
  readonly claim: string;
  readonly grounds: string;
  readonly section: FindingSection;
}

export type FindingSection = "accuracy" | "importance" | "features" | "agreement" | "meaning" | "circuit" | "worth";

/** What findings are made of: a report's data, or as much of it as a run's summary has. */
export interface FindingsInput
  extends Pick<ReportData, "importance" | "features" | "change" | "words" | "wordsShared" | "exact" | "meaning"> {
  readonly run: Pick<ReportData["run"], "method" | "score" | "options">;
  /** Of the pairs that the effects are of. */
  readonly accuracy: readonly Pick<ReportData["accuracy"][number], "split" | "case" | "pairs" | "accuracy">[];
  readonly agreement: readonly Pick<ReportData["agreement"][number], "site" | "overlap10" | "overlap10ByWords">[];
  readonly circuit: Pick<NonNullable<ReportData["circuit"]>, "about" | "nodes"> | null;
  readonly evaluation: Pick<NonNullable<ReportData["evaluation"]>, "curves" | "pairs" | "sites"> | null;
}

/** A circuit that keeps this much of the behaviour is called enough. */
const enough = 0.8;
/** With fewer pairs the 95 % interval of a share holds one half, whatever was counted. */
const fewPairs = 4;
/** Of a shorter list, nothing follows from what it does not hold. */
const fewListed = 10;
/** Accuracy lost, over all cases of a group, from which on the model needs a feature. */
const needed = 0.1;

/**
 * What a run found, the most telling first: what the strongest features stand for and what happens without them, what they do when patched alone,
 * how few suffice, and how far to trust the sizes. Every number has its interval or its n, and is called what it is: first-order, secant, exact.
 */
export function findingsOf(data: FindingsInput): Finding[] {
  return [
    ...meaningFindings(data.meaning),
    ...exactFinding(data),
    ...worthFinding(data),
    ...shareFinding(data),
    ...explainedFinding(data),
    ...circuitFinding(data),
    ...agreementFinding(data),
    ...accuracyFinding(data),
  ];
}

/** What a group of features stands for, and what the model gets right without it, a sentence for each group that was ablated. */
function meaningFindings(meaning: Ablation | null): Finding[] {
  const found = (meaning?.ablations ?? []).map(({ label, features, accuracy }) => {
    const rows = accuracy.toSorted((a, b) => a.after - a.before - (b.after - b.before));
    const n = sum(rows.map((row) => row.n));
    const share = (of: "before" | "after") => sum(rows.map((row) => row[of] * row.n)) / n;
    const lost = share("before") - share("after");
    return { label, features, rows, n, before: share("before"), after: share("after"), lost };
  });
  const sentences = found
    .filter(({ n }) => n > 0)
    .toSorted((a, b) => b.lost - a.lost)
    .map(({ label, features, rows, n, before, after }): Finding => {
      const one = features.length === 1 ? features[0]! : null;
      const told = one === null ? null : firingText(meaning!, one);
      const name = one ?? `${label.replace(/^the /, "The ")} (${listText(features)})`;
      const fires = told === null ? "" : `fires on ${told.group}`;
      const worst = rows[0]!;
      const without = one === null ? "without them" : "without it";
      const drop = worst.before - worst.after;
      const change =
        drop >= needed
          ? `${without} ${worst.case} falls from ${percent(worst.before)} to ${percent(worst.after)}`
          : `the model does ${without}: no case loses ${drop <= 0 ? "any accuracy" : `more than ${number(100 * drop)} points of accuracy`}`;
      const all = rows.length > 1 ? `; all ${rows.length} cases, ${shareChange(before, after, n)}` : "";
      const lowest =
        drop >= needed
          ? `${worst.case}: ${shareText(worst.after, worst.n)} of ${counted(worst.n, "pair")}${all}`
          : sentence(all.slice(2));
      return {
        claim: `${name}${fires === "" ? ":" : ` ${fires}`}${fires === "" ? "" : drop >= needed ? ";" : ", but"} ${change}.`,
        grounds: [
          told?.grounds,
          lowest === "" ? undefined : `${lowest}; codes set to 0, intervals as if pairs shared no words.`,
        ]
          .filter((part) => part !== undefined)
          .join(" "),
        section: "meaning",
      };
    });
  return sentences;
}

const shareChange = (before: number, after: number, n: number) =>
  `from ${percent(before)} to ${shareText(after, n)} of ${counted(n, "pair")}`;

/** The group that a feature fires on, by its AUC, with interval and counts. */
function firingText(meaning: Ablation, name: string): { group: string; grounds: string } | null {
  const row = meaning.features.find(({ site, feature }) => `${site}/${feature}` === name);
  const best = row?.fires
    .filter((one) => one.auc !== null)
    .reduce<NonNullable<typeof row>["fires"][number] | null>((a, b) => (a !== null && a.auc! >= b.auc! ? a : b), null);
  if (!row || !best) return null;
  const others = sum(row.fires.flatMap(({ group, n }) => (group === best.group ? [] : [n])));
  return {
    group: best.group,
    grounds: `AUC ${aucText(best.auc!, best.n, others)}, ${whole(best.n)} ${best.group} against ${whole(others)} other ${meaning.members}.`,
  };
}

/** An area under the ROC curve with its 95 % interval. */
export function aucText(auc: number, n: number, others: number): string {
  const { low, high } = aucInterval(auc, n, others);
  return `${auc.toFixed(3)} [${low.toFixed(2)}–${high.toFixed(2)}]`;
}

/** A share with Wilson's 95 % interval: `12.5 % [5–28]`, `100 % [99.6–100]`. */
export function shareText(share: number, n: number): string {
  return `${percent(share)} ${shareIntervalText(share, n)}`;
}

/** Wilson's 95 % interval of a share in percent: `[5–28]`. */
export function shareIntervalText(share: number, n: number): string {
  const { low, high } = shareInterval(share, n);
  const fine = low > 0.98 || high < 0.02;
  const bound = (value: number) => (fine ? number(Math.round(1000 * value) / 10) : whole(100 * value));
  return `[${bound(low)}–${bound(high)}]`;
}

/** What the feature that does most does when patched by itself, beside what the method says of it. */
function exactFinding({ features, exact, change, run }: FindingsInput): Finding[] {
  if (exact === null) return [];
  const rows = features
    .filter((group) => group.case === "" && group.split === exact.split)
    .flatMap((group) =>
      group.exact.flatMap((value, i) => (value === null ? [] : [{ ...oneOf(group, i), exact: value }])),
    );
  const most = rows.reduce<(typeof rows)[number] | null>(
    (a, b) => (a !== null && Math.abs(a.exact) >= Math.abs(b.exact) ? a : b),
    null,
  );
  if (most === null) return [];
  const total = change[exact.split];
  const of = total === undefined ? "" : ` of the ${signed(total)} logits`;
  const by = kindWord(run.method);
  return [
    {
      claim: `Patched by itself, ${most.name} moves m by ${signed(most.exact)}${of} between clean and patch.`,
      grounds: [
        `Exact, ${meanOf(exact)}.`,
        ...(run.method === "exact"
          ? []
          : [
              `Its ${by} effect is ${signed(most.effect)}${overText(most.words)}${exact.of === 1 ? "" : " on all of them"}: ${besideExact(most)}.`,
            ]),
      ].join(" "),
      section: "features",
    },
  ];
}

/** `mean of 64 of 512 train pairs` */
const meanOf = ({ pairs, of, split }: NonNullable<FindingsInput["exact"]>) =>
  of === 1 ? `of the only ${split} pair` : `mean of ${whole(pairs)} of ${whole(of)} ${split} pairs`;

/** What an effect is beside the exact one. */
function besideExact({ effect, exact }: { effect: number; exact: number }): string {
  if (effect * exact < 0) return "of the other sign, so take sign and size from exact";
  if (Math.abs(exact) > 1.5 * Math.abs(effect)) return "too small, so take sizes from exact";
  return Math.abs(effect) > 1.5 * Math.abs(exact) ? "too large, so take sizes from exact" : "about as large";
}

function oneOf(group: TopFeatures, i: number) {
  return {
    name: `${group.site}/${group.feature[i]}`,
    effect: group.effect[i]!,
    words: group.spread[i]?.by_words ?? null,
  };
}

const overText = (of: Interval | null) => (of === null ? "" : ` [${signed(of.low)}, ${signed(of.high)}]`);

/** The smallest circuit that keeps enough of the behaviour, on test pairs. */
function worthFinding({ evaluation }: FindingsInput): Finding[] {
  if (evaluation === null) return [];
  const split = evaluation.curves.some((curve) => curve.split === "test") ? "test" : "train";
  const own = evaluation.curves.filter((curve) => !baselineWays.includes(curve.way) && curve.split === split);
  const first = own[0];
  if (first === undefined) return [];
  const rows = own
    .filter(
      ({ group, ablation, errors }) => group === first.group && ablation === first.ablation && errors === first.errors,
    )
    .flatMap((curve) => curve.points.map((point) => ({ ...point, way: curve.way })));
  const best = (of: typeof rows) => of.reduce((a, b) => (b.faithfulness > a.faithfulness ? b : a));
  const least = Math.min(...rows.filter((row) => row.faithfulness >= enough).map(({ size }) => size));
  const reached = Number.isFinite(least);
  if (rows.length === 0) return [];
  const row = reached ? best(rows.filter(({ size }) => size === least)) : best(rows);
  const pairs = evaluation.pairs.find((one) => one.group === first.group && one.split === split);
  const [low, high] = row.by_words ? [row.by_words.low, row.by_words.high] : [null, null];
  const interval = low === null || high === null ? "" : ` [${whole(100 * low)}–${whole(100 * high)}]`;
  const kept = `${whole(100 * row.faithfulness)} %${interval}`;
  const group = first.group === "all" ? "" : ` of ${first.group}`;
  const rest = `${first.ablation} ablation, errors ${first.errors}`;
  return [
    {
      claim: reached
        ? `${counted(row.size, "feature")} at ${counted(evaluation.sites.length, "site")} keep ${kept} of the behaviour${group}.`
        : `No circuit that was measured keeps ${100 * enough} % of the behaviour${group}: the best, of ${counted(row.size, "feature")}, keeps ${kept}.`,
      grounds: `Faithfulness (${rest}; chosen by ${row.way} on train)${pairs === undefined ? "" : ` on ${counted(pairs.pairs, `${split} pair`)} of ${counted(pairs.words, "word")}`}${row.completeness === null ? "" : `; without them ${number(100 * row.completeness)} % is left`}.`,
      section: "worth",
    },
  ];
}

/** How few features hold most of a site's effects: at the residual site with the steepest ranking, or at any where there is none. */
function shareFinding(data: FindingsInput): Finding[] {
  const { run, words } = data;
  const split = mainSplit(data);
  const groups = stream(data.features.filter((group) => group.split === split && group.case === ""));
  const rows = groups.flatMap((group) => {
    const all = data.importance.find((row) => row.site === group.site && row.split === split)?.importance ?? 0;
    if (all === 0) return [];
    let [count, held] = [0, 0];
    while (count < group.effect.length && held < 0.5 * all) held += Math.abs(group.effect[count++]!);
    return [{ group, count, share: held / all, all }];
  });
  const least = rows.reduce<(typeof rows)[number] | null>(
    (a, b) => (a !== null && (a.count < b.count || (a.count === b.count && a.share >= b.share)) ? a : b),
    null,
  );
  if (least === null) return [];
  const names = least.group.feature.slice(0, least.count).map((feature) => `${least.group.site}/${feature}`);
  const score = run.score === "effect" ? "effect" : "score";
  const pairs = pairsOf(data, split);
  const unit = run.score === "gradient" ? "logits per unit of code" : "logits";
  return [
    {
      claim:
        least.share >= 0.5
          ? `${counted(least.count, "feature")} at ${least.group.site} ${least.count === 1 ? "holds" : "hold"} ${whole(100 * least.share)} % of its Σ|${score}|: ${listText(names)}.`
          : least.count < fewListed
            ? `The ${least.count === 1 ? "strongest feature" : `${least.count} strongest features`} of ${least.group.site} (${listText(names)}) ${least.count === 1 ? "holds" : "hold"} ${whole(100 * least.share)} % of its Σ|${score}|.`
            : `At ${least.group.site} no few features stand out: the ${counted(least.count, "strongest feature")} (${listText(names)}) hold ${whole(100 * least.share)} % of Σ|${score}|.`,
      grounds: `${sentence(kindWord(run.method, run.score))}; Σ|${score}| ${number(least.all)} ${unit}, mean of ${counted(pairs, `${split} pair`)}${words[split] === undefined ? "" : ` of ${counted(words[split], "word")}`}. ${least.group.site}/${least.group.feature[0]} has ${signed(least.group.effect[0]!)}${overText(least.group.spread[0]?.by_words ?? null)}.`,
      section: "features",
    },
  ];
}

/** What the effects of residual sites add up to of the metric's change. */
function explainedFinding(data: FindingsInput): Finding[] {
  const { run, change } = data;
  const split = mainSplit(data);
  const rows = stream(data.importance.filter((row) => row.split === split && row.explained !== null));
  const total = change[split];
  if (run.score !== "effect" || rows.length === 0 || total === undefined) return [];
  const least = rows.reduce((a, b) => (Math.abs(b.explained!) < Math.abs(a.explained!) ? b : a));
  const most = rows.reduce((a, b) => (Math.abs(b.explained!) > Math.abs(a.explained!) ? b : a));
  const text = (row: (typeof rows)[number]) => `${whole(100 * row.explained!)} % at ${row.site}`;
  const range = least.site === most.site ? text(least) : `${text(least)} and ${text(most)}`;
  const meaning =
    run.method === "exact"
      ? "Each is what one feature does by itself; features that do the same each have all of it, so sums may be anything."
      : rows.every(({ explained }) => Math.abs(explained! - 1) <= 0.1)
        ? "Effects are shares of it; what a feature does by itself is exact."
        : run.method === "analytic" || run.method === "sfc"
          ? "The slope at the clean prompt misses what bends on the way to the patch prompt: trust the order, not the sizes; secant and exact stand beside them."
          : "The difference is what bends on the way from clean to patch: trust the order more than the sizes.";
  const errors = stream(data.importance.filter((row) => row.split === split && row.errorShare !== null));
  const worst = errors.reduce<(typeof errors)[number] | null>(
    (a, b) => (a !== null && a.errorShare! >= b.errorShare! ? a : b),
    null,
  );
  const missed =
    worst === null ? "" : ` The SAE's error has at most ${percent(worst.errorShare!)} of all effects (${worst.site}).`;
  return [
    {
      claim: `${sentence(kindWord(run.method))} effects and errors add up to ${range} of the change of ${signed(total)} logits.`,
      grounds: `${meaning} Mean of ${counted(pairsOf(data, split), `${split} pair`)}; sites follow one another, so their shares do not add up.${missed}`,
      section: "importance",
    },
  ];
}

/** How large the circuit's graph is, and how much of its influence the tokens have. */
function circuitFinding({ circuit }: FindingsInput): Finding[] {
  if (circuit === null) return [];
  const features = circuit.nodes.filter(({ kind }) => kind === "feature");
  const { scores, subject } = circuit.about;
  const layers = new Set(features.map(({ site }) => site));
  const parts = [
    ...(scores?.replacement == null
      ? []
      : [`of the influence of tokens and SAE errors ${percent(scores.replacement)} is the tokens'`]),
    ...(scores?.completeness == null
      ? []
      : [`${percent(scores.completeness)} of what comes to its nodes comes along edges from no error`]),
    ...(subject.kind === "pairs"
      ? [`mean of ${counted(subject.pairs, "pair")} of ${listText(subject.cases)}`]
      : [`of one ${subject.kind}`]),
  ];
  return [
    {
      claim: `The circuit's graph has ${counted(features.length, "feature")} at ${counted(layers.size, "site")}.`,
      grounds: `${sentence(parts.join("; "))}; effects ${circuit.about.method}, edges by ${circuit.about.jacobian} paths.`,
      section: "circuit",
    },
  ];
}

/** Whether the same features are strong on test words. */
function agreementFinding(data: FindingsInput): Finding[] {
  const { words, wordsShared } = data;
  // Prompts of test are others than those of train, its words need not be.
  const others = wordsShared === 0 ? "test words" : "the test split";
  const rows = stream(data.agreement).filter((row) => row.overlap10 !== null);
  if (rows.length === 0) return [];
  const least = rows.reduce((a, b) => (b.overlap10! < a.overlap10! ? b : a));
  const high = Math.max(...rows.map((row) => row.overlap10!));
  const of = least.overlap10ByWords;
  const interval = of === null ? "" : ` [${whole(100 * of.low)}–${whole(100 * of.high)} over other words]`;
  const range =
    high === least.overlap10 ? whole(100 * high) : `${whole(100 * least.overlap10!)} to ${whole(100 * high)}`;
  const verdict =
    least.overlap10! >= 0.7
      ? `hold on ${others}`
      : high < 0.5
        ? `do not hold on ${others}`
        : `hold on ${others} in part`;
  return [
    {
      claim: `The ten strongest features of a site ${verdict}: train and test share ${range} % of them.`,
      grounds: `Least at ${least.site}, ${whole(100 * least.overlap10!)} %${interval}${words.train === undefined || words.test === undefined ? "" : `; ${counted(words.train, "word")} on train, ${whole(words.test)} on test`}${wordsShared ? `, ${whole(wordsShared)} of them on both: of other words this says ${wordsShared === words.test ? "nothing" : "less"}` : ""}.`,
      section: "agreement",
    },
  ];
}

/** Whether the behaviour is there. */
function accuracyFinding({ run, accuracy, change }: FindingsInput): Finding[] {
  const n = sum(accuracy.map((row) => row.pairs));
  if (n === 0) return [];
  const share = sum(accuracy.map((row) => row.accuracy * row.pairs)) / n;
  const worst = accuracy.reduce((a, b) => (b.accuracy < a.accuracy ? b : a));
  const cases = new Set(accuracy.map((row) => row.case)).size;
  const total = change.train ?? change.test;
  const moved = total === undefined ? "" : ` From clean to patch prompt m changes by ${signed(total)} logits.`;
  return [
    {
      claim: keepsCorrect(run)
        ? `All numbers are of the ${counted(n, "pair")} that the model gets right (--keep correct).`
        : n < fewPairs
          ? `The model prefers the clean answer in ${whole(share * n)} of ${counted(n, "pair")}: too few to say how often it does.`
          : `The model ${share >= 0.8 ? "does it: it prefers" : "hardly does it: it prefers"} the clean answer in ${shareText(share, n)} of ${counted(n, "pair")}.`,
      grounds: `${counted(cases, "case")}${worst.accuracy === 1 ? "" : `; lowest ${worst.case} (${worst.split}), ${shareText(worst.accuracy, worst.pairs)} of ${counted(worst.pairs, "pair")}`}.${moved}`,
      section: "accuracy",
    },
  ];
}

/** Whether pairs that the model gets wrong were left out: the accuracy of the others says nothing. */
export const keepsCorrect = ({ options }: Pick<ReportData["run"], "options">) =>
  options.some(({ name, value }) => name === "keep" && value === "correct");

const mainSplit = ({ importance }: Pick<FindingsInput, "importance">) =>
  importance.some(({ split }) => split === "train") ? "train" : "test";

const pairsOf = ({ accuracy }: FindingsInput, split: "train" | "test") =>
  sum(accuracy.filter((row) => row.split === split).map(({ pairs }) => pairs));

/** The rows at the residual stream, or all where there are none: attention and MLP outputs are parts of it. */
function stream<T extends { readonly site: string }>(rows: readonly T[]): readonly T[] {
  const found = rows.filter(({ site }) => parseSite(site).kind === "resid_post");
  return found.length > 0 ? found : rows;
}

/** What a method's numbers are, in a word. */
export function kindWord(method: string, score: ReportData["run"]["score"] = "effect"): string {
  if (score !== "effect")
    return score === "gradient" ? "gradient score, first-order" : "gradient × activation, first-order";
  return (effectKinds[method as MethodName] ?? method).split(/[:,]/)[0]!;
}

const counted = (count: number, noun: string) => `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;

const sentence = (text: string) => text.charAt(0).toUpperCase() + text.slice(1);

function listText(names: readonly string[], shown = 3): string {
  return names.length <= shown
    ? names.join(", ")
    : `${names.slice(0, shown).join(", ")} and ${names.length - shown} more`;
}
