import { afterAll, describe, expect, test } from "vitest";
import { type Comparison, comparisonSchema } from "../src/report/comparison.ts";
import { correlation } from "../src/report/format.ts";
import { isComparison, reportPage } from "../src/report/page.ts";
import { costAgainst, integratedAgainstPlain, sameFeatures } from "../web/methods.ts";
import { sampleReport } from "../web/sample.ts";
import { sampleComparison } from "../web/sample-comparison.ts";
import { layersOf } from "../web/select.ts";
import { seriousFindings } from "./axe.ts";
import { lowContrast, type PageHarness, pageHarness } from "./page-harness.ts";

const seed = 7;
const data = sampleComparison(seed);
const methodOf = (name: string) => data.methods.find((method) => method.name === name)!;
const analytic = methodOf("analytic");

/** The sample with other agreement between two methods over all sites together. */
function withAgreement(a: string, b: string, change: Partial<Comparison["agreement"][number]>): Comparison {
  const agreement = data.agreement.map((row) =>
    row.a === a && row.b === b && row.site === "" ? { ...row, ...change } : row,
  );
  return { ...data, agreement };
}

test("a sample has the comparison's own schema, and is told from a run", () => {
  expect(comparisonSchema.parse(data)).toEqual(data);
  expect(isComparison(data)).toBe(true);
  expect(isComparison(sampleReport(seed))).toBe(false);
});

test("no name in a comparison can end the script element", () => {
  const opening = '<script type="application/json" id="sfc-report">';
  const task = "</script><b>$&$1<!--";
  const page = reportPage(`<body>${opening}</script></body>`, { ...data, task });
  const json = page.slice(page.indexOf(opening) + opening.length, page.indexOf("</script>"));
  expect(json).not.toContain("<");
  expect((JSON.parse(json) as Comparison).task).toBe(task);
});

describe("what is said of two methods follows from their numbers", () => {
  const said = (change: Partial<Comparison["agreement"][number]>) =>
    sameFeatures(withAgreement("analytic", "sfc:64", change), analytic, methodOf("sfc:64"));

  test("the same numbers up to rounding", () => {
    const { claim, grounds } = said({ difference: 3e-7, scale: 1, top_50: 1 });
    expect(claim).toBe("sfc:64 and analytic find the same features, with the same numbers:");
    expect(grounds).toBe(
      "all of the top 50 of analytic are among those of sfc:64, largest difference 3.0 × 10⁻⁷ of the largest effect.",
    );
  });

  test("the same features, most of them, some of them, and others", () => {
    const claims = [1, 0.92, 0.6, 0.2].map((top_50) => said({ difference: 0.3, scale: 1, top_50 }).claim);
    expect(claims).toEqual([
      "sfc:64 and analytic find the same strongest features, with other numbers:",
      "sfc:64 and analytic find mostly the same features:",
      "sfc:64 and analytic find only in part the same features:",
      "sfc:64 and analytic do not find the same features:",
    ]);
  });

  test("with fewer than 50 features the top 10 count; whose top they are is said as the data have it", () => {
    const { grounds } = sameFeatures(
      withAgreement("analytic", "sfc:64", { difference: 0.3, scale: 1, top_50: null, top_10: 0.7, pearson: 0.5 }),
      methodOf("sfc:64"),
      analytic,
    );
    expect(grounds).toBe("70.0 % of the top 10 of analytic are among those of sfc:64, Pearson 0.500.");
  });

  test("time and memory as parts, and as multiples when the first takes more", () => {
    const other = { ...analytic, seconds: 10 * analytic.seconds, above_bytes: 2 * analytic.above_bytes };
    expect(costAgainst(analytic, other)).toBe(
      "analytic takes 1/10 of the time and 50 % of the memory on top of the model.",
    );
    expect(costAgainst({ ...other, name: "slow" }, analytic)).toBe(
      "slow takes 10 times the time and 2.0 times the memory on top of the model.",
    );
    expect(costAgainst(analytic, { ...analytic, above_bytes: 0 })).toBe("analytic takes about the same time.");
  });

  test("the integrated method is nearer to exact in the early layers, further, or neither", () => {
    const claims = [0.5, 2, 1].map((factor) => {
      const plain = new Map(data.exactness.filter((r) => r.method === "analytic").map((r) => [r.site, r.error!]));
      const exactness = data.exactness
        .filter((row) => row.method !== "sfc-ig")
        .map((row) => (row.method === "analytic-ig" ? { ...row, error: factor * plain.get(row.site)! } : row));
      return integratedAgainstPlain({ ...data, exactness }).map(({ claim }) => claim);
    });
    expect(claims).toEqual([
      ["In the early layers, 0 to 1, analytic-ig is nearer to exact than analytic:"],
      ["In the early layers, 0 to 1, analytic-ig is not better than analytic but further from exact:"],
      ["In the early layers, 0 to 1, analytic-ig is not clearly better than analytic:"],
    ]);
    expect(integratedAgainstPlain({ ...data, exactness: [] })).toEqual([]);
  });
});

test("a correlation is 1 only when it is, and keeps its distance from 1", () => {
  expect([1, 0.98234, 0.99998, 1 - 1e-9, -0.5, null].map(correlation)).toEqual([
    "1",
    "0.982",
    "0.99998",
    "> 0.999999",
    "−0.500",
    "–",
  ]);
});

test("sites are named as kinds with ranges of layers", () => {
  expect(layersOf(["embed", "resid_post.1", "resid_post.0", "resid_post.4", "mlp_out.2"])).toBe(
    "embed; mlp_out 2; resid_post 0–1, 4",
  );
});

const harness = await pageHarness();

afterAll(() => harness?.close());

describe.skipIf(harness === null)("the page of a comparison", () => {
  const { open } = harness ?? ({} as PageHarness);

  for (const width of [360, 1366]) {
    for (const scheme of ["light", "dark"] as const) {
      test(`at ${width} pixels in ${scheme}: no errors, no requests, no sideways scrolling, readable text`, async () => {
        const { page, problems } = await open(data, { width, scheme });
        await page.locator("details").evaluateAll((all) => {
          for (const details of all) (details as HTMLDetailsElement).open = true;
        });
        expect(problems).toEqual([]);
        expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width);
        expect(await lowContrast(page)).toEqual([]);
        await page.close();
      });
    }
  }

  test("has a heading for every part, in order, and every link of its contents leads to one", async () => {
    const { page } = await open(data);
    expect(await page.title()).toBe("Methods side by side: agreement in models/demo · analytic-sfc");
    expect(await page.locator("h1").textContent()).toBe("Six ways to the features behind agreement in demo");
    expect(await page.locator(".section > h2").allTextContents()).toEqual([
      "What do they cost?",
      "Do they find the same features?",
      "How near are they to the truth?",
      "Do they add up?",
      "What was run",
    ]);
    const links = await page.locator("nav a").evaluateAll((all) => all.map((a) => (a as HTMLAnchorElement).hash));
    expect(links).toEqual(["#cost", "#agreement", "#exactness", "#sums", "#run"]);
    for (const link of links) expect(await page.locator(link).count(), link).toBe(1);
    await page.close();
  });

  test("shows the numbers of the data: findings, ratios to the first method, agreement, error and gap", async () => {
    const { page } = await open(data);
    const findings = await page.locator(".summary .findings li").allTextContents();
    expect(findings).toHaveLength(data.methods.length - 1);
    expect(findings[1]).toContain(
      "sfc:64 and analytic find the same features, with the same numbers: all of the top 50",
    );
    expect(findings[1]).toContain("analytic takes 1/11 of the time and 1/6 of the memory");

    const times = page.locator("#cost table.costs").first().locator("tbody tr");
    expect(await times.nth(2).locator("td").allTextContents()).toEqual(["", "43.8 s", "11 ×"]);
    const [short, long] = await Promise.all([0, 5].map((i) => times.nth(i).locator(".bar span").boundingBox()));
    expect(short!.width / long!.width).toBeCloseTo(4.1 / 412, 2);

    const row = page.locator("#agreement .scroll").first().locator("tbody tr", { hasText: "analytic-ig, spliced" });
    const known = data.agreement.find((r) => r.a === "analytic-ig" && r.b === "spliced" && r.site === "")!;
    const cells = await row.locator("td").allTextContents();
    const { low, high } = known.pearson_by_words!;
    expect(cells[0]).toBe(`${known.pearson!.toFixed(3)} [${low.toFixed(3)}–${high.toFixed(3)}]`);
    const of50 = [known.top_50_by_words!.low, known.top_50_by_words!.high].map((share) => Math.round(100 * share));
    expect(cells[4]).toBe(`${(100 * known.top_50!).toFixed(1)} % [${of50[0]}–${of50[1]}]`);
    expect(await page.locator("#agreement").textContent()).toContain("the 111 that pairs share drawn again");

    const exactness = data.exactness.find((r) => r.method === "spliced" && r.site === "")!;
    const errors = page.locator("#exactness .scroll").first().locator("tbody tr", { hasText: "spliced" }).locator("td");
    const [from, to] = [exactness.error_by_words!.low, exactness.error_by_words!.high].map((v) => (100 * v).toFixed(1));
    expect(await errors.nth(1).textContent()).toBe(`${(100 * exactness.error!).toFixed(1)} % [${from} %–${to} %]`);

    const sums = data.sums.find((r) => r.method === "analytic" && r.site === "resid_post.2")!;
    const gap = page.locator("#sums tbody tr", { hasText: "resid_post.2" }).locator("td").first();
    expect(await gap.textContent()).toBe(`${(100 * sums.gap!).toFixed(1)} %`);
    await page.locator("#sums").getByText("median over pairs", { exact: true }).click();
    expect(await gap.textContent()).toBe(`${(100 * sums.median_gap!).toFixed(1)} %`);
    await page.close();
  });

  test("scatter plots follow the chosen site and pairs of methods, the table by site the chosen pair", async () => {
    const { page } = await open(data);
    const part = page.locator("#agreement");
    const dots = () => part.locator("figure").first().locator("svg circle").count();
    expect(await part.locator("figure").count()).toBe(5);
    expect(await dots()).toBe(200);
    await part.getByText("mlp_out", { exact: true }).click();
    const first = data.scatter[0]!;
    await expect.poll(dots).toBe(first.site.filter((site) => site.startsWith("mlp_out")).length);
    await part.getByLabel("with analytic").focus();
    await page.keyboard.press("ArrowRight");
    await expect.poll(() => part.locator("figure").count()).toBe(15);

    const at = data.agreement.find((r) => r.a === "spliced" && r.b === "exact" && r.site === "mlp_out.3")!;
    await part.locator("select").selectOption({ label: "spliced, exact" });
    const row = part.locator(".scroll").last().locator("tbody tr", { hasText: "mlp_out.3" });
    expect(await row.locator("td").first().textContent()).toBe(correlation(at.pearson));
    await page.close();
  });

  test("axe finds nothing serious, and dots and marks of layers lead to a card and to their row", async () => {
    for (const width of [390, 1440]) {
      const { page, problems } = await open(data, { width });
      for (const summary of await page.locator("main details > summary").all()) await summary.click();
      expect(await seriousFindings(page)).toEqual([]);
      const unled = await page
        .locator(".chart svg circle, .chart svg [data-mark=dot] path")
        .evaluateAll((all) => all.filter((one) => (one.closest("a")?.getAttribute("aria-label") ?? "") === "").length);
      expect(unled).toBe(0);
      const press = (where: string) =>
        page
          .locator(where)
          .evaluate((a) => a.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true })));
      await press("#agreement .chart a >> nth=3");
      const row = data.scatter[0]!;
      expect(await page.locator("#card-title").textContent()).toBe(`${row.site[3]}/${row.feature[3]}`);
      const effect = Number((await page.locator(".card tbody td").first().textContent())!.replace("−", "-"));
      expect(effect).toBeCloseTo(row.x[3]!, 2);
      await page.locator(".close").click();
      await press("#sums .chart a >> nth=1");
      expect(await page.locator("#sums tr.chosen th").allTextContents()).toEqual(["resid_post.1"]);
      expect(problems).toEqual([]);
      await page.close();
    }
  });

  test("a line per method in each picture of layers, with a colour and a shape of its own", async () => {
    const { page } = await open(data);
    expect(await page.locator("#exactness figure b").allTextContents()).toEqual(["attn_out", "mlp_out", "resid_post"]);
    const looks = await page
      .locator("#exactness figure")
      .first()
      .locator("g[data-mark=dot]")
      .evaluateAll((all) =>
        all.map((g) => `${g.getAttribute("fill")} ${g.querySelector("path")!.getAttribute("d")!.split("L").length}`),
      );
    expect(new Set(looks).size).toBe(5);
    const legend = page.locator("#exactness .legend li");
    expect(await legend.allTextContents()).toEqual(["analytic", "analytic-ig", "sfc:64", "sfc-ig", "spliced"]);
    await page.close();
  });

  test("has no part for what was not computed, and warns loudly of dummy dictionaries and of what is not complete", async () => {
    const kept = ["analytic", "sfc:64"];
    const both = (row: { a: string; b: string }) => kept.includes(row.a) && kept.includes(row.b);
    const less: Comparison = {
      ...data,
      status: "running",
      warnings: ["One pair was left out."],
      dictionaries: { ...data.dictionaries, source: "dummy", dummy: true },
      methods: data.methods.filter(({ name }) => kept.includes(name)),
      agreement: data.agreement.filter(both),
      scatter: data.scatter.filter(both),
      sums: [],
      exactness: [],
    };
    for (const scheme of ["light", "dark"] as const) {
      const { page, problems } = await open(less, { width: 360, scheme });
      expect(problems).toEqual([]);
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(360);
      expect(await lowContrast(page)).toEqual([]);
      expect(await page.locator("nav a").allTextContents()).toEqual(["Cost", "Agreement", "Run"]);
      expect(await page.locator(".section > h2").count()).toBe(3);
      expect(await page.getByRole("alert").textContent()).toContain("Dummy dictionaries");
      const warnings = await page.locator(".warnings li").allTextContents();
      expect(warnings[0]).toContain("not complete");
      expect(warnings[1]).toBe("One pair was left out.");
      await page.close();
    }
  });

  test("opens with nothing but names, with measures that are undefined, and with names that look like markup", async () => {
    const name = "</script><b>x";
    const bare: Comparison = {
      ...data,
      task: name,
      methods: [],
      agreement: [],
      scatter: [],
      sums: [],
      exactness: [],
    };
    const undefinedOnes: Comparison = {
      ...data,
      agreement: data.agreement.map((row) => ({
        ...row,
        pearson: null,
        spearman: null,
        sign: null,
        top_10: null,
        top_50: null,
        top_100: null,
        scale: 0,
        difference: 0,
      })),
      exactness: data.exactness.map((row) => ({ ...row, pearson: null, error: null })),
      sums: data.sums.map((row) => ({ ...row, gap: null, median_gap: null })),
      methods: data.methods.map((method) => ({ ...method, seconds: 0, above_bytes: 0 })),
    };
    for (const odd of [bare, undefinedOnes]) {
      const { page, problems } = await open(odd);
      expect(problems).toEqual([]);
      expect(await page.locator("h1 em").textContent()).toBe(odd === bare ? "script><b>x" : "agreement");
      expect(await page.locator("main").textContent()).not.toMatch(/NaN|undefined|null|Infinity/);
      await page.close();
    }
  });
});
