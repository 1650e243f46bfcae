import { createHash } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { capture } from "../src/capture/capture.ts";
import type { Floats } from "../src/capture/hooks.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { planCapture } from "../src/forest/packs.ts";
import { heldWeights, loadedModel, type ModelWeights, streamedWeights } from "../src/models/weights.ts";
import { type OpenModel, openModel } from "../src/open/open.ts";
import type { TokenPair } from "../src/prompts/pairs.ts";
import type { SiteName } from "../src/site.ts";

/** Four prompts, each with 400 pairs of answers: so many metrics are read at four nodes, whose gradients are their sums. */
function manyEnds({ tokenizer }: Pick<OpenModel, "tokenizer">): TokenPair[] {
  const nouns = ["teacher", "girl", "doctor", "guy"];
  return nouns.flatMap((noun) => {
    const [clean_prefix, patch_prefix] = [`The ${noun}s near the desk`, `The ${noun} near the desk`];
    const [clean, patch] = [clean_prefix, patch_prefix].map((prompt) => tokenizer.encode(prompt));
    return Array.from({ length: 400 }, (_, i): TokenPair => {
      const [cleanAnswer, patchAnswer] = [100 + i, 600 + ((7 * i) % 400)];
      const [clean_answer, patch_answer] = [cleanAnswer, patchAnswer].map((id) => tokenizer.token(id)) as [
        string,
        string,
      ];
      const pair = { clean_prefix, patch_prefix, clean_answer, patch_answer, case: "", split: "train" } as const;
      return { pair, clean: clean!, patch: patch!, cleanAnswer, patchAnswer };
    });
  });
}

const bitsOf = (numbers: readonly Floats[]) =>
  numbers.map((of) => createHash("sha256").update(of).digest("hex").slice(0, 16));

describe("gradients of many pairs that end at the same prefix", () => {
  const sites: SiteName[] = ["embed", "attn_out.2", "resid_post.3"];
  let opened: OpenModel;
  let held: ModelWeights;
  beforeAll(async () => {
    opened = await openModel("demo");
    held = await heldWeights(opened.model, opened.checkpoint);
  });
  afterAll(() => opened.close());
  /** ∂M/∂x at the sites. */
  const gradients = async (weights: ModelWeights, threads: number) => {
    const plan = planCapture(prefixForest(manyEnds(opened)), { wanted: "changed" });
    const captured = await capture(loadedModel(opened.model, weights, { threads }), plan, { sites });
    return Promise.all(sites.map(async (site) => (await captured.site(site)).g));
  };

  it.each(["held", "streamed"] as const)(
    "have the same bits in every run on four threads, weights %s",
    async (where) => {
      const weights = where === "held" ? held : streamedWeights(opened.checkpoint);
      const first = await gradients(weights, 4);
      for (let run = 0; run < 5; run++) expect(bitsOf(await gradients(weights, 4))).toEqual(bitsOf(first));
      // And they are those of one thread, up to the order of sums.
      for (const [at, one] of (await gradients(held, 1)).entries()) {
        let [gap, scale] = [0, 0];
        one.forEach((value, i) => {
          gap = Math.max(gap, Math.abs(value - first[at]![i]!));
          scale = Math.max(scale, Math.abs(value));
        });
        expect(gap / scale, sites[at]).toBeLessThan(1e-5);
      }
    },
  );
});
