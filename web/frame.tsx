import type { ComponentChildren } from "preact";
import { ThemeChoice } from "./theme.tsx";

/** What every page has around its parts: the bar with the sections, a search and the theme, and a way past it for the keyboard. */
export function Frame(props: {
  /** Anchor and title of every section, in order. */
  contents: readonly (readonly [id: string, title: string])[];
  search?: ComponentChildren;
  /** What stands beside the parts. */
  beside?: ComponentChildren;
  children: ComponentChildren;
}) {
  return (
    <>
      <a class="skip" href={`#${props.contents[0]?.[0]}`}>
        Skip to the results
      </a>
      <div class="top">
        <nav aria-label="Sections">
          {props.contents.map(([id, title]) => (
            <a key={id} href={`#${id}`}>
              {title}
            </a>
          ))}
        </nav>
        {props.search}
        <ThemeChoice />
      </div>
      <main>{props.children}</main>
      {props.beside}
    </>
  );
}
