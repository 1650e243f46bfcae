/** A feature of a site. */
export interface FeatureName {
  readonly site: string;
  readonly feature: number;
}

/** The address inside the page that shows what drives a feature, e.g. `#drivers/resid_post.3/41`. */
export function linkTo({ site, feature }: FeatureName): string {
  return `#drivers/${site}/${feature}`;
}

/** The feature that such an address names; null for any other address. */
export function featureOf(hash: string): FeatureName | null {
  const match = /^#drivers\/([^/]+)\/(\d+)$/.exec(hash);
  return match === null ? null : { site: match[1] as string, feature: Number(match[2]) };
}
