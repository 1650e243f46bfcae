import type { Capture } from "../capture/capture.ts";
import type { Floats } from "../capture/hooks.ts";
import { streamSite } from "../capture/stream-sites.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { codeReader } from "../dictionaries/encode.ts";
import { captureFor } from "../effects/capture-for.ts";
import { pointsOf } from "../effects/integrated.ts";
import type { MethodInput } from "../effects/method.ts";
import { secantGradients, secantSteps, sitesOfSecant } from "../effects/secant.ts";
import { UserError } from "../errors.ts";
import { isChanged, type PrefixForest } from "../forest/forest.ts";
import { compareSites, parseSite, type SiteName } from "../site.ts";
import { type Check, check } from "./checks.ts";
import { type NodeCodes, nodeCodes } from "./edges-codes.ts";
import { type CotangentRows, openPullback, type Pullback } from "./edges-pullback.ts";
import { type Contraction, contract, contractIdentity, type Source, sourceReader } from "./edges-sources.ts";
import { type Column, metricTarget, type Slope, type TargetOf, type Targets, targetsAt } from "./edges-targets.ts";
import { pathShape, type Route, routeTo, routeToMetric, type Through, throughOf } from "./paths.ts";

export type { Slope } from "./edges-targets.ts";

/** Where the Jacobian of the ways between two sites is taken: at the clean prompts, or averaged between the clean and the patch input of each sublayer. */
export type Jacobian = "gradient" | "secant";

/** What edges are asked for, and how. */
export interface EdgeOptions {
  /** What `linearOfEdges` gives, where it is known. */
  readonly linear?: Capture;
  /** Features, or the error, into which edges lead, by site; sites are among the dictionaries'. */
  readonly targets: ReadonlyMap<SiteName, readonly (number | "error")[]>;
  /** `secant` by default. */
  readonly jacobian?: Jacobian;
  /** `secant` by default with the Jacobian `secant`, otherwise `clean`. */
  readonly slope?: Slope;
  /** Largest size of a slope Δf/Δz: what lies beyond goes into `remainder`. 3 by default; Infinity for none. */
  readonly cap?: number;
  /** A block for each node of a target instead of their sum; with `both` for each node of a target and each of the source. */
  readonly byNode?: boolean | "both";
  /** Told when all edges into a target site are there, with how well they add up. */
  readonly onTarget?: (target: SiteName | "metric", checks: readonly Check[]) => void;
  /** Told at the end how well edges add up. */
  readonly onChecks?: (checks: readonly Check[]) => void;
}

/**
 * The edges from one site into one target, in logits, summed over the pairs of a split and case and over positions:
 *
 *     E(s→t) = Σ_nodes left_t · slope_t · a_s ⟨d_s, J̃ᵀ e_t⟩
 *
 * the part of the target's effect on the metric that the source's change Δf_s accounts for along all ways that meet no other site with a dictionary
 * (CIRCUITS: "Edges"). Divide by the number of pairs for means.
 */
export interface EdgeBlock {
  /** Of the metric both are `metric`. */
  readonly target: { readonly site: SiteName | "metric"; readonly feature: number | "error" | "metric" };
  /** Where targets are resolved by node: the backward node. The metric has none. */
  readonly node?: number;
  /** Where sources are, too: the backward node that the edges come from; left out in a block without edges. */
  readonly sourceNode?: number;
  /** The split and case of the pairs, one of the forest's groups. */
  readonly group: PrefixForest["backward"]["groups"][number];
  readonly source: SiteName;
  /** The source's features that have an edge, ascending, and the edges. */
  readonly features: Int32Array;
  readonly values: Float64Array;
  /** The edge from the source's error, of Δε. */
  readonly error: number;
  /** From `embed` without a dictionary: the edge from the tokens, of Δx; there are no features then, and no error. */
  readonly token?: number;
  /** The target's effect. */
  readonly effect: number;
  /** What of the target's effect no slope carries, since slopes are capped; the same in all of its blocks. 0 with clean slopes. */
  readonly remainder: number;
}

/** All edges between two sites. */
export interface SiteEdges {
  readonly target: SiteName | "metric";
  readonly source: SiteName;
  readonly through: Through;
  readonly blocks: readonly EdgeBlock[];
}

/** The sites whose activations edges need: those with dictionaries, and the inputs of all sublayers. */
export function sitesOfEdges(sites: readonly SiteName[], layers: number): SiteName[] {
  return sitesOfSecant(["embed", ...sites], layers);
}

/** Activations and gradients at all sites that edges need: those that are given, or captured now. @throws StoppedError */
export const captureOfEdges = (given: MethodInput): Promise<Capture> =>
  captureFor(given, "both", sitesOfEdges([...given.dictionaries.keys()], given.model.layers));

/** The capture with the gradients that effects and edges are made of: those of the Jacobian's kind. @throws StoppedError */
export async function linearOfEdges(given: MethodInput, captured: Capture, jacobian: Jacobian): Promise<Capture> {
  if (jacobian === "gradient") return captured;
  const chosen = [...given.dictionaries.keys()];
  const sites = [...new Set(["embed", ...chosen, streamSite(given.model.layers)])] as SiteName[];
  return secantGradients({ ...given, steps: given.steps ?? secantSteps(chosen) }, captured, sites);
}

/**
 * Edges into features and errors from all sources that reach them, by target site, then by source site, in order of computation. The sites of the
 * given dictionaries are the chosen ones; the tokens are a source where the embedding has no dictionary. The last target is the metric itself, into
 * which edges lead from the last chosen sites; from a residual site behind the last layer they are its effects. `steps` are the points of the secant.
 *
 * Nodes are those of the given forest: all data, or one case, or one pair, by what it was made from. Activations are captured unless they are given, at
 * `sitesOfEdges`, of a plan that wants `both`.
 *
 * @throws UserError if a target is no feature of a dictionary, or neurons are among the sites; StoppedError if asked to stop
 */
export async function* edges(given: MethodInput, options: EdgeOptions): AsyncGenerator<SiteEdges> {
  const { model, dictionaries, stopped } = given;
  checkTargets(options.targets, dictionaries);
  const { jacobian = "secant", slope = jacobian === "secant" ? "secant" : "clean", cap = 3, byNode = false } = options;
  const chosen = new Set(dictionaries.keys());
  const neurons = [...chosen].find((site) => parseSite(site).kind === "mlp_act");
  if (neurons !== undefined) {
    throw new UserError(`edges: expected sites without mlp_act, got ${neurons}. Use mlp_out of that layer.`);
  }
  const captured = options.linear ?? (await captureOfEdges(given));
  const last = streamSite(model.layers);
  const steps = given.steps ?? secantSteps([...chosen]);
  const linear = options.linear ?? (await linearOfEdges(given, captured, jacobian));
  const pullback = openPullback(given, captured, jacobian === "secant" ? pointsOf(steps, "midpoint") : [0], {
    stopped,
  });
  const shape = pathShape(model);
  const reader = codeReader(given);
  const known = new Map<SiteName, Promise<NodeCodes>>();
  const codesOf = (dictionary: Dictionary) => {
    const codes = known.get(dictionary.writes) ?? nodeCodes(captured, dictionary, reader);
    known.set(dictionary.writes, codes);
    return codes;
  };
  const sourceAt = sourceReader(captured, dictionaries, codesOf);
  const [flows, sums] = [new Flows(), new Sums()];
  const closedForms: Check[] = [];
  const edgesInto = async function* (target: SiteName, route: Route, { columns, cotangents }: Targets) {
    const isIdentity = route.sources.every(({ of }) => throughOf(route, of) === "identity");
    const inClosedForm = (column: Column) => isIdentity && column.direction !== undefined;
    const parts: Part[] = [
      ...(isIdentity ? [{ columns: columns.filter(inClosedForm) }] : []),
      ...chunksOf(
        captured,
        columns.filter((column) => !inClosedForm(column)),
        route,
        model.width,
      ),
    ];
    const own = new Sums();
    const sample = strongest(columns.filter(inClosedForm));
    const closed = new ClosedForm();
    for (const { columns: of, rows } of parts) {
      const registers = rows ? await pulledBack(pullback, route, rows, cotangents(rows, of)) : [];
      const into = of.map(() => ({ inflow: 0, expected: 0 }));
      for (const path of route.sources) {
        const source = await sourceAt(path.site);
        await flows.expect(source, linear);
        const blocks: EdgeBlock[] = [];
        const visit = (c: number, found: Contraction) => {
          const column = of[c]!;
          into[c]!.inflow += found.sum;
          into[c]!.expected += found.total;
          if (column.target === "site" || column.target === "metric") flows.add(path.site, found);
          if (column.target !== "site") blocks.push(blockOf(captured, target, column, source, found));
        };
        if (rows) contract(source, rows, sumOf(registers, path.of), visit, byNode === "both");
        else {
          contractIdentity(source, of, visit, byNode === "both");
          for (const part of chunksOf(captured, sample, route, model.width)) {
            closed.compare(source, part, cotangents(part.rows, part.columns));
          }
        }
        yield { target, source: path.site, through: throughOf(route, path.of), blocks };
      }
      sums.add(target, isIdentity, of, into);
      own.add(target, isIdentity, of, into);
    }
    const matched = closed.checks(target);
    closedForms.push(...matched);
    options.onTarget?.(target, [...own.checks(slope, jacobian), ...matched]);
  };
  try {
    for (const site of [...chosen].sort(compareSites)) {
      if (site === "embed") continue;
      const dictionary = dictionaries.get(site)!;
      const wanted: TargetOf[] = [...(options.targets.get(site) ?? []), "site"];
      const targets = await targetsAt(linear, dictionary, await codesOf(dictionary), wanted, {
        slope,
        cap,
        byNode: byNode !== false,
      });
      yield* edgesInto(site, routeTo(site, chosen, shape), targets);
    }
    yield* edgesInto("metric", routeToMetric(model.layers, chosen, shape), await metricTarget(linear, last));
    options.onChecks?.([...sums.checks(slope, jacobian), ...closedForms, ...flows.checks()]);
  } finally {
    await pullback.release();
    await reader.release();
  }
}

function checkTargets(targets: EdgeOptions["targets"], dictionaries: MethodInput["dictionaries"]): void {
  for (const [site, features] of targets) {
    const dictionary = dictionaries.get(site);
    if (!dictionary) {
      const known = [...dictionaries.keys()].join(", ");
      throw new UserError(`targets of edges: expected sites with a dictionary (${known}), got ${site}. Leave it out.`);
    }
    if (site === "embed") {
      throw new UserError("targets of edges: expected sites that others lead to, got embed. Leave it out.");
    }
    const F = dictionary.featureCount;
    const wrong = features.find((one) => one !== "error" && !(Number.isInteger(one) && one >= 0 && one < F));
    if (wrong === undefined) continue;
    throw new UserError(
      `targets of edges: expected features 0 to ${F - 1} of ${site}, or error, got ${wrong}. Choose one of them.`,
    );
  }
}

/** Numbers of the cotangents that are in memory at a time. */
export const chunkNumbers = 2 ** 25;

/** Columns with the rows of their cotangents; without where edges have a closed form. */
interface Part {
  readonly columns: readonly Column[];
  readonly rows?: CotangentRows;
}

/** Columns with their rows, some at a time. */
function* chunksOf(
  { plan }: Capture,
  columns: readonly Column[],
  route: Route,
  width: number,
): Generator<Required<Part>> {
  const { backward } = plan.forest;
  const mixes = route.steps.some(({ sublayer }) => sublayer === "attention");
  const most = chunkNumbers / (width * (route.steps.length + 1));
  let [column, node, of]: [number[], number[], Column[]] = [[], [], []];
  for (const one of columns) {
    if (one.nodes.length === 0) continue;
    const rows = new Set(one.nodes);
    if (mixes) {
      // Attention hands on to ancestors, of which those matter that change.
      for (const at of one.nodes) {
        for (
          let up = backward.parent[at]!;
          up >= 0 && isChanged(backward, up) && !rows.has(up);
          up = backward.parent[up]!
        )
          rows.add(up);
      }
    }
    if (node.length > 0 && node.length + rows.size > most) {
      yield { rows: { column: Int32Array.from(column), node: Int32Array.from(node) }, columns: of };
      [column, node, of] = [[], [], []];
    }
    for (const at of [...rows].sort((a, b) => a - b)) {
      column.push(of.length);
      node.push(at);
    }
    of.push(one);
  }
  if (node.length > 0) yield { rows: { column: Int32Array.from(column), node: Int32Array.from(node) }, columns: of };
}

/** A route's cotangents: the target's own q, then what each step gives. */
async function pulledBack(pullback: Pullback, { steps }: Route, rows: CotangentRows, q: Floats): Promise<Floats[]> {
  const registers: Floats[] = [q];
  for (const step of steps) {
    registers.push(await pullback.apply(step, rows, sumOf(registers, step.of)));
  }
  return registers;
}

function sumOf(registers: readonly Floats[], of: readonly number[]): Floats {
  const [first, ...others] = of.map((r) => registers[r]!);
  if (others.length === 0) return first!;
  const sum = first!.slice();
  for (const other of others) for (let i = 0; i < sum.length; i++) sum[i]! += other[i]!;
  return sum;
}

function blockOf(
  { plan }: Capture,
  target: SiteName,
  { target: feature, group, node, effect, remainder }: Column,
  { site, features }: Source,
  { values, error, total, node: sourceNode }: Contraction,
): EdgeBlock {
  let edges = 0;
  for (let live = 0; live < values.length; live++) if (values[live] !== 0) edges++;
  const [sourceOf, edgeOf] = [new Int32Array(edges), new Float64Array(edges)];
  for (let live = 0, at = 0; at < edges; live++) {
    if (values[live] === 0) continue;
    sourceOf[at] = features!.codes.live[live]!;
    edgeOf[at++] = values[live]!;
  }
  return {
    target: { site: target, feature: feature as Exclude<TargetOf, "site"> },
    ...(node !== undefined && { node }),
    ...(sourceNode !== undefined && { sourceNode }),
    group: plan.forest.backward.groups[group]!,
    source: site,
    features: sourceOf,
    values: edgeOf,
    error,
    ...(!features && { token: total }),
    effect,
    remainder,
  };
}

/** Share of the largest number by which sums may differ. */
const tolerance = 1e-4;
/** Likewise, of all effects, where slopes of sublayers are means over a few points. */
export const pointsTolerance = 0.1;
/** The check of what leads into the targets of a site. */
export const inflowCheck = "edges into targets add up to their effects";

/** The columns of the largest effects, on which closed forms are checked. */
const strongest = (columns: readonly Column[]) =>
  columns.toSorted((a, b) => Math.abs(b.effect) - Math.abs(a.effect)).slice(0, 3);

/** Edges in closed form against products of cotangents with the same sources. */
class ClosedForm {
  #gap = 0;
  #scale = 0;

  compare(source: Source, { rows, columns }: Required<Part>, q: Floats): void {
    const found = new Map<number, number[]>();
    contract(source, rows, q, (c, { values, error, total }) => found.set(c, [...values, error, total]));
    contractIdentity(source, columns, (c, { values, error, total }) => {
      [...values, error, total].forEach((value, i) => {
        this.#gap = Math.max(this.#gap, Math.abs(value - found.get(c)![i]!));
        this.#scale = Math.max(this.#scale, Math.abs(value));
      });
    });
  }

  checks(site: SiteName): Check[] {
    if (this.#scale === 0) return [];
    return [check("edges in closed form match vector–Jacobian products", site, this.#gap, this.#scale, tolerance)];
  }
}

/** How far sources add up to what leads into a target. */
class Sums {
  #sources = { gap: 0, scale: 0 };
  readonly #inflow = new Map<SiteName, { gap: number; scale: number; readonly exact: boolean }>();

  add(
    site: SiteName,
    exact: boolean,
    columns: readonly Column[],
    into: readonly { readonly inflow: number; readonly expected: number }[],
  ): void {
    const at = this.#inflow.get(site) ?? { gap: 0, scale: 0, exact };
    this.#inflow.set(site, at);
    for (const [c, { target, effect, remainder }] of columns.entries()) {
      const { inflow, expected } = into[c]!;
      this.#sources.gap = Math.max(this.#sources.gap, Math.abs(inflow - expected));
      this.#sources.scale = Math.max(this.#sources.scale, Math.abs(expected));
      if (target === "site") continue;
      at.gap += Math.abs(inflow + remainder - effect);
      at.scale += Math.abs(effect);
    }
  }

  /** Into each site: all of a target's effect where its ways are the stream alone; through sublayers, by secants, up to the rule of their points. */
  checks(slope: Slope, jacobian: Jacobian): Check[] {
    const { gap, scale } = this.#sources;
    const inflow = [...this.#inflow].filter(
      ([, { exact, scale }]) => slope === "secant" && (exact || jacobian === "secant") && scale > 0,
    );
    return [
      check("edges from all sources add up to what their change does to the target", null, gap, scale, tolerance),
      ...inflow.map(([site, { gap, scale, exact }]) =>
        check(inflowCheck, site, gap, scale, exact ? tolerance : pointsTolerance),
      ),
    ];
  }
}

/** What edges from a source add up to. */
interface Flow {
  readonly values: Float64Array;
  error: number;
  total: number;
}

/** What flows out of sources into all targets, against the sources' effects. */
class Flows {
  readonly #found = new Map<SiteName, Flow>();
  readonly #expected = new Map<SiteName, Flow>();

  add(source: SiteName, { values, error, total }: Contraction): void {
    const sums = this.#found.get(source) ?? { values: new Float64Array(values.length), error: 0, total: 0 };
    this.#found.set(source, sums);
    for (let live = 0; live < values.length; live++) sums.values[live]! += values[live]!;
    sums.error += error;
    sums.total += total;
  }

  /** Finds a source's effects, once. */
  async expect(source: Source, linear: Capture): Promise<void> {
    if (this.#expected.has(source.site)) return;
    const { g, width: D } = await linear.site(source.site);
    const node = Int32Array.from(source.placeOf.keys()).filter((one) => source.placeOf[one]! >= 0);
    const q = new Float64Array(node.length * D);
    node.forEach((one, i) => {
      for (let d = 0; d < D; d++) q[i * D + d] = g[one * D + d]!;
    });
    contract(source, { column: new Int32Array(node.length), node }, q, (_, { values, error, total }) => {
      this.#expected.set(source.site, { values: values.slice(), error, total });
    });
  }

  /** One check for each source. */
  checks(): Check[] {
    return [...this.#found].map(([site, { values, error, total }]) => {
      const effects = this.#expected.get(site)!;
      // Of tokens there is no error, and the total is all there is.
      let [gap, scale] = [Math.abs(error - effects.error), Math.abs(effects.error)];
      if (values.length === 0) [gap, scale] = [Math.abs(total - effects.total), Math.abs(effects.total)];
      effects.values.forEach((effect, live) => {
        gap = Math.max(gap, Math.abs(effect - values[live]!));
        scale = Math.max(scale, Math.abs(effect));
      });
      return check("edges out of a source add up to its effect", site, gap, scale, tolerance);
    });
  }
}
