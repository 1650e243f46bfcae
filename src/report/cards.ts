import { z } from "zod";

const count = z.int().min(0);
const share = z.number().min(0).max(1);
const split = z.enum(["train", "test"]);
const numbers = z.array(z.number()).readonly();
const counts = z.array(count).readonly();
/** Places in `tokens`. */
const tokens = counts;
const list = <T extends z.ZodType>(item: T) => z.array(item).readonly();
const record = <T extends z.ZodRawShape>(shape: T) => z.strictObject(shape).readonly();

const histogram = record({
  width: z.number().positive().describe("bin i holds the codes from i · width up to, not including, (i + 1) · width"),
  counts: counts.describe("tokens in each bin; the first bin leaves out codes of 0"),
});

const activations = {
  tokens: count.describe("tokens that were looked at"),
  active: count.describe("those at which the code is above 0"),
  max: z.number().min(0).describe("largest code; 0 where the feature is never active"),
  histogram: histogram.nullable().describe("of the codes above 0; null where there are none"),
};

const splitEffects = record({
  split,
  effect: z.number().describe("mean per pair of the split, signed, in logits: what ranking.json says"),
  rank: count.nullable().describe("1 is the site's largest |effect|; null where it has none in this split"),
  cases: record({
    case: list(z.string()),
    effect: numbers.describe("mean per pair of the case, in logits"),
    nodes: counts.describe("nodes of the case at which the feature has a row"),
    pairs: counts.describe("pairs of the case"),
  }).describe("every case of the split, in the order of the pairs"),
  positions: record({
    position: counts,
    effect: numbers,
    nodes: counts,
    pairs: counts,
  }).describe(
    "from the first position on. Effects are summed over the nodes and divided by the split's pairs, so that they add up to `effect`; `pairs` pass through the nodes",
  ),
  tokens: record({
    token: tokens,
    patch: list(count.nullable()).describe("the patch prompt's token there; null where it is the same"),
    effect: numbers,
    nodes: counts,
    pairs: counts,
  }).describe("the tokens of the clean prompt with the largest |effect|, as `positions`"),
  other_tokens: z.number().describe("effect of the tokens that `tokens` leaves out"),
});

const promptContext = record({
  prompt: count.describe("place in `prompts`"),
  position: count.describe("of the driving token"),
  codes: list(z.number().nullable()).describe(
    "the code at every token of the clean prompt; null before the first token in which the prompts differ, where the run keeps none",
  ),
  patch_code: z.number().nullable().describe("the code at the position in the patch prompt"),
  effect: z.number().describe("mean over the pairs that share the prefix, in logits"),
  pairs: count.describe("pairs that share the prefix"),
});

const corpusContext = record({
  tokens,
  top: count.describe("place in the window of the token with the largest code"),
  codes: numbers.describe("one for each token of the window"),
});

const tokenLogits = record({ token: tokens, logit: numbers });

const card = record({
  site: z.string(),
  feature: count,
  named_by: list(z.enum(["ranking", "ablation", "circuit"])).describe("what names the feature"),
  effects: list(splitEffects).describe("train, then test"),
  exact: record({
    effect: z.number().describe("the metric's change when this feature alone takes its patch value"),
    first_order: z.number().nullable(),
    secant: z.number().nullable(),
    split,
    pairs: count,
  })
    .nullable()
    .describe("means per pair of the same sample of pairs, in logits; null where the feature was not patched"),
  contexts: list(promptContext).describe("nodes of the largest |effect|, each with another token"),
  activations: record(activations).describe(
    "on the different prefixes of the run's clean prompts, from the first token on in which a pair's prompts differ; BOS, EOS and padding are left out",
  ),
  corpus: record({
    ...activations,
    top_tokens: record({ token: tokens, rows: counts }).describe(
      "the tokens at which the code is a row's largest, and in how many rows: the most frequent first",
    ),
    contexts: list(corpusContext).describe("windows of the largest codes first"),
  })
    .nullable()
    .describe("from `sfc contexts`; null where there is no evidence for the feature"),
  promotes: tokenLogits
    .nullable()
    .describe(
      "tokens whose logits the decoder row raises most, per unit of its code; null where `direct` of the site says why",
    ),
  suppresses: tokenLogits.nullable().describe("likewise lowers most"),
  similar: record({ feature: counts, cosine: numbers }).describe(
    "features of the site with the most similar decoder rows",
  ),
  together: record({
    feature: counts,
    jaccard: list(share).describe("nodes at which both are active over nodes at which either is"),
  }).describe("features of the site that are active at the same nodes of the run's clean prompts"),
});

/**
 * `feature-cards.json`: what a run and a corpus tell of every feature that the run names. Token texts and prompts are listed once, and named by their
 * place.
 */
export const featureCardsSchema = record({
  format: z.literal(1),
  tokens: list(z.string()).describe("texts of tokens"),
  prompts: list(
    record({
      split,
      case: z.string(),
      clean: tokens,
      patch: list(count.nullable()).describe("the patch prompt's token where it differs, else null"),
    }),
  ),
  sites: list(
    record({
      site: z.string(),
      features: count.describe("F of the SAE"),
      direct: z
        .string()
        .nullable()
        .describe(
          "why its features have no `promotes`; null where they have, which leaves out the scale of the final norm",
        ),
      corpus: record({
        name: z.string().describe("the corpus: its files, or generated English"),
        tokens: count,
      })
        .nullable()
        .describe("what `sfc contexts` has read for this SAE; null where it has not"),
      page: z
        .string()
        .nullable()
        .describe(
          "address of the site's features on Neuronpedia, to which `/<feature>` is added; null for SAEs that are not known there",
        ),
    }),
  ),
  cards: list(card).describe("by site in the order of computation, then by feature"),
});

/** The contents of `feature-cards.json`. */
export type FeatureCards = z.infer<typeof featureCardsSchema>;

/** What is known of one feature. */
export type FeatureCard = FeatureCards["cards"][number];

/** What holds for all cards of a site. */
export type CardSite = FeatureCards["sites"][number];
