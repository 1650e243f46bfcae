import type { ComparedMethod, Comparison, MethodAgreement } from "../src/report/comparison.ts";
import { correlation, multiple, percent, percentOf, tiny, whole } from "../src/report/format.ts";
import { parseSite } from "../src/site.ts";
import { median } from "../src/stats.ts";

/** What a method does, in half a sentence (METHOD: "Node effects"). */
export function describeMethod({ method, steps, rule, batch }: ComparedMethod): string {
  const points = steps === null ? "" : `, ${steps} steps${rule === null ? "" : ` by the ${rule} rule`}`;
  const ways: Readonly<Record<string, string>> = {
    analytic:
      "change of code times the plain model's gradient along the decoder direction; no SAE takes part in any pass",
    "analytic-ig": `the same with the mean gradient of the plain model on the way from the clean to the patch activation${points}`,
    sfc: "SAEs inside forward and backward pass at all sites at once, gradients passed straight through (Marks et al. 2024)",
    "sfc-ig": `SAEs inside the passes at one site at a time, on the way from the clean to the patch codes${points}`,
    spliced: "SAEs at all sites at once without pass-through: gradients run through the encoders downstream",
    secant: `change of code times the gradient through each sublayer's mean slope between its clean and its patch input${points}; no SAE takes part in any pass`,
    exact: "each feature patched by itself at each node, and the metric computed again",
  };
  const way = ways[method];
  const work = batch === null ? "on the prefix forest" : `in padded batches of ${batch} pairs`;
  return way === undefined ? work : `${way}; ${work}`;
}

/** The methods that `exact` is the truth for. */
export function linearMethods(data: Comparison): ComparedMethod[] {
  return data.methods.filter(({ name }) => data.exactness.some((row) => row.method === name));
}

/** How alike two methods are over all sites together, in whichever order the comparison has them. */
export function agreementOf(data: Comparison, a: string, b: string): MethodAgreement | undefined {
  return data.agreement.find(
    (row) => row.site === "" && ((row.a === a && row.b === b) || (row.a === b && row.b === a)),
  );
}

/** A finding in words: the claim first, then the numbers that it rests on. */
export interface Finding {
  readonly claim: string;
  readonly grounds: string;
}

/** Effects that differ by no more than this share of the largest are the same but for float32's rounding (METHOD: "Free checks"). */
const rounding = 1e-4;

/** Whether two methods find the same features, said as plainly when they do not. */
export function sameFeatures(data: Comparison, first: ComparedMethod, other: ComparedMethod): Finding {
  const row = agreementOf(data, first.name, other.name);
  if (row === undefined) {
    return { claim: `${other.name} and ${first.name} were not compared.`, grounds: "" };
  }
  const [depth, top] = row.top_50 === null ? [10, row.top_10] : [50, row.top_50];
  const lists =
    top === null
      ? ""
      : `${top === 1 ? "all" : percent(top)} of the top ${depth} of ${row.a} are among those of ${row.b}`;
  const numbers = `Pearson ${correlation(row.pearson)}`;
  const join = (...parts: string[]) => `${parts.filter((part) => part !== "").join(", ")}.`;
  if (row.difference <= rounding * row.scale) {
    const size =
      row.difference === 0
        ? "no difference at all"
        : `largest difference ${tiny(row.difference / row.scale)} of the largest effect`;
    return {
      claim: `${other.name} and ${first.name} find the same features, with the same numbers:`,
      grounds: join(lists, size),
    };
  }
  const claim =
    top === 1
      ? `${other.name} and ${first.name} find the same strongest features, with other numbers:`
      : top !== null && top >= 0.9
        ? `${other.name} and ${first.name} find mostly the same features:`
        : top !== null && top >= 0.5
          ? `${other.name} and ${first.name} find only in part the same features:`
          : `${other.name} and ${first.name} do not find the same features:`;
  const truth = other.method === "exact" ? data.exactness.find((e) => e.site === "" && e.method === first.name) : null;
  return { claim, grounds: join(lists, numbers, truth?.error == null ? "" : `error ${percentOf(truth.error)}`) };
}

/** What the first method takes of another's time, and of its memory on top of the model. */
export function costAgainst(first: ComparedMethod, other: ComparedMethod): string {
  const time = shareText(first.seconds, other.seconds);
  const memory = shareText(first.above_bytes, other.above_bytes);
  const parts = [
    ...(time === null ? [] : [`${time} time`]),
    ...(memory === null ? [] : [`${memory} memory on top of the model`]),
  ];
  return parts.length === 0 ? "" : `${first.name} takes ${parts.join(" and ")}.`;
}

/** `1/10 of the`, `70 % of the`, `about the same`, `3.1 times the`; null where there is nothing to divide by. */
function shareText(value: number, other: number): string | null {
  if (value <= 0 || other <= 0) return null;
  const share = value / other;
  if (share >= 0.95 && share <= 1.05) return "about the same";
  if (share > 1.05) return `${multiple(share)} times the`;
  return share <= 0.2 ? `1/${whole(1 / share)} of the` : `${Math.round(100 * share)} % of the`;
}

/**
 * Whether the integrated methods come nearer to `exact` than the gradient at the clean prompt does, in the first third of the layers, and after
 * it. By the medians over sites of Σ|effect − exact| / Σ|exact|: a site with hardly any effect can be off by any multiple of it.
 */
export function integratedAgainstPlain(data: Comparison): Finding[] {
  const methods = linearMethods(data);
  const plain = methods.find(({ method }) => method === "analytic") ?? methods.find(({ method }) => method === "sfc");
  const integrated = methods.filter(({ steps }) => steps !== null);
  if (plain === undefined) return [];
  const errors = new Map(data.exactness.map((row) => [`${row.method} ${row.site}`, row.error]));
  return integrated.flatMap(({ name }) => {
    const rows = data.exactness
      .filter((row) => row.method === name && row.site !== "")
      .map(({ site, error }) => ({ layer: parseSite(site).layer, a: error, b: errors.get(`${plain.name} ${site}`) }))
      .filter((row): row is { layer: number; a: number; b: number } => typeof row.a === "number" && row.b != null);
    const layers = [...new Set(rows.map((row) => row.layer))].sort((x, y) => x - y);
    const last = layers[Math.max(0, Math.ceil(layers.length / 3) - 1)];
    if (last === undefined) return [];
    const [early, late] = [rows.filter((row) => row.layer <= last), rows.filter((row) => row.layer > last)];
    const [a, b] = [median(early.map((row) => row.a))!, median(early.map((row) => row.b))!];
    const nearer = early.filter((row) => row.a < row.b).length;
    const where = layers[0] === last ? `In layer ${last}` : `In the early layers, ${layers[0]} to ${last},`;
    const better = a < 0.95 * b && nearer > early.length / 2;
    const worse = b < 0.95 * a && nearer < early.length / 2;
    const claim = better
      ? `${where} ${name} is nearer to exact than ${plain.name}:`
      : worse
        ? `${where} ${name} is not better than ${plain.name} but further from exact:`
        : `${where} ${name} is not clearly better than ${plain.name}:`;
    const after =
      late.length === 0
        ? ""
        : ` In the layers after: ${percentOf(median(late.map((row) => row.a))!)} against ${percentOf(median(late.map((row) => row.b))!)}.`;
    return [
      {
        claim,
        grounds: `median error ${percentOf(a)} against ${percentOf(b)}, nearer at ${nearer} of ${early.length} ${early.length === 1 ? "site" : "sites"}.${after}`,
      },
    ];
  });
}
