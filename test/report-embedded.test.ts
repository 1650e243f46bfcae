import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ablationSchema } from "../src/circuit/meaning.ts";
import { type StartedBrowser, startBrowser } from "./browser.ts";
import { start } from "./cli-harness.ts";

const started = await startBrowser();
const parent = mkdtempSync(join(tmpdir(), "sfc-report-embedded-"));
const folder = join(parent, "run");

/** The report that `sfc run` writes of the embedded model, in a browser; few pairs, all sites of three layers. */
describe.skipIf(started === null)("the report of a run on the embedded model, in a browser", () => {
  const { browser, close } = started as StartedBrowser;
  beforeAll(async () => {
    const flags = ["--num_examples", "8", "--layers", "1-3", "--seed", "3", "--quiet"];
    const { code, stdout, stderr } = await start(["run", ...flags, "--output_dir", folder]).ended;
    expect(code, stderr).toBe(0);
    expect(stdout).toContain("Found:\n- ");
  }, 120_000);
  afterAll(async () => {
    await close();
    rmSync(parent, { recursive: true, force: true });
  });

  async function open(hash = "", width = 1440): Promise<{ page: Page; problems: string[] }> {
    const address = pathToFileURL(join(folder, "report.html")).href;
    const page = await browser.newPage({ viewport: { width, height: 900 } });
    const problems: string[] = [];
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) problems.push(message.text());
    });
    page.on("pageerror", (error) => problems.push(error.message));
    page.on("request", (request) => {
      if (!request.url().startsWith(address) && !request.url().startsWith("data:")) problems.push(request.url());
    });
    await page.goto(address + hash);
    await page.waitForSelector("#run");
    return { page, problems };
  }

  test("it is a small file, says what the run's files say, and every view of it opens without an error or a request", async () => {
    expect(statSync(join(folder, "report.html")).size).toBeLessThan(8 * 2 ** 20);
    const meaning = ablationSchema.parse(JSON.parse(readFileSync(join(folder, "ablation.json"), "utf8")));
    const { page, problems } = await open();
    const found = await page.locator("#found li").allTextContents();
    for (const { features, accuracy } of meaning.ablations) {
      if (features.length !== 1) continue;
      const sentence = found.find((text) => text.startsWith(features[0]!));
      expect(sentence, features[0]).toBeDefined();
      const worst = accuracy.toSorted((a, b) => a.after - a.before - (b.after - b.before))[0]!;
      if (worst.before - worst.after >= 0.1) expect(sentence).toContain(worst.case);
    }
    for (const part of await page.locator(".top nav a").all()) {
      await part.click();
      const id = (await part.getAttribute("href"))!.slice(1);
      expect(await page.locator(`#${id}`).isVisible(), id).toBe(true);
    }
    for (const choice of await page.locator("main fieldset label").all()) await choice.click();
    for (const details of await page.locator("main details > summary").all()) await details.click();
    expect(problems).toEqual([]);
    await page.close();
  });

  test("every feature that is named opens a card with its own name", async () => {
    const { page, problems } = await open();
    await page.locator("#features button", { hasText: "Show up to" }).click();
    const links = page.locator('main a[href*="feature="]');
    const count = await links.count();
    expect(count).toBeGreaterThan(60);
    for (let i = 0; i < count; i += Math.ceil(count / 25)) {
      const href = (await links.nth(i).getAttribute("href")) ?? "";
      await links.nth(i).dispatchEvent("click");
      const of = new URLSearchParams(href.split("?")[1]);
      expect(await page.locator("#card-title").textContent()).toBe(`${of.get("site")}/${of.get("feature")}`);
    }
    expect(problems).toEqual([]);
    await page.close();
  });

  test("contexts and what happens without a feature are two clicks away at most", async () => {
    for (const width of [390, 1440]) {
      const { page } = await open("", width);
      await page.locator("#found a", { hasText: "/" }).first().click();
      await page.locator(".card .shaded").first().waitFor();
      await page.locator(".card-parts button", { hasText: "Without it" }).click();
      await page.waitForFunction(
        () => (document.querySelector("#card-without")?.getBoundingClientRect().top ?? 1e9) < innerHeight,
      );
      await page.close();
    }
  });
});
