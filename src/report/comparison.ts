import { z } from "zod";

const count = z.int().min(0);
const seconds = z.number().min(0);
/** A correlation or a share; null where it is undefined, as with fewer than two features. */
const measure = z.number().nullable();

/** A 95 % interval over words that are drawn again, see `clusterPairs`; null where it is not known: at single sites, and with fewer than five words. */
const interval = z.strictObject({ low: z.number(), high: z.number() }).nullable().default(null);

/** How alike the effects of the same features are in two columns. */
const likeness = {
  /** Features with a row in either; beside `exact` those that it patched. */
  features: count,
  pearson: measure,
  spearman: measure,
  /** Share of the features with an effect in both whose signs agree. */
  sign: measure,
  /** Largest |difference|, and the largest |effect| of either, in logits per pair. */
  difference: z.number(),
  scale: z.number(),
};

/**
 * `compare.json`: methods side by side on the same model, dictionaries and pairs. Effects are means over all pairs of both splits, in logits,
 * BOS and padding left out. A method's `name` is what `--methods` called it: `analytic`, or `sfc:64` for padded batches of 64 pairs.
 */
export const comparisonSchema = z.strictObject({
  format: z.literal(1),
  status: z.enum(["finished", "running"]),
  command: z.string(),
  options: z.record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null(), z.array(z.string())])),
  versions: z.record(z.string(), z.string()),
  machine: z.strictObject({ cpu: z.string(), cores: count, memory_bytes: count }),
  model: z.strictObject({ name: z.string(), model_type: z.string(), parameters: count }),
  dictionaries: z.strictObject({ source: z.string(), dummy: z.boolean(), sites: z.array(z.string()), features: count }),
  task: z.string(),
  pairs: count,
  /** SHA-256 of what the numbers follow from: the model's weights, all dictionaries, the pairs and their tokens. */
  sha256: z.strictObject({ model: z.string(), dictionaries: z.string(), pairs: z.string() }),
  /** Share of pairs that the model gets right; null until a method has run. */
  accuracy: measure,
  /** Words that pairs share; null until a method has run, and in comparisons of before. */
  words: count.nullable().default(null),
  warnings: z.array(z.string()),
  methods: z.array(
    z.strictObject({
      name: z.string(),
      method: z.string(),
      /** Pairs per padded batch; null on the prefix forest. */
      batch: count.nullable(),
      /** Steps of integrated gradients; null for other methods. */
      steps: count.nullable(),
      rule: z.enum(["midpoint", "left"]).nullable(),
      /** From the loaded model to the last effect, and before that the reading of the model's weights. */
      seconds,
      loading_seconds: seconds,
      /** Resident memory when the model was loaded, its peak after that, and what the method took on top. */
      loaded_bytes: count,
      peak_bytes: count,
      above_bytes: count,
      /** Rows of effects. */
      rows: count,
    }),
  ),
  /** Every pair of methods, over all sites together (site "") and at each site. */
  agreement: z.array(
    z.strictObject({
      a: z.string(),
      b: z.string(),
      site: z.string(),
      ...likeness,
      /**
       * Share of a's strongest 10, 50 and 100 features that are among b's, up to ties: |effect| in b at least b's 10th (50th, 100th), less 1e-4 of
       * the largest but no more than 1 % of that one.
       */
      top_10: measure,
      top_50: measure,
      top_100: measure,
      pearson_by_words: interval,
      top_10_by_words: interval,
      top_50_by_words: interval,
      top_100_by_words: interval,
    }),
  ),
  /** The strongest features of every pair of methods, over all sites, for a scatter plot: columns of equal length. */
  scatter: z.array(
    z.strictObject({
      a: z.string(),
      b: z.string(),
      site: z.array(z.string()),
      feature: z.array(count),
      x: z.array(z.number()),
      y: z.array(z.number()),
    }),
  ),
  /**
   * `method` is a method's name. Σ of all effects of a residual site, the error included, against m(patch) − m(clean), which patching the whole site would give: means over the
   * pairs, in logits. gap = |sum − total| / |total|; median_gap: the median over pairs of each one's gap, where effects were kept by pair.
   */
  sums: z.array(
    z.strictObject({
      method: z.string(),
      site: z.string(),
      sum: z.number(),
      total: z.number(),
      gap: measure,
      median_gap: measure,
    }),
  ),
  /**
   * Each linear method, by name, against `exact` over the features that were patched, over all sites together (site "") and at each site;
   * error = Σ|effect − exact| / Σ|exact|.
   */
  exactness: z.array(
    z.strictObject({
      method: z.string(),
      site: z.string(),
      ...likeness,
      error: measure,
      pearson_by_words: interval,
      error_by_words: interval,
    }),
  ),
});

/** The content of `compare.json`. */
export type Comparison = z.infer<typeof comparisonSchema>;

export type ComparedMethod = Comparison["methods"][number];
export type MethodAgreement = Comparison["agreement"][number];
