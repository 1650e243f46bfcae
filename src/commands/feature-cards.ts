import { featureTraits, noDirectPath, type TraitsInput } from "../analysis/feature-traits.ts";
import type { JobOptions } from "../analysis/options.ts";
import type { Ablation } from "../circuit/meaning.ts";
import type { Ranking } from "../circuit/ranking.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { codeReader } from "../dictionaries/encode.ts";
import { countPairs } from "../effects/sums.ts";
import { messageOf, StoppedError } from "../errors.ts";
import type { BackwardNodes, PrefixForest } from "../forest/forest.ts";
import { featurePages } from "../hub/feature-pages.ts";
import { defaultSaes } from "../hub/resolve.ts";
import type { Reporter } from "../progress.ts";
import { isOutside } from "../prompts/outside.ts";
import type { Split } from "../prompts/pairs.ts";
import type { Tokenizer } from "../prompts/tokenizer.ts";
import type { CardSite, FeatureCard, FeatureCards } from "../report/cards.ts";
import { Database } from "../results/database.ts";
import {
  type EvidenceAbout,
  type EvidenceRow,
  evidenceBeside,
  readEvidence,
  readEvidenceAbout,
} from "../results/evidence.ts";
import { type FeatureEffects, featureEffects } from "../results/feature-effects.ts";
import { compareSites, type SiteName } from "../site.ts";
import { rounded } from "../stats.ts";
import { writeFileAtomic } from "../storage/files.ts";

/** Features of each site and split that have cards, though the ranking may list more. */
const cardsOfSplit = 20;
/** What a card keeps of its prompts and its tokens. */
const keptNodes = 6;
const keptTokens = 10;

/** What names a feature. */
export type NamedBy = FeatureCard["named_by"][number];

/** What cards are made of, besides the tables in the run's folder. */
export interface CardsInput extends Omit<TraitsInput, "codes" | "outside" | "hasText"> {
  readonly tokenizer: Tokenizer;
  readonly ranking: Ranking;
  /** The features that have cards, with what names each, as `resid_post.3/41`. */
  readonly named: ReadonlyMap<string, readonly NamedBy[]>;
  /** SHA-256 of the model. */
  readonly model: string;
  /** SHA-256 of an SAE. */
  readonly identityOf: (dictionary: Dictionary) => Promise<string>;
  /** Where the evidence of a corpus is; null where there is none. */
  readonly evidence: string | null;
  /** The preset that the SAEs were asked for by; null for others. */
  readonly preset: string | null;
}

/** The features that a run's results name. */
export function namedByRun(ranking: Ranking, ablation: Ablation | undefined): Map<string, NamedBy[]> {
  const named = new Map<string, NamedBy[]>();
  for (const { site, splits } of ranking.sites) {
    for (const { top } of Object.values(splits)) {
      for (const { feature } of top.slice(0, cardsOfSplit)) named.set(`${site}/${feature}`, ["ranking"]);
    }
  }
  for (const { site, feature } of ablation?.features ?? []) {
    const name = `${site}/${feature}`;
    named.set(name, [...(named.get(name) ?? []), "ablation"]);
  }
  return named;
}

/** Where a run's SAEs have evidence of a corpus, and by which preset they were asked for; null for none. */
export async function evidenceOfRun(
  { sae_source, contexts, model_name }: Pick<JobOptions, "sae_source" | "contexts" | "model_name">,
  modelFolder: string,
): Promise<Pick<CardsInput, "evidence" | "preset">> {
  const beside = await evidenceBeside(sae_source, modelFolder);
  const preset = beside === null ? (sae_source ?? defaultSaes(model_name)) : null;
  return { evidence: contexts ?? beside, preset };
}

/**
 * Makes the cards of features and writes them.
 *
 * @param folder the run's, with its tables
 * @param path where the cards go
 * @throws StoppedError if asked to stop
 */
export async function writeCards(
  folder: string,
  path: string,
  input: CardsInput,
  reporter: Pick<Reporter, "begin" | "set" | "stopped" | "line">,
): Promise<void> {
  const { loaded, captured, dictionaries, tokenizer, ranking, named } = input;
  const { forest } = captured.plan;
  const { outside } = tokenizer;
  const bySite = featuresBySite(named);
  reporter.begin("cards", bySite.size);
  const codes = codeReader(loaded);
  const database = await Database.open({ threads: "1" }, reporter.stopped);
  const outsideNodes = Array.from({ length: forest.backward.size }, (_, node) => node).filter((node) =>
    isOutside(outside, forest.backward.token[node]!, forest.backward.position[node]!),
  );
  // The database works beside the traits.
  const reading = featureEffects(database, folder, {
    features: [...bySite].flatMap(([site, features]) => features.map((feature) => ({ site, feature }))),
    cases: [...new Set(forest.backward.groups.map((group) => group.case))],
    outside: outsideNodes,
    most: { tokens: keptTokens, nodes: keptNodes },
  });
  // Whoever waits for it has the error.
  reading.catch(() => {});
  try {
    const hasText = (token: number) => tokenizer.token(token) !== `<${token}>`;
    const watch = { onProgress: (done: number) => reporter.set(done), stopped: reporter.stopped };
    const traits = await featureTraits({ ...input, codes, outside, hasText }, bySite, watch);
    const effects = await reading;
    const tokens = new Places<number, string>((id) => tokenizer.token(id));
    const prompts = new Prompts(forest, tokens);
    const evidence = await evidenceOf(input, bySite, database, (line) => reporter.line(line));
    const pairs = pairCounts(forest);
    const cards = traits.map((trait, i): FeatureCard => {
      const name = `${trait.site}/${trait.feature}`;
      const own = effects[i]!;
      const row = evidence.get(trait.site)?.rows.get(trait.feature);
      return {
        site: trait.site,
        feature: trait.feature,
        named_by: named.get(name)!,
        effects: (["train", "test"] as const).flatMap((split) => splitEffects(split, pairs, own, tokens)),
        exact: exactOf(ranking, trait.site, trait.feature),
        contexts: own.nodes.map((row) => ({
          prompt: prompts.through(row.node),
          position: forest.backward.position[row.node]!,
          codes: prompts.path(row.node).map((node) => orNull(trait.codeAt(forest.backward.clean[node]!), 3)),
          patch_code: orNull(row.f_patch),
          effect: rounded(row.effect),
          pairs: row.pairs,
        })),
        activations: activationsOf(trait.activations),
        corpus: row === undefined ? null : corpusOf(row, evidence.get(trait.site)!.about, tokens),
        promotes: trait.promotes && logitsOf(trait.promotes, tokens),
        suppresses: trait.suppresses && logitsOf(trait.suppresses, tokens),
        similar: { feature: trait.similar.feature, cosine: trait.similar.cosine.map((c) => rounded(c)) },
        together: { feature: trait.together.feature, jaccard: trait.together.jaccard.map((j) => rounded(j)) },
      };
    });
    const sites = [...bySite.keys()].map((site): CardSite => {
      const about = evidence.get(site)?.about;
      return {
        site,
        features: dictionaries.get(site)!.featureCount,
        direct: noDirectPath(site),
        corpus: about ? { name: about.corpus.name, tokens: about.tokens } : null,
        page: featurePages(input.preset, site),
      };
    });
    const found: FeatureCards = { format: 1, tokens: tokens.values, prompts: prompts.found, sites, cards };
    await writeFileAtomic(path, `${JSON.stringify(found)}\n`);
  } finally {
    await reading.catch(() => {});
    database.close();
    await codes.release();
  }
}

/** Features by site, both in order. */
function featuresBySite(named: CardsInput["named"]): Map<SiteName, number[]> {
  const all = [...named.keys()].map((name) => {
    const at = name.lastIndexOf("/");
    return { site: name.slice(0, at), feature: Number(name.slice(at + 1)) };
  });
  const sites = [...grouped(all, ({ site }) => site)].sort(([a], [b]) => compareSites(a, b));
  return new Map(sites.map(([site, of]) => [site, of.map(({ feature }) => feature).sort((a, b) => a - b)]));
}

/** Values by a key, in their order. */
function grouped<T>(values: readonly T[], keyOf: (value: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const value of values) {
    const key = keyOf(value);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [value]);
    else group.push(value);
  }
  return groups;
}

/** Pairs of each split, and of each split and case, in the order of the pairs. */
function pairCounts({ pairs }: PrefixForest) {
  const counts = countPairs(pairs);
  return {
    ofSplit: (split: Split) => counts.reduce((sum, of) => sum + (of.split === split ? of.pairs : 0), 0),
    cases: (split: Split) => counts.filter((of) => of.split === split),
  };
}

/** A feature's effects in one split; none where the split has no pairs. */
function splitEffects(
  split: Split,
  pairs: ReturnType<typeof pairCounts>,
  found: FeatureEffects,
  tokens: Places<number, string>,
): FeatureCard["effects"][number][] {
  const total = pairs.ofSplit(split);
  if (total === 0) return [];
  const own = new Map(found.cases.filter((row) => row.split === split).map((row) => [row.case, row]));
  const whole = own.get("");
  const cases = pairs.cases(split);
  const of = <T extends { readonly split: Split }>(list: readonly T[]) => list.filter((row) => row.split === split);
  const [positions, kept] = [of(found.positions), of(found.tokens)];
  const columns = (list: readonly { readonly effect: number; readonly nodes: number; readonly pairs: number }[]) => ({
    effect: list.map(({ effect }) => rounded(effect / total)),
    nodes: list.map(({ nodes }) => nodes),
    pairs: list.map((row) => row.pairs),
  });
  return [
    {
      split,
      effect: rounded(whole?.effect ?? 0),
      rank: whole?.rank ?? null,
      cases: {
        case: cases.map((c) => c.case),
        effect: cases.map((c) => rounded(own.get(c.case)?.effect ?? 0)),
        nodes: cases.map((c) => own.get(c.case)?.nodes ?? 0),
        pairs: cases.map((c) => c.pairs),
      },
      positions: { position: positions.map(({ position }) => position), ...columns(positions) },
      tokens: {
        token: kept.map(({ token }) => tokens.of(token)),
        patch: kept.map(({ token, patch }) => (patch === token ? null : tokens.of(patch))),
        ...columns(kept),
      },
      other_tokens: rounded((found.otherTokens[split] ?? 0) / total),
    },
  ];
}

/** What a feature does when patched by itself, where the run measured it. */
function exactOf(ranking: Ranking, site: SiteName, feature: number): FeatureCard["exact"] {
  if (ranking.exact === null) return null;
  const { split, pairs } = ranking.exact;
  const ranked = ranking.sites.find((of) => of.site === site)?.splits[split]?.top;
  const exact = ranked?.find((row) => row.feature === feature)?.exact ?? null;
  if (exact === null) return null;
  const { effect, first_order, secant } = exact;
  return { effect: rounded(effect), first_order: orNull(first_order), secant: orNull(secant), split, pairs };
}

const orNull = (value: number | null, digits?: number) => (value === null ? null : rounded(value, digits));

function activationsOf({ tokens, active, max, histogram }: FeatureCard["activations"]): FeatureCard["activations"] {
  return { tokens, active, max: rounded(max), histogram };
}

function logitsOf(
  { token, logit }: { readonly token: readonly number[]; readonly logit: readonly number[] },
  tokens: Places<number, string>,
) {
  return { token: token.map((id) => tokens.of(id)), logit: logit.map((value) => rounded(value, 3)) };
}

function corpusOf(
  { active, max, bin_width, bins, top_tokens, top_rows, contexts }: EvidenceRow,
  about: EvidenceAbout,
  tokens: Places<number, string>,
): FeatureCard["corpus"] {
  return {
    tokens: about.tokens,
    active,
    max: rounded(max),
    histogram: bin_width === null ? null : { width: bin_width, counts: [...bins] },
    top_tokens: { token: top_tokens.map((id) => tokens.of(id)), rows: [...top_rows] },
    contexts: contexts.map(({ top, tokens: ids, codes }) => ({
      tokens: ids.map((id) => tokens.of(id)),
      top,
      codes: codes.map((code) => rounded(code, 3)),
    })),
  };
}

/** The evidence of a corpus for the sites that have it. What does not belong to the SAE or the model, or cannot be read, is told and left out. */
async function evidenceOf(
  { evidence: folder, dictionaries, model, identityOf }: CardsInput,
  bySite: ReadonlyMap<SiteName, readonly number[]>,
  database: Database,
  tell: (line: string) => void,
) {
  const found = new Map<SiteName, { readonly about: EvidenceAbout; readonly rows: ReadonlyMap<number, EvidenceRow> }>();
  if (folder === null) return found;
  const others: SiteName[] = [];
  for (const [site, features] of bySite) {
    try {
      const about = await readEvidenceAbout(folder, site);
      if (about === null) continue;
      const isSame = about.sae.sha256 === (await identityOf(dictionaries.get(site)!)) && about.model.sha256 === model;
      if (isSame) found.set(site, { about, rows: await readEvidence(folder, site, features, database) });
      else others.push(site);
    } catch (error) {
      if (error instanceof StoppedError) throw error;
      tell(`Contexts of ${site} are left out: ${messageOf(error)}`);
    }
  }
  if (others.length > 0) {
    tell(
      `Contexts in ${folder} are of another SAE or model at ${others.join(", ")} and left out. Make them again with sfc contexts --force.`,
    );
  }
  return found;
}

/** Different values, each with its place in a list of what is made of it. */
class Places<T, Made> {
  readonly values: Made[] = [];
  readonly #places = new Map<T, number>();
  readonly #make: (value: T) => Made;

  constructor(make: (value: T) => Made) {
    this.#make = make;
  }

  of(value: T): number {
    const known = this.#places.get(value);
    if (known !== undefined) return known;
    this.#places.set(value, this.values.length);
    return this.values.push(this.#make(value)) - 1;
  }
}

/** Prompts of a forest by its backward nodes: a node stands for the pairs that pass through it, of which one is shown. */
class Prompts {
  readonly found: FeatureCards["prompts"][number][] = [];
  readonly #backward: BackwardNodes;
  /** The end of one pair that passes through each node. */
  readonly #end: Int32Array;
  readonly #places = new Map<number, number>();
  readonly #tokens: Places<number, string>;

  constructor({ backward, endNodeOfPair }: PrefixForest, tokens: Places<number, string>) {
    this.#backward = backward;
    this.#tokens = tokens;
    this.#end = new Int32Array(backward.size).fill(-1);
    for (const end of endNodeOfPair) {
      for (let at = end; at >= 0 && this.#end[at]! < 0; at = backward.parent[at]!) this.#end[at] = end;
    }
  }

  /** The nodes of the whole prompt that is shown for a node. */
  path(node: number): number[] {
    const path: number[] = [];
    for (let at = this.#end[node]!; at >= 0; at = this.#backward.parent[at]!) path.push(at);
    return path.reverse();
  }

  /** The place of the prompt that is shown for a node. */
  through(node: number): number {
    const end = this.#end[node]!;
    const known = this.#places.get(end);
    if (known !== undefined) return known;
    const { token, patchToken, group, groups } = this.#backward;
    const path = this.path(node);
    const { split, case: name } = groups[group[end]!]!;
    this.#places.set(end, this.found.length);
    return (
      this.found.push({
        split,
        case: name,
        clean: path.map((at) => this.#tokens.of(token[at]!)),
        patch: path.map((at) => (patchToken[at] === token[at] ? null : this.#tokens.of(patchToken[at]!))),
      }) - 1
    );
  }
}
