import { isWhole } from "../../amounts.ts";
import { attributionName, cantorPair } from "./attribution.ts";

type Fields = Readonly<Record<string, unknown>>;

const featureType = "cross layer transcoder";
const errorType = "mlp reconstruction error";
const knownTypes = [featureType, errorType, "embedding", "logit", "bias", "lorsa"];
const linkTypes = ["both", "either", "input", "output"];

/**
 * What keeps circuit-tracer's page or Neuronpedia from showing an attribution graph as it was meant: rules of the file's schema, and those that are
 * written nowhere but in the page's code. One line for each rule that is broken, with the first place and the number of others; none if all is well.
 *
 * @param json the content of a graph's file, of any kind
 */
export function lintAttributionGraph(json: unknown): string[] {
  const found = new Findings();
  if (!isFields(json)) return ["graph: expected an object with metadata, qParams, nodes and links."];
  const metadata = isFields(json.metadata) ? json.metadata : found.missing("metadata");
  const qParams = isFields(json.qParams) ? json.qParams : found.missing("qParams");
  const nodes = fieldsOf(json.nodes, "nodes", found);
  const links = fieldsOf(json.links, "links", found);
  lintMetadata(metadata, found);
  const columns = Array.isArray(metadata.prompt_tokens) ? metadata.prompt_tokens.length : 0;
  for (const node of nodes) lintNode(node, metadata, columns, found);
  lintTogether(nodes, columns, found);
  lintLinks(links, nodes, found);
  lintQParams(qParams, nodes, found);
  return found.lines();
}

/** Collects what is wrong, a line for each rule. */
class Findings {
  readonly #rules = new Map<string, { readonly first: string; count: number }>();

  /** @param rule what was expected and why; got: what was found, and where */
  add(rule: string, got: string): void {
    const entry = this.#rules.get(rule) ?? { first: got, count: 0 };
    entry.count++;
    this.#rules.set(rule, entry);
  }

  missing(what: string): Fields {
    this.add(`${what}: expected an object`, "none");
    return {};
  }

  lines(): string[] {
    return [...this.#rules].map(
      ([rule, { first, count }]) => `${rule}, got ${first}${count > 1 ? ` (and ${count - 1} more)` : ""}.`,
    );
  }
}

function lintMetadata(metadata: Fields, found: Findings): void {
  for (const name of ["slug", "scan"]) {
    const value = metadata[name];
    if (typeof value !== "string" || !attributionName.test(value)) {
      found.add(`metadata.${name}: expected letters, digits, "_", "." and "-"`, shown(value));
    }
  }
  if (typeof metadata.prompt !== "string") found.add("metadata.prompt: expected a text", shown(metadata.prompt));
  const tokens = metadata.prompt_tokens;
  if (!Array.isArray(tokens) || tokens.some((token) => typeof token !== "string")) {
    found.add("metadata.prompt_tokens: expected a list of texts", shown(tokens));
  } else {
    if (tokens.length < 2) {
      found.add("metadata.prompt_tokens: expected two or more, the page cannot place a single column", shown(tokens));
    }
    for (const token of tokens) lintText(token, "metadata.prompt_tokens", found);
  }
  if (metadata.schema_version !== 1) {
    found.add(
      "metadata.schema_version: expected 1, without it feature numbers are not read as pairs of layer and index",
      shown(metadata.schema_version),
    );
  }
  const threshold = metadata.node_threshold;
  if (threshold !== undefined && threshold !== null && !isShare(threshold)) {
    found.add("metadata.node_threshold: expected a share of the influence, 0 to 1", shown(threshold));
  }
  const details = metadata.feature_details;
  if (details !== undefined && details !== null) {
    const sources = ["neuronpedia_source_set", "feature_json_base_url"];
    if (!isFields(details) || !sources.some((name) => typeof details[name] === "string")) {
      found.add(
        `metadata.feature_details: expected ${sources.join(" or ")}, from which features are fetched`,
        shown(details),
      );
    }
  }
}

function lintNode(node: Fields, metadata: Fields, columns: number, found: Findings): void {
  const {
    node_id: id,
    feature,
    layer,
    ctx_idx: column,
    feature_type: type,
    jsNodeId,
    clerp,
    influence,
    activation,
  } = node;
  const at = ` at ${shown(id)}`;
  if (typeof id !== "string" || id === "") found.add("nodes: expected a node_id", shown(id));
  if (typeof jsNodeId !== "string" || jsNodeId === "")
    found.add("nodes: expected a jsNodeId", `${shown(jsNodeId)}${at}`);
  if (!isWhole(column) || column >= columns) {
    found.add("nodes: expected a ctx_idx that has a prompt token", `${shown(column)}${at}`);
  }
  if (!knownTypes.includes(type as string)) {
    found.add(`nodes: expected a feature_type of ${knownTypes.join(", ")}, scores skip others`, `${shown(type)}${at}`);
  }
  if (type === "embedding" ? layer !== "E" : !isWhole(Number(layer)) || layer === "" || layer === null) {
    found.add('nodes: expected a layer that is a whole number, "E" for embeddings', `${shown(layer)}${at}`);
  }
  if (feature !== null && !Number.isSafeInteger(feature)) {
    found.add("nodes: expected a feature that is a whole number or null", `${shown(feature)}${at}`);
  }
  if (typeof clerp !== "string") found.add("nodes: expected a clerp, if an empty one", `${shown(clerp)}${at}`);
  else lintText(clerp, "nodes", found);
  if (influence !== undefined && influence !== null && !isShare(influence)) {
    found.add("nodes: expected an influence that is a cumulative share, 0 to 1", `${shown(influence)}${at}`);
  }
  if (activation !== undefined && activation !== null && !Number.isFinite(activation)) {
    found.add("nodes: expected a finite activation", `${shown(activation)}${at}`);
  }
  const threshold = metadata.node_threshold;
  if (typeof threshold === "number" && threshold > 0 && type !== "embedding" && type !== "logit") {
    // `undefined <= 0.8` is false, `null <= 0.8` is true.
    if (influence === undefined || (typeof influence === "number" && influence > threshold)) {
      found.add(
        "nodes: expected an influence up to metadata.node_threshold, the page hides others",
        `${shown(influence)}${at}`,
      );
    }
  }
  if (typeof id !== "string") return;
  if (type === featureType) lintFeature(id, node, found);
  if (type === errorType && id !== `${layer}_-1_${column}` && id !== `0_${layer}_${column}`) {
    found.add("nodes: expected errors with node_id {layer}_-1_{ctx_idx}", shown(id));
  }
  if (type === "embedding" && !/^E_\d+_\d+$/.test(id)) {
    found.add("nodes: expected embeddings with node_id E_{token}_{ctx_idx}", shown(id));
  }
  if (type === "logit") lintLogit(node, found);
  if (typeof metadata.scan === "string" && metadata.scan.startsWith("custom-") && type === featureType) {
    const list = metadata.transcoder_list;
    if (!Array.isArray(list) || typeof list[Number(layer)] !== "string") {
      found.add(
        "metadata.transcoder_list: expected an entry for every layer, as scan begins with custom-",
        `none of layer ${layer}`,
      );
    }
  }
}

function lintFeature(id: string, { layer, ctx_idx: column, feature }: Fields, found: Findings): void {
  const parts = /^(\d+)_(\d+)_(\d+)$/.exec(id)?.slice(1).map(Number);
  if (parts === undefined || parts[0] !== Number(layer) || parts[2] !== column) {
    found.add(
      "nodes: expected features with node_id {layer}_{index}_{ctx_idx}",
      `${shown(id)} of layer ${layer}, ctx_idx ${column}`,
    );
  } else if (feature !== cantorPair(parts[0], parts[1]!)) {
    found.add(
      "nodes: expected a feature that pairs layer and index, (l + i)(l + i + 1)/2 + i",
      `${shown(feature)} instead of ${cantorPair(parts[0], parts[1]!)} at ${shown(id)}`,
    );
  }
}

function lintLogit({ node_id: id, clerp }: Fields, found: Findings): void {
  // The page takes what is behind the first `(p=`; text without it ends the page's script.
  const probability = String(clerp).split("(p=")[1]?.split(")")[0];
  if (probability === undefined || probability === "" || !isShare(Number(probability))) {
    found.add('nodes: expected logits with a clerp like Output "token" (p=0.420)', `${shown(clerp)} at ${shown(id)}`);
  }
}

/** Rules about several nodes at once. */
function lintTogether(nodes: readonly Fields[], columns: number, found: Findings): void {
  const ids = new Map<unknown, number>();
  const places = new Map<string, unknown[]>();
  for (const { node_id: id, layer, feature, ctx_idx: column } of nodes) {
    ids.set(id, (ids.get(id) ?? 0) + 1);
    const place = `${layer}_${feature}_${column}`;
    places.set(place, [...(places.get(place) ?? []), id]);
  }
  for (const [id, count] of ids)
    if (count > 1) found.add("nodes: expected different node_ids", `${shown(id)} ${count} times`);
  for (const [, same] of places) {
    if (same.length < 2 || new Set(same).size < 2) continue;
    if (same.length > (columns * 2) / 3) {
      found.add(
        "nodes: expected few nodes of one layer, feature and ctx_idx, the page drops those that occur at over two thirds of the tokens",
        `${same.length}, the first ${shown(same[0])}`,
      );
    } else {
      found.add(
        "nodes: expected one node of a layer, feature and ctx_idx, the page takes others for the same",
        same.map(shown).join(", "),
      );
    }
  }
  const rowOf = ({ layer }: Fields) => Number(layer);
  const logits = nodes.filter(({ feature_type: type }) => type === "logit");
  const rows = nodes.filter(({ feature_type: type, layer }) => type !== "logit" && layer !== "E").map(rowOf);
  if (logits.length === 0) found.add("nodes: expected a logit, to which all links lead", "none");
  else if (rows.length > 0) {
    const highest = rows.reduce((a, b) => Math.max(a, b));
    if (highest !== rowOf(logits[0]!) - 2) {
      found.add(
        "nodes: expected a node at the last layer, two under the logits', the page counts its rows from there",
        `the highest at ${highest} and the logits at ${rowOf(logits[0]!)}`,
      );
    }
  }
  if (nodes.length > 0 && nodes.every(({ ctx_idx: column }) => column === 0)) {
    found.add("nodes: expected some with a ctx_idx over 0, the page cannot place a single column", "none");
  }
}

function lintLinks(links: readonly Fields[], nodes: readonly Fields[], found: Findings): void {
  const byId = new Map(nodes.map((node) => [node.node_id, node]));
  const seen = new Set<string>();
  const linked = new Set<unknown>();
  const row = ({ layer }: Fields) => (layer === "E" ? -1 : Number(layer));
  for (const { source, target, weight } of links) {
    const name = `${shown(source)} → ${shown(target)}`;
    const ends = [byId.get(source), byId.get(target)];
    for (const [end, node] of ends.entries()) {
      if (node === undefined)
        found.add("links: expected ends that are nodes, the page drops others", shown([source, target][end]));
    }
    linked.add(source).add(target);
    if (typeof weight !== "number" || !Number.isFinite(weight) || weight === 0) {
      found.add(
        "links: expected weights that are finite and not 0, the page divides by their sum",
        `${shown(weight)} of ${name}`,
      );
    }
    if (seen.has(name)) found.add("links: expected one from a source to a target", `${name} again`);
    seen.add(name);
    if (ends[0] !== undefined && ends[1] !== undefined && (row(ends[0]) > row(ends[1]) || source === target)) {
      found.add("links: expected targets at the source's layer or over it", name);
    }
  }
  if (links.length === 0) found.add("links: expected some", "none");
  for (const { node_id: id, feature_type: type } of nodes) {
    if (type !== "embedding" && type !== "logit" && !linked.has(id)) {
      found.add("nodes: expected links at every node but embeddings and logits", `none at ${shown(id)}`);
    }
  }
}

function lintQParams(qParams: Fields, nodes: readonly Fields[], found: Findings): void {
  const ids = new Set(nodes.map(({ node_id: id }) => id));
  const { pinnedIds, supernodes, linkType, clickedId } = qParams;
  const pinned = typeof pinnedIds === "string" ? pinnedIds.split(",").filter((id) => id !== "") : pinnedIds;
  if (pinned !== undefined && pinned !== null) {
    if (!Array.isArray(pinned)) found.add("qParams.pinnedIds: expected a list of node_ids", shown(pinned));
    else for (const id of pinned) if (!ids.has(id)) found.add("qParams.pinnedIds: expected node_ids", shown(id));
  }
  if (clickedId !== undefined && clickedId !== null && clickedId !== "" && !ids.has(clickedId)) {
    found.add("qParams.clickedId: expected a node_id", shown(clickedId));
  }
  if (linkType !== undefined && linkType !== null && !linkTypes.includes(linkType as string)) {
    found.add(`qParams.linkType: expected one of ${linkTypes.join(", ")}, others show no links`, shown(linkType));
  }
  if (supernodes === undefined || supernodes === null) return;
  if (!Array.isArray(supernodes) || supernodes.some((group) => !Array.isArray(group) || typeof group[0] !== "string")) {
    found.add("qParams.supernodes: expected lists of a name and node_ids", shown(supernodes));
    return;
  }
  for (const id of supernodes.flatMap((group: unknown[]) => group.slice(1))) {
    if (!ids.has(id)) found.add("qParams.supernodes: expected node_ids behind the name", shown(id));
  }
}

/** The page writes names into its tooltip as HTML. */
function lintText(text: string, where: string, found: Findings): void {
  if (/<[a-z/!?]/i.test(text))
    found.add(`${where}: expected no text that is read as an HTML tag in the tooltip`, shown(text));
}

function fieldsOf(value: unknown, what: string, found: Findings): Fields[] {
  if (!Array.isArray(value)) {
    found.add(`${what}: expected a list`, shown(value));
    return [];
  }
  const strange = value.find((one) => !isFields(one));
  if (strange !== undefined) found.add(`${what}: expected objects`, shown(strange));
  return value.filter(isFields);
}

const isFields = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const isShare = (value: unknown) => typeof value === "number" && value >= 0 && value <= 1;

function shown(value: unknown): string {
  const text = value === undefined ? "none" : JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 57)}…` : text;
}
