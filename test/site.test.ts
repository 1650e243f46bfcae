import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { analyse } from "../src/analysis/analyse.ts";
import { memoryFolder } from "../src/bytes/folder.ts";
import type { MethodName } from "../src/effects/method.ts";
import { answerLive, type OpenLive } from "../src/live/answers.ts";
import type { LiveFound } from "../src/live/effects.ts";
import { firstPair } from "../src/live/first.ts";
import { openLive } from "../src/live/open.ts";
import { compareEffects, type EffectsReference } from "../src/live/parity.ts";
import type { LiveAsks, LiveKind, TypedPair } from "../src/live/questions.ts";
import { openModel, openSaes } from "../src/open/library.ts";
import { postingReporter } from "../src/progress.ts";
import type { ReportCircuit } from "../src/report/circuit.ts";
import { signed } from "../src/report/format.ts";
import type { SiteName } from "../src/site.ts";
import type { Site } from "../web/site/messages.ts";
import { seriousFindings } from "./axe.ts";
import { type StartedBrowser, startBrowser } from "./browser.ts";
import { lowContrast } from "./page-harness.ts";
import { type StaticServer, serveStatic } from "./site-harness.ts";

const script = fileURLToPath(new URL("../scripts/build-site.mjs", import.meta.url));
const home = mkdtempSync(join(tmpdir(), "sfc-site-"));
const folder = join(home, "site");
const started = await startBrowser();
const second = { ...firstPair, clean: "The cats that the boy sees", patch: "The cat that the boy sees" };
const servers: StaticServer[] = [];

beforeAll(() => {
  // A process of its own, because Vitest's NODE_ENV would make it a page for development.
  const env = { ...process.env, NODE_ENV: "production" };
  execFileSync(process.execPath, [script, "--out", folder], { env, stdio: "pipe" });
});

afterAll(async () => {
  await started?.close();
  for (const server of servers) server.close();
  rmSync(home, { recursive: true });
});

/** What the library's `analyse` finds of a pair in float64, on the native runtime. */
async function effectsOfNode(
  typed: TypedPair,
  method: MethodName,
  sites?: readonly SiteName[],
): Promise<EffectsReference> {
  await using model = await openModel("demo", { precision: "float64" });
  await using saes = await openSaes("demo", { model, ...(sites && { sites }) });
  const { clean: clean_prefix, patch: patch_prefix } = typed;
  const answers = { clean_answer: " are", patch_answer: " is" };
  const pair = { clean_prefix, patch_prefix, ...answers, case: "one", split: "train" } as const;
  const result = await analyse(model, saes, [pair], { method });
  const found = result.sites.map((site) => {
    const rows = result.top({ site, k: 2000 });
    const { feature, effect } = result.effects(site);
    const error = feature.reduce((sum, one, i) => (one === -1 ? sum + effect[i]! : sum), 0);
    return { site, error, features: rows.map((row) => row.feature), effects: rows.map((row) => row.effect) };
  });
  return { pair: typed, method, sites: found };
}

/** The site's model, open in Node in float64. */
function openInNode(): Promise<OpenLive> {
  const { model } = JSON.parse(readFileSync(join(folder, "site.json"), "utf8")) as Site;
  const files = model.files.map(({ path }) => [path, new Uint8Array(readFileSync(join(folder, model.folder, path)))]);
  return openLive({
    name: "demo",
    folder: memoryFolder("demo", Object.fromEntries(files)),
    device: "cpu",
    precision: "float64",
  });
}

const reporter = postingReporter(
  () => {},
  () => false,
);

/** Opens the site as a fresh browser would; `problems` collects what goes wrong and what is asked of others. */
async function open(isolated: boolean, browser = started!.browser, prepare?: (page: Page) => Promise<unknown>) {
  const server = await serveStatic(folder, isolated);
  servers.push(server);
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, colorScheme: "light" });
  // As with all tests, time limits are for what never ends.
  context.setDefaultTimeout(300_000);
  const page = await context.newPage();
  const problems: string[] = [];
  page.on("console", (message) => {
    // What Chromium says where a page asks for an adapter and there is none.
    if (["error", "warning"].includes(message.type()) && message.text() !== "No available adapters.")
      problems.push(message.text());
  });
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("request", (request) => {
    const { protocol, origin } = new URL(request.url());
    if (protocol !== "data:" && origin !== new URL(server.url).origin) problems.push(request.url());
  });
  // The page's workers, so that a test can ask them for more than the page shows, and what they answer.
  await page.addInitScript(() => {
    const [made, answers]: [Worker[], unknown[]] = [[], []];
    const Own = Worker;
    Object.assign(globalThis, {
      made,
      answers,
      Worker: class extends Own {
        constructor(...args: ConstructorParameters<typeof Worker>) {
          super(...args);
          made.push(this);
          this.addEventListener("message", ({ data }) => data.type === "answer" && answers.push(data.answer));
        }
      },
    });
  });
  await prepare?.(page);
  await page.goto(server.url);
  const close = async () => {
    await context.close();
    expect(server.asked.filter(({ status }) => status !== 200)).toEqual([]);
  };
  return { page, problems, server, close };
}

/** Asks a worker of the page. */
function askWorker<K extends LiveKind>(
  page: Page,
  worker: number,
  kind: K,
  request: LiveAsks[K]["request"],
): Promise<LiveAsks[K]["found"]> {
  return page.evaluate(
    ([worker, kind, request]) =>
      new Promise<never>((resolve, reject) => {
        const asked = (globalThis as unknown as { made: Worker[] }).made[worker]!;
        const id = 1e6 + Math.random();
        asked.addEventListener("message", ({ data }) => {
          if (data.id !== id) return;
          if (data.type === "answer") resolve(data.answer as never);
          else reject(new Error(data.error));
        });
        asked.postMessage({ type: "ask", id, kind, request });
      }),
    [worker, kind, request] as const,
  );
}

function expectEqual(found: LiveFound, reference: EffectsReference, tolerance: number) {
  for (const one of reference.sites) {
    const { gap, scale } = compareEffects(found, { ...reference, sites: [one] }, tolerance);
    expect(gap, one.site).toBeLessThan(tolerance * scale);
  }
}

const edgesByName = ({ nodes, edges }: ReportCircuit) =>
  new Map(edges.value.map((value, i) => [`${nodes[edges.source[i]!]!.id} → ${nodes[edges.target[i]!]!.id}`, value]));

const field = (page: Page, name: string) => page.getByLabel(name, { exact: true });

async function typePair(page: Page, { clean, patch }: { clean: string; patch: string }) {
  await field(page, "Clean prompt").fill(clean);
  await field(page, "Patch prompt").fill(patch);
}

const press = (page: Page, name: string) => page.getByRole("button", { name }).click();

/** A folder in which pictures of the page are kept; `site.png` is the one of docs. */
const shots = process.env.SFC_SCREENSHOTS;

/** What the page has to be at every width and in both themes. */
async function expectFine(page: Page, name: string) {
  for (const width of [390, 1440]) {
    for (const colorScheme of ["light", "dark"] as const) {
      await page.setViewportSize({ width, height: 900 });
      await page.emulateMedia({ colorScheme });
      if (shots !== undefined)
        await page.screenshot({ path: join(shots, `${name}-${width}-${colorScheme}.png`), fullPage: true });
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width);
      expect(await lowContrast(page)).toEqual([]);
      expect(await seriousFindings(page)).toEqual([]);
    }
  }
}

describe("effects compared with a reference", () => {
  const reference = (features: number[], effects: number[], error = 0.5): EffectsReference => ({
    pair: firstPair,
    method: "secant",
    sites: [{ site: "resid_post.1", error, features, effects }],
  });
  const found = (effects: Readonly<Record<number, number>>, error = 0.5) => {
    const features = Object.entries(effects).map(([feature, effect]) => ({ feature: Number(feature), effect }));
    return { sites: [{ site: "resid_post.1", error, features }] } as unknown as LiveFound;
  };

  it.each([
    ["equal, in another order", found({ 7: -0.25, 3: 2 }), 0],
    ["one that is off", found({ 3: 2.5, 7: -0.25 }), 0.5],
    ["one that is missing", found({ 3: 2 }), 0.25],
    ["one too many", found({ 3: 2, 7: -0.25, 9: -1 }), 1],
    ["another error", found({ 3: 2, 7: -0.25 }, 0.75), 0.25],
    ["no number", found({ 3: Number.NaN, 7: -0.25 }), Number.MAX_VALUE],
  ])("%s", (_, effects, gap) => {
    const check = compareEffects(effects, reference([3, 7], [2, -0.25]), 0.1);
    expect(check).toMatchObject({ site: "resid_post.1", gap, scale: 2, tolerance: 0.1, passed: gap <= 0.2 });
  });

  it("sites that were not computed are told", () => {
    expect(() => compareEffects({ sites: [] } as unknown as LiveFound, reference([3], [2]), 0.1)).toThrow(
      "effects: expected some at resid_post.1, got none.",
    );
  });
});

it("a folder with other files is not made a site", () => {
  writeFileSync(join(home, "mine.txt"), "mine");
  const { status, stderr } = spawnSync(process.execPath, [script, "--out", home], { encoding: "utf8" });
  expect({ status, stderr }).toEqual({
    status: 1,
    stderr: `--out: expected a new folder, or that of a site, got one with other files at ${home}. Choose another.\n`,
  });
  expect(readFileSync(join(home, "mine.txt"), "utf8")).toBe("mine");
});

describe.skipIf(started === null)("the static site", () => {
  it("finds Node's effects, changes features and draws the circuit in the tab, without a server's help", async () => {
    const { page, problems, close } = await open(false);
    await page.waitForSelector("text=Computed by WebAssembly in this tab, one thread.");
    expect(await page.locator("text=One thread: more need a server").count()).toBe(1);
    expect(await page.locator("table.devices").textContent()).toContain("this browser has no adapter for it");

    await typePair(page, second);
    await press(page, "Find the features of this pair");
    await page.waitForSelector("table.bars.live");
    const reference = await effectsOfNode(second, "secant");
    const subject = { model: "demo", pairs: [second] };
    const found = await askWorker(page, 0, "effects", { ...subject, method: "secant", top: 200 });
    expect(found.sites.map(({ site }) => site)).toEqual(reference.sites.map(({ site }) => site));
    for (const [i, { features }] of found.sites.entries())
      expect(features.length).toBe(reference.sites[i]!.features.length);
    expectEqual(found, reference, 1e-4);
    const at = reference.sites.find(({ site }) => site === "resid_post.2")!;
    const row = page.locator("table.bars.live", { hasText: "resid_post.2" }).locator("tbody tr").first();
    expect(await row.locator("th").textContent()).toBe(String(at.features[0]));
    expect(await row.locator("td").last().textContent()).toBe(signed(at.effects[0]!));

    if (shots !== undefined) {
      await page.setViewportSize({ width: 1280, height: 1800 });
      await page.screenshot({ path: join(shots, "site.png") });
    }

    await row.getByRole("button").click();
    await press(page, "Change this feature");
    await page.waitForSelector("text=after, in logits");
    const inNode = await openInNode();
    const ablated = { ...subject, ablate: [`resid_post.2/${at.features[0]}`], scale: [], set: [] };
    const changed = await answerLive(inNode, "intervene", ablated, reporter);
    const [expected] = changed.found.pairs;
    expect(Math.abs(expected!.after - expected!.before)).toBeGreaterThan(0.1);
    const metric = page.locator("p.metric", { hasText: "after" });
    expect(await metric.textContent()).toBe(
      `m ${signed(expected!.before)} before, ${signed(expected!.after)} after, in logits`,
    );

    await field(page, "Features").fill("12");
    await press(page, "Find the circuit");
    await page.waitForSelector("#circuit svg");
    const { circuit } = (await answerLive(inNode, "circuit", { ...subject, size: 12 }, reporter)).found;
    const shown = (await askWorker(page, 0, "circuit", { ...subject, size: 12 })).circuit;
    expect(shown.nodes.map(({ id }) => id)).toEqual(circuit.nodes.map(({ id }) => id));
    const largest = Math.max(...circuit.edges.value.map(Math.abs));
    const edges = edgesByName(shown);
    for (const [name, value] of edgesByName(circuit))
      expect(Math.abs((edges.get(name) ?? 0) - value), name).toBeLessThan(1e-3 * largest);

    await expectFine(page, "site");
    expect(problems).toEqual([]);

    await field(page, "Patch prompt").fill("The dog");
    await press(page, "Find the features of this pair");
    const alert = page.getByRole("alert");
    await alert.waitFor();
    expect(await alert.textContent()).toBe(
      "pairs: expected some that this model can use, got none (prompts have different numbers of tokens). Change the prompts or the answers.",
    );
    await field(page, "Patch prompt").fill("");
    await press(page, "Find the features of this pair");
    await page.waitForSelector('text=/^request: expected another "pairs.0.patch"/');
    expect(problems).toEqual([]);
    await close();
  });

  it("uses threads where its server isolates it, and can be asked while it loads", async () => {
    const { page, problems, close } = await open(true);
    await press(page, "Find the features of this pair");
    await page.waitForSelector("table.bars.live");
    expect(await page.locator("text=Computed by WebAssembly in this tab, 2 threads.").count()).toBe(1);
    expect(await page.locator("table.bars.live caption").count()).toBe(6);
    expect(problems).toEqual([]);
    await close();
  });

  it("says so, and answers nothing, where it does not compute what Node found", async () => {
    const { page, close } = await open(false, undefined, (page) =>
      page.route("**/site.json", async (route) => {
        const site = await (await route.fetch()).json();
        site.reference.sites[4].effects[0] *= 1.001;
        await route.fulfill({ json: site });
      }),
    );
    await page.waitForSelector("[role=alert]");
    expect(await page.getByRole("alert").textContent()).toMatch(
      /^effects: expected those that Node found to 0\.0001 of the largest, got a difference of 1\.0e-3 at mlp_out\.1\. /,
    );
    await press(page, "Find the features of this pair");
    await page.waitForFunction(() => document.querySelectorAll("[role=alert]").length === 2);
    await close();
  });
});

describe.skipIf(started === null)("WebGPU on a software adapter, in the static site", () => {
  let gpu: StartedBrowser | null = null;
  beforeAll(async () => {
    gpu = await startBrowser(true);
  });
  afterAll(() => gpu?.close());
  const state = (page: Page) => page.locator("table.devices tbody tr").last();

  it("finds Node's effects to a thousandth, and answers where it is chosen", async () => {
    // A software adapter is slow: two sites, so that gradients stop above the fifth layer, and one pass.
    const sites = ["resid_post.4", "resid_post.5"] as const;
    const reference = await effectsOfNode(firstPair, "analytic", sites);
    const { page, problems, close } = await open(true, gpu!.browser, (page) =>
      page.route("**/site.json", async (route) => {
        const site: Site = await (await route.fetch()).json();
        const files = site.model.files.filter(
          ({ path }) => !path.startsWith("saes/") || sites.some((site) => path.startsWith(`saes/${site}/`)),
        );
        await route.fulfill({ json: { ...site, model: { ...site.model, files }, reference } });
      }),
    );
    await page.waitForFunction(() =>
      /passed|not used|answers/.test(document.querySelector("table.devices tr:last-child td:last-child")!.textContent!),
    );
    // What passed was compared with `reference`, all features.
    expect(await state(page).textContent()).toMatch(/^WebGPU, google swiftshader.*(passed, not used|answers)$/);
    await page.getByText("WebGPU", { exact: true }).click();
    await page.getByText("analytic", { exact: true }).click();
    await page.waitForSelector("text=Computed by WebGPU in this tab.");
    await press(page, "Find the features of this pair");
    await page.waitForSelector("table.bars.live");
    const [found] = await page.evaluate(() => (globalThis as unknown as { answers: LiveFound[] }).answers);
    for (const [i, { site, features }] of found!.sites.entries()) {
      const strongest = reference.sites[i]!.effects[0]!;
      expect(Math.abs(features[0]!.effect - strongest), site).toBeLessThan(1e-3 * Math.abs(strongest));
    }
    expect(problems).toEqual([]);
    await close();
  });

  it("is not used, and the page says why, where it cannot be opened", async () => {
    const { page, close } = await open(false, gpu!.browser, (page) =>
      page.route("**/ort.webgpu*", (route) => route.abort()),
    );
    await page.waitForFunction(() =>
      document.querySelector("table.devices tr:last-child td:last-child")!.textContent!.startsWith("not used: "),
    );
    expect(await state(page).locator("td").last().textContent()).toMatch(/^not used: [^\n]+$/);
    await press(page, "Find the features of this pair");
    await page.waitForSelector("table.bars.live");
    expect(await page.locator("text=Computed by WebAssembly in this tab").count()).toBe(1);
    await close();
  });
});
