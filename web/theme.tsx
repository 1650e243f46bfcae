import { useState } from "preact/hooks";
import { Choice } from "./controls.tsx";

const themes = ["auto", "light", "dark"] as const;
type Theme = (typeof themes)[number];

/** Light, dark, or as the system has it; kept for the next report that is opened from the same place. */
export function ThemeChoice() {
  const [theme, setTheme] = useState<Theme>(() => {
    const start = themes.find((t) => t === remembered()) ?? "auto";
    apply(start);
    return start;
  });
  const change = (next: Theme) => {
    apply(next);
    remember(next);
    setTheme(next);
  };
  return <Choice label="Theme" values={themes} value={theme} onChange={change} />;
}

function apply(theme: Theme): void {
  document.documentElement.style.colorScheme = theme === "auto" ? "light dark" : theme;
}

// A file opened from disk may be refused any storage.
function remembered(): string | null {
  try {
    return localStorage.getItem("sfc-theme");
  } catch {
    return null;
  }
}

function remember(theme: Theme): void {
  try {
    localStorage.setItem("sfc-theme", theme);
  } catch {}
}
