import { readFile } from "node:fs/promises";
import { describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { memorySource } from "../src/bytes/memory.ts";
import { openSafetensors } from "../src/bytes/safetensors.ts";
import { capture } from "../src/capture/capture.ts";
import { type LogitOptions, logitPieces, logitsOf } from "../src/capture/logits.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { planCapture } from "../src/forest/packs.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { fittedModel } from "../src/models/fitted.ts";
import { heldWeights, loadedModel, streamedWeights } from "../src/models/weights.ts";
import { siteName } from "../src/site.ts";
import { relativeGap } from "./last-logits.ts";
import { tokenPair } from "./toy-model.ts";

const fixtures = new URL("fixtures/", import.meta.url).pathname;

/** The fixtures' figures come from transformers in float64 (test/oracles/make_models.py). */
describe.each(["llama-gqa", "gemma2", "gemma2-untied", "gpt2", "gpt_neox"])(
  "logits of %s are transformers'",
  (name) => {
    it.each<["held" | "streamed", LogitOptions & { readonly rows?: number }, number[]]>([
      ["held", {}, [0]],
      ["streamed", {}, [0]],
      // Parts that do not divide the whole.
      ["held", { rows: 2 }, [0, 2, 4]],
      ["streamed", { rows: 3, tokens: 23, together: 2 }, [0, 2, 4]],
    ])("%s, %o", async (where, { rows: size, ...options }, parts) => {
      const checkpoint = await openCheckpoint(await openFolder(fixtures + name));
      const { model } = await fittedModel(checkpoint);
      const weights = where === "held" ? await heldWeights(model, checkpoint) : streamedWeights(checkpoint);
      const loaded = loadedModel(model, weights);
      const { prompts } = JSON.parse(await readFile(`${fixtures}${name}/expected.json`, "utf8"));
      const tensors = await openSafetensors(
        memorySource("expected", await readFile(`${fixtures}${name}/expected.safetensors`)),
      );
      const [{ tokens, clean_answer, patch_answer }] = prompts;
      const forest = prefixForest([tokenPair(tokens, tokens, [clean_answer, patch_answer])]);
      const site = siteName({ kind: "resid_post", layer: model.layers - 1 });
      const captured = await capture(loaded, planCapture(forest, { wanted: "clean" }), { sites: [site] });
      const { x, width: D } = await captured.site(site);
      // The last token's row five times: parts have several rows.
      const last = x.slice((tokens.length - 1) * D, tokens.length * D);
      const rows = new Float32Array(5 * D);
      for (let i = 0; i < 5; i++) rows.set(last, i * D);
      const [V, from, found]: [number, number[], number[]] = [model.vocabulary, [], []];
      const numbers = size === undefined ? {} : { numbers: size * V };
      for await (const part of logitsOf(loaded, rows, { ...options, ...numbers })) {
        from.push(part.from);
        found.push(...part.logits);
      }
      const pieces = new Float32Array(5 * V).fill(Number.NaN);
      const small = { ...options, ...(size !== undefined && { numbers: size * (options.tokens ?? V) }) };
      for await (const { from: row, first, tokens: T, logits } of logitPieces(loaded, rows, small)) {
        logits.forEach((value, i) => {
          pieces[(row + Math.floor(i / T)) * V + first + (i % T)] = value;
        });
      }
      await checkpoint.close();
      expect(relativeGap(pieces, Float32Array.from(found))).toBeLessThan(1e-6);
      expect(from).toEqual(parts);
      expect(found.length).toBe(5 * V);
      const expected = await tensors.read("p0/logits");
      for (let i = 0; i < 5; i++) expect(relativeGap(found.slice(i * V, (i + 1) * V), expected)).toBeLessThan(1e-5);
    });
  },
);
