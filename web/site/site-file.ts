import type { Site } from "./messages.ts";

/** What the site holds. @throws Error with one line if it cannot be read */
export async function readSite(): Promise<Site> {
  const address = new URL("site.json", document.baseURI);
  const response = await fetch(address, { cache: "no-cache" }).catch(() => null);
  if (response?.ok) return (await response.json()) as Site;
  const got = response === null ? "no answer" : `status ${response.status}`;
  throw new Error(`site.json: expected what the site holds, got ${got}. Reload the page, or build the site again.`);
}
