import { createContext } from "preact";
import { useContext, useEffect, useMemo, useState } from "preact/hooks";
import type { Split } from "../src/prompts/pairs.ts";
import { isSite, type SiteName } from "../src/site.ts";

/** What a reader looks at: one state for all parts of a page. Null where nothing was chosen; every part then starts with what it has. */
export interface Selection {
  readonly site: SiteName | null;
  /** Opens the card of this feature of `site`. */
  readonly feature: number | null;
  readonly split: Split | null;
  /** `""` is all cases together. */
  readonly case: string | null;
  /** Place of a prompt in the map of tokens, and of a token in it. */
  readonly prompt: number | null;
  readonly token: number | null;
  /** Id of a node of the circuit that is no feature. */
  readonly node: string | null;
  /** Features of a circuit whose worth is looked at. */
  readonly size: number | null;
}

export type Change = Partial<Selection>;

export const nothingSelected: Selection = {
  site: null,
  feature: null,
  split: null,
  case: null,
  prompt: null,
  token: null,
  node: null,
  size: null,
};

const names = Object.keys(nothingSelected) as (keyof Selection)[];
const wholes: readonly string[] = ["feature", "prompt", "token", "size"];

/** A selection, and the part of the page that it leads to. */
export interface Address {
  readonly section: string | null;
  readonly change: Change;
}

/** The address inside the page of a part and a change of the selection: `#features?site=resid_post.2&feature=1035`. */
export function linkTo(change: Change, section = ""): string {
  const fields = new URLSearchParams();
  for (const name of names) {
    const value = change[name];
    if (value !== undefined && value !== null) fields.set(name, String(value));
  }
  // Slashes and spaces are legible in an address's last part.
  const query = fields.toString().replaceAll("%2F", "/");
  return `#${section}${query === "" ? "" : `?${query}`}`;
}

/** Reads such an address; fields and sites that no page has are left out. */
export function readLink(hash: string): Address {
  const [section = "", query = ""] = hash.replace(/^#/, "").split("?");
  const change: Record<string, unknown> = {};
  for (const [name, text] of new URLSearchParams(query)) {
    if (!(names as string[]).includes(name)) continue;
    if (wholes.includes(name)) {
      if (/^\d+$/.test(text)) change[name] = Number(text);
    } else if (!(name === "site" && !isSite(text)) && !(name === "split" && text !== "train" && text !== "test")) {
      change[name] = text;
    }
  }
  return { section: section === "" ? null : section, change };
}

/** What the link inside the page that a click follows leads to: the browser does not follow it any more. Null for other clicks, as for a new tab. */
export function followed(event: MouseEvent): Address | null {
  const link = event.target instanceof Element ? event.target.closest("a") : null;
  const href = link?.getAttribute("href") ?? link?.getAttributeNS("http://www.w3.org/1999/xlink", "href");
  const plain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
  if (!href?.startsWith("#") || !plain) return null;
  event.preventDefault();
  return readLink(href);
}

/** A selection after a change. Another site or feature closes a card and a node that belonged to the one before. */
export function changed(selection: Selection, change: Change): Selection {
  const moves = change.site !== undefined || change.feature !== undefined;
  const other = moves && change.node === undefined ? { node: null } : {};
  const closes = change.site !== undefined && change.feature === undefined ? { feature: null } : {};
  const away = change.prompt !== undefined && change.token === undefined ? { token: null } : {};
  return { ...selection, ...other, ...closes, ...away, ...change };
}

/** The selection, and how a part of the page changes it. */
export interface Selected {
  readonly selection: Selection;
  /** @param section a part to go to */
  readonly select: (change: Change, section?: string) => void;
}

const Context = createContext<Selected>({ selection: nothingSelected, select: () => {} });

export const SelectionProvider = Context.Provider;

/** The page's selection. */
export const useSelection = (): Selected => useContext(Context);

/**
 * The selection of a page that keeps it in its address, so that a link, a reload and the back button restore it. Links inside the page change the
 * selection by what they name and keep the rest.
 */
export function useAddressSelection(): Selected {
  const [selection, setSelection] = useState<Selection>(() => ({
    ...nothingSelected,
    ...readLink(location.hash).change,
  }));
  const selected = useMemo((): Selected => {
    let now: Selection = { ...nothingSelected, ...readLink(location.hash).change };
    const select = (change: Change, section?: string) => {
      const before = now;
      now = changed(before, change);
      // In front of the address, which browsers refuse to change too often.
      setSelection(now);
      const at = readLink(location.hash).section ?? "";
      const address = linkTo(now, section ?? at);
      if (address !== location.hash) {
        // Steps from node to node are none to go back over.
        const isStep = (section ?? at) === at && names.every((name) => name === "node" || now[name] === before[name]);
        history[isStep ? "replaceState" : "pushState"](null, "", address === "#" ? location.pathname : address);
      }
      if (section !== undefined) goTo(section);
    };
    const restore = () => {
      const { section, change } = readLink(location.hash);
      now = { ...nothingSelected, ...change };
      setSelection(now);
      if (section !== null) goTo(section, "instant");
    };
    return Object.assign({ selection, select }, { restore });
  }, []);
  useEffect(() => {
    const { restore } = selected as Selected & { restore: () => void };
    const follow = (event: MouseEvent) => {
      const address = followed(event);
      if (address !== null) selected.select(address.change, address.section ?? undefined);
    };
    restore();
    document.addEventListener("click", follow);
    addEventListener("popstate", restore);
    addEventListener("hashchange", restore);
    return () => {
      document.removeEventListener("click", follow);
      removeEventListener("popstate", restore);
      removeEventListener("hashchange", restore);
    };
  }, [selected]);
  return useMemo(() => ({ selection, select: selected.select }), [selection, selected]);
}

/** Scrolls to a part once what was chosen is drawn, and moves the keyboard's place there. */
function goTo(section: string, behavior: ScrollBehavior = "auto"): void {
  requestAnimationFrame(() => {
    const part = document.getElementById(section);
    if (part === null) return;
    part.scrollIntoView({ behavior });
    part.querySelector<HTMLElement>("h2")?.focus({ preventScroll: true });
  });
}
