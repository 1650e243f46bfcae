import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { reportPage } from "../src/report/page.ts";
import { reportTemplate } from "../src/results/report.ts";
import { sampleReport } from "../web/sample.ts";
import { startBrowser } from "./browser.ts";
import { start, succeeds } from "./cli-harness.ts";
import { lowContrast } from "./page-harness.ts";

const home = mkdtempSync(join(tmpdir(), "sfc-serve-page-"));
const folder = join(home, "runs");
const started = await startBrowser();
let served: ReturnType<typeof start>;
let url = "";

beforeAll(async () => {
  if (started === null) return;
  for (const [name, sites] of [
    ["one", "resid_post"],
    ["two", "resid_post,mlp_out"],
  ] as const) {
    const flags = ["--num_examples", "2", "--layers", "2-3", "--sites", sites, "--quiet"];
    await succeeds(["run", ...flags, "--output_dir", join(folder, name)]);
  }
  served = start(["serve", folder, "--port", "0"]);
  const line = await new Promise<string>((resolve) => served.child.stdout!.on("data", (text) => resolve(String(text))));
  url = line.slice("Open ".length).trim();
});

afterAll(async () => {
  await started?.close();
  served?.child.kill("SIGINT");
  rmSync(home, { recursive: true });
});

/** Opens a view as a fresh browser would; `problems` collects what goes wrong. */
async function open(hash: string, width: number, scheme: "light" | "dark") {
  const context = await started!.browser.newContext({ viewport: { width, height: 900 }, colorScheme: scheme });
  const page = await context.newPage();
  const problems: string[] = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) problems.push(message.text());
  });
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== new URL(url).origin && !request.url().startsWith("data:"))
      problems.push(request.url());
  });
  await page.goto(url);
  await page.goto(`${new URL(url).origin}/${hash}`);
  return { page, problems, close: () => context.close() };
}

/** What every view has to be. SFC_SCREENSHOTS names a folder in which pictures of it are kept. */
async function expectFine(page: Page, problems: readonly string[], name: string, width: number, scheme: string) {
  const shots = process.env.SFC_SCREENSHOTS;
  if (shots !== undefined)
    await page.screenshot({ path: join(shots, `${name}-${width}-${scheme}.png`), fullPage: true });
  expect(problems).toEqual([]);
  expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width);
  expect(await lowContrast(page)).toEqual([]);
}

describe.skipIf(started === null)("the page of sfc serve", () => {
  describe.each([390, 1440])("at %i pixels", (width) => {
    describe.each(["light", "dark"] as const)("in %s", (scheme) => {
      test("lists the runs, and opens a report", async () => {
        const { page, problems, close } = await open("#runs", width, scheme);
        await page.waitForSelector("table.runs");
        expect(await page.locator("table.runs tbody th").allTextContents()).toEqual(["two", "one"]);
        expect(page.url()).not.toContain("token");
        await expectFine(page, problems, "runs", width, scheme);
        await page.getByRole("link", { name: "one" }).click();
        await page.waitForSelector("#run");
        expect(problems).toEqual([]);
        await close();
      });

      test("shows the rows of a run's effects, and two runs compared", async () => {
        const { page, problems, close } = await open("#runs", width, scheme);
        await page.locator("table.runs tbody tr", { hasText: "two" }).getByRole("link").last().click();
        await page.waitForSelector("table.numbers tbody tr");
        expect(await page.locator("h1").textContent()).toBe("Effects of two");
        const first = () => page.locator("table.numbers tbody tr").first().textContent();
        const largest = await first();
        await page.getByRole("button", { name: "Smaller" }).click();
        await page.waitForFunction((text) => document.querySelector("tbody tr")!.textContent !== text, largest);
        await page.getByLabel("Site").selectOption("mlp_out.2");
        await page.waitForFunction(() => document.querySelector("tbody th")!.textContent!.startsWith("mlp_out.2"));
        await expectFine(page, problems, "rows", width, scheme);
        await page.goto(`${new URL(url).origin}/#compare`);
        await page.waitForSelector("table.compared");
        expect(await page.locator("h3").allTextContents()).toEqual(["resid_post.2", "resid_post.3"]);
        expect(await page.locator("table.compared tbody tr").first().textContent()).toContain("in both");
        await expectFine(page, problems, "compare", width, scheme);
        await close();
      });

      test("finds the features of a pair, changes one, and draws the circuit", async () => {
        const { page, problems, close } = await open("#live", width, scheme);
        await page.getByRole("button", { name: "Find the features of this pair" }).click();
        await page.waitForSelector("table.bars.live", { timeout: 60_000 });
        expect(await page.locator("table.bars.live caption").count()).toBe(6);
        await page.locator("table.bars.live", { hasText: "resid_post.2" }).locator("button").first().click();
        await page.getByRole("button", { name: "Change this feature" }).click();
        await page.waitForSelector("text=after, in logits", { timeout: 60_000 });
        await page.getByLabel("Features", { exact: true }).fill("12");
        await page.getByRole("button", { name: "Find the circuit" }).click();
        await page.waitForSelector("#circuit svg", { timeout: 60_000 });
        // A link of the drawing chooses a node, and the view stays.
        await page.locator("#circuit .flow a, #circuit .flow button").first().click();
        expect(await page.locator("h1").textContent()).toBe("Live");
        await expectFine(page, problems, "live", width, scheme);
        await close();
      });
    });
  });

  test("saves what was found, makes a run of its pairs, and shows how far it is", async () => {
    const { page, problems, close } = await open("#live", 1440, "light");
    await page.getByText("More pairs").click();
    const lines = ["cat", "boy", "girl"].map((noun) => `The ${noun}s sleep near | The ${noun} sleep near | are | is`);
    await page.locator("textarea").fill(lines.join("\n").replaceAll(" sleep", ""));
    await page.getByRole("button", { name: "Find the features of these 4 pairs" }).click();
    await page.waitForSelector("table.bars.live", { timeout: 60_000 });
    await page.getByLabel("Name").fill("typed");
    await page.getByRole("button", { name: "Save as JSON" }).click();
    await page.waitForSelector("text=Saved as live/typed.json");
    await page.getByRole("button", { name: "Make a run of these pairs" }).click();
    await page.waitForSelector("article.job progress");
    await expectFine(page, problems, "work", 1440, "light");
    await page.waitForSelector("article.job >> text=Its report", { timeout: 120_000 });
    await page.getByRole("link", { name: "Its effects" }).click();
    await page.waitForSelector("text=Effects of typed");
    expect(problems).toEqual([]);
    await close();
  });

  test.each([
    [390, "dark"],
    [1440, "dark"],
    [390, "light"],
  ] as const)("starts a run of a task and stops it, at %i pixels in %s", async (width, scheme) => {
    const { page, problems, close } = await open("#work", width, scheme);
    await page.getByLabel("Folder").fill(`task-${width}-${scheme}`);
    await page.getByRole("button", { name: "Start the run" }).click();
    await page.waitForSelector("article.job progress");
    await expectFine(page, problems, "work", width, scheme);
    await page.getByRole("button", { name: "Stop" }).click();
    await page.waitForSelector("article.job >> text=/^(stopped|finished),/", { timeout: 120_000 });
    expect(problems).toEqual([]);
    await close();
  });

  test("keeps and names the pairs that were asked about, whatever is typed since", async () => {
    const { page, close } = await open("#live", 1440, "light");
    const typed = [
      ["The dogs near the house", "The dog near the house"],
      ["The dogs", "The dog near the house"],
      ["The cats near the house", "The cat near the house"],
    ].map(([clean, patch]) => ({ clean, patch, clean_answer: "are", patch_answer: "is" }));
    await page.getByText("More pairs").click();
    const lines = typed.slice(1).map((one) => `${one.clean} | ${one.patch} | are | is`);
    await page.locator("textarea").fill(lines.join("\n"));
    await page.getByRole("button", { name: "Find the features of these 3 pairs" }).click();
    await page.waitForSelector("table.bars.live", { timeout: 60_000 });
    await page.getByLabel("Feature", { exact: true }).fill("resid_post.2/1035");
    await page.getByRole("button", { name: "Add" }).click();
    await page.getByRole("button", { name: "Change this feature" }).click();
    await page.waitForSelector("text=after, in logits", { timeout: 60_000 });
    await page.getByLabel("Clean prompt", { exact: true }).fill("The kings near the house");
    await page.getByLabel("Patch prompt", { exact: true }).fill("The king near the house");
    await page.locator("textarea").fill("");
    await page.getByText("analytic", { exact: true }).click();
    const summaries = await page.locator("summary", { hasText: /before, .* after/ }).allTextContents();
    expect(summaries.map((text) => text.split(":")[0])).toEqual([typed[0]!.clean, typed[2]!.clean]);
    await page.route("**/api/work/start", (route) => route.fulfill({ status: 409, json: { error: "Not here." } }));
    const asked = page.waitForRequest("**/api/work/start");
    await page.getByLabel("Name").first().fill("kept");
    await page.getByRole("button", { name: "Make a run of these pairs" }).click();
    expect((await asked).postDataJSON()).toEqual({
      name: "kept",
      model: "demo",
      method: "secant",
      of: { pairs: typed },
    });
    await close();
  });

  test("leaves a click that asks for a new tab to the browser, in a drawing as in a report", async () => {
    const { page, close } = await open("#live", 1440, "light");
    await page.getByLabel("Features", { exact: true }).fill("12");
    await page.getByRole("button", { name: "Find the circuit" }).click();
    await page.waitForSelector("#circuit svg", { timeout: 60_000 });
    await page
      .locator("#circuit .flow button", { hasText: /^\w+\.\d\/\d+$/ })
      .first()
      .click();
    const isFollowed = (ctrlKey: boolean) =>
      page
        .locator("#circuit .flow h3 a")
        .first()
        .evaluate((link, ctrlKey) => {
          let followed = false;
          const look = (event: Event) => {
            followed = event.defaultPrevented;
            event.preventDefault();
          };
          addEventListener("click", look, { once: true });
          link.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true, ctrlKey }));
          return followed;
        }, ctrlKey);
    expect([await isFollowed(true), await isFollowed(false)]).toEqual([false, true]);
    await close();
  });

  test("a served report leads to a feature's page elsewhere, and back", async () => {
    const data = sampleReport(7);
    const { site, feature } = data.cards!.cards.find((one) => one.site.startsWith("resid_post"))!;
    const { page: elsewhere } = data.cards!.sites.find((one) => one.site === site)!;
    mkdirSync(join(folder, "sample"));
    writeFileSync(join(folder, "sample/report.html"), reportPage(await reportTemplate(), data));
    const { page, close } = await open("#runs", 1440, "light");
    const address = `${elsewhere}/${feature}`;
    await page.route(address, (route) => route.fulfill({ contentType: "text/html", body: "<h1>elsewhere</h1>" }));
    const own = `${new URL(url).origin}/files/sample/report.html#features?site=${site}&feature=${feature}`;
    await page.goto(own);
    await page.getByRole("link", { name: "Neuronpedia" }).click();
    await page.getByRole("heading", { name: "elsewhere" }).waitFor();
    expect(page.url()).toBe(address);
    await page.goBack();
    await page.waitForSelector("#card-title");
    expect(await page.locator("#card-title").textContent()).toBe(`${site}/${feature}`);
    await close();
  });

  test("says why a pair cannot be used", async () => {
    const { page, close } = await open("#live", 1440, "light");
    await page.getByLabel("Patch prompt", { exact: true }).fill("The dog");
    await page.getByRole("button", { name: "Find the features of this pair" }).click();
    await page.waitForSelector("[role=alert]", { timeout: 60_000 });
    expect(await page.locator("[role=alert]").textContent()).toContain("different numbers of tokens");
    await close();
  });
});
