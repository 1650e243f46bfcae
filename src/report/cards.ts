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
    "the code at every token of the clean prompt; null where the run keeps no activation: before the first token in which the prompts differ",
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

/**
 * The cards of several files as one, each feature once: its first card counts. Tokens and prompts that no card names any more are left out.
 *
 * @param inCircuit features of the circuit, as `resid_post.3/41`
 * @param limit cards that are kept: those of the largest |effect| in any split
 */
export function joinedCards(
  files: readonly FeatureCards[],
  inCircuit: ReadonlySet<string>,
  limit: number,
): FeatureCards {
  const seen = new Set<string>();
  const all = files.flatMap((file) => file.cards.map((card) => ({ file, card })));
  const once = all.filter(({ card }) => {
    const name = nameOf(card);
    return !seen.has(name) && seen.add(name);
  });
  const strength = ({ card }: (typeof once)[number]) =>
    Math.max(0, ...card.effects.map(({ effect }) => Math.abs(effect)));
  const kept = new Set(once.toSorted((a, b) => strength(b) - strength(a)).slice(0, limit));
  const sites = new Map(files.flatMap((file) => file.sites.map((site) => [site.site, site] as const)).reverse());
  const order = [...new Set(files.flatMap((file) => file.sites.map(({ site }) => site)))];
  const found: Joined = { tokens: [], placeOf: new Map(), prompts: [] };
  const places = new Map(files.map((file) => [file, placesIn(file, found)]));
  const byPlace = once.toSorted(
    (a, b) => order.indexOf(a.card.site) - order.indexOf(b.card.site) || a.card.feature - b.card.feature,
  );
  const cards = byPlace
    .filter((one) => kept.has(one))
    .map(({ file, card }): FeatureCard => {
      const { token, prompt } = places.get(file)!;
      const some = (list: readonly number[]) => list.map(token);
      const logits = (of: FeatureCard["promotes"]) => of && { ...of, token: some(of.token) };
      const marked = inCircuit.has(nameOf(card)) && !card.named_by.includes("circuit");
      return {
        ...card,
        named_by: marked ? [...card.named_by, "circuit"] : card.named_by,
        effects: card.effects.map((of) => ({
          ...of,
          tokens: {
            ...of.tokens,
            token: some(of.tokens.token),
            patch: of.tokens.patch.map((id) => (id === null ? null : token(id))),
          },
        })),
        contexts: card.contexts.map((context) => ({ ...context, prompt: prompt(context.prompt) })),
        corpus: card.corpus && {
          ...card.corpus,
          top_tokens: { ...card.corpus.top_tokens, token: some(card.corpus.top_tokens.token) },
          contexts: card.corpus.contexts.map((context) => ({ ...context, tokens: some(context.tokens) })),
        },
        promotes: logits(card.promotes),
        suppresses: logits(card.suppresses),
      };
    });
  const { placeOf: _, ...lists } = found;
  return { format: 1, ...lists, sites: order.map((site) => sites.get(site)!), cards };
}

const nameOf = ({ site, feature }: FeatureCard) => `${site}/${feature}`;

/** Lists of several files in one. */
interface Joined {
  readonly tokens: string[];
  /** Place of each text in `tokens`. */
  readonly placeOf: Map<string, number>;
  readonly prompts: FeatureCards["prompts"][number][];
}

/** Where a file's tokens and prompts are in lists that they are added to as they are asked for. */
function placesIn(file: FeatureCards, found: Joined) {
  const ofPrompt = new Map<number, number>();
  const token = (place: number): number => {
    const text = file.tokens[place]!;
    const known = found.placeOf.get(text);
    if (known !== undefined) return known;
    found.placeOf.set(text, found.tokens.length);
    return found.tokens.push(text) - 1;
  };
  const prompt = (place: number): number => {
    const known = ofPrompt.get(place);
    if (known !== undefined) return known;
    const { clean, patch, ...rest } = file.prompts[place]!;
    const ids = patch.map((id) => (id === null ? null : token(id)));
    const at = found.prompts.push({ ...rest, clean: clean.map(token), patch: ids }) - 1;
    ofPrompt.set(place, at);
    return at;
  };
  return { token, prompt };
}
