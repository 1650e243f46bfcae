import { UserError } from "../../errors.ts";
import { steps, type Watch } from "../../progress.ts";
import { Random } from "../../random.ts";
import type { PromptPair, Split } from "../pairs.ts";
import { nounsOfSplit } from "./agreement.ts";
import { openers } from "./grammar-words.ts";
import type { Gender, Grammatical, Lexicon, Noun } from "./lexicon.ts";
import { present } from "./lexicon.ts";

export interface TaskOptions extends Pick<Watch, "stopped"> {
  readonly lexicon: Lexicon;
  readonly seed: number | string;
  /** Pairs of each case in each split. */
  readonly perCase: number;
}

/** The behaviours that prompt pairs can be made for. */
export const taskNames = ["agreement", "determiner", "pronoun"] as const;

export type TaskName = (typeof taskNames)[number];

const splits: readonly Split[] = ["train", "test"];
const pointers: Readonly<Record<Grammatical, string>> = { singular: "this", plural: "these" };
const subjectPronouns: Readonly<Record<Gender, string>> = { m: "he", f: "she" };

/** A pair without its split, or undefined if the draw made no sense. */
type Draw = (random: Random) => Omit<PromptPair, "split" | "case"> | undefined;

/**
 * Pairs about the number of a noun after this and these: "The king saw this" → " dog", "The king saw these" → " dogs". Cases
 * `determiner_<singular|plural>` and, with an adjective in between, `determiner_adjective_<singular|plural>`. The nouns of train and test are
 * different ones. More pairs begin with the same as fewer.
 *
 * @throws UserError if the lexicon has not enough different pairs for a case; StoppedError if asked to stop
 */
export function determinerPairs(options: TaskOptions): PromptPair[] {
  const { lexicon } = options;
  return splits.flatMap((split) => {
    const nouns = nounsOfSplit(lexicon, options.seed, split);
    return (["determiner", "determiner_adjective"] as const).flatMap((shape) =>
      (["singular", "plural"] as const).flatMap((number) =>
        collect(options, split, `${shape}_${number}`, (random) => {
          const context = determinerContext(lexicon, nouns, random);
          if (context === undefined) return undefined;
          const { before, noun } = context;
          const adjectives = lexicon.adjectives.filter((adjective) => adjective.kinds.includes(noun.kind));
          const after = shape === "determiner" ? "" : ` ${random.pick(adjectives).word}`;
          const other = number === "singular" ? "plural" : "singular";
          return {
            clean_prefix: `${before} ${pointers[number]}${after}`,
            patch_prefix: `${before} ${pointers[other]}${after}`,
            clean_answer: ` ${noun[number]}`,
            patch_answer: ` ${noun[other]}`,
          };
        }),
      ),
    );
  });
}

/** The words before a determiner, and a noun that makes sense after it. */
function determinerContext(
  lexicon: Lexicon,
  nouns: readonly Noun[],
  random: Random,
): { before: string; noun: Noun } | undefined {
  const noun = random.pick(nouns);
  const shape = random.pick(["name", "noun", "phrase", "opener"] as const);
  if (shape === "opener") return { before: capital(random.pick(openers.present)), noun };
  const subject = random.pick(nouns);
  if (subject === noun) return undefined;
  const number = random.pick(["singular", "plural"] as const);
  if (shape === "phrase") {
    const preposition = random.pick(lexicon.prepositions.filter(({ kinds }) => kinds.includes(noun.kind)));
    return { before: `The ${subject[number]} ${preposition.word}`, noun };
  }
  const kind = shape === "name" ? "person" : subject.kind;
  const verbs = lexicon.verbs.filter(
    (verb) => verb.frame === "transitive" && verb.subjects.includes(kind) && verb.objects.includes(noun.kind),
  );
  if (verbs.length === 0) return undefined;
  const verb = random.pick(verbs);
  return {
    before: `${shape === "name" ? random.pick(lexicon.names).name : `The ${subject[number]}`} ${verb.past}`,
    noun,
  };
}

/**
 * Pairs about the gender of a pronoun after a name: "Mary said that" → " she", "John said that" → " he". Cases
 * `pronoun_<that|because>_<feminine|masculine>`: after a verb with a clause, and after because, when, while or although. The names of train
 * and test are different ones. More pairs begin with the same as fewer.
 *
 * @throws UserError if the lexicon has not enough different pairs for a case; StoppedError if asked to stop
 */
export function pronounPairs(options: TaskOptions): PromptPair[] {
  const { lexicon } = options;
  const ofGender = (gender: Gender, split: Split): string[] => {
    const all = new Random(`${options.seed}/names`).shuffled(lexicon.names.filter((name) => name.gender === gender));
    const half = Math.ceil(all.length / 2);
    return (split === "train" ? all.slice(0, half) : all.slice(half)).map(({ name }) => name);
  };
  const complement = lexicon.verbs.filter((verb) => verb.frame === "complement");
  const alone = lexicon.verbs.filter((verb) => verb.frame === "intransitive" && verb.subjects.includes("person"));
  const moods = lexicon.adjectives.filter(({ kinds }) => kinds.includes("person") && !kinds.includes("thing"));
  const that = (random: Random): string => {
    const verb = random.pick(complement);
    return `${random.chance(0.7) ? verb.past : present(verb, "singular")} that`;
  };
  const because = (random: Random): string => {
    const event = random.chance(0.5) ? `was ${random.pick(moods).word}` : random.pick(alone).past;
    return `${event} ${random.pick(["because", "when", "while", "although"])}`;
  };
  return splits.flatMap((split) =>
    (
      [
        ["that", that],
        ["because", because],
      ] as const
    ).flatMap(([shape, context]) =>
      (
        [
          ["feminine", "f", "m"],
          ["masculine", "m", "f"],
        ] as const
      ).flatMap(([gender, own, other]) => {
        const [names, otherNames] = [ofGender(own, split), ofGender(other, split)];
        return collect(options, split, `pronoun_${shape}_${gender}`, (random) => {
          const after = context(random);
          return {
            clean_prefix: `${random.pick(names)} ${after}`,
            patch_prefix: `${random.pick(otherNames)} ${after}`,
            clean_answer: ` ${subjectPronouns[own]}`,
            patch_answer: ` ${subjectPronouns[other]}`,
          };
        });
      }),
    ),
  );
}

/** Draws in a row without a new pair after which a case is taken to have no more. */
const mostRepeats = 2000;

/** Draws pairs until a case has enough different ones. */
function collect(
  { lexicon, seed, perCase, stopped }: TaskOptions,
  split: Split,
  name: string,
  draw: Draw,
): PromptPair[] {
  const random = new Random(`${seed}/${split}/${name}`);
  const pairs = new Map<string, PromptPair>();
  const step = steps({ stopped }, perCase);
  for (let repeats = 0; pairs.size < perCase && repeats < mostRepeats; repeats++) {
    step(pairs.size);
    const drawn = draw(random);
    if (drawn === undefined) continue;
    const key = `${drawn.clean_prefix}/${drawn.patch_prefix}/${drawn.clean_answer}`;
    if (pairs.has(key)) continue;
    pairs.set(key, { ...drawn, case: name, split });
    repeats = 0;
  }
  if (pairs.size < perCase) {
    throw new UserError(
      `pairs: expected ${perCase} of case ${name}, got ${pairs.size} different ones in the ${lexicon.name} lexicon. Ask for fewer pairs.`,
    );
  }
  return [...pairs.values()];
}

function capital(word: string): string {
  return word.charAt(0).toUpperCase() + word.slice(1);
}
