import { unbroken } from "../../src/report/format.ts";
import { siteKinds } from "../../src/site.ts";
import { linkTo } from "../selection.tsx";

const feature = new RegExp(`((?:${siteKinds.join("|")})(?:\\.\\d+)?)/(\\d+)`, "g");

/** A text in which every feature, written `site/feature`, leads to its card, and numbers keep their units on their line. */
export function Named({ text }: { text: string }) {
  const parts: preact.ComponentChildren[] = [];
  let end = 0;
  for (const match of text.matchAll(feature)) {
    parts.push(unbroken(text.slice(end, match.index)));
    parts.push(<a href={linkTo({ site: match[1]!, feature: Number(match[2]) })}>{match[0]}</a>);
    end = match.index + match[0].length;
  }
  return (
    <>
      {parts}
      {unbroken(text.slice(end))}
    </>
  );
}
