import type { Dictionary } from "../dictionaries/dictionary.ts";
import { UsageError } from "../errors.ts";
import type { Model } from "../models/model.ts";
import { compareSites, isSiteKind, type SiteName, siteKinds } from "../site.ts";
import type { Intervention } from "./intervene.ts";

/** Interventions as they are typed: features with commas between them, `resid_post.2/1035`, those that are scaled or set with a number, `resid_post.3/43=2.5`. */
export interface InterventionTexts {
  /** Features whose codes become 0. */
  readonly ablate?: readonly string[];
  /** Features whose codes are multiplied. */
  readonly scale?: readonly string[];
  /** Features whose codes become a value, active or not. */
  readonly set?: readonly string[];
}

const examples = { ablate: "resid_post.2/1035", scale: "resid_post.2/1035=0.5", set: "resid_post.3/43=2.5" } as const;

/**
 * The interventions that texts name, by site in order of computation.
 *
 * @throws UsageError in one line, naming the flag: where a text is not of the form, the model has no such site, no SAE is there, the SAE has no such
 *   feature, a feature is named twice, or none is
 */
export function readInterventions(
  texts: InterventionTexts,
  model: Pick<Model, "layers" | "sites">,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
): Intervention[] {
  const found: Intervention[] = [];
  const flagOf = new Map<string, string>();
  for (const kind of ["ablate", "scale", "set"] as const) {
    const flag = `--${kind}`;
    for (const text of (texts[kind] ?? []).flatMap((list) => list.split(",")).map((item) => item.trim())) {
      const { site, feature, number } = parsed(flag, text, examples[kind]);
      checkFeature(flag, site, feature, model, dictionaries);
      const name = `${site}/${feature}`;
      const before = flagOf.get(name);
      if (before !== undefined) {
        const twice = before === flag ? "twice" : `also with ${before}`;
        throw new UsageError(`${flag}: expected each feature once, got ${name} ${twice}. Leave one of them out.`);
      }
      flagOf.set(name, flag);
      found.push({ site, feature, factor: kind === "scale" ? number! : 0, value: kind === "set" ? number! : 0 });
    }
  }
  if (found.length === 0) {
    throw new UsageError(
      `interventions: expected at least one, got none. Name features, as --ablate ${examples.ablate}.`,
    );
  }
  return found.sort((a, b) => compareSites(a.site, b.site) || a.feature - b.feature);
}

/** The parts of a text. @throws UsageError */
function parsed(flag: string, text: string, example: string): { site: SiteName; feature: number; number?: number } {
  const [, site, feature, equals, number] = /^([^/=]*)\/([^/=]*)(=?)(.*)$/.exec(text) ?? [];
  const wantsNumber = example.includes("=");
  if (site === undefined || feature === undefined || !/^\d+$/.test(feature) || (equals === "=") !== wantsNumber) {
    const form = wantsNumber ? "features with a number each" : "features";
    throw new UsageError(`${flag}: expected ${form}, as ${example}, got "${text}". Put commas between them.`);
  }
  if (!wantsNumber) return { site, feature: Number(feature) };
  if (!/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(number!.trim()) || !Number.isFinite(Number(number))) {
    throw new UsageError(
      `${flag}: expected a number behind =, got "${number}" in "${text}". Write it as in ${example}.`,
    );
  }
  if (Math.abs(Number(number)) > largest) {
    throw new UsageError(
      `${flag}: expected a number of at most ${largest} in size, got ${number} in "${text}". The model's norms overflow beyond.`,
    );
  }
  return { site, feature: Number(feature), number: Number(number) };
}

/** Largest size of a code or factor: squares of larger ones do not fit into float32. */
const largest = 1e15;

/** @throws UsageError if the model has no such site, or there is no SAE, or no such feature */
function checkFeature(
  flag: string,
  site: SiteName,
  feature: number,
  { layers, sites }: Pick<Model, "layers" | "sites">,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
): void {
  const dictionary = dictionaries.get(site);
  if (!dictionary) {
    const there = [...dictionaries.keys()].join(", ");
    if (isSite(site, layers, sites)) {
      throw new UsageError(`${flag}: expected a site with an SAE, got ${site}. There are SAEs at ${there}.`);
    }
    const kinds = siteKinds.filter((kind) => sites[kind] !== undefined && kind !== "embed").join(", ");
    throw new UsageError(
      `${flag}: expected a site of the model, which are embed and ${kinds} with layers 0 to ${layers - 1}, got "${site}". There are SAEs at ${there}.`,
    );
  }
  const { featureCount } = dictionary;
  if (feature < featureCount) return;
  throw new UsageError(
    `${flag}: expected a feature from 0 to ${featureCount - 1}, got ${feature} at ${site}. Its SAE has ${featureCount}.`,
  );
}

function isSite(site: SiteName, layers: number, sites: Model["sites"]): boolean {
  if (site === "embed") return sites.embed !== undefined;
  const [kind, layer] = site.split(".");
  if (kind === undefined || layer === undefined || !isSiteKind(kind) || kind === "embed") return false;
  return sites[kind] !== undefined && /^\d+$/.test(layer) && Number(layer) < layers;
}
