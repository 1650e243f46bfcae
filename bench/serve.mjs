// How long sfc serve takes for what a reader asks, from the request to the answer: live work on a pair and on 20.
//   node bench/serve.mjs [<model> [<SAEs>]]          default: the embedded model; npm run build first
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { givenModel, serve } from "../dist/serve/serve.js";

const [name, saes = null] = process.argv.slice(2);
const folder = mkdtempSync(join(tmpdir(), "sfc-bench-serve-"));
const server = await serve({
  folder,
  port: 0,
  given: name === undefined ? null : givenModel(name, saes),
  onFault: console.error,
});
const { origin, searchParams } = new URL(server.url);
const headers = { "content-type": "application/json", authorization: `Bearer ${searchParams.get("token")}` };
const model = name === undefined ? "demo" : "given";

async function ask(what, path, request) {
  const begun = performance.now();
  const response = await fetch(`${origin}/api/live/${path}`, {
    method: "POST",
    headers,
    body: JSON.stringify(request),
  });
  const answer = await response.json();
  const seconds = ((performance.now() - begun) / 1000).toFixed(2);
  if (!response.ok) throw new Error(answer.error);
  console.log(`${seconds} s  ${what}; ${Math.round(answer.model.bytes.resident / 1e6)} MB resident`);
  return answer;
}

const pair = (noun, place) => ({
  clean: `The ${noun}s near the ${place}`,
  patch: `The ${noun} near the ${place}`,
  clean_answer: "are",
  patch_answer: "is",
});
const one = [pair("dog", "house")];
const nouns = ["dog", "cat", "boy", "girl", "teacher", "doctor", "farmer", "king", "horse", "bird"];
const many = nouns.flatMap((noun) => ["house", "desk"].map((place) => pair(noun, place)));
for (const method of ["analytic", "secant"]) {
  const about = { model, method, top: 20 };
  await ask(`${method}, one pair, the first question`, "effects", { ...about, pairs: one });
  await ask(`${method}, the same pair again`, "effects", { ...about, pairs: one });
  await ask(`${method}, another pair of its length`, "effects", { ...about, pairs: [pair("teacher", "desk")] });
  await ask(`${method}, 20 pairs`, "effects", { ...about, pairs: many });
  await ask(`${method}, the same 20 pairs again`, "effects", { ...about, pairs: many });
}
const { sites } = await ask("secant, one pair", "effects", { model, method: "secant", top: 20, pairs: one });
const { site, features } = sites.filter((of) => of.site.startsWith("resid_post")).at(-2);
const changes = { model, pairs: one, ablate: [`${site}/${features[0].feature}`], scale: [], set: [] };
await ask("a feature ablated", "intervene", changes);
await ask("the same again", "intervene", changes);
await ask("circuit of 40 features, one pair", "circuit", { model, pairs: one, size: 40 });
await ask("the same again", "circuit", { model, pairs: one, size: 40 });
await ask("circuit of 60 features, 20 pairs", "circuit", { model, pairs: many, size: 60 });
await server.close();
rmSync(folder, { recursive: true });
