import { readFileSync } from "node:fs";
import type { Page } from "playwright-core";
import { afterAll, describe, expect, test } from "vitest";
import { Known } from "../web/known.ts";
import { sampleReport } from "../web/sample.ts";
import { seriousFindings } from "./axe.ts";
import { type PageHarness, pageHarness } from "./page-harness.ts";

const seed = 7;
const data = sampleReport(seed);
const strongest = data.meaning!.features[0]!;
const name = `${strongest.site}/${strongest.feature}`;

const harness = await pageHarness();
describe.skipIf(harness === null)("one selection for the whole report, in a browser", () => {
  const { open, close } = harness as PageHarness;
  afterAll(close);

  const card = (page: Page) => page.locator(".card");
  const fields = async (page: Page) => Object.fromEntries(new URLSearchParams((await hash(page)).split("?")[1] ?? ""));
  const hash = (page: Page) => page.evaluate(() => location.hash);

  test("from the report to a feature's contexts is one click, and to what happens without it another", async () => {
    const { page } = await open(data);
    await page.locator("#found a", { hasText: name }).first().click();
    await card(page).waitFor();
    expect(await page.locator("#card-title").textContent()).toBe(name);
    const context = data.cards!.cards.find((one) => one.site === strongest.site && one.feature === strongest.feature)!
      .contexts[0]!;
    const words = data.cards!.prompts[context.prompt]!.clean.map((place) => data.cards!.tokens[place]!.trim());
    const box = (await page.locator(".card .shaded").first().boundingBox())!;
    expect(box.y + box.height).toBeLessThan(900);
    const shown = await page
      .locator(".card .shaded")
      .first()
      .locator(".token")
      .evaluateAll((all) => all.map((one) => (one.querySelector("ruby")?.firstChild ?? one).textContent!.trim()));
    expect(shown).toEqual(words);
    await page.locator(".card-parts button", { hasText: "Without it" }).click();
    const without = page.locator("#card-without");
    await page.waitForFunction(() => document.querySelector("#card-without")!.getBoundingClientRect().top < 120);
    expect(await without.isVisible()).toBe(true);
    await page.close();
  });

  test("every mark of every chart is a link with a name, that leads to a part or a card of this page", async () => {
    const { page } = await open(data);
    const marks = await page.locator(".chart").evaluateAll((charts) =>
      charts.flatMap((chart) => {
        const found = [...chart.querySelectorAll("svg circle, svg [data-mark=bar] rect, svg rect[width][height]")];
        return found
          .filter((mark) => mark.closest("clipPath") === null)
          .map((mark) => ({
            chart: chart.getAttribute("aria-label"),
            href: mark.closest("a")?.getAttribute("href") ?? mark.closest("a")?.getAttribute("xlink:href") ?? null,
            label: mark.closest("a")?.getAttribute("aria-label") ?? "",
          }));
      }),
    );
    expect(marks.length).toBeGreaterThan(500);
    expect(marks.filter(({ href, label }) => href === null || label === "")).toEqual([]);
    const ids = new Set(await page.locator("[id]").evaluateAll((all) => all.map((one) => one.id)));
    const features = new Set([
      ...data.features.flatMap(({ site, feature }) => feature.map((f) => `${site}/${f}`)),
      ...data.agreement.flatMap(({ site, feature }) => feature.map((f) => `${site}/${f}`)),
    ]);
    for (const { href } of marks) {
      const [section, query] = href!.slice(1).split("?");
      if (section !== "") expect(ids.has(section!), href!).toBe(true);
      const of = new URLSearchParams(query);
      if (of.has("feature")) expect(features.has(`${of.get("site")}/${of.get("feature")}`), href!).toBe(true);
      expect([...of.keys()].length).toBeGreaterThan(0);
    }
    // Lines and nodes of the circuit, cells of the map and rows of the ranking lead somewhere, too.
    expect(await page.locator(".circuit .node:not([role=button])").count()).toBe(0);
    expect(await page.locator(".map tbody td:not(:has(a[href]))").count()).toBe(0);
    expect(await page.locator("#features tbody tr:not(.error):not(:has(a[href]))").count()).toBe(0);
    await page.close();
  });

  test("a dot, a bar, a cell, a row, a node and a token change the same selection, by click and by keyboard", async () => {
    const { page, problems } = await open(data);
    const dot = page.locator("#agreement .chart a").first();
    await dot.scrollIntoViewIfNeeded();
    await dot.focus();
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("Enter");
    const second = data.agreement.find(({ site }) => site === "resid_post.0")!.feature[1]!;
    expect(await page.locator("#card-title").textContent()).toBe(`resid_post.0/${second}`);
    await page.keyboard.press("Escape");
    expect(await card(page).count()).toBe(0);
    expect(await fields(page)).toEqual({ site: "resid_post.0" });

    await page.locator("#features tbody tr.row td.value").nth(3).click();
    expect(Object.keys(await fields(page)).sort()).toEqual(["feature", "site"]);
    await page.locator(".close").click();

    await page
      .locator("#importance .chart a")
      .nth(2)
      .evaluate((a) => a.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true })));
    expect(await fields(page)).toEqual({ site: "attn_out.2" });
    // All parts follow: the ranking shows the same kind of site.
    expect(await page.locator("#features table caption").first().textContent()).toContain("attn_out.0");

    const cell = page.locator("#prompts .map tbody tr").nth(4).locator("td a").nth(2);
    await cell.click();
    expect(await fields(page)).toMatchObject({ site: "attn_out.4", token: "2" });
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Enter");
    expect(await fields(page)).toMatchObject({ site: "attn_out.5", token: "2" });
    expect(await page.locator(".at-token dt").allTextContents()).toEqual(["attn_out.5"]);

    const node = data.circuit!.nodes.find(({ kind }) => kind === "feature")!;
    await page.locator("#circuit select").first().selectOption(node.id);
    await page.locator('.circuit .node[aria-pressed="true"]').press("Enter");
    expect(await page.locator("#card-title").textContent()).toBe(node.id);
    expect(await page.locator(".card .flow").count()).toBe(1);
    expect(problems).toEqual([]);
    await page.close();
  });

  test("an address restores the site, split, case, feature and token; back and forward follow it", async () => {
    const example = 3;
    const address = `#prompts?site=mlp_out.3&feature=${data.features.find((g) => g.site === "mlp_out.3" && g.split === "test" && g.case === "nounpp/plural_singular")!.feature[0]}&split=test&case=nounpp%2Fplural_singular&prompt=${example}&token=2`;
    const { page } = await open(data, { hash: address });
    expect(await page.locator("#card-title").textContent()).toContain("mlp_out.3/");
    expect(await page.locator("#features select").inputValue()).toBe("nounpp/plural_singular");
    expect(
      await page
        .locator("#features fieldset input:checked")
        .evaluateAll((all) => all.map((one) => one.nextElementSibling!.textContent)),
    ).toEqual(["mlp_out", "test"]);
    expect(await page.locator("#prompts select").first().inputValue()).toBe(String(example));
    expect(await page.locator(".map td.chosen").count()).toBe(1);
    await page.locator(".close").click();
    expect(await card(page).count()).toBe(0);
    await page.goBack();
    await card(page).waitFor();
    await page.goForward();
    await page.waitForFunction(() => document.querySelector(".card") === null);
    await page.close();
  });

  test("a link to a part stops at it, charts drawn or not", async () => {
    for (const part of ["importance", "agreement", "run"]) {
      const { page } = await open(data, { hash: `#${part}` });
      await page.waitForTimeout(900);
      const [top, end] = await page.evaluate((id) => {
        const atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
        return [document.getElementById(id)!.getBoundingClientRect().top, atEnd];
      }, part);
      expect(end || Math.abs(top as number) < 100, `${part}: ${top}`).toBe(true);
      await page.close();
    }
  });

  test("a search opens a feature by number or name, and says where there is none", async () => {
    const { page } = await open(data);
    const field = page.getByLabel("Feature", { exact: true });
    await field.fill(String(strongest.feature));
    await field.press("Enter");
    expect(await page.locator("#card-title").textContent()).toContain(`/${strongest.feature}`);
    await field.fill("999999");
    await field.press("Enter");
    await page.getByText("No feature “999999” in this report.").waitFor();
    await page.close();
  });

  test("a name that is typed is not opened where it begins a longer one, and a suggestion is opened at once", async () => {
    const { names } = new Known(data);
    const long = names.find((one) => names.includes(one.slice(0, -1)))!;
    const { page } = await open(data);
    const field = page.getByLabel("Feature", { exact: true });
    await field.pressSequentially(long);
    expect(await field.inputValue()).toBe(long);
    expect(await card(page).count()).toBe(0);
    await field.press("Enter");
    expect(await page.locator("#card-title").textContent()).toBe(long);
    // As browsers tell of a suggestion that was chosen, without an input type or with this one.
    for (const type of [undefined, "insertReplacementText"]) {
      await page.locator(".close").click();
      await field.evaluate(
        (input: HTMLInputElement, { long, type }) => {
          input.value = long;
          const options = { bubbles: true };
          input.dispatchEvent(
            type === undefined ? new Event("input", options) : new InputEvent("input", { ...options, inputType: type }),
          );
        },
        { long, type },
      );
      await card(page).waitFor();
      expect(await field.inputValue()).toBe("");
    }
    await page.close();
  });

  test("steps through the circuit's drawing are none for the back button, which browsers would also refuse at some point", async () => {
    const { page, problems } = await open(data);
    const site = data.circuit!.nodes.find(({ kind }) => kind === "feature")!.site!;
    await page.evaluate((address) => {
      location.hash = address;
    }, `#circuit?site=${site}`);
    await page.waitForFunction(() => document.querySelector(".circuit .node") !== null);
    const entries = () => page.evaluate(() => history.length);
    const before = await entries();
    await page.locator('.circuit .node[tabindex="0"]').focus();
    const seen = new Set<string | undefined>();
    for (const key of ["ArrowDown", "ArrowDown", "ArrowRight", "ArrowLeft", "ArrowUp"]) {
      await page.keyboard.press(key);
      seen.add((await fields(page)).node);
    }
    expect(seen.size).toBeGreaterThan(2);
    expect(await entries()).toBe(before);
    await page.goBack();
    expect(await hash(page)).toBe("");
    await page.goForward();
    const { node } = await fields(page);
    expect(await page.locator("#circuit select").first().inputValue()).toBe(node);
    // The drawing goes on where the address cannot.
    await page.evaluate(() => {
      history.replaceState = () => {
        throw new DOMException("too many", "SecurityError");
      };
    });
    const chosen = () => page.locator("#circuit select").first().inputValue();
    await page.locator('.circuit .node[tabindex="0"]').focus();
    for (const key of ["ArrowDown", "ArrowUp"]) if ((await chosen()) === node) await page.keyboard.press(key);
    expect(await chosen()).not.toBe(node);
    expect((await fields(page)).node).toBe(node);
    expect(problems.every((text) => text.includes("too many"))).toBe(true);
    await page.close();
  });

  test("tables are sorted by their heads, and saved as CSV with the numbers of the data", async () => {
    const { page } = await open(data);
    const table = page.locator("#meaning .data-table").first();
    const effects = data.meaning!.features.map(({ effect }) => effect);
    const column = async () =>
      (await table.locator("tbody tr td:nth-child(2)").allTextContents()).map((text) => Number(text.replace("−", "-")));
    await table.getByRole("button", { name: "effect" }).click();
    expect(await column()).toEqual((await column()).toSorted((a, b) => b - a));
    expect(await table.locator('th[aria-sort="descending"]').count()).toBe(1);
    await table.getByRole("button", { name: "effect" }).click();
    const rising = await column();
    expect(rising).toEqual(rising.toSorted((a, b) => a - b));
    const [file] = await Promise.all([
      page.waitForEvent("download"),
      table.getByRole("button", { name: /CSV/ }).click(),
    ]);
    const lines = readFileSync(await file.path(), "utf8")
      .trim()
      .split("\r\n");
    expect(lines).toHaveLength(effects.length + 1);
    expect(lines.slice(1).map((line) => Number(line.split(",")[1]))).toEqual(effects.toSorted((a, b) => a - b));
    await page.close();
  });

  test("figures are saved as SVG that stands alone, and as PNG", async () => {
    const { page, problems } = await open(data);
    const take = async (kind: string, where: string) => {
      const button = page
        .locator(where)
        .getByRole("button", { name: `Save as ${kind}` })
        .first();
      const [file] = await Promise.all([page.waitForEvent("download"), button.click()]);
      return { name: file.suggestedFilename(), content: readFileSync(await file.path()) };
    };
    for (const where of ["#agreement", "#importance", "#circuit", "#worth"]) {
      const { name, content } = await take("SVG", where);
      expect(name).toMatch(/^[a-z0-9.-]+\.svg$/);
      const text = content.toString();
      expect(text.startsWith("<svg")).toBe(true);
      expect(text).not.toMatch(/var\(--|<a[ >]|class=/);
      expect(text).toMatch(/fill="rgb/);
    }
    const { content } = await take("PNG", "#agreement");
    expect(content.subarray(1, 4).toString()).toBe("PNG");
    expect(problems).toEqual([]);
    await page.close();
  });

  for (const scheme of ["light", "dark"] as const) {
    for (const width of [390, 1440]) {
      test(`axe finds nothing serious at ${width} px, ${scheme}, card open or not`, async () => {
        for (const address of ["", `#features?site=${strongest.site}&feature=${strongest.feature}`]) {
          const { page } = await open(data, { width, scheme, hash: address });
          await page.locator("details").evaluateAll((all) => {
            for (const one of all.slice(0, 6)) one.setAttribute("open", "");
          });
          expect(await seriousFindings(page)).toEqual([]);
          await page.close();
        }
      });
    }
  }

  test("nothing of a printed page is cut off, and bars are printed", async () => {
    const { page } = await open(data, { width: 794 });
    await page.emulateMedia({ media: "print" });
    await page.waitForTimeout(300);
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(794);
    const cut = await page
      .locator("main table, main svg, main pre")
      .evaluateAll((all) =>
        all
          .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
          .map((one) => one.outerHTML.slice(0, 80)),
      );
    expect(cut).toEqual([]);
    const adjust = await page
      .locator(".bar .positive")
      .first()
      .evaluate((one) => getComputedStyle(one).getPropertyValue("print-color-adjust"));
    expect(adjust).toBe("exact");
    await page.close();
  });

  test("labels of axes keep their signs and digits, and do not touch", async () => {
    const big = data.importance.map((row) => ({ ...row, importance: 1234 * row.importance }));
    const wide = data.agreement.map((row) => ({
      ...row,
      train: row.train.map((v) => 37.7 * v),
      test: row.test.map((v) => 37.7 * v),
    }));
    for (const of of [data, { ...data, importance: big, agreement: wide }]) {
      const { page } = await open(of, { width: 1440 });
      const faults = await page.locator(".chart").evaluateAll((charts) =>
        charts.flatMap((chart) => {
          const frame = chart.getBoundingClientRect();
          const texts = [...chart.querySelectorAll("svg text")].filter((one) => one.textContent !== "");
          const boxes = texts.map((one) => ({ text: one.textContent, box: one.getBoundingClientRect() }));
          return boxes.flatMap(({ text, box }, i) => {
            const out = box.left < frame.left - 0.5 || box.right > frame.right + 0.5;
            const touching = boxes.slice(i + 1).find(({ box: other }) => {
              const [x, y] = [
                Math.min(box.right, other.right) - Math.max(box.left, other.left),
                Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top),
              ];
              return x > 1 && y > 1;
            });
            return out || touching
              ? [`${chart.getAttribute("aria-label")}: ${text} ${out ? "is cut" : `touches ${touching!.text}`}`]
              : [];
          });
        }),
      );
      expect(faults).toEqual([]);
      await page.close();
    }
  });
});
