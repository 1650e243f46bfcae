import { duration, percentText } from "../amounts.ts";
import type { Capture } from "../capture/capture.ts";
import { runningOf } from "../capture/cost.ts";
import { type Check, check } from "../circuit/checks.ts";
import { edgesWork } from "../circuit/cost.ts";
import { type EdgeRows, edgeRows } from "../circuit/edge-rows.ts";
import { type EdgeSums, edgesOfSums, sumEdges } from "../circuit/edge-sums.ts";
import {
  captureOfEdges,
  edges,
  inflowCheck,
  type Jacobian,
  linearOfEdges,
  pointsTolerance,
  type SiteEdges,
} from "../circuit/edges.ts";
import { type CircuitGraph, type GraphAbout, type GraphNode, graphNodeId, graphTokens } from "../circuit/graph.ts";
import { graphOf } from "../circuit/graph-of.ts";
import { prune } from "../circuit/influence.ts";
import { effectsFrom } from "../effects/analytic.ts";
import { errorFeature } from "../effects/rows.ts";
import { UnfitOptionError } from "../errors.ts";
import { type PrefixForest, prefixForest } from "../forest/forest.ts";
import type { Features } from "../interventions/ablation.ts";
import type { MaskPlaces } from "../interventions/mask-states.ts";
import type { Reporter } from "../progress.ts";
import { groupKey, type TokenPair } from "../prompts/pairs.ts";
import { compareSites, parseSite, type SiteName } from "../site.ts";
import { type Choice, chooseCircuit, type EvaluateInput, ofSplit, watchOf } from "./evaluate.ts";
import { gflopsFor, secondsOf } from "./rates.ts";

/** What a circuit is made of, and how. */
export interface CircuitOptions extends Choice {
  readonly jacobian: Jacobian;
  /** Least |edge| in logits, mean over pairs. */
  readonly edgeThreshold: number;
  /** Shares of influence that the drawn graph keeps, of nodes and of edges. */
  readonly influence: number;
  readonly edgeInfluence: number;
  /** Whether rows of edges have their target's position; `both` also their source's, and then the graph has a node for each position: for one pair. */
  readonly byPosition: boolean | "both";
}

export interface CircuitInput extends EvaluateInput {
  /** The pairs over which edges are taken; `pairs` are those among which it is chosen, on their train pairs. */
  readonly drawn: readonly TokenPair[];
  /** All pairs of the run, whose nodes give rows by position their numbers. */
  readonly all: readonly TokenPair[];
  readonly about: Omit<GraphAbout, "method" | "jacobian" | "slope" | "slopeCap" | "ablation">;
}

/** Where parts of a circuit are kept, so that an interrupted command goes on. */
export interface CircuitPlaces {
  chosen(): Promise<Features | undefined>;
  keepChosen(features: Features): Promise<void>;
  /** Of masks by which features are chosen. */
  readonly masks: MaskPlaces;
  read(target: SiteName | "metric"): Promise<EdgeSums | undefined>;
  write(sums: EdgeSums, rows: EdgeRows): Promise<void>;
}

/** What of a site's effects lies where, in logits, mean over pairs. */
export interface SiteShare {
  readonly site: SiteName;
  /** Features of the circuit. */
  readonly features: number;
  /** Σ of their effects. */
  readonly carried: number;
  readonly error: number;
  /** Σ of all effects of the site. */
  readonly total: number;
  /** What of the circuit's features no edge carries: slopes that were capped, features outside the circuit, edges under the threshold. */
  readonly remainder: number;
}

export interface FoundCircuit {
  readonly features: Features;
  /** All features, errors and edges; and what is drawn of them. */
  readonly whole: CircuitGraph;
  readonly drawn: CircuitGraph;
  readonly shares: readonly SiteShare[];
  readonly checks: readonly Check[];
}

/**
 * Chooses a circuit on train pairs, and finds the edges between its features, errors and tokens over some pairs.
 *
 * @throws UserError if none can be chosen, or thresholds leave nothing; StoppedError if asked to stop, target sites that are finished stay in their places
 */
export async function findCircuit(
  input: CircuitInput,
  options: CircuitOptions,
  places: CircuitPlaces,
  reporter: Reporter,
): Promise<FoundCircuit> {
  const cases = input.all.map(({ pair }) => pair.case);
  const features = await chosenFeatures({ ...input, cases }, options, places, reporter);
  const { loaded, dictionaries, drawn } = input;
  const forest = prefixForest(drawn);
  const method = options.jacobian === "secant" ? "secant" : "analytic";
  const steps = pointsOf(input);
  const points = method === "secant" ? { steps } : {};
  const given = { ...loaded, ...watchOf(reporter), ...points, forest, dictionaries };

  reporter.begin("capture", 1);
  const captured = await captureOfEdges(given);
  reporter.begin("gradients", 1);
  const linear = await linearOfEdges(given, captured, options.jacobian);
  reporter.begin("effects", dictionaries.size);
  const effects = new Map<SiteName, SiteSums>();
  const placed = new Map<string, KnownFeature>();
  for await (const { rows } of effectsFrom(linear, given)) {
    const own = new Map<number, { effect: number; nodes: number }>();
    const isChosen = new Set(options.byPosition === "both" ? features.get(rows.site) : []);
    rows.feature.forEach((feature, i) => {
      if (isChosen.has(feature)) {
        const position = forest.backward.position[rows.node[i]!]!;
        placed.set(graphNodeId({ kind: "feature", site: rows.site, feature, position }), {
          effect: rows.effect[i]! / drawn.length,
          activation: rows.fClean[i]!,
          patchActivation: rows.fPatch[i]!,
        });
      }
      const sum = own.get(feature) ?? { effect: 0, nodes: 0 };
      sum.effect += rows.effect[i]! / drawn.length;
      sum.nodes++;
      own.set(feature, sum);
    });
    effects.set(rows.site, own);
    reporter.set(effects.size);
  }
  const sums = await edgeSums(input, { forest, linear }, features, effects, options, places, reporter);
  const [parts, flows] = [[...sums.found.values()], sums.flows];
  const { jacobian, edgeThreshold: least } = options;
  const about: GraphAbout = {
    ...input.about,
    method,
    jacobian,
    slope: jacobian === "secant" ? "secant" : "clean",
    ...(jacobian === "secant" && { slopeCap }),
    ...(options.way === "masks" || options.way === "mask-ig" ? { ablation: options.ablation } : {}),
  };
  const known = new Map([...effects].map(([site, of]) => [site, columnsOf(of)]));
  const found = await graphOf(parts.flatMap(edgesOfSums), {
    ...{ pairs: drawn.length, about, effects: known, least },
    ...(options.byPosition === "both" && {
      positionOf: (node: number) => forest.backward.position[node]!,
      known: placed,
    }),
  });
  const whole = withTokens(found, drawn[0]!);
  const asked = { nodes: options.influence, edges: options.edgeInfluence };
  const pruned = wideEnough(whole, asked);
  if (pruned.edges.length === 0) {
    throw new UnfitOptionError(
      `--edge_threshold: expected one that leaves a path from the tokens to the metric, got ${least}, where the largest edge is ${largestEdge(parts, drawn.length).toPrecision(3)}. Lower it.`,
    );
  }
  const { nodes } = pruned.about.thresholds!;
  if (nodes !== asked.nodes) {
    reporter.line(
      `No path from the tokens to the metric holds ${percentText(asked.nodes)} of the influence: nodes that hold ${percentText(nodes)} of it are drawn.`,
    );
  }
  const remainders = new Map<SiteName, number>();
  for (const { kind, site, remainder = 0 } of whole.nodes) {
    if (kind === "feature") remainders.set(site!, (remainders.get(site!) ?? 0) + remainder);
  }
  return {
    features,
    whole,
    drawn: pruned,
    checks: checksOf(parts, flows),
    shares: [...dictionaries.keys()].map((site) => {
      const of = effects.get(site)!;
      const list = features.get(site) ?? [];
      return {
        site,
        features: list.length,
        carried: list.reduce((sum, feature) => sum + (of.get(feature)?.effect ?? 0), 0),
        error: of.get(errorFeature)?.effect ?? 0,
        total: [...of.values()].reduce((sum, { effect }) => sum + effect, 0),
        remainder: remainders.get(site) ?? 0,
      };
    }),
  };
}

/** What is told of a feature at a position. */
type KnownFeature = Pick<GraphNode, "effect" | "activation" | "patchActivation">;

/** The graph, its nodes with the clean tokens at their positions. */
function withTokens(graph: CircuitGraph, { clean }: TokenPair): CircuitGraph {
  const texts = graphTokens(graph.about);
  if (texts === null) return graph;
  const nodes = graph.nodes.map((node) => {
    const { kind, position } = node;
    if (position === undefined) return node;
    return { ...node, token: texts[position]!, ...(kind === "token" && { tokenId: clean[position]! }) };
  });
  return { ...graph, nodes };
}

/**
 * Points of secant edges and effects over so many pairs where none are asked for: with 4 the first layer's, which all tokens pass, miss up to a fifth of
 * what they lead to; with 8 a hundredth, but a seventh of a single pair's.
 */
export const usualPoints = (pairs: number): number => (pairs === 1 ? 32 : 8);

const pointsOf = ({ steps, drawn }: CircuitInput): number => steps ?? usualPoints(drawn.length);

/** Kinds of sites with less of all targets' effects than this are measured against this share of them. */
const leastShare = 0.05;

/**
 * All checks of edges; those of edges that lead through sublayers, whose slopes are means over points, as one for each kind of targets: small effects
 * of single sites say little of how good the mean is.
 */
function checksOf(parts: readonly EdgeSums[], flows: readonly Check[]): Check[] {
  const all = [...parts.flatMap(({ checks }) => checks as Check[]), ...flows];
  const isByPoints = ({ name, tolerance }: Check) => name === inflowCheck && tolerance === pointsTolerance;
  const whole = all.reduce((sum, { name, scale }) => (name === inflowCheck ? sum + scale : sum), 0);
  const byKind = new Map<string, { gap: number; scale: number }>();
  for (const { site, gap, scale } of all.filter(isByPoints)) {
    const kind = site === "metric" ? "metric" : parseSite(site!).kind;
    const sum = byKind.get(kind) ?? { gap: 0, scale: 0 };
    byKind.set(kind, { gap: sum.gap + gap, scale: sum.scale + scale });
  }
  return [
    ...all.filter((one) => !isByPoints(one)),
    ...[...byKind].map(([kind, { gap, scale }]) =>
      check(
        `edges into ${kind} targets add up to their effects`,
        null,
        gap,
        Math.max(scale, leastShare * whole),
        pointsTolerance,
      ),
    ),
  ];
}

/**
 * The pruned graph, with a larger share of influence where the one asked for leaves no path from the tokens to the metric: a circuit whose influence comes
 * from errors for the most part is to be drawn, too.
 */
function wideEnough(whole: CircuitGraph, asked: { readonly nodes: number; readonly edges: number }): CircuitGraph {
  for (const nodes of [asked.nodes, 0.9, 0.95, 0.99]) {
    const pruned = prune(whole, { ...asked, nodes: Math.max(nodes, asked.nodes) });
    if (pruned.edges.length > 0) return pruned;
  }
  return prune(whole, { nodes: 1, edges: 1 });
}

/** The largest |edge|, in logits, mean over pairs. */
const largestEdge = (parts: readonly EdgeSums[], pairs: number) =>
  parts
    .flatMap(({ into }) => into.flatMap(({ from }) => from))
    .flatMap(({ values, error, token }) => [...values, error, token ?? 0])
    .reduce((largest, value) => Math.max(largest, Math.abs(value) / pairs), 0);

/** Of a site's features and its error: mean effects, and at how many nodes they change. */
type SiteSums = ReadonlyMap<number, { readonly effect: number; readonly nodes: number }>;

const columnsOf = (of: SiteSums) => {
  const features = [...of].filter(([feature]) => feature !== errorFeature);
  return {
    feature: features.map(([feature]) => feature),
    effect: features.map(([, { effect }]) => effect),
    error: of.get(errorFeature)?.effect ?? null,
  };
};

/** Slopes Δf/Δz of larger size are taken for this one. */
const slopeCap = 3;

async function chosenFeatures(
  input: CircuitInput,
  options: CircuitOptions,
  places: CircuitPlaces,
  reporter: Reporter,
): Promise<Features> {
  const known = await places.chosen();
  if (known) return known;
  const train = ofSplit(input.pairs, "train");
  if (train.length === 0) {
    throw new UnfitOptionError(
      "pairs: expected train pairs, on which circuits are chosen, got only test pairs. Name them train.",
    );
  }
  const features = await chooseCircuit(input, train, options, places.masks, reporter);
  await places.keepChosen(features);
  return features;
}

/** Edges into all targets, from the places where they are kept or computed now. */
async function edgeSums(
  input: CircuitInput,
  { forest, linear }: { readonly forest: PrefixForest; readonly linear: Capture },
  features: Features,
  effects: ReadonlyMap<SiteName, SiteSums>,
  { jacobian, byPosition, edgeThreshold }: CircuitOptions,
  places: CircuitPlaces,
  reporter: Reporter,
): Promise<{ found: ReadonlyMap<string, EdgeSums>; flows: readonly Check[] }> {
  const { loaded, dictionaries, drawn, all } = input;
  const steps = pointsOf(input);
  const sites = [...dictionaries.keys()].sort(compareSites);
  const found = new Map<string, EdgeSums>();
  for (const target of [...sites, "metric" as const]) {
    const known = await places.read(target);
    if (known) found.set(target, known);
  }
  const missing = sites.filter((site) => site !== "embed" && !found.has(site));
  const targets = new Map(missing.map((site) => [site, [...(features.get(site) ?? []), "error" as const]]));
  const work = await workOfEdges(input, forest, targets, effects, jacobian);
  if (work.seconds > longSeconds) {
    reporter.line(`Edges: about ${Math.round(work.products)} vector–Jacobian products, ${duration(work.seconds)}.`);
  }
  const kept = new Map([...features].map(([site, list]) => [site, new Set(list)]));
  const counts = new Map<string, number>();
  for (const { pair } of drawn) {
    const key = groupKey(pair.split, pair.case);
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  const inRun = byPosition ? numbersIn(all, forest) : null;
  const options = {
    pairsOf: ({ split, case: name }: { split: TokenPair["pair"]["split"]; case: string }) =>
      counts.get(groupKey(split, name))!,
    least: edgeThreshold,
    placeOf: (node: number) => ({ node: inRun![node]!, position: forest.backward.position[node]! }),
  };
  reporter.begin("edges", sites.length + 1);
  let flows: readonly Check[] = [];
  const own = new Map<SiteName | "metric", readonly Check[]>();
  let [target, blocks]: [SiteName | "metric" | undefined, SiteEdges[]] = [undefined, []];
  let done = 0;
  const keep = async () => {
    if (target === undefined) return;
    reporter.set(++done);
    if (!found.has(target)) {
      const isKept = (site: SiteName, feature: number) => site === "embed" || (kept.get(site)?.has(feature) ?? false);
      const sums = sumEdges(target, blocks, isKept, [...(own.get(target) ?? [])], byPosition === "both");
      await places.write(sums, edgeRows(target, blocks, options));
      found.set(target, sums);
    }
    blocks = [];
  };
  const { stopped } = reporter;
  const generator = edges(
    { ...loaded, stopped, forest, dictionaries, steps },
    {
      targets,
      jacobian,
      linear,
      cap: slopeCap,
      byNode: byPosition,
      onTarget: (of, checks) => own.set(of, checks),
      onChecks: (checks) => {
        flows = checks.filter(({ name }) => name.startsWith("edges out of"));
      },
    },
  );
  for await (const one of generator) {
    if (one.target !== target) {
      await keep();
      target = one.target;
    }
    blocks.push(one);
  }
  await keep();
  // In order of computation, which graphs want.
  return { found: new Map([...sites, "metric"].flatMap((of) => (found.has(of) ? [[of, found.get(of)!]] : []))), flows };
}

/** Seconds of work from which on it is told beforehand. */
const longSeconds = 5;

/** What edges will take, now that it is known at how many nodes their targets change. */
async function workOfEdges(
  input: CircuitInput,
  forest: PrefixForest,
  targets: ReadonlyMap<SiteName, readonly (number | "error")[]>,
  effects: ReadonlyMap<SiteName, SiteSums>,
  jacobian: Jacobian,
): Promise<{ products: number; seconds: number }> {
  const { loaded, dictionaries } = input;
  const features = [...targets].map(([site, list]) => [site, list.filter((one) => one !== "error")] as const);
  const nodes = features.map(([site, list]) => {
    const of = effects.get(site);
    return [site, list.reduce((sum, feature) => sum + (of?.get(feature)?.nodes ?? 0), 0)] as const;
  });
  const counts = new Map(features.map(([site, list]) => [site, list.length]));
  const known = { jacobian, steps: pointsOf(input), nodes: new Map(nodes) };
  const work = edgesWork(runningOf(loaded), forest, dictionaries, counts, known);
  return {
    products: work.vectors,
    seconds: secondsOf(work, await gflopsFor(work.passes, loaded.model.width, loaded.device)),
  };
}

/** For each backward node of a forest its number in that of all pairs, which the run's tables have. */
function numbersIn(all: readonly TokenPair[], { backward }: PrefixForest): Int32Array {
  const key = (of: PrefixForest["backward"], node: number, parent: number) => {
    const { split, case: name } = of.groups[of.group[node]!]!;
    return `${parent} ${split} ${name} ${of.token[node]} ${of.patchToken[node]}`;
  };
  const whole = prefixForest(all).backward;
  const numbers = new Map(Array.from({ length: whole.size }, (_, n) => [key(whole, n, whole.parent[n]!), n]));
  const found = new Int32Array(backward.size);
  for (let node = 0; node < backward.size; node++) {
    const parent = backward.parent[node]!;
    found[node] = numbers.get(key(backward, node, parent < 0 ? -1 : found[parent]!))!;
  }
  return found;
}
