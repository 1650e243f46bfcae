import { UserError } from "../../errors.ts";
import { steps, type Watch } from "../../progress.ts";
import { Random } from "../../random.ts";
import type { PromptPair, Split } from "../pairs.ts";
import { type Construction, constructions, heldOut } from "./constructions.ts";
import { auxiliaries, auxiliaryNames } from "./grammar-words.ts";
import type { Frame, Grammatical, Lexicon, Noun, NounKind, Verb } from "./lexicon.ts";
import { present } from "./lexicon.ts";
import { demoLexicon } from "./lexicon-demo.ts";

const numbers = ["singular", "plural"] as const;

/** A construction and the number of the clean prompt's subject: `nounpp_plural`. */
export type AgreementCase = `${Construction}_${Grammatical}`;

/** The sixteen cases, each construction in both numbers. */
export const agreementCases: readonly AgreementCase[] = constructions.flatMap((construction) =>
  numbers.map((number) => `${construction}_${number}` as const),
);

/** Which agreement pairs are made. */
export interface AgreementOptions extends Watch {
  /** The words. Default: those of the embedded model; models of the hub know those of `commonLexicon`. */
  readonly lexicon?: Lexicon;
  /** Default: 1. */
  readonly seed?: number | string;
  /** Pairs of each case and split. Default: 32. */
  readonly perCase?: number;
  /** Default: both, train first. */
  readonly split?: Split;
  /** Default: all sixteen. */
  readonly cases?: readonly AgreementCase[];
  /** `held-out`: only combinations of subject noun and verb that the generated English keeps out of that construction. Default `all`. */
  readonly combinations?: "all" | "held-out";
  /** How many subject nouns a construction uses in a split, more if they do not suffice for `perCase`. Default 24. */
  readonly pool?: number;
}

/** The pairs of one split, with nothing left to defaults. */
interface SplitOptions extends AgreementOptions {
  readonly lexicon: Lexicon;
  readonly seed: number | string;
  readonly perCase: number;
  readonly split: Split;
}

function splitOptions(options: AgreementOptions): SplitOptions[] {
  const splits = options.split === undefined ? (["train", "test"] as const) : [options.split];
  return splits.map((split, s) => ({
    lexicon: demoLexicon,
    seed: 1,
    perCase: 32,
    ...options,
    split,
    ...(options.onProgress && {
      onProgress: (done: number, total: number) => options.onProgress!(s * total + done, splits.length * total),
    }),
  }));
}

/**
 * Pairs of prompts about subject–verb agreement. Clean and patch prompt differ in the number of one noun alone, the subject of the verb that
 * comes next ("The dog near the cars" and "The dogs near the cars"); the clean answer is the verb's form that agrees with the clean prompt
 * (" runs"), the patch answer the other (" run").
 *
 * The nouns of the lexicon are halved by the seed: all nouns of train prompts are of one half, all of test prompts of the other. A
 * construction draws a pool of 24 subject nouns, 12 other nouns, three prepositions and six verbs for relative clauses, so that prompts
 * share prefixes, which the prefix forest computes once; the two numbers of a construction use the same pool, so that one's clean prompts are
 * the other's patch prompts. A prompt comes with up to two answers at a time. Attractors are singular and plural equally often. No pair comes twice.
 *
 * The verb in a subject relative clause is in the past ("The dog that chased the cats"), as its present would give the number away.
 *
 * @throws UserError if the lexicon has not enough different pairs for a case; StoppedError if asked to stop
 */
export function agreementPairs(options: AgreementOptions = {}): PromptPair[] {
  checkEnough(options);
  return splitOptions(options).flatMap(pairsOfSplit);
}

function pairsOfSplit(options: SplitOptions): PromptPair[] {
  const wanted = casesOf(options);
  return wanted.flatMap(({ construction, number }, i) => {
    const step = steps(options, wanted.length * options.perCase);
    return pairsOfCase(options, construction, number, (made) => step(i * options.perCase + made));
  });
}

/**
 * Sees that the lexicon can give so many pairs, by counting; pairs that are hard to come by may still be too few.
 *
 * @throws UserError if it cannot
 */
export function checkEnough(all: AgreementOptions): void {
  for (const options of splitOptions(all)) {
    const { lexicon, seed, split, perCase } = options;
    const nouns = nounsOfSplit(lexicon, seed, split);
    for (const { construction, number } of casesOf(options)) {
      // Pools grow by doubling until they hold all nouns.
      let pool = options.pool ?? 24;
      while (pool < nouns.length) pool *= 2;
      const words = new Vocabulary(lexicon, nouns, pool, new Random(`${seed}/${split}/${construction}`));
      const most = words.most(construction);
      if (most < perCase) throw tooFew(options, `${construction}_${number}`, `at most ${most}`);
    }
  }
}

function casesOf({ cases = agreementCases }: AgreementOptions) {
  return constructions.flatMap((construction) =>
    numbers.flatMap((number) => (cases.includes(`${construction}_${number}`) ? [{ construction, number }] : [])),
  );
}

function tooFew({ perCase, split, lexicon }: SplitOptions, name: AgreementCase, found: string): UserError {
  return new UserError(
    `pairs: expected ${perCase} of case ${name}, got ${found} different ones for ${split} in the ${lexicon.name} lexicon. Ask for fewer pairs.`,
  );
}

/** The nouns of a split: a seeded half of each kind. */
export function nounsOfSplit(lexicon: Lexicon, seed: number | string, split: Split): Noun[] {
  const shuffled = new Random(`${seed}/nouns`).shuffled(lexicon.nouns);
  const kinds: readonly NounKind[] = ["person", "animal", "thing", "place"];
  return kinds.flatMap((kind) => {
    const all = shuffled.filter((noun) => noun.kind === kind);
    const half = Math.ceil(all.length / 2);
    return split === "train" ? all.slice(0, half) : all.slice(half);
  });
}

/** An answer: a verb or auxiliary in both numbers, and the name of its combination with a noun. */
interface Answer {
  readonly lemma: string;
  readonly singular: string;
  readonly plural: string;
}

/** The words between the first "The" and the answer, the subject marked by its place. */
interface Template {
  readonly before: string;
  readonly noun: Noun;
  readonly after: string;
  readonly answers: readonly Answer[];
}

function pairsOfCase(
  options: SplitOptions,
  construction: Construction,
  number: Grammatical,
  step: (made: number) => void,
): PromptPair[] {
  const { lexicon, seed, perCase, split } = options;
  const patchNumber = number === "singular" ? "plural" : "singular";
  const random = new Random(`${seed}/${split}/${construction}/${number}`);
  const nouns = nounsOfSplit(lexicon, seed, split);
  const seen = new Set<string>();
  const pairs: PromptPair[] = [];
  let turn = 0;
  for (let pool = options.pool ?? 24; pairs.length < perCase; pool *= 2) {
    const words = new Vocabulary(lexicon, nouns, pool, new Random(`${seed}/${split}/${construction}`));
    if (words.most(construction) < perCase && pool < nouns.length) continue;
    // Most draws succeed while much is left; a case that stays short after so many draws gets more nouns.
    for (let draws = 40 * perCase + 1000; draws > 0 && pairs.length < perCase; draws--) {
      step(pairs.length);
      const frame = words.frame(construction, random, turn);
      if (frame === undefined) continue;
      const { noun } = frame;
      const allowed = frame.answers.filter(
        ({ lemma }) => options.combinations !== "held-out" || heldOut(construction, noun.singular, lemma),
      );
      if (allowed.length === 0) continue;
      const prompt = (n: Grammatical) => `${frame.before} ${noun[n]}${frame.after}`;
      let fresh = false;
      for (const answer of random.shuffled(allowed).slice(0, Math.min(2, perCase - pairs.length))) {
        const key = `${prompt(number)}/${answer.lemma}`;
        if (seen.has(key)) continue;
        seen.add(key);
        fresh = true;
        pairs.push({
          clean_prefix: prompt(number),
          patch_prefix: prompt(patchNumber),
          clean_answer: ` ${answer[number]}`,
          patch_answer: ` ${answer[patchNumber]}`,
          case: `${construction}_${number}`,
          split,
        });
      }
      if (fresh) turn++;
    }
    if (pool >= nouns.length) break;
  }
  if (pairs.length < perCase) throw tooFew(options, `${construction}_${number}`, String(pairs.length));
  return pairs;
}

/** The words that one construction uses in one split. */
class Vocabulary {
  readonly #lexicon: Lexicon;
  readonly #subjects: readonly Noun[];
  readonly #others: readonly Noun[];
  readonly #prepositions: readonly string[];
  /** Verbs with an object, for the insides of relative clauses. */
  readonly #verbs: readonly Verb[];
  readonly #answersOf = new Map<string, readonly Answer[]>();

  constructor(lexicon: Lexicon, nouns: readonly Noun[], pool: number, random: Random) {
    this.#lexicon = lexicon;
    const shuffled = random.shuffled(nouns);
    this.#subjects = shuffled.slice(0, pool);
    this.#others = random.shuffled(nouns).slice(0, Math.max(12, pool / 2));
    // Only prepositions that go with every noun, so that attractors are drawn alike from all.
    const general = lexicon.prepositions.filter((preposition) => preposition.kinds.length === 4);
    this.#prepositions = random
      .shuffled(general)
      .slice(0, 3)
      .map((preposition) => preposition.word);
    const transitive = lexicon.verbs.filter((verb) => verb.frame === "transitive" && verb.objects.length === 4);
    this.#verbs = random.shuffled(transitive).slice(0, 6);
  }

  /**
   * A prompt's words, or undefined if the draw made no sense.
   *
   * @param turn decides the attractors' numbers: consecutive turns go through all combinations
   */
  frame(construction: Construction, random: Random, turn: number): Template | undefined {
    const noun = random.pick(this.#subjects);
    const used = new Set([noun]);
    const other = (kinds?: readonly NounKind[]): Noun | undefined => {
      const free = this.#others.filter((n) => !used.has(n) && (kinds === undefined || kinds.includes(n.kind)));
      const chosen = free.length > 0 ? random.pick(free) : undefined;
      if (chosen !== undefined) used.add(chosen);
      return chosen;
    };
    const attractor = (place: number, kinds?: readonly NounKind[]): string | undefined =>
      other(kinds)?.[numbers[(turn >> place) & 1]!];
    const simple = { before: "The", noun, answers: this.#answers(noun) };
    switch (construction) {
      case "simple":
        return { ...simple, after: "" };
      case "nounpp": {
        const near = attractor(0);
        return near === undefined ? undefined : { ...simple, after: ` ${random.pick(this.#prepositions)} the ${near}` };
      }
      case "coordination":
      case "long": {
        const [first, second] = [attractor(0), attractor(1)];
        if (first === undefined || second === undefined) return undefined;
        const [preposition, again] = [random.pick(this.#prepositions), random.pick(this.#prepositions)];
        const joint = construction === "long" ? again : "and";
        return { ...simple, after: ` ${preposition} the ${first} ${joint} the ${second}` };
      }
      case "subject_rc": {
        const verb = random.pick(this.#verbs);
        const object = attractor(0, verb.objects);
        if (object === undefined || !verb.subjects.includes(noun.kind)) return undefined;
        return { ...simple, after: ` that ${verb.past} the ${object}` };
      }
      case "object_rc": {
        const verb = random.pick(this.#verbs);
        const subject = other(verb.subjects);
        if (subject === undefined || !verb.objects.includes(noun.kind)) return undefined;
        const number = numbers[turn & 1]!;
        return { ...simple, after: ` that the ${subject[number]} ${present(verb, number)}` };
      }
      case "within_subject_rc":
        return { ...simple, after: " that", answers: this.#answers(noun, ["intransitive", "transitive"]) };
      case "within_object_rc": {
        const head = other();
        if (head === undefined) return undefined;
        const answers = this.#answersWith(noun, head);
        // Without a verb for the two, "The house that the clock is" leads nowhere.
        if (answers.length <= auxiliaryNames.length) return undefined;
        return { before: `The ${head[numbers[turn & 1]!]} that the`, noun, after: "", answers };
      }
    }
  }

  /** How many different pairs there can be: a bound from above, exact where there is no noun but the subject. */
  most(construction: Construction): number {
    const sum = (of: (noun: Noun) => number) => this.#subjects.reduce((total, noun) => total + of(noun), 0);
    const answers = (noun: Noun) => this.#answers(noun).length;
    // Attractors come in both numbers.
    const others = (kinds?: readonly NounKind[]) =>
      2 * this.#others.filter(({ kind }) => kinds === undefined || kinds.includes(kind)).length;
    const [all, prepositions] = [others(), this.#prepositions.length];
    switch (construction) {
      case "simple":
        return sum(answers);
      case "nounpp":
        return sum(answers) * prepositions * all;
      case "coordination":
        return sum(answers) * prepositions * all * (all - 2);
      case "long":
        return sum(answers) * prepositions ** 2 * all * (all - 2);
      case "subject_rc":
      case "object_rc": {
        const clausesOf = (noun: Noun) =>
          this.#verbs.reduce((total, { subjects, objects }) => {
            const [own, other] = construction === "subject_rc" ? [subjects, objects] : [objects, subjects];
            return total + (own.includes(noun.kind) ? others(other) : 0);
          }, 0);
        return sum((noun) => answers(noun) * clausesOf(noun));
      }
      case "within_subject_rc":
        return sum((noun) => this.#answers(noun, ["intransitive", "transitive"]).length);
      case "within_object_rc":
        return sum((noun) => answers(noun) * all);
    }
  }

  /** Auxiliaries, and the verbs that make sense after the noun. */
  #answers(noun: Noun, frames?: readonly Frame[]): readonly Answer[] {
    const key = `${noun.kind}/${frames?.join("/") ?? ""}`;
    const known = this.#answersOf.get(key) ?? this.#answersFor(noun, frames);
    this.#answersOf.set(key, known);
    return known;
  }

  #answersFor(noun: Noun, frames: readonly Frame[] | undefined): Answer[] {
    const verbs = this.#lexicon.verbs.filter(
      (verb) => verb.subjects.includes(noun.kind) && (frames === undefined || frames.includes(verb.frame)),
    );
    return [
      ...auxiliaryNames.map((name) => ({ lemma: name, ...auxiliaries[name] })),
      ...verbs.map((verb) => ({ lemma: verb.base, singular: verb.third, plural: verb.base })),
    ];
  }

  /** The answers that make sense between a subject and, before it, the object. */
  #answersWith(subject: Noun, object: Noun): readonly Answer[] {
    const key = `${subject.kind} with ${object.kind}`;
    const known =
      this.#answersOf.get(key) ?? this.#answers(subject).filter(({ lemma }) => this.#canTake(lemma, subject, object));
    this.#answersOf.set(key, known);
    return known;
  }

  #canTake(lemma: string, subject: Noun, object: Noun): boolean {
    if (lemma in auxiliaries) return true;
    return this.#lexicon.verbs.some(
      (verb) =>
        verb.base === lemma &&
        verb.frame === "transitive" &&
        verb.subjects.includes(subject.kind) &&
        verb.objects.includes(object.kind),
    );
  }
}
