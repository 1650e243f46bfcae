import { type Lexicon, type NounKind, nouns, split, verbs } from "./lexicon.ts";

const animate: readonly NounKind[] = ["person", "animal"];
const anything: readonly NounKind[] = ["person", "animal", "thing", "place"];

/**
 * Short, frequent English for models with tokenizers of their own: nouns that are mostly one token in both numbers, among them those of the
 * public subject–verb agreement sets (saprmarks/feature-circuits).
 */
export const commonLexicon: Lexicon = {
  name: "common",
  nouns: [
    ...nouns(
      "person",
      `man/men:m woman/women:f child/children boy:m girl:f king:m queen:f father:m mother:f brother:m sister:f uncle:m
      aunt:f son:m daughter:f friend guest guy:m kid parent neighbor student teacher doctor nurse lawyer farmer writer
      singer dancer actor:m artist poet chef driver player leader officer soldier guard manager minister secretary
      president director editor author scientist engineer architect carpenter executive assistant athlete skater victim
      customer client patient passenger tourist visitor hero/heroes captain judge`,
    ),
    ...nouns("animal", "dog cat horse bird cow pig mouse/mice wolf/wolves bear lion rabbit duck"),
    ...nouns(
      "thing",
      "car truck bike table desk chair window door tree book box key bottle cup lamp clock phone picture",
    ),
    ...nouns("place", "house school church hotel garden river city village bridge field"),
  ],
  verbs: [
    ...verbs("intransitive", anything, "go/went/gone"),
    ...verbs("transitive", animate, "see*/saw/seen like* love* know*/knew/known find/found remember* hate*", anything),
  ],
  names: [],
  adjectives: split("big small old new").map((word) => ({ word, kinds: anything })),
  prepositions: ["near", "behind", "beside"].map((word) => ({ word, kinds: anything, locative: true })),
  frequencyAdverbs: [],
  mannerAdverbs: [],
};
