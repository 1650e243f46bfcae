import { useEffect, useState } from "preact/hooks";

/** A view, and what it shows: `#run/outputs%2Fa` is the view `run` of "outputs/a". */
export interface Place {
  readonly view: string;
  readonly of: readonly string[];
}

/** The address inside the page of a view. */
export const placeLink = (view: string, ...of: readonly string[]) =>
  `#${[view, ...of.map(encodeURIComponent)].join("/")}`;

function placeOf(hash: string): Place {
  const [view = "", ...of] = hash.replace(/^#/, "").split("/");
  return { view, of: of.map(decodeURIComponent) };
}

/** The view that the address names, followed as it changes. */
export function usePlace(): Place {
  const [place, setPlace] = useState(() => placeOf(location.hash));
  useEffect(() => {
    const follow = () => {
      setPlace(placeOf(location.hash));
      scrollTo(0, 0);
    };
    addEventListener("hashchange", follow);
    // It may have changed before anyone listened.
    setPlace(placeOf(location.hash));
    return () => removeEventListener("hashchange", follow);
  }, []);
  return place;
}
