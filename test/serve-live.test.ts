import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { EndpointName, RequestOf, ResponseOf, RunState } from "../src/serve/api.ts";
import { rowsOf, run, start, succeeds } from "./cli-harness.ts";

const home = mkdtempSync(join(tmpdir(), "sfc-live-"));
const folder = join(home, "runs");
const pair = {
  clean: "The dogs near the house",
  patch: "The dog near the house",
  clean_answer: "are",
  patch_answer: "is",
};
let served: ReturnType<typeof start>;
let [origin, token] = ["", ""];

/** Asks as the page does. */
async function ask<N extends EndpointName>(name: N, request: RequestOf<N>): Promise<ResponseOf<N>> {
  const { status, body } = await tryAsk(name, request);
  expect(status, JSON.stringify(body)).toBe(200);
  return body as ResponseOf<N>;
}

async function tryAsk(name: EndpointName, request: object): Promise<{ status: number; body: unknown }> {
  const [method, path] = name.split(" ") as [string, string];
  const headers = {
    authorization: `Bearer ${token}`,
    ...(method === "POST" && { "content-type": "application/json" }),
  };
  const query =
    method === "GET" ? `?${new URLSearchParams(Object.entries(request).map(([k, v]) => [k, String(v)]))}` : "";
  const body = method === "POST" ? { body: JSON.stringify(request) } : {};
  const response = await fetch(`${origin}/api/${path}${query}`, { method, headers, ...body });
  return { status: response.status, body: await response.json() };
}

beforeAll(async () => {
  const typed = ["--clean", pair.clean, "--patch", pair.patch, "--answers", "are,is"];
  for (const method of ["analytic", "secant"])
    await succeeds(["run", ...typed, "--method", method, "--output_dir", join(folder, method), "--quiet"]);
  served = start(["serve", folder, "--port", "0"]);
  const line = await new Promise<string>((resolve) => served.child.stdout!.on("data", (text) => resolve(String(text))));
  const url = new URL(line.slice("Open ".length).trim());
  [origin, token] = [url.origin, url.searchParams.get("token")!];
});

afterAll(async () => {
  // Neither a question that is being answered nor a run that is under way keeps Ctrl-C waiting.
  const subject = { model: "demo", pairs: [pair] };
  const cut = tryAsk("POST live/circuit", { ...subject, size: 500 }).catch(() => null);
  await ask("POST work/start", {
    model: "demo",
    name: "cut",
    method: "secant",
    of: { task: "agreement", num_examples: 32 },
  });
  const begun = performance.now();
  served.child.kill("SIGINT");
  expect((await served.ended).code).toBe(0);
  expect(performance.now() - begun).toBeLessThan(1000);
  expect(await cut).toBe(null);
  rmSync(home, { recursive: true });
});

describe("live work", () => {
  test("offers the embedded model, and no path of the page's own", async () => {
    const { models, open } = await ask("GET live", {});
    expect(models).toEqual([{ id: "demo", model: "demo", saes: null }]);
    expect(open).toBe(null);
    const subject = { pairs: [pair], method: "analytic", top: 5 };
    expect(await tryAsk("POST live/effects", { ...subject, model: "/etc" })).toEqual({
      status: 404,
      body: { error: expect.stringContaining("expected one of demo") },
    });
  });

  test.each(["analytic", "secant"] as const)("has the effects that sfc run --method %s writes", async (method) => {
    const found = await ask("POST live/effects", { model: "demo", pairs: [pair], method, top: 10 });
    const rows = (await rowsOf(join(folder, method), "features")).filter(
      (row) => row.case === "" && row.split === "train",
    );
    expect(found.sites).toHaveLength(18);
    for (const { site, features, error } of found.sites) {
      const own = rows.filter((row) => row.site === site);
      const scale = Math.max(...own.map(({ effect }) => Math.abs(effect as number)), 1e-6);
      expect(features.length).toBe(Math.min(10, own.filter(({ rank }) => rank !== null).length));
      for (const { feature, effect, nodes } of features) {
        const row = own.find((one) => one.feature === feature)!;
        expect(Math.abs(effect - (row.effect as number))).toBeLessThan(1e-4 * scale);
        expect(nodes).toBe(row.nodes_active);
      }
      const own_error = own.find((row) => row.feature === -1)?.effect as number;
      expect(Math.abs(error! - own_error)).toBeLessThan(1e-4 * scale + 1e-5);
    }
  });

  test("secant effects and errors of a residual site are the whole change of the metric", async () => {
    const found = await ask("POST live/effects", { model: "demo", pairs: [pair], method: "secant", top: 200 });
    const { m_clean, m_patch, clean, patch, next } = found.pairs[0]!;
    expect(m_patch - m_clean).toBeCloseTo(found.change, 6);
    const last = found.sites.find(({ site }) => site === "resid_post.5")!;
    const sum = last.features.reduce((total, { effect }) => total + effect, last.error!);
    expect(Math.abs(sum / found.change - 1)).toBeLessThan(0.05);
    // The metric is a difference of logits, the probabilities are of the same logits.
    const of = (text: string) => next.find((one) => one.text === text)!;
    expect(Math.log(of(" is").clean / of(" are").clean)).toBeCloseTo(m_clean, 3);
    expect(Math.log(of(" is").patch / of(" are").patch)).toBeCloseTo(m_patch, 3);
    expect([clean.at(2), patch.at(2)]).toEqual([" dogs", " dog"]);
    expect(found.notes).toEqual(['A space was put before "are" and "is".']);
  });

  test("several pairs have the mean of their effects; one that cannot be used is told", async () => {
    const others = ["cat", "boy"].map((noun) => ({
      ...pair,
      clean: `The ${noun}s near the desk`,
      patch: `The ${noun} near the desk`,
    }));
    const wrong = { ...pair, patch: "The dog" };
    const options = { model: "demo", method: "analytic", top: 200 } as const;
    const [together, ...single] = [
      await ask("POST live/effects", { ...options, pairs: [...others, wrong] }),
      await ask("POST live/effects", { ...options, pairs: [others[0]!] }),
      await ask("POST live/effects", { ...options, pairs: [others[1]!] }),
    ];
    expect(together.rejected).toEqual([{ pair: 2, reason: "prompts have different numbers of tokens" }]);
    const at = (found: typeof together) => found.sites.find(({ site }) => site === "resid_post.3")!;
    for (const { feature, effect } of at(together).features.slice(0, 5)) {
      const own = single.map((found) => at(found).features.find((one) => one.feature === feature)?.effect ?? 0);
      expect(effect).toBeCloseTo((own[0]! + own[1]!) / 2, 4);
    }
  });

  test("changed features have the metric that sfc evaluate --ablate has", async () => {
    const [site, feature] = ["resid_post.2", 1035];
    const named = { ablate: [`${site}/${feature}`], scale: ["resid_post.3/43=0.5"], set: ["resid_post.4/7=2"] };
    const live = await ask("POST live/intervene", { model: "demo", pairs: [pair], ...named });
    const flags = Object.entries(named).flatMap(([flag, list]) => [`--${flag}`, ...list]);
    const { stdout } = await run(["evaluate", join(folder, "analytic"), ...flags, "--json", "--quiet"]);
    const [asked] = (JSON.parse(stdout) as { pairs: { before: number; after: number }[] }).pairs;
    expect(live.pairs[0]!.before).toBeCloseTo(asked!.before, 4);
    expect(live.pairs[0]!.after).toBeCloseTo(asked!.after, 4);
    expect(Math.abs(asked!.after - asked!.before)).toBeGreaterThan(0.01);
    const before = live.pairs[0]!.next.reduce((sum, one) => sum + one.before, 0);
    expect(before).toBeGreaterThan(0.3);
    expect(
      await tryAsk("POST live/intervene", { model: "demo", pairs: [pair], ...named, ablate: ["resid_post.9/1"] }),
    ).toEqual({
      status: 422,
      body: { error: expect.stringContaining("--ablate") },
    });
  });

  test("a circuit's edges from the last residual site into the metric are its features' secant effects", async () => {
    const { circuit } = await ask("POST live/circuit", { model: "demo", pairs: [pair], size: 20 });
    expect(circuit.nodes.filter(({ kind }) => kind === "feature")).toHaveLength(20);
    const rows = (await rowsOf(join(folder, "secant"), "features")).filter(
      ({ site, case: name }) => site === "resid_post.5" && name === "",
    );
    const scale = Math.max(...rows.map(({ effect }) => Math.abs(effect as number)));
    const { source, target, value } = circuit.edges;
    const into = value.flatMap((of, i) => {
      const [from, to] = [circuit.nodes[source[i]!]!, circuit.nodes[target[i]!]!];
      return to.kind === "metric" && from.kind === "feature" ? [[from.feature, of] as const] : [];
    });
    expect(into.length).toBeGreaterThan(1);
    for (const [feature, edge] of into) {
      const { effect } = rows.find((row) => row.feature === feature)!;
      expect(Math.abs(edge - (effect as number))).toBeLessThan(0.05 * scale);
    }
  });

  test("an answer is saved as JSON, once, and nowhere else", async () => {
    const found = await ask("POST live/effects", { model: "demo", pairs: [pair], method: "analytic", top: 3 });
    expect(await ask("POST live/save", { id: found.id, name: "dogs" })).toEqual({ file: "live/dogs.json" });
    const saved = JSON.parse(readFileSync(join(folder, "live/dogs.json"), "utf8"));
    expect(saved).toMatchObject({ format: 1, kind: "effects", request: { pairs: [pair] }, answer: found });
    expect(await tryAsk("POST live/save", { id: found.id, name: "dogs" })).toMatchObject({ status: 409 });
    expect(await tryAsk("POST live/save", { id: "none", name: "cats" })).toMatchObject({ status: 404 });
    for (const name of ["../dogs", "a/b", ".dogs", "", "a\u0000", "/tmp/dogs", "..", "x".repeat(200)])
      expect(await tryAsk("POST live/save", { id: found.id, name })).toMatchObject({ status: 400 });
    symlinkSync(join(home, "elsewhere.json"), join(folder, "live/link.json"));
    expect(await tryAsk("POST live/save", { id: found.id, name: "link" })).toMatchObject({ status: 403 });
    expect(existsSync(join(home, "elsewhere.json"))).toBe(false);
  });

  test("pairs that no model can use, and requests of another form, are refused", async () => {
    const ask = { model: "demo", pairs: [pair], method: "analytic", top: 5 };
    const problems = [
      [{ ...ask, pairs: [] }, 400],
      [{ ...ask, pairs: Array(101).fill(pair) }, 400],
      [{ ...ask, pairs: [{ ...pair, clean: "" }] }, 400],
      [{ ...ask, pairs: [{ ...pair, path: "/etc/passwd" }] }, 400],
      [{ ...ask, method: "none" }, 400],
      [{ ...ask, top: 1e9 }, 400],
      [{ ...ask, pairs: [{ ...pair, patch: pair.clean }] }, 422],
    ] as const;
    for (const [request, status] of problems) expect((await tryAsk("POST live/effects", request)).status).toBe(status);
  });

  test("survives 1,000 questions at once: those that find no place are told to come again", async () => {
    const request = { model: "demo", pairs: [pair], ablate: ["resid_post.2/1035"], scale: [], set: [] };
    const answers = await Promise.all(Array.from({ length: 1000 }, () => tryAsk("POST live/intervene", request)));
    const count = (status: number) => answers.filter((answer) => answer.status === status).length;
    expect(count(200)).toBeGreaterThanOrEqual(64);
    expect(count(200) + count(503)).toBe(1000);
    expect((await ask("GET live", {})).waiting).toBe(0);
  });
});

describe("runs that are started here", () => {
  const others = ["cat", "boy", "girl", "king"].map((noun) => ({
    ...pair,
    clean: `The ${noun}s near the desk`,
    patch: `The ${noun} near the desk`,
  }));

  async function ended(id: string): Promise<RunState> {
    for (;;) {
      const run = (await ask("GET work", {})).runs.find((one) => one.id === id)!;
      if (run.status !== "running") return run;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  test("of typed pairs have the results of the command line, and one is under way at a time", async () => {
    const request = { name: "four", model: "demo", method: "analytic", of: { pairs: others } } as const;
    const begun = await ask("POST work/start", request);
    expect(begun).toMatchObject({ name: "four", status: "running", error: null });
    expect(await tryAsk("POST work/start", { ...request, name: "five" })).toMatchObject({ status: 409 });
    const run = await ended(begun.id);
    expect(run).toMatchObject({ status: "finished", share: 1, error: null });
    const own = join(home, "own");
    await succeeds(["run", "--pairs", join(folder, "four.jsonl"), "--output_dir", own, "--quiet"]);
    expect(await rowsOf(join(folder, "four"), "features")).toEqual(await rowsOf(own, "features"));
    const { items } = await ask("GET folder", {});
    expect(items.find(({ name }) => name === "four")).toMatchObject({ status: "finished", pairs: 4, report: true });
  });

  test("of pairs whose name other pairs have are refused, and their file stays; the same pairs may be asked again", async () => {
    const request = { name: "kept", model: "demo", method: "analytic" } as const;
    const { id } = await ask("POST work/start", { ...request, of: { pairs: others } });
    await ended(id);
    const file = join(folder, "kept.jsonl");
    const before = readFileSync(file, "utf8");
    expect(before.trim().split("\n")).toHaveLength(others.length);
    expect(await tryAsk("POST work/start", { ...request, of: { pairs: others.slice(1) } })).toEqual({
      status: 409,
      body: { error: "name: expected a new one, got that of kept.jsonl, which has other pairs. Choose another." },
    });
    expect(readFileSync(file, "utf8")).toBe(before);
    const again = await ask("POST work/start", { ...request, of: { pairs: others } });
    expect(await ended(again.id)).toMatchObject({ status: "finished", lines: ["It had been finished before."] });
    mkdirSync(join(folder, "folder.jsonl"));
    expect(await tryAsk("POST work/start", { ...request, name: "folder", of: { pairs: others } })).toEqual({
      status: 409,
      body: {
        error: expect.stringMatching(/^name: .* folder\.jsonl, which cannot be read \(.*\)\. Choose another\.$/),
      },
    });
  });

  test("can be stopped, and are resumed by the same start", async () => {
    const request = {
      name: "long",
      model: "demo",
      method: "analytic",
      of: { task: "agreement", num_examples: 16 },
    } as const;
    const { id } = await ask("POST work/start", request);
    while ((await ask("GET work", {})).runs[0]!.phase === "starting") await new Promise((go) => setTimeout(go, 50));
    await ask("POST work/stop", { id });
    expect(await ended(id)).toMatchObject({ status: "stopped" });
    const again = await ask("POST work/start", request);
    expect(await ended(again.id)).toMatchObject({ status: "finished" });
  });

  test("go nowhere else, and a name that is taken is refused", async () => {
    const of = { task: "agreement", num_examples: 1 };
    const request = { model: "demo", method: "analytic", of };
    for (const name of ["../out", "a/b", ".hidden", "", "/tmp/run"])
      expect(await tryAsk("POST work/start", { ...request, name })).toMatchObject({ status: 400 });
    symlinkSync(join(home, "nowhere"), join(folder, "linked"));
    expect(await tryAsk("POST work/start", { ...request, name: "linked" })).toMatchObject({ status: 403 });
    expect(await tryAsk("POST work/start", { ...request, name: "x", model: "/etc" })).toMatchObject({ status: 404 });
    const { id } = await ask("POST work/start", { ...request, name: "analytic" } as RequestOf<"POST work/start">);
    expect(await ended(id)).toMatchObject({ status: "failed", error: expect.stringContaining("output folder") });
  });
});
