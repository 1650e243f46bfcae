import type { SiteName } from "../site.ts";
import type { Features } from "./ablation.ts";

/** Scores of a site's features, whatever they are chosen by: mean effects per pair in logits, signed, mostly. */
export interface Scores {
  readonly features: ArrayLike<number>;
  readonly scores: ArrayLike<number>;
}

export type ScoresBySite = ReadonlyMap<SiteName, Scores>;

/** A feature with its score. */
export interface Scored {
  readonly site: SiteName;
  readonly feature: number;
  readonly score: number;
}

/** All features with a score, those of the largest |score| first; of equal ones the earlier site's, then the lower feature. */
export function rankScores(scores: ScoresBySite): Scored[] {
  return [...scores]
    .flatMap(([site, of]) => Array.from(of.features, (feature, i): Scored => ({ site, feature, score: of.scores[i]! })))
    .filter(({ score }) => score !== 0)
    .sort((a, b) => Math.abs(b.score) - Math.abs(a.score));
}

/** The n features of the largest |score|. */
export function chooseTop(scores: ScoresBySite, n: number): Features {
  // Large models have hundreds of thousands of scores: the nth largest is found among bare numbers, so that few have to be ranked.
  const count = [...scores.values()].reduce((sum, of) => sum + of.scores.length, 0);
  const sizes = new Float64Array(count);
  let at = 0;
  for (const { scores: of } of scores.values()) for (let i = 0; i < of.length; i++) sizes[at++] = Math.abs(of[i]!);
  const least = sizes.sort()[count - n] ?? 0;
  const large = [...scores].map(([site, of]): [SiteName, Scores] => {
    const kept = Array.from(of.scores, (_, i) => i).filter((i) => Math.abs(of.scores[i]!) >= least);
    return [site, { features: kept.map((i) => of.features[i]!), scores: kept.map((i) => of.scores[i]!) }];
  });
  return bySite(rankScores(new Map(large)).slice(0, n));
}

/** n features, in turns the largest of one list of scores and of the next. */
export function chooseStrongest(lists: readonly ScoresBySite[], n: number): Features {
  const ranked = lists.map(rankScores);
  const chosen = new Map<string, Scored>();
  for (let i = 0; chosen.size < n && ranked.some((list) => i < list.length); i++) {
    for (const list of ranked) {
      const one = list[i];
      if (one && chosen.size < n) chosen.set(`${one.site}/${one.feature}`, one);
    }
  }
  return bySite([...chosen.values()]);
}

/** Those whose |score| is at least a threshold. */
export function chooseAbove(scores: ScoresBySite, threshold: number): Features {
  return bySite(rankScores(scores).filter(({ score }) => Math.abs(score) >= threshold));
}

/**
 * n features such that every site is covered alike: within a site those of the largest |score| come first, and the next one is taken at the site of which
 * the smallest share of Σ|score| is taken.
 */
export function chooseCovering(scores: ScoresBySite, n: number): Features {
  const sites = [...scores.keys()].map((site) => {
    const ranked = rankScores(new Map([[site, scores.get(site)!]]));
    return { ranked, total: ranked.reduce((sum, { score }) => sum + Math.abs(score), 0), taken: 0, covered: 0 };
  });
  const chosen: Scored[] = [];
  while (chosen.length < n) {
    const open = sites.filter(({ ranked, taken }) => taken < ranked.length);
    if (open.length === 0) break;
    const next = open.reduce((a, b) => (b.covered / b.total < a.covered / a.total ? b : a));
    const feature = next.ranked[next.taken++]!;
    next.covered += Math.abs(feature.score);
    chosen.push(feature);
  }
  return bySite(chosen);
}

/** Features by site, ascending. */
export function bySite(list: readonly { readonly site: SiteName; readonly feature: number }[]): Features {
  const found = new Map<SiteName, number[]>();
  for (const { site, feature } of list) found.set(site, [...(found.get(site) ?? []), feature]);
  return new Map([...found].map(([site, features]) => [site, features.sort((a, b) => a - b)]));
}

/** How many features there are. */
export const sizeOf = (features: Features) => [...features.values()].reduce((sum, { length }) => sum + length, 0);
