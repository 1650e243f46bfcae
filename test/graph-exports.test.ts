import { afterAll, describe, expect, it } from "vitest";
import { type AttributionOptions, attributionGraph, attributionIndex } from "../src/circuit/export/attribution.ts";
import { graphMl } from "../src/circuit/export/graphml.ts";
import { lintAttributionGraph } from "../src/circuit/export/lint.ts";
import { graphSvg } from "../src/circuit/export/svg.ts";
import { type CircuitGraph, graphNodeName } from "../src/circuit/graph.ts";
import { influenceOf, prune } from "../src/circuit/influence.ts";
import { startBrowser } from "./browser.ts";
import { randomCircuit } from "./random-circuit.ts";

const seed = 11;
const tokens = ["<bos>", "The", " dog", " near", " the", ' "cars" (p=1)'];
const summed = prune(randomCircuit(seed, { layers: 6, features: 9, density: 0.35 }), { nodes: 0.85, edges: 0.85 });
const placed = prune(randomCircuit(seed, { layers: 3, features: 3, density: 0.4, tokens }), { nodes: 0.9, edges: 0.8 });
const residual = prune(randomCircuit(seed, { kinds: ["resid_post"], tokens }), { nodes: 0.95, edges: 0.95 });
const graphs = { summed, placed, residual };

/** Texts that XML or HTML could trip over; the last characters cannot stand in XML and are shown by others. */
const texts = ["<&>\"'", "]]>", "<!--", " \t\n\r\n x ", "", " 👍🏽 日本語 ßж", "{{x}}", "\u0085\u2028\ufeff"];
const shownAs: readonly (readonly [text: string, shown: string])[] = [
  ...texts.map((text) => [text, text] as const),
  ["\u0000a\u001b", "␀a␛"],
  ["\ud800 \udc00 \uffff", "� � �"],
];
const odd: CircuitGraph = {
  ...residual,
  nodes: residual.nodes.slice(0, 1).flatMap((node) => shownAs.map(([label], i) => ({ ...node, id: `n${i}`, label }))),
  edges: [],
};

const started = await startBrowser();
afterAll(() => started?.close());

/** What a browser's XML parser reads: elements as [name, attributes, own text, children]. */
interface Read {
  name: string;
  attributes: Record<string, string>;
  text: string;
  children: Read[];
}

async function readXml(xml: string): Promise<Read> {
  const page = await started!.browser.newPage();
  const read = await page.evaluate((source) => {
    const document = new DOMParser().parseFromString(source, "application/xml");
    const error = document.querySelector("parsererror");
    if (error !== null) throw new Error(error.textContent);
    const of = (element: Element): unknown => ({
      name: element.localName,
      attributes: Object.fromEntries([...element.attributes].map((one) => [one.name, one.value])),
      text: element.children.length === 0 ? element.textContent : "",
      children: [...element.children].map(of),
    });
    return JSON.stringify(of(document.documentElement));
  }, xml);
  await page.close();
  return JSON.parse(read) as Read;
}

/** The rows of a GraphML file with their declared names and types applied. */
function rowsOf(root: Read, kind: "node" | "edge") {
  const keys = new Map(
    root.children.filter(({ name }) => name === "key").map(({ attributes }) => [attributes.id, attributes]),
  );
  const graph = root.children.find(({ name }) => name === "graph")!;
  return graph.children
    .filter(({ name }) => name === kind)
    .map(({ attributes, children }) => ({
      ...attributes,
      ...Object.fromEntries(
        children.map((data) => {
          const key = keys.get(data.attributes.key)!;
          expect(key.for).toBe(kind);
          return [key["attr.name"]!, key["attr.type"] === "string" ? data.text : Number(data.text)];
        }),
      ),
    })) as Record<string, unknown>[];
}

describe.skipIf(started === null)("GraphML", () => {
  it.each(Object.entries(graphs))("holds every node and edge of a graph (%s)", async (_, graph) => {
    const root = await readXml(graphMl(graph));
    const nodes = rowsOf(root, "node");
    expect(nodes.map(({ id, ...data }) => data)).toEqual(
      graph.nodes.map((node) => {
        const expected = {
          name: node.id,
          label: graphNodeName(node),
          kind: node.kind,
          site: node.site,
          layer: node.site === "embed" ? 0 : node.site && Number(node.site.split(".")[1]),
          feature: node.feature,
          position: node.position,
          token: node.token,
          effect: node.effect,
          activation: node.activation,
          influence: node.influence,
          cumulative_influence: node.cumulative,
        };
        return Object.fromEntries(Object.entries(expected).filter(([, value]) => value !== undefined));
      }),
    );
    const names = new Map(nodes.map(({ id, name }) => [id, name]));
    expect(names.size).toBe(graph.nodes.length);
    expect(rowsOf(root, "edge")).toEqual(
      graph.edges.map(({ source, target, value }) => ({
        source: nodes.find(({ name }) => name === source)!.id,
        target: nodes.find(({ name }) => name === target)!.id,
        value,
        weight: Math.abs(value),
      })),
    );
  });

  it("gives any text back, and shows what XML cannot hold", async () => {
    const nodes = rowsOf(await readXml(graphMl(odd)), "node");
    expect(nodes.map(({ meaning }) => meaning)).toEqual(shownAs.map(([, shown]) => shown));
  });

  it("has ids that GraphML allows", () => {
    for (const [, id] of graphMl(placed).matchAll(/ (?:id|source|target|key)="([^"]*)"/g))
      expect(id).toMatch(/^[\w.:-]+$/);
  });
});

describe.skipIf(started === null)("the drawing", () => {
  async function open(graph: CircuitGraph, colorScheme: "light" | "dark" = "light") {
    const page = await started!.browser.newPage({ colorScheme });
    await page.setContent(`<body style="margin:0">${graphSvg(graph)}`);
    return page;
  }

  it.each(Object.entries(graphs))("shows every node and edge once, and no box over another (%s)", async (_, graph) => {
    const page = await open(graph);
    const drawn = await page.evaluate(() => {
      const boxes = [...document.querySelectorAll(".node")].map((node) => {
        const box = node.querySelector("rect")!.getBoundingClientRect();
        const text = node.querySelector("text")!.getBoundingClientRect();
        return {
          name: node.querySelector("text")!.textContent,
          box,
          inside: text.left >= box.left && text.right <= box.right,
        };
      });
      const frame = document.querySelector("svg")!.getBoundingClientRect();
      return {
        names: boxes.map(({ name }) => name),
        overflowing: boxes.filter(({ inside }) => !inside).map(({ name }) => name),
        outside: boxes.filter(
          ({ box }) => box.left < 0 || box.right > frame.right || box.top < 0 || box.bottom > frame.bottom,
        ).length,
        overlapping: boxes.flatMap((a, i) =>
          boxes
            .slice(i + 1)
            .filter(
              (b) =>
                a.box.left < b.box.right &&
                b.box.left < a.box.right &&
                a.box.top < b.box.bottom &&
                b.box.top < a.box.bottom,
            )
            .map((b) => `${a.name} ${b.name}`),
        ),
        titles: [...document.querySelectorAll("path.edge title")].map((title) => title.textContent),
        scripts: document.querySelectorAll("script").length,
      };
    });
    await page.close();
    expect(drawn.names.toSorted()).toEqual(graph.nodes.map(graphNodeName).toSorted());
    expect(drawn).toMatchObject({ overflowing: [], outside: 0, overlapping: [], scripts: 0 });
    expect(drawn.titles).toHaveLength(graph.edges.length);
  });

  it("has layers that go upward, in order of computation", async () => {
    const page = await open(summed);
    const heights = await page.evaluate(() =>
      [...document.querySelectorAll(".node")].map((node) => [
        node.querySelector("text")!.textContent!,
        node.querySelector("rect")!.getBoundingClientRect().top,
      ]),
    );
    await page.close();
    const layer = (name: string) => (name === "tokens" ? -1 : Number(/\.(\d+)/.exec(name)?.[1] ?? 99));
    for (const [a, top] of heights as [string, number][]) {
      for (const [b, other] of heights as [string, number][])
        if (layer(a) < layer(b)) expect(top, `${a} under ${b}`).toBeGreaterThan(other);
    }
  });

  it("colours edges by sign and widens them by value", async () => {
    const page = await open(placed);
    const edges = await page.evaluate(() =>
      [...document.querySelectorAll("path.edge:has(title)")].map((edge) => ({
        value: Number(edge.textContent!.split(": ").at(-1)!.replace("−", "-").replace(" logits", "")),
        width: Number.parseFloat(getComputedStyle(edge).strokeWidth),
        colour: getComputedStyle(edge).stroke,
      })),
    );
    await page.close();
    const [positive, negative] = [true, false].map((sign) => edges.filter(({ value }) => value > 0 === sign));
    expect(new Set(positive!.map(({ colour }) => colour)).size).toBe(1);
    expect(new Set(negative!.map(({ colour }) => colour)).size).toBe(1);
    expect(positive![0]!.colour).not.toBe(negative![0]!.colour);
    const rising = edges.toSorted((a, b) => Math.abs(a.value) - Math.abs(b.value)).map(({ width }) => width);
    expect(rising).toEqual(rising.toSorted((a, b) => a - b));
    expect(rising.at(-1)).toBeGreaterThan(5);
  });

  it("is well-formed with any text, and dark where the system is", async () => {
    const svg = graphSvg({
      ...odd,
      nodes: odd.nodes.map((node) => ({ ...node, kind: "token" as const, token: node.label! })),
    });
    const root = await readXml(svg);
    const nodes = root.children.find(({ name }) => name === "g")!.children.filter(({ name }) => name === "g");
    // Line breaks are drawn by their signs.
    const drawn = (text: string) => `“${text.replaceAll("\n", "⏎").replaceAll("\t", "→").replaceAll("\r", "↵")}”`;
    expect(nodes.map(({ children }) => children.at(-1)!.text).toSorted()).toEqual(
      shownAs.map(([, shown]) => drawn(shown)).toSorted(),
    );
    const colours = [];
    for (const scheme of ["light", "dark"] as const) {
      const page = await open(summed, scheme);
      colours.push(await page.evaluate(() => getComputedStyle(document.querySelector(".paper")!).fill));
      await page.close();
    }
    expect(colours).toEqual(["rgb(255, 253, 250)", "rgb(22, 24, 28)"]);
  });
});

const write = (graph: CircuitGraph, options: Partial<AttributionOptions> = {}) =>
  attributionGraph(graph, { slug: "agreement", ...options });

describe("an attribution graph", () => {
  it.each(Object.entries({ ...graphs, one: randomCircuit(seed, { tokens: ["x"] }), whole: randomCircuit(seed) }))(
    "keeps all rules, and has every node and edge (%s)",
    (_, graph) => {
      const json = JSON.parse(JSON.stringify(write(graph, { pinned: 5 })));
      expect(lintAttributionGraph(json)).toEqual([]);
      expect(json.nodes).toHaveLength(graph.nodes.length);
      expect(json.links.map(({ weight }: { weight: number }) => weight)).toEqual(graph.edges.map(({ value }) => value));
      expect(attributionIndex([json])).toEqual({ graphs: [json.metadata] });
    },
  );

  it("has the spelling of the format: ids, pairs of layer and index, the last row", () => {
    const { nodes, metadata, qParams } = write(residual, { sourceSet: "res-16k", scan: "gemma-2-2b" });
    const feature = nodes.find(({ feature_type: type }) => type === "cross layer transcoder")!;
    const [layer, index, column] = feature.node_id.split("_").map(Number) as [number, number, number];
    expect(feature).toMatchObject({ layer: String(layer), ctx_idx: column, jsNodeId: `${layer}_${index}-0` });
    // Cantor's pairing, turned back as the viewer does.
    const w = Math.floor((Math.sqrt(8 * feature.feature + 1) - 1) / 2);
    expect([w - (feature.feature - (w * w + w) / 2), feature.feature - (w * w + w) / 2]).toEqual([layer, index]);
    const original = residual.nodes.find((node) => node.kind === "feature" && node.feature === index)!;
    expect([`resid_post.${layer}`, column]).toEqual([original.site, original.position]);
    expect(feature.influence).toBe(original.cumulative);
    const error = nodes.find(({ feature_type: type }) => type === "mlp reconstruction error")!;
    expect([error.feature, error.node_id]).toEqual([-1, `${error.layer}_-1_${error.ctx_idx}`]);
    expect(nodes.at(-1)).toMatchObject({
      node_id: "5_0_5",
      feature_type: "logit",
      clerp: 'Output "logit( are) − logit( is)" (p=1.000)',
      is_target_logit: true,
      token_prob: 1,
    });
    expect(qParams).toMatchObject({ clickedId: "5_0_5", pinnedIds: ["5_0_5"] });
    expect(metadata.feature_details).toEqual({ neuronpedia_source_set: "res-16k" });
    expect(metadata).toMatchObject({
      scan: "gemma-2-2b",
      pruning_settings: { node_threshold: 0.95, edge_threshold: 0.95 },
    });
    expect(metadata.prompt_tokens).toEqual(["<\u2060bos>", ...tokens.slice(1)]);
    const shown = nodes.filter(({ layer, feature_type: type }) => layer !== "E" && type !== "logit");
    for (const { influence } of shown) expect(influence).toBeLessThanOrEqual(metadata.node_threshold!);
  });

  it("has the scores of the graph before pruning", () => {
    const graph = randomCircuit(seed);
    const { replacement, completeness } = influenceOf(graph);
    expect(write(prune(graph)).metadata).toMatchObject({
      replacement_score: replacement,
      completeness_score: completeness,
    });
  });

  it("has the kinds of sites as columns where positions are summed, and a row for each site where they are not", () => {
    expect(write(summed).metadata.prompt_tokens).toEqual(["embed", "attn_out", "mlp_out", "resid_post", "metric"]);
    const named = (clerp: string) =>
      [write(summed), write(placed)].map(({ nodes }) => nodes.find((node) => node.clerp.startsWith(clerp))!);
    expect(named("mlp_out.1/").map(({ layer }) => layer)).toEqual(["1", "4"]);
  });

  it("has probabilities that the page finds behind any token", () => {
    const nodes = residual.nodes.map((node) =>
      node.kind === "metric" ? { ...node, token: '(p=" <b>', probability: 0.25 } : node,
    );
    const json = write({ ...residual, nodes });
    const { clerp } = json.nodes.at(-1)!;
    expect(Number(clerp.split("(p=")[1]!.split(")")[0])).toBe(0.25);
    expect(lintAttributionGraph(json)).toEqual([]);
  });

  it("refuses names that the viewer does not take, and a source set for several kinds of sites", () => {
    expect(() => write(residual, { slug: "a b" })).toThrow(
      'slug: expected letters, digits, "_", "." and "-", got "a b".',
    );
    expect(() => write(summed, { sourceSet: "res-16k" })).toThrow('Leave "res-16k" out.');
    expect(write({ ...residual, about: { ...residual.about, model: "google/gemma 2" } }).metadata.scan).toBe("gemma-2");
  });
});

// biome-ignore lint/suspicious/noExplicitAny: tests break the graph in every way.
type Broken = any;

describe("the linter of attribution graphs", () => {
  const feature = (json: Broken) => json.nodes.find((node: Broken) => node.feature_type === "cross layer transcoder");
  const breaches: Record<string, [change: (json: Broken) => void, line: string]> = {
    "a slug with a blank": [(json) => (json.metadata.slug = "a b"), "metadata.slug: expected letters"],
    "no scan": [(json) => delete json.metadata.scan, "metadata.scan: expected letters, digits"],
    "no qParams": [(json) => delete json.qParams, "qParams: expected an object"],
    "no nodes": [(json) => (json.nodes = null), "nodes: expected a list, got null."],
    "a single token": [(json) => (json.metadata.prompt_tokens = ["x"]), "expected two or more"],
    "a token that is a tag": [(json) => (json.metadata.prompt_tokens[0] = "<b>"), "read as an HTML tag"],
    "another schema version": [(json) => delete json.metadata.schema_version, "metadata.schema_version: expected 1"],
    "a threshold in percent": [
      (json) => (json.metadata.node_threshold = 80),
      "metadata.node_threshold: expected a share",
    ],
    "no source of features": [(json) => (json.metadata.feature_details = {}), "expected neuronpedia_source_set or"],
    "two nodes of one id": [(json) => json.nodes.push(json.nodes[0]), "expected different node_ids"],
    "a column without a token": [
      (json) => (feature(json).ctx_idx = 99),
      "expected a ctx_idx that has a prompt token, got 99",
    ],
    "another type": [
      (json) => (feature(json).feature_type = "transcoder"),
      "expected a feature_type of cross layer transcoder",
    ],
    "a layer in words": [(json) => (feature(json).layer = "resid_post.1"), "expected a layer that is a whole number"],
    "a plain feature number": [(json) => (feature(json).feature = 7), "pairs layer and index"],
    "an error's id": [
      (json) => (json.nodes.find((node: Broken) => node.feature === -1).node_id = "x"),
      "expected errors with node_id {layer}_-1_{ctx_idx}",
    ],
    "a logit without (p=…)": [(json) => (json.nodes.at(-1).clerp = "are"), "a clerp like Output"],
    "no logit": [(json) => json.nodes.pop(), "expected a logit"],
    "a logit far above": [(json) => (json.nodes.at(-1).layer = "9"), "expected a node at the last layer"],
    "influence over the threshold": [(json) => (feature(json).influence = 1), "the page hides others, got 1"],
    "influence left out": [(json) => delete feature(json).influence, "the page hides others, got none"],
    "influence as a logit": [(json) => (feature(json).influence = 3), "a cumulative share, 0 to 1, got 3"],
    "errors in one place": [
      (json) => {
        const error = json.nodes.find((node: Broken) => node.feature === -1);
        for (const i of [1, 2, 3, 4]) json.nodes.unshift({ ...error, node_id: `0_${error.layer}_${i}` });
      },
      "over two thirds of the tokens, got 5",
    ],
    "a link to nowhere": [
      (json) => (json.links[0].target = "x"),
      'expected ends that are nodes, the page drops others, got "x"',
    ],
    "a weight of 0": [(json) => (json.links[0].weight = 0), "finite and not 0"],
    "a link twice": [(json) => json.links.push(json.links[0]), "expected one from a source to a target"],
    "a link down": [
      (json) => json.links.push({ source: json.nodes.at(-1).node_id, target: feature(json).node_id, weight: 1 }),
      "targets at the source's layer or over it",
    ],
    "a node by itself": [
      (json) => {
        const { node_id: id } = feature(json);
        json.links = json.links.filter(({ source, target }: Broken) => source !== id && target !== id);
      },
      "expected links at every node",
    ],
    "a pin of no node": [(json) => json.qParams.pinnedIds.push("x"), 'qParams.pinnedIds: expected node_ids, got "x"'],
    "a click on no node": [(json) => (json.qParams.clickedId = "x"), "qParams.clickedId: expected a node_id"],
    "another kind of links": [(json) => (json.qParams.linkType = "all"), "qParams.linkType: expected one of"],
    "a supernode of no node": [(json) => (json.qParams.supernodes = [["name", "x"]]), "behind the name"],
    "a custom scan": [(json) => (json.metadata.scan = "custom-1"), "metadata.transcoder_list: expected an entry"],
  };

  it.each(Object.entries(breaches))("sees %s", (_, [change, line]) => {
    const json = JSON.parse(JSON.stringify(write(residual)));
    change(json);
    expect(lintAttributionGraph(json).join("\n")).toContain(line);
  });

  it("says a rule once, with the first place and how many others there are", () => {
    const json = JSON.parse(JSON.stringify(write(residual)));
    for (const link of json.links) link.weight = 0;
    const [line, ...others] = lintAttributionGraph(json);
    expect(line).toContain(`(and ${json.links.length - 1} more).`);
    expect(others).toEqual([]);
  });

  it.each([null, 3, "graph", [], { nodes: [null], links: [1], metadata: [], qParams: null }])(
    "takes any content (%j)",
    (json) => {
      expect(lintAttributionGraph(json)).not.toEqual([]);
    },
  );
});
