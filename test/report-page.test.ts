import { afterAll, describe, expect, test } from "vitest";
import { prune } from "../src/circuit/influence.ts";
import { ablationSchema } from "../src/circuit/meaning.ts";
import { evaluationSchema } from "../src/interventions/evaluation.ts";
import { graphOfReport } from "../src/report/circuit.ts";
import type { ReportData } from "../src/report/data.ts";
import { reportPage } from "../src/report/page.ts";
import { sampleReport } from "../web/sample.ts";
import { sampleCircuit } from "../web/sample-circuit.ts";
import { lowContrast, type PageHarness, pageHarness } from "./page-harness.ts";

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

  test("a sample has the evaluation's own schema, but for the features", () => {
    const circuits = data.evaluation!.circuits.map((circuit) => ({ ...circuit, features: {} }));
    expect(() => evaluationSchema.parse({ ...data.evaluation, circuits })).not.toThrow();
  });
});

const harness = await pageHarness();

afterAll(() => harness?.close());

describe.skipIf(harness === null)("the page", () => {
  const { template, open } = harness ?? ({} as PageHarness);

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
    expect(await page.locator(".section > h2").allTextContents()).toEqual([
      "How do they work together?",
      "Which features?",
      "What do they mean?",
      "What are circuits worth?",
      "What drives them?",
      "At which token?",
      "Where in the model?",
      "Do they hold on new prompts?",
      "Does the model do it?",
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
    const [share, interval] = cells[5]!.split(" [");
    expect(share).toBe(row.accuracy === 1 ? "100 %" : `${(100 * row.accuracy).toFixed(1)} %`);
    const [low, high] = interval!.split(/[–\]]/).map(Number);
    expect(low! < 100 * row.accuracy && high! >= Math.floor(100 * row.accuracy)).toBe(true);

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
        const negative = row.querySelector(".value")!.textContent!.startsWith("−");
        return negative ? bar.right > zero + 1 : bar.left < zero - 1;
      }),
    );
    expect(wrong).toHaveLength(0);
    await page.close();
  });

  test("effects say what kind of number they are, exact values beside the strongest", async () => {
    const { page } = await open(sampleReport(seed));
    const first = page.locator("#features table").first();
    expect(await first.locator("thead th").allTextContents()).toEqual([
      "feature",
      "bar",
      "first-order",
      "± words",
      "rank",
      "secant",
      "exact",
    ]);
    for (const column of [6, 7]) {
      const cells = await first.locator(`tbody tr > :nth-child(${column})`).allTextContents();
      expect(cells.map((text) => text !== "")).toEqual(cells.map((_, i) => i < 3));
    }
    const text = await page.locator(".summary").textContent();
    expect(text).toContain("Effects here are first-order");
    expect(text).toContain("on 64 of 960 train pairs");
    expect(text).not.toContain("the feature alone moves");
    await page.close();
  });

  test("intervals over words stand beside the effects and in the bars; where there are too few words that is said", async () => {
    const data = sampleReport(seed);
    const { page } = await open(data);
    const site = await page.locator("#features table caption").first().textContent();
    const group = data.features.find((g) => site!.startsWith(g.site) && g.split === "train" && g.case === "")!;
    const { by_words: words, by_pairs: pairs, ranks } = group.spread[1]!;
    const row = page.locator("#features tbody tr").nth(1);
    expect(await row.locator("td.ranks").textContent()).toBe(`${ranks.low}–${ranks.high}`);
    expect(Number(await row.locator("td.spread").first().textContent())).toBeCloseTo((words.high - words.low) / 2, 2);
    const bar = await row.locator(".positive, .negative").evaluate((e) => e.getBoundingClientRect().width);
    const widths = await row.locator(".whisker").evaluateAll((all) => all.map((e) => e.getBoundingClientRect().width));
    const scale = bar / Math.abs(group.effect[1]!);
    expect(widths[0]! / scale).toBeCloseTo(words.high - words.low, 1);
    expect(widths[1]! / scale).toBeCloseTo(pairs.high - pairs.low, 1);
    expect(await page.locator("#features").textContent()).toContain("the 48 words that the train pairs share");
    expect(await page.locator("#agreement figcaption").first().textContent()).toContain("[70–100]");
    await page.close();

    const few = data.features.map((of) => ({ ...of, spread: of.spread.map(() => null), stability10: null }));
    const { page: other } = await open({ ...data, features: few, words: { train: 3, test: 3 } });
    expect(await other.locator(".whisker").count()).toBe(0);
    expect(await other.locator("#features").textContent()).toContain("the train pairs share 3 words, and fewer than 5");
    await other.close();
  });

  test("a feature's address opens what drives it, and marks the token", async () => {
    const data = sampleReport(seed);
    const row = data.drivers.find((d) => d.site === "mlp_out.3")!;
    const { page } = await open(data, { hash: `#drivers?site=${row.site}&feature=${row.feature}` });
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
    await page.locator(".top input[type=radio]").first().focus();
    await page.keyboard.press("ArrowRight");
    expect(await paper()).toBe(light);
    await page.keyboard.press("ArrowRight");
    expect(await paper()).not.toBe(light);
    await page.close();
  });

  test("the circuit starts legible, and its sliders prune as the command does", async () => {
    const circuit = sampleCircuit(seed, { perSite: 20, limit: 20_000 });
    const { page } = await open({ ...sampleReport(seed), circuit });
    const drawn = async () => [
      await page.locator(".circuit .node").count(),
      await page.locator(".circuit .edge").count(),
    ];
    const [nodes, edges] = await drawn();
    expect(nodes).toBeLessThanOrEqual(90);
    expect(edges).toBeLessThanOrEqual(300);
    const graph = graphOfReport(circuit);
    for (const [n, e] of [
      [0.5, 0.9],
      [0.9, 0.5],
    ]) {
      // biome-ignore format: shares of nodes and edges
      await page.getByLabel("Nodes: share of influence").fill(String(n));
      await page.getByLabel("Edges: share of influence").fill(String(e));
      const kept = prune(graph, { nodes: n!, edges: e! });
      await page.getByText(`${kept.nodes.length} of ${circuit.nodes.length} nodes`).waitFor();
      expect(await drawn()).toEqual([kept.nodes.length, kept.edges.length]);
    }
    await page.close();
  });

  test("a node of the circuit shows its flow, by click, by arrow keys and by the links of the table", async () => {
    const data = sampleReport(seed);
    const graph = graphOfReport(data.circuit!);
    const { page } = await open(data);
    const node = graph.nodes.find(({ kind }) => kind === "metric")!;
    await page.locator(".circuit .node.metric").click();
    await page.locator("#circuit .flow h3").getByText("metric", { exact: true }).waitFor();
    const into = graph.edges
      .filter(({ target }) => target === node.id)
      .sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
    const named = await page.locator("#circuit .flow tbody th button").allTextContents();
    expect(named).toEqual(into.slice(0, named.length).map(({ source }) => source.replace("/error", " error")));
    const numbers = (await page.locator("#circuit .flow tbody td:nth-child(2)").allTextContents()).map((text) =>
      Number(text.replace("−", "-")),
    );
    // All that comes in, its remainder included, is the effect in the last row.
    const sum = numbers.slice(0, -1).reduce((a, b) => a + b, 0);
    expect(sum).toBeCloseTo(numbers.at(-1)!, 1);
    expect(numbers.at(-1)).toBeCloseTo(node.effect, 1);

    await page.locator(".circuit .node.metric").focus();
    await page.keyboard.press("ArrowDown");
    const below = await page.locator('.circuit .node[aria-pressed="true"]:not(.metric)').getAttribute("aria-label");
    expect(await page.evaluate(() => document.activeElement?.getAttribute("aria-label"))).toBe(below);
    expect(below).toContain(`${await page.locator("#circuit .flow h3").textContent()}, effect`);

    const next = page.locator("#circuit .flow tbody th button").first();
    const name = await next.textContent();
    await next.click();
    await page.locator("#circuit .flow h3").getByText(name!, { exact: true }).waitFor();
    await page.close();
  });

  test("what circuits are worth follows the choice of pairs, split and ablation", async () => {
    const data = sampleReport(seed);
    const { page } = await open(data);
    const worth = page.locator("#worth");
    const shown = async () => worth.locator("table").first().locator("tbody tr").nth(2).locator("td").allTextContents();
    const numbersOf = (group: string, split: string, ablation: string) =>
      data
        .evaluation!.curves.filter((c) => c.group === group && c.split === split && c.ablation === ablation)
        .map(({ points }) => points[2]!.faithfulness.toFixed(2));
    const agree = async (...choice: [string, string, string]) => {
      const cells = await shown();
      expect(
        cells.map((text) =>
          text
            .replace("−", "-")
            .split(" ")[0]!
            .replace(/^0\.00$/, "-0.00"),
        ),
      ).toEqual(numbersOf(...choice).map((text) => text.replace(/^0\.00$/, "-0.00")));
    };
    await agree("simple", "test", "mean");
    await worth.locator("select").first().selectOption("nounpp");
    await worth.getByText("train", { exact: true }).click();
    await worth.getByText("patch", { exact: true }).click();
    await agree("nounpp", "train", "patch");
    expect(await worth.locator(".heat td.own").allTextContents()).toEqual(["0.93", "0.93", "0.93"]);
    // Baselines are dashed.
    expect(await worth.locator(".legend svg path[stroke-dasharray='5 4']").count()).toBe(2);
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

  test("names of cases without a space, right to left or like markup leave the page its width", async () => {
    const data = sampleReport(seed);
    const old = data.accuracy[0]!.case;
    const name = (text: string) => (text === old ? `<i>${"x".repeat(150)}` : text === "" ? "" : `שלום ${text}`);
    const renamed = <T extends { case: string }>(rows: readonly T[]) =>
      rows.map((row) => ({ ...row, case: name(row.case) }));
    const odd: ReportData = {
      ...data,
      accuracy: renamed(data.accuracy),
      features: renamed(data.features),
      drivers: data.drivers.map((of) => ({ ...of, contexts: of.contexts.map((one) => ({ ...one, case: name(old) })) })),
    };
    for (const width of [390, 1366]) {
      const { page, problems } = await open(odd, { width });
      expect(problems).toEqual([]);
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width);
      const beside = await page
        .locator("#drivers .contexts li")
        .evaluateAll((all) => all.filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.textContent));
      expect(beside).toEqual([]);
      await page.close();
    }
  });

  test("of a table of hundreds of cases the first are shown, and all of them when asked for", async () => {
    const data = sampleReport(seed);
    const accuracy = Array.from({ length: 500 }, (_, i) => ({
      ...data.accuracy[0]!,
      case: `case ${i}`,
      accuracy: i === 400 ? 0.5 : 1,
    }));
    const { page, problems } = await open({ ...data, accuracy });
    const rows = page.locator("#accuracy tbody tr");
    expect(await rows.count()).toBe(50);
    const head = page.locator("#accuracy th button", { hasText: "accuracy" }).first();
    await head.click();
    await head.click();
    expect(await rows.first().textContent()).toContain("case 400");
    await page.getByRole("button", { name: "Show all 500 rows" }).click();
    expect(await rows.count()).toBe(500);
    expect(problems).toEqual([]);
    await page.close();
  });

  test("a link to a site that there is not leaves the page as it is", async () => {
    for (const site of ["__proto__", "%3Cimg%20src=x%3E", "embed.1", "resid_post.1.2", "%E0%A4%A"]) {
      const { page, problems } = await open(sampleReport(seed), { hash: `#features?site=${site}&feature=1` });
      expect(problems).toEqual([]);
      expect(await page.locator("#features table.bars").count()).toBeGreaterThan(0);
      await page.close();
    }
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
      circuit: null,
      evaluation: null,
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
      expect(await page.locator("#circuit, #worth").count()).toBe(0);
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
    const { page, problems } = await open({ ...full, ...nothing, meaning: null, circuit: null, evaluation: null });
    expect(problems).toEqual([]);
    expect(await page.locator(".section > h2").count()).toBe(9);
    await page.close();
  });
});
