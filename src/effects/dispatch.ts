import type { Wanted } from "../forest/packs.ts";
import type { SiteName } from "../site.ts";
import { analyticMethod } from "./analytic.ts";
import { exactMethod } from "./exact.ts";
import { analyticIgMethod, sfcIgMethod } from "./integrated.ts";
import { isIntegrated, type Method, type MethodInput, type MethodName, type SiteEffects } from "./method.ts";
import { sitesToContinueFrom } from "./rest.ts";
import { secantMethod, sitesOfSecant } from "./secant.ts";
import { sfcMethod, splicedMethod } from "./spliced.ts";

/** At which prefixes a method wants activations of the plain model. */
export function wantedBy(method: MethodName): Wanted {
  return isIntegrated(method) || method === "exact" || method === "secant" ? "both" : "changed";
}

/** What a method wants of the plain model: activations at which prefixes, and at which sites besides those of the dictionaries. */
export function needsOf(
  method: MethodName,
  sites: readonly SiteName[],
  layers: number,
): { wanted: Wanted; sites: readonly SiteName[] } {
  const wanted = wantedBy(method);
  if (method === "secant") return { wanted, sites: sitesOfSecant(sites, layers) };
  return { wanted, sites: wanted === "both" ? sitesToContinueFrom(sites) : sites };
}

/** Whether a method computes the effects of each site by itself: with the others all sites share the work, or depend on one another. */
export function isBySite(method: MethodName): boolean {
  return method === "analytic" || method === "exact" || isIntegrated(method);
}

/** The effects of every site by a method; all methods give the same rows (see `EffectRows`). */
export function effectsOf(method: MethodName, given: MethodInput): AsyncGenerator<SiteEffects> {
  return methods[method](given);
}

const methods: Readonly<Record<MethodName, Method>> = {
  analytic: analyticMethod,
  "analytic-ig": analyticIgMethod,
  sfc: sfcMethod,
  "sfc-ig": sfcIgMethod,
  spliced: splicedMethod,
  secant: secantMethod,
  exact: exactMethod,
};
