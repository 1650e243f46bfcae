import { largestGap, shareOf } from "../analysis/parity.ts";
import { type Check, check } from "../circuit/checks.ts";
import type { MethodName } from "../effects/method.ts";
import { UserError } from "../errors.ts";
import type { SiteName } from "../site.ts";
import type { LiveFound } from "./effects.ts";
import type { TypedPair } from "./questions.ts";

/** More features than a site has. */
export const allFeatures = 2 ** 31 - 1;

/** Effects of a pair, all features of all sites, with which a device's are compared. */
export interface EffectsReference {
  readonly pair: TypedPair;
  readonly method: MethodName;
  readonly sites: readonly {
    readonly site: SiteName;
    /** In logits; null where the method has none. */
    readonly error: number | null;
    readonly features: readonly number[];
    /** effects[i] of features[i], in logits. */
    readonly effects: readonly number[];
  }[];
}

/** Effects that were found, as a reference. */
export function effectsReference(pair: TypedPair, method: MethodName, { sites }: LiveFound): EffectsReference {
  return {
    pair,
    method,
    sites: sites.map(({ site, error, features }) => ({
      site,
      error,
      features: features.map(({ feature }) => feature),
      effects: features.map(({ effect }) => effect),
    })),
  };
}

/**
 * Compares the effects that a device found with a reference: the largest |difference| at the site where it is worst, against the site's largest
 * |effect|. Features that either side lacks have no effect there.
 *
 * @param tolerance share of the largest effect by which others may differ
 * @throws UserError if the sites are not those of the reference
 */
export function compareEffects(found: LiveFound, reference: EffectsReference, tolerance: number): Check {
  const name = "effects equal those of the CPU in float64";
  const gaps = reference.sites.map(({ site, error, features, effects }) => {
    const own = found.sites.find((one) => one.site === site);
    if (!own) throw new UserError(`effects: expected some at ${site}, got none. Build the site again.`);
    const bySite = new Map(own.features.map(({ feature, effect }) => [feature, effect]));
    const expected = new Map(features.map((feature, i) => [feature, effects[i]!]));
    const all = [...new Set([...bySite.keys(), ...expected.keys()])];
    const of = (map: ReadonlyMap<number, number>, error: number | null) => [
      ...all.map((feature) => map.get(feature) ?? 0),
      error ?? 0,
    ];
    return { site, ...largestGap(of(bySite, own.error), of(expected, error)) };
  });
  const worst = gaps.reduce((a, b) => (shareOf(b) > shareOf(a) ? b : a));
  return check(name, worst.site, worst.gap, worst.scale, tolerance);
}
