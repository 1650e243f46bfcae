import { ThemeChoice } from "../theme.tsx";
import { CompareView } from "./compare.tsx";
import { FolderView } from "./folder.tsx";
import { LiveView } from "./live.tsx";
import { placeLink, usePlace } from "./place.ts";
import { RowsView } from "./rows.tsx";
import { WorkView } from "./work.tsx";

const views = [
  ["runs", "Runs"],
  ["compare", "Compare"],
  ["live", "Live"],
  ["work", "Work"],
] as const;

/** The page of `sfc serve`: a bar with its views, and the one that the address names. */
export function App() {
  const { view, of } = usePlace();
  const bar = view === "rows" ? "runs" : view || "runs";
  return (
    <>
      <a class="skip" href="#main">
        Skip to the content
      </a>
      <div class="top">
        <nav aria-label="Views">
          {views.map(([name, title]) => (
            <a key={name} href={placeLink(name)} aria-current={name === bar ? "page" : undefined}>
              {title}
            </a>
          ))}
        </nav>
        <ThemeChoice />
      </div>
      <main id="main" class="serve">
        {viewOf(view, of)}
      </main>
    </>
  );
}

function viewOf(view: string, of: readonly string[]) {
  switch (view) {
    case "rows":
      return <RowsView key={of[0]} run={of[0] ?? "."} />;
    case "compare":
      return <CompareView of={of} />;
    case "work":
      return <WorkView />;
    case "live":
      return <LiveView />;
    default:
      return <FolderView />;
  }
}
