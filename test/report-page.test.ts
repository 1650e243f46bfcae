import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ablationSchema, type ReportData } from "../src/report/data.ts";
import { reportPage } from "../src/report/page.ts";
import { sampleReport } from "../web/sample.ts";

const seed = 7;
const opening = '<script type="application/json" id="sfc-report">';

describe("reportPage", () => {
  const template = `<body>${opening}</script></body>`;
  const data = sampleReport(seed);
  const json = (page: string) => page.slice(page.indexOf(opening) + opening.length, page.indexOf("</script>"));

  test("puts the data into the template, and it reads back unchanged", () => {
    const page = reportPage(template, data);
    expect(JSON.parse(json(page))).toEqual(JSON.parse(JSON.stringify(data)));
  });

  test("lets no text of a token end the script element, and keeps dollar signs", () => {
    const name = "</script><b>$&$1<!--";
    const page = reportPage(template, { ...data, run: { ...data.run, task: name } });
    expect(json(page)).not.toContain("<");
    expect((JSON.parse(json(page)) as ReportData).run.task).toBe(name);
    expect(page.endsWith("</script></body>")).toBe(true);
  });

  test("refuses a template without a place for the data, or with two", () => {
    expect(() => reportPage("<body></body>", data)).toThrow("one empty");
    expect(() => reportPage(template + template, data)).toThrow("one empty");
  });

  test("a sample has the ablation's own schema", () => {
    expect(ablationSchema.parse(data.meaning)).toEqual(data.meaning);
  });
});

// The package brings the libraries and fonts that a bare machine lacks. It unpacks the libraries when told that it is on Amazon Linux, and its own
// fonts.conf looks in /tmp only: a page without any font crashes.
const folder = mkdtempSync(join(tmpdir(), "sfc-report-"));
const launched = await launch();
if (typeof launched === "string") console.warn(`The report's browser tests are skipped: ${launched}`);

async function launch(): Promise<Browser | string> {
  const before = { ...process.env };
  writeFileSync(
    join(folder, "fonts.conf"),
    `<fontconfig><dir>${folder}/fonts</dir><cachedir>${folder}/fonts-cache</cachedir></fontconfig>`,
  );
  Object.assign(process.env, { TMPDIR: folder, FONTCONFIG_PATH: folder, AWS_LAMBDA_JS_RUNTIME: "nodejs20.x" });
  const args = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"];
  try {
    const { default: packaged } = await import("@sparticuz/chromium");
    return await chromium.launch({ executablePath: await packaged.executablePath(), args });
  } catch (first) {
    const systems = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
    for (const executablePath of systems) {
      const browser = await chromium.launch({ executablePath, args }).catch(() => null);
      if (browser !== null) return browser;
    }
    return `no browser starts here (${String(first).split("\n")[0]})`;
  } finally {
    for (const name of ["TMPDIR", "AWS_LAMBDA_JS_RUNTIME", "LD_LIBRARY_PATH", "FONTCONFIG_PATH", "HOME"]) {
      if (before[name] === undefined) delete process.env[name];
      else process.env[name] = before[name];
    }
  }
}

afterAll(async () => {
  if (typeof launched !== "string") await launched.close();
  rmSync(folder, { recursive: true, force: true });
});

describe.skipIf(typeof launched === "string")("the page", () => {
  const browser = launched as Browser;
  let template = "";

  beforeAll(() => {
    const outDir = join(folder, "web");
    const [vite, config] = ["../node_modules/vite/bin/vite.js", "../web/vite.config.ts"].map((path) =>
      fileURLToPath(new URL(path, import.meta.url)),
    ) as [string, string];
    // A process of its own, because Vitest's NODE_ENV would make it a page for development.
    const env = { ...process.env, NODE_ENV: "production" };
    execFileSync(process.execPath, [vite, "build", "--config", config, "--outDir", outDir, "--logLevel", "warn"], {
      env,
    });
    template = readFileSync(join(outDir, "report.html"), "utf8");
  });

  /** Opens a report from disk; collects what goes wrong and what is asked of the network. */
  async function open(data: ReportData, { width = 1366, scheme = "light" as "light" | "dark", hash = "" } = {}) {
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
  }

  test("is one file that names no other", () => {
    expect(template).not.toMatch(/<(script|link|img)[^>]* (src|href)="(?!data:)/);
    expect(template).toContain("default-src 'none'");
  });

  for (const width of [390, 1366]) {
    for (const scheme of ["light", "dark"] as const) {
      test(`at ${width} pixels in ${scheme}: no errors, no requests, no sideways scrolling, readable text`, async () => {
        const { page, problems } = await open(sampleReport(seed), { width, scheme });
        expect(problems).toEqual([]);
        expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width);
        expect(await lowContrast(page)).toEqual([]);
        await page.close();
      });
    }
  }

  test("has a heading for every part, in order, and every link of its contents leads to one", async () => {
    const { page } = await open(sampleReport(seed));
    expect(await page.locator("h1").allTextContents()).toEqual(["The features behind agreement in demo"]);
    expect(await page.locator(".part > h2").allTextContents()).toEqual([
      "Does the model do it?",
      "Where in the model?",
      "Which features?",
      "Do they hold on new prompts?",
      "At which token?",
      "What drives them?",
      "What do they mean?",
      "Do the numbers hold?",
      "What was run",
    ]);
    const missing = await page.evaluate(() =>
      [...document.querySelectorAll<HTMLAnchorElement>("nav a")]
        .filter((a) => document.querySelector(a.hash) === null)
        .map((a) => a.hash),
    );
    expect(missing).toEqual([]);
    await page.close();
  });

  test("shows the numbers of the data: accuracy, and the top feature of a site in the chosen split and case", async () => {
    const data = sampleReport(seed);
    const { page } = await open(data);
    const row = data.accuracy.find((a) => a.split === "test" && a.case === "across_rc/plural_singular")!;
    const cells = await page.locator("#accuracy tbody tr", { hasText: row.case }).locator("td").allTextContents();
    expect(cells[5]).toBe(row.accuracy === 1 ? "100 %" : `${(100 * row.accuracy).toFixed(1)} %`);

    const chosen = { site: "mlp_out.2", split: "test", case: "nounpp/plural_singular" };
    await page.locator("#features").getByText("mlp_out", { exact: true }).click();
    await page.locator("#features").getByText("test", { exact: true }).click();
    await page.locator("#features select").selectOption(chosen.case);
    const group = data.features.find(
      (g) => g.site === chosen.site && g.split === chosen.split && g.case === chosen.case,
    )!;
    const first = page.locator("#features table", { hasText: chosen.site }).locator("tbody tr").first();
    expect(await first.locator("th").textContent()).toBe(String(group.feature[0]));
    const shown = Number((await first.locator("td").last().textContent())!.replace("−", "-"));
    expect(Math.abs(shown - group.effect[0]!)).toBeLessThan(0.006 * Math.abs(group.effect[0]!));
    await page.close();
  });

  test("a bar lies on the side of its sign", async () => {
    const { page } = await open(sampleReport(seed));
    const wrong = await page.locator("#features tbody tr").evaluateAll((rows) =>
      rows.filter((row) => {
        const zero = row.querySelector(".zero")!.getBoundingClientRect().left;
        const bar = row.querySelector(".positive, .negative")!.getBoundingClientRect();
        const negative = row.lastElementChild!.textContent!.startsWith("−");
        return negative ? bar.right > zero + 1 : bar.left < zero - 1;
      }),
    );
    expect(wrong).toHaveLength(0);
    await page.close();
  });

  test("a feature's address opens what drives it, and marks the token", async () => {
    const data = sampleReport(seed);
    const row = data.drivers.find((d) => d.site === "mlp_out.3")!;
    const { page } = await open(data, { hash: `#drivers/${row.site}/${row.feature}` });
    const details = page.locator("#drivers details[open]");
    await details.first().waitFor();
    expect(await details.locator("summary b").allTextContents()).toEqual([`${row.site}/${row.feature}`]);
    const marks = await details
      .locator("mark")
      .evaluateAll((marks) => marks.map((m) => m.querySelector("ruby")?.firstChild?.textContent ?? m.textContent));
    expect(marks).toEqual(row.contexts.map((c) => c.prompt.clean[c.position]!.trim()));
    await page.close();
  });

  test("controls work from the keyboard, and the theme can be chosen", async () => {
    const { page } = await open(sampleReport(seed));
    const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await paper();
    await page.locator(".top input").first().focus();
    await page.keyboard.press("ArrowRight");
    expect(await paper()).toBe(light);
    await page.keyboard.press("ArrowRight");
    expect(await paper()).not.toBe(light);
    await page.close();
  });

  test("text of a token that looks like markup stays text", async () => {
    const data = sampleReport(seed);
    const bad = " </script><b>";
    const examples = data.examples.map((e) => ({
      ...e,
      prompt: { ...e.prompt, clean: e.prompt.clean.map((t, i) => (i === 1 ? bad : t)) },
    }));
    const { page, problems } = await open({ ...data, examples });
    expect(problems).toEqual([]);
    expect(await page.locator("#prompts thead th").nth(2).textContent()).toBe(bad.trim());
    await page.close();
  });

  test("says what is missing, and warns loudly of dummy dictionaries and failed checks", async () => {
    const full = sampleReport(seed);
    const train = <T extends { split: string }>(rows: readonly T[]) => rows.filter((row) => row.split === "train");
    const data: ReportData = {
      ...full,
      run: { ...full.run, score: "gradient", dictionaries: { name: "dummy", dummy: true, sha256: null } },
      warnings: ["The run has one split only."],
      accuracy: train(full.accuracy).map((row) => ({ ...row, accuracy: 0.61, patchMean: null })),
      checks: full.checks.map((check, i) => (i === 0 ? { ...check, gap: check.scale, passed: false } : check)),
      importance: train(full.importance).map((row) => ({ ...row, errorShare: null })),
      features: train(full.features).map((row) => ({ ...row, error: null })),
      agreement: [],
      examples: [],
      drivers: [],
      meaning: null,
    };
    for (const scheme of ["light", "dark"] as const) {
      const { page, problems } = await open(data, { width: 390, scheme });
      expect(problems).toEqual([]);
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(390);
      expect(await lowContrast(page)).toEqual([]);
      expect(await page.getByRole("alert").textContent()).toContain("Dummy dictionaries");
      expect(await page.locator(".warnings li").allTextContents()).toEqual(data.warnings);
      for (const part of ["accuracy", "agreement", "prompts", "drivers", "meaning"]) {
        expect(await page.locator(`#${part} .empty`).count(), part).toBe(1);
      }
      expect(await page.locator("#checks details[open] .verdict").allTextContents()).toEqual(["failed"]);
      await page.close();
    }
  });

  test("says that a run is not complete", async () => {
    const full = sampleReport(seed);
    const { page } = await open({ ...full, run: { ...full.run, status: "running" } });
    expect(await page.locator(".warnings li").allTextContents()).toEqual([
      "This run is not complete (running); the numbers may change when it is.",
    ]);
    await page.close();
  });

  test("a run without anything in it is drawn too", async () => {
    const full = sampleReport(seed);
    const nothing = {
      warnings: [],
      accuracy: [],
      checks: [],
      importance: [],
      features: [],
      agreement: [],
      examples: [],
      drivers: [],
    };
    const { page, problems } = await open({ ...full, ...nothing, meaning: null });
    expect(problems).toEqual([]);
    expect(await page.locator(".part > h2").count()).toBe(9);
    await page.close();
  });
});

/**
 * Texts whose contrast with what is painted behind them is under 4.5 : 1 (WCAG 2.2, 1.4.3), with the contrast. Colours are read back from a
 * canvas, so every notation counts; backgrounds are those of the element and its ancestors, and of a bar that lies under the text.
 */
function lowContrast(page: Page): Promise<string[]> {
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
