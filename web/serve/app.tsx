import { ThemeChoice } from "../theme.tsx";
import { FolderView } from "./folder.tsx";
import { placeLink, usePlace } from "./place.ts";

const views = [["runs", "Runs"]] as const;

/** The page of `sfc serve`: a bar with its views, and the one that the address names. */
export function App() {
  const { view } = usePlace();
  const shown = views.some(([name]) => name === view) ? view : "runs";
  return (
    <>
      <a class="skip" href="#main">
        Skip to the content
      </a>
      <div class="top">
        <nav aria-label="Views">
          {views.map(([name, title]) => (
            <a key={name} href={placeLink(name)} aria-current={name === shown ? "page" : undefined}>
              {title}
            </a>
          ))}
        </nav>
        <ThemeChoice />
      </div>
      <main id="main" class="serve">
        <FolderView />
      </main>
    </>
  );
}
