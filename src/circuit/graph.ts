import { UserError } from "../errors.ts";
import type { Split } from "../prompts/pairs.ts";
import type { SiteName } from "../site.ts";

/**
 * What a node of a circuit is.
 *
 * - `feature`: a feature of a dictionary
 * - `error`: what the dictionary of a site does not reconstruct
 * - `token`: the embeddings that enter the model
 * - `bias`: a dictionary's b_dec; only in graphs of one prompt, for it cancels between clean and patch
 * - `metric`: what the graph explains: the difference of two logits, or one logit of a prompt
 */
export const graphNodeKinds = ["feature", "error", "token", "bias", "metric"] as const;

/** One of `graphNodeKinds`. */
export type GraphNodeKind = (typeof graphNodeKinds)[number];

/** A node of a circuit: summed over the positions of all prompts, or at one position of one prompt. */
export interface GraphNode {
  /** Unique in the graph: `graphNodeId`. */
  readonly id: string;
  readonly kind: GraphNodeKind;
  /** The site it writes to: `embed` for tokens; left out for the metric. */
  readonly site?: SiteName;
  /** The feature's index in its dictionary; features alone have it. */
  readonly feature?: number;
  /** 0-based; left out where positions are summed, and for the metric. */
  readonly position?: number;
  /** Text of the token at the position (of the clean prompt); of a metric what it compares, or the token whose logit it is. */
  readonly token?: string;
  /** Index of that token in the vocabulary. */
  readonly tokenId?: number;
  /** What the feature stands for, in words. */
  readonly label?: string;
  /** Effect on the metric in logits, signed, mean over the pairs; of a metric node its change, or the logit itself. */
  readonly effect: number;
  /** The feature's activation in the clean prompt, or its mean over the active clean nodes. */
  readonly activation?: number;
  /** Likewise in the patch prompt. */
  readonly patchActivation?: number;
  /** Metric nodes alone: the probability of the token, by which influence weighs it; 1 by default. */
  readonly probability?: number;
  /** Part of the effect that no edge carries, in logits: the rest of slopes that were capped. 0 by default. */
  readonly remainder?: number;
  /** Influence on the metric along all paths (`influenceOf`), from `prune`. */
  readonly influence?: number;
  /** Share of all influence that this node and those of more influence hold, 0 to 1, from `prune`. */
  readonly cumulative?: number;
}

/** An edge: the part of the target's effect that comes from the source along the paths that pass no other chosen site. */
export interface GraphEdge {
  /** Id of a node. */
  readonly source: string;
  /** Id of a node at a later site. */
  readonly target: string;
  /** E(source → target) in logits, signed, mean over the pairs; of a single prompt's graph likewise its share of the metric. */
  readonly value: number;
}

/** What a graph was made of, for people and for programs that read it again. */
export interface GraphAbout {
  /** The model's name, and how many blocks it has. */
  readonly model: string;
  readonly layers: number;
  readonly dictionaries: readonly { readonly site: SiteName; readonly source: string; readonly sha256?: string }[];
  readonly subject: GraphSubject;
  /** The metric in words, e.g. `logit(patch answer) − logit(clean answer)`. */
  readonly metric: string;
  /** The method of the nodes' effects. */
  readonly method: string;
  /** What edges linearise a path by: the gradient at clean, the mean between clean and patch, or frozen patterns and scales. */
  readonly jacobian: "gradient" | "secant" | "frozen";
  /** What edges take for the slope of a feature: that of the clean code, or Δf/Δz, capped at `slopeCap`. */
  readonly slope: "clean" | "secant";
  readonly slopeCap?: number;
  /** What the values outside the circuit were replaced with when its nodes were chosen. */
  readonly ablation?: "mean" | "patch" | "zero";
  /** Shares of influence that pruning kept. */
  readonly thresholds?: { readonly nodes: number; readonly edges: number };
  /** `influenceOf` the graph before it was pruned. */
  readonly scores?: { readonly replacement: number | null; readonly completeness: number | null };
}

/** The prompts behind a graph. Texts of one pair or prompt are given token by token, for the positions. */
export type GraphSubject =
  | {
      readonly kind: "pairs";
      readonly pairs: number;
      readonly cases: readonly string[];
      /** Null for both together. */
      readonly split: Split | null;
    }
  | { readonly kind: "pair"; readonly clean: readonly string[]; readonly patch: readonly string[] }
  | { readonly kind: "prompt"; readonly tokens: readonly string[] };

/** A circuit as a graph: nodes at sites, edges with values in logits; edges lead to later sites, so there is no cycle. */
export interface CircuitGraph {
  readonly nodes: readonly GraphNode[];
  readonly edges: readonly GraphEdge[];
  readonly about: GraphAbout;
}

/** The id of a node: `resid_post.2/1035`, `resid_post.2/error`, `embed/token`, `metric`; with a position `resid_post.2/1035@4`. */
export function graphNodeId(node: Pick<GraphNode, "kind" | "site" | "feature" | "position">): string {
  const at = node.position === undefined ? "" : `@${node.position}`;
  return `${node.site === undefined ? "" : `${node.site}/`}${node.kind === "feature" ? node.feature : node.kind}${at}`;
}

/** What a node is called in pictures and lists: `resid_post.2/1035`, `resid_post.2 error`, `“ dogs”`. */
export function graphNodeName(node: GraphNode): string {
  if (node.kind === "feature") return `${node.site}/${node.feature}`;
  if (node.kind === "metric") return node.token ?? "metric";
  if (node.kind === "token") return node.token === undefined ? "tokens" : `“${node.token}”`;
  return `${node.site} ${node.kind}`;
}

/** The tokens of the clean prompt, or null where the graph sums over many prompts. */
export function graphTokens({ subject }: GraphAbout): readonly string[] | null {
  if (subject.kind === "pairs") return null;
  return subject.kind === "pair" ? subject.clean : subject.tokens;
}

/**
 * The place of each node in `graph.nodes`, by id.
 *
 * @throws UserError if two nodes have one id, an edge has an end that is no node, or a value is not finite
 */
export function graphPlaces(graph: CircuitGraph): ReadonlyMap<string, number> {
  const places = new Map<string, number>();
  for (const [place, { id, effect }] of graph.nodes.entries()) {
    if (places.has(id)) throw new UserError(`graph: expected nodes of different ids, got "${id}" twice.`);
    if (!Number.isFinite(effect)) throw new UserError(`graph: expected finite effects, got ${effect} at "${id}".`);
    places.set(id, place);
  }
  for (const { source, target, value } of graph.edges) {
    const missing = [source, target].find((id) => !places.has(id));
    if (missing !== undefined) throw new UserError(`graph: expected edges between nodes, got one of "${missing}".`);
    if (!Number.isFinite(value)) {
      throw new UserError(`graph: expected finite values, got ${value} from "${source}" to "${target}".`);
    }
  }
  return places;
}
