// Opens an attribution graph in circuit-tracer's own page, in a browser without a window, and says what the page drew.
//
//   node scripts/circuit-tracer-page.mjs ASSETS LIBRARIES GRAPH.json [PICTURE.png] [NODE]
//
// ASSETS: circuit_tracer/frontend/assets of the unpacked wheel (pip download --no-deps circuit-tracer). LIBRARIES: a folder in which `npm install
// d3-jetpack@2.3.0 dagre@0.8.5 pako@2.1.0 dejavu-fonts-ttf@2.37.3` was run: what the page loads from elsewhere, and a font with its circles. The page is
// served on 127.0.0.1; everything else it asks for is answered from LIBRARIES or with nothing, so no network is needed. GRAPH.json "-" makes a random
// graph; NODE is the node_id that is clicked, by default the graph's own.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { createServer as createVite } from "vite";

const [assets, libraries, graphFile, picture, node] = process.argv.slice(2);
if (graphFile === undefined) {
  console.error("usage: node scripts/circuit-tracer-page.mjs ASSETS LIBRARIES GRAPH.json [PICTURE.png] [NODE]");
  process.exit(2);
}

const root = fileURLToPath(new URL("..", import.meta.url));
const vite = await createVite({
  root,
  configFile: false,
  logLevel: "error",
  appType: "custom",
  server: { middlewareMode: true, hmr: false, ws: false },
  ssr: { resolve: { conditions: ["source", "node", "import", "module", "default"] } },
});
const load = (path) => vite.ssrLoadModule(`/${path}`);
const { startBrowser } = await load("test/browser.ts");
const { attributionGraph, attributionIndex } = await load("src/circuit/export/attribution.ts");
const { lintAttributionGraph } = await load("src/circuit/export/lint.ts");

const graph = graphFile === "-" ? await randomGraph() : JSON.parse(readFileSync(graphFile, "utf8"));
if (node !== undefined) graph.qParams.clickedId = node;
const { slug } = graph.metadata;
const types = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".json": "application/json" };
const server = createServer((request, response) => {
  const { pathname } = new URL(request.url, "http://127.0.0.1");
  try {
    const data = { "/data/graph-metadata.json": attributionIndex([graph]), [`/graph_data/${slug}.json`]: graph }[
      pathname
    ];
    const body = data
      ? JSON.stringify(data)
      : readFileSync(join(assets, normalize(pathname === "/" ? "index.html" : pathname)));
    response.writeHead(200, { "Content-Type": types[extname(pathname) || ".html"] ?? "application/octet-stream" });
    response.end(body);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const origin = `http://127.0.0.1:${server.address().port}`;

const script = (path, folder = libraries) => readFileSync(join(folder, "node_modules", path), "utf8");
const elsewhere = {
  "d3.js": `${script("d3/dist/d3.min.js", root)}\n${script("d3-collection/dist/d3-collection.min.js")}`,
  // As a module, so that it extends d3 instead of replacing it; the page's own edition has drawAxis as a method too.
  "jetpack_2024-07-20.js": `(() => {
    const exports = {}, module = { exports }, require = () => d3;
    ${script("d3-jetpack/build/d3-jetpack.cjs")}
    const conventions = (options) => {
      const c = exports.conventions(options);
      return Object.assign(c, { drawAxis: (svg = c.svg) => exports.drawAxis({ ...c, svg }) });
    };
    window.d3 = { ...d3, ...exports, conventions };
  })()`,
  "dagre.min.js": script("dagre/dist/dagre.min.js"),
  "pako.min.js": script("pako/dist/pako.min.js"),
};
// A feature's card without examples: there is no server of features here.
const feature = {
  transcoder_id: graph.metadata.scan,
  index: 0,
  examples_quantiles: [],
  top_logits: [],
  bottom_logits: [],
};

const started = await startBrowser();
if (started === null) process.exit(1);
const page = await started.browser.newPage({ viewport: { width: 1500, height: 900 } });
const problems = [];
page.on("pageerror", (error) => problems.push(error.message));
await page.route(
  (url) => url.origin !== origin,
  (route) => {
    const name = new URL(route.request().url()).pathname.split("/").at(-1);
    if (name.endsWith(".js")) return route.fulfill({ contentType: "text/javascript", body: elsewhere[name] ?? "" });
    const headers = { "Access-Control-Allow-Origin": "*" };
    if (name.endsWith(".gz")) return route.fulfill({ status: 404, headers });
    return route.fulfill({ headers, contentType: "application/json", body: JSON.stringify(feature) });
  },
);
await page.goto(`${origin}/?slug=${slug}`);
await page.waitForSelector(".link-graph text.node", { timeout: 10_000 }).catch(({ message }) => problems.push(message));
const font = readFileSync(join(libraries, "node_modules/dejavu-fonts-ttf/ttf/DejaVuSans.ttf")).toString("base64");
const face = `@font-face { font-family: circles; src: url(data:font/ttf;base64,${font}) }`;
await page.addStyleTag({ content: `${face} text.node, .default-icon text { font-family: circles }` });
await page.waitForTimeout(1000);
const drawn = await page.evaluate(() => ({
  nodes: document.querySelectorAll(".link-graph text.node").length,
  placed: [...document.querySelectorAll(".link-graph text.node")].filter(
    (d) => !/NaN|undefined/.test(d.getAttribute("transform")),
  ).length,
  tokens: document.querySelectorAll(".link-graph .prompt-token text").length,
  subgraph: document.querySelectorAll(".subgraph .supernode-container, .subgraph .supernode").length,
  connections: document.querySelectorAll(".node-connections .feature-row").length,
  inked: [...document.querySelectorAll(".link-graph canvas")].reduce((sum, canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return sum + data.filter((value, i) => i % 4 === 3 && value > 0).length;
  }, 0),
}));
if (picture !== undefined) await page.screenshot({ path: picture });
await started.close();
server.close();
await vite.close();

const clicked = graph.links.filter(({ source, target }) => [source, target].includes(graph.qParams.clickedId)).length;
console.log(`graph        ${slug}: ${graph.nodes.length} nodes, ${graph.links.length} links`);
console.log(`drawn        ${drawn.nodes} nodes, ${drawn.placed} of them placed; ${drawn.tokens} tokens`);
console.log(
  `links        ${drawn.connections} listed of the ${clicked} at ${graph.qParams.clickedId}; ${drawn.inked} pixels`,
);
console.log(`subgraph     ${drawn.subgraph} of ${graph.qParams.pinnedIds.length} pinned nodes`);
for (const line of lintAttributionGraph(graph)) console.log(`linter       ${line}`);
for (const line of problems) console.log(`page error   ${line}`);
const whole =
  drawn.placed === graph.nodes.length && drawn.connections === clicked && drawn.inked > 0 && problems.length === 0;
console.log(whole ? "The page shows the whole graph." : "The page does not show the whole graph.");
process.exitCode = whole ? 0 : 1;

async function randomGraph() {
  const { randomCircuit } = await load("test/random-circuit.ts");
  const { prune } = await load("src/circuit/influence.ts");
  const tokens = ["<bos>", "The", " teachers", " near", " the", " desk"];
  return attributionGraph(prune(randomCircuit(1, { layers: 6, features: 4, density: 0.3, tokens })), {
    slug: "random",
  });
}
