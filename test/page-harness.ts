import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { Page } from "playwright-core";
import { type PageData, reportPage } from "../src/report/page.ts";
import { startBrowser } from "./browser.ts";

/** The built page in a browser without a window. */
export interface PageHarness {
  /** The page without data. */
  readonly template: string;
  /** Opens the page of these data from disk; `problems` collects what goes wrong and what is asked of the network. */
  open(data: PageData, look?: Look): Promise<{ page: Page; problems: string[] }>;
  close(): Promise<void>;
}

export interface Look {
  readonly width?: number;
  readonly scheme?: "light" | "dark";
  readonly hash?: string;
}

/** Builds the page and starts a browser; null, with a warning, where no browser starts. */
export async function pageHarness(): Promise<PageHarness | null> {
  const started = await startBrowser();
  if (started === null) return null;
  const { browser, folder, close } = started;
  const template = builtPage(join(folder, "web"));
  return {
    template,
    async open(data, { width = 1366, scheme = "light", hash = "" } = {}) {
      const file = join(folder, "report.html");
      writeFileSync(file, reportPage(template, data));
      const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme: scheme });
      const problems: string[] = [];
      page.on("console", (message) => {
        if (["error", "warning"].includes(message.type())) problems.push(message.text());
      });
      page.on("pageerror", (error) => problems.push(error.message));
      const address = pathToFileURL(file).href;
      page.on("request", (request) => {
        if (!request.url().startsWith(address) && !request.url().startsWith("data:")) problems.push(request.url());
      });
      await page.goto(address + hash);
      await page.waitForSelector("#run");
      await page.waitForFunction(() =>
        [...document.querySelectorAll(".chart")].every((c) => c.firstElementChild !== null),
      );
      return { page, problems };
    },
    close,
  };
}

function builtPage(outDir: string): string {
  const [vite, config] = ["../node_modules/vite/bin/vite.js", "../web/vite.config.ts"].map((path) =>
    fileURLToPath(new URL(path, import.meta.url)),
  ) as [string, string];
  // A process of its own, because Vitest's NODE_ENV would make it a page for development.
  const env = { ...process.env, NODE_ENV: "production" };
  execFileSync(process.execPath, [vite, "build", "--config", config, "--outDir", outDir, "--logLevel", "warn"], {
    env,
  });
  return readFileSync(join(outDir, "report.html"), "utf8");
}

/**
 * Texts whose contrast with what is painted behind them is under 4.5 : 1 (WCAG 2.2, 1.4.3), with the contrast. Colours are read back from a
 * canvas, so every notation counts; backgrounds are those of the element and its ancestors, and of a bar that lies under the text.
 */
export function lowContrast(page: Page): Promise<string[]> {
  return page.evaluate(() => {
    const context = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", {
      willReadFrequently: true,
    })!;
    const over = (colours: string[]) => {
      context.clearRect(0, 0, 1, 1);
      for (const colour of colours) {
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
      }
      return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const luminance = (rgb: number[]) =>
      rgb
        .map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i]!, 0);
    const found = new Set<string>();
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = texts.nextNode(); node; node = texts.nextNode()) {
      const element = node.parentElement!;
      if (node.textContent!.trim() === "" || element.closest("script, style, option, .unseen, .skip")) continue;
      if (element.getClientRects().length === 0) continue;
      const behind: string[] = [];
      for (let at: Element | null = element; at; at = at.parentElement) {
        behind.unshift(getComputedStyle(at).backgroundColor);
        const fill = at.previousElementSibling;
        if (fill?.className === "fill") behind.unshift(getComputedStyle(fill).backgroundColor);
      }
      const style = getComputedStyle(element);
      const colour = element.closest("svg") ? style.fill : style.color;
      const [a, b] = [luminance(over([...behind, colour])), luminance(over(behind))];
      const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (contrast < 4.5)
        found.add(`${element.tagName}.${element.getAttribute("class") ?? ""}: ${contrast.toFixed(2)}`);
    }
    return [...found];
  });
}
