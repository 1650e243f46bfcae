import type { CardSite, FeatureCard, FeatureCards } from "../src/report/cards.ts";
import type { FeatureDrivers, ReportData, TopFeatures } from "../src/report/data.ts";

/** A feature of a site. */
export interface FeatureName {
  readonly site: string;
  readonly feature: number;
}

/** What a report tells of one feature, from all its parts. */
export interface KnownFeature extends FeatureName {
  readonly name: string;
  readonly card: FeatureCard | null;
  readonly cardSite: CardSite | null;
  /** The groups of `features` that list it, with its place in each. */
  readonly groups: readonly { readonly group: TopFeatures; readonly at: number }[];
  readonly drivers: FeatureDrivers | null;
  /** What it stands for, where that was measured. */
  readonly fires: NonNullable<ReportData["meaning"]>["features"][number] | null;
  /** Ablations that it took part in. */
  readonly ablations: NonNullable<ReportData["meaning"]>["ablations"];
}

/** Every feature that a report names, with all it tells of each. */
export class Known {
  readonly data: ReportData;
  /** `site/feature` of all, the strongest first. */
  readonly names: readonly string[];
  readonly #cards: ReadonlyMap<string, FeatureCard>;
  readonly #features: ReadonlyMap<string, FeatureName>;

  constructor(data: ReportData) {
    this.data = data;
    const found = new Map<string, FeatureName & { effect: number }>();
    const add = (site: string, feature: number, effect = 0) => {
      const name = `${site}/${feature}`;
      const size = Math.abs(effect);
      if (size >= (found.get(name)?.effect ?? -1)) found.set(name, { site, feature, effect: size });
    };
    this.#cards = new Map(data.cards?.cards.map((card) => [`${card.site}/${card.feature}`, card]));
    for (const { site, feature, effect } of data.features) {
      for (const [i, f] of feature.entries()) add(site, f, effect[i]);
    }
    for (const { site, feature, train, test } of data.agreement) {
      for (const [i, f] of feature.entries()) add(site, f, Math.max(Math.abs(train[i] ?? 0), Math.abs(test[i] ?? 0)));
    }
    for (const { site, feature, effect } of data.drivers) add(site, feature, effect);
    for (const { site, feature, effect } of data.meaning?.features ?? []) add(site, feature, effect);
    for (const { site, feature, effect } of data.circuit?.nodes ?? []) {
      if (site !== undefined && feature !== undefined) add(site, feature, effect);
    }
    for (const { site, feature, effects } of this.#cards.values()) add(site, feature, effects[0]?.effect);
    this.#features = found;
    this.names = [...found].sort(([, a], [, b]) => b.effect - a.effect).map(([name]) => name);
  }

  has(name: string): boolean {
    return this.#features.has(name);
  }

  /** The features that a text asks for, the strongest first: `1035`, `resid_post.2/1035`, or a part of it. */
  search(text: string): string[] {
    const asked = text.trim().toLowerCase();
    if (asked === "") return [];
    const exact = this.names.filter((name) => name === asked || name.endsWith(`/${asked}`));
    return exact.length > 0 ? exact : this.names.filter((name) => name.toLowerCase().includes(asked));
  }

  /** What is told of a feature; null where the report does not name it. */
  of({ site, feature }: FeatureName): KnownFeature | null {
    const { data } = this;
    const name = `${site}/${feature}`;
    if (!this.has(name)) return null;
    return {
      site,
      feature,
      name,
      card: this.#cards.get(name) ?? null,
      cardSite: data.cards?.sites.find((one) => one.site === site) ?? null,
      groups: data.features.flatMap((group) => {
        const at = group.site === site ? group.feature.indexOf(feature) : -1;
        return at < 0 ? [] : [{ group, at }];
      }),
      drivers: data.drivers.find((row) => row.site === site && row.feature === feature) ?? null,
      fires: data.meaning?.features.find((row) => row.site === site && row.feature === feature) ?? null,
      ablations: data.meaning?.ablations.filter(({ features }) => features.includes(name)) ?? [],
    };
  }
}

/** Texts of tokens by their place. */
export const tokensOf = ({ tokens }: FeatureCards, places: readonly number[]) => places.map((at) => tokens[at] ?? "");
