import type { Random } from "../../random.ts";
import { type Construction, heldOut, leak } from "./constructions.ts";
import { agreeingVerb, type Finite, finiteWeights, nonFinite, type Plan, type Tense } from "./finite.ts";
import {
  auxiliaries,
  determiners,
  modals,
  neutralDeterminers,
  numerals,
  openers,
  type Pronoun,
  partitives,
  places,
  pronouns,
  subordinators,
} from "./grammar-words.ts";
import type { Frame, Grammatical, Lexicon, Noun, NounKind, Verb } from "./lexicon.ts";
import { nounKinds, present } from "./lexicon.ts";
import { type Tables, tablesOf } from "./word-tables.ts";

/** A verb that agrees with a noun in a generated sentence. */
export interface Agreement {
  readonly construction: Construction;
  /** The subject's head, in the singular. */
  readonly noun: string;
  /** The verb's base form, or the name of an auxiliary. */
  readonly verb: string;
  readonly number: Grammatical;
  /** Numbers of the nouns between subject and verb, or of the head of an object relative clause. */
  readonly attractors: readonly Grammatical[];
}

export interface Sentence {
  readonly text: string;
  /** What kind of sentence it is, for statistics. */
  readonly kind: SentenceKind;
  readonly agreements: readonly Agreement[];
}

/** Kinds of generated sentences and how often each comes, out of 100. */
const sentenceKinds = [
  ["declarative", 52],
  ["question", 9],
  ["existential", 5],
  ["coordinated clauses", 4],
  ["coordinated predicates", 4],
  ["subordinate", 8],
  ["pronoun", 14],
  ["demonstrative", 2],
  ["imperative", 2],
] as const;

export type SentenceKind = (typeof sentenceKinds)[number][0];

/**
 * A sentence of English with a capital letter and final punctuation. Sentences are joined by one space.
 *
 * Present-tense agreement is frequent in every construction of constructions.ts; the number of an attractor is drawn independently of the
 * subject's; combinations that are held out of a construction are drawn again, but for a few.
 *
 * @param lexicon one with names, adverbs and verbs of every frame, as the embedded model's
 */
export function generateSentence(random: Random, lexicon: Lexicon): string {
  return describeSentence(random, lexicon).text;
}

/** As generateSentence, with the sentence's kind and its agreements. */
export function describeSentence(random: Random, lexicon: Lexicon): Sentence {
  return new Writer(random, lexicon).sentence();
}

/** Text from words: spaces, punctuation without a space before it, a or an, a capital letter. */
export function spell(words: readonly string[]): string {
  let text = "";
  words.forEach((word, i) => {
    const spelled = word === "a" && startsWithVowel(words[i + 1] ?? "") ? "an" : word;
    text += text === "" || /^[.,?]$/.test(spelled) ? spelled : ` ${spelled}`;
  });
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function startsWithVowel(word: string): boolean {
  return /^(?!uni|use|one)[aeiou]|^(?:hon|hour|heir)/i.test(word);
}

/** Words with what a verb or a pronoun has to know of them. */
interface NounPhrase {
  readonly words: readonly string[];
  readonly number: Grammatical;
  readonly kind: NounKind;
  /** The pronoun that refers back to it. */
  readonly pronoun: Pronoun;
  /** Where its verb is held to the held-out combinations; undefined for names, pronouns, coordinations and questions. */
  readonly agreement?: {
    readonly construction: Construction;
    readonly noun: Noun;
    readonly attractors: readonly Grammatical[];
  };
}

/** Writes one sentence. */
class Writer {
  readonly #random: Random;
  readonly #lexicon: Lexicon;
  readonly #tables: Tables;
  readonly #agreements: Agreement[] = [];
  /** The number of every noun so far, in the order of the words. */
  #numbers: Grammatical[] = [];

  constructor(random: Random, lexicon: Lexicon) {
    this.#random = random;
    this.#lexicon = lexicon;
    this.#tables = tablesOf(lexicon);
  }

  sentence(): Sentence {
    const kind = this.#random.weighted(sentenceKinds);
    return { kind, text: spell(this.#wordsOf(kind)), agreements: this.#agreements };
  }

  #wordsOf(kind: SentenceKind): string[] {
    switch (kind) {
      case "declarative":
        return [...this.#declarative(), "."];
      case "question":
        return [...this.#question(), "?"];
      case "existential":
        return this.#existential();
      case "coordinated clauses": {
        const first = this.#clause(this.#subject({ initial: true }), "any");
        return [...first, ",", this.#random.pick(["and", "but", "or"]), ...this.#clause(this.#subject({}), "any"), "."];
      }
      case "coordinated predicates": {
        const subject = this.#subject({ initial: true });
        const first = this.#clause(subject, "any", { closed: true });
        const again = withoutAgreement(subject);
        return [...first, this.#random.pick(["and", "and", "but"]), ...this.#predicate(again, "any", {}), "."];
      }
      case "subordinate":
        return [...this.#subordinate(), "."];
      case "pronoun":
        return [...this.#withPronoun(), "."];
      case "demonstrative":
        return [...this.#demonstrative(), "."];
      case "imperative":
        return [...this.#imperative(), "."];
    }
  }

  // Sentences

  /** "Today the dog runs" */
  #declarative(): string[] {
    if (!this.#random.chance(0.14)) return this.#clause(this.#subject({ initial: true }), "any");
    const comma = this.#random.chance(0.5) ? [","] : [];
    if (this.#random.chance(0.35)) {
      const place = this.#prepositional("place", true);
      return [...place, ...comma, ...this.#clause(this.#subject({}), "any")];
    }
    const time = this.#random.weighted([
      ["present", 6],
      ["past", 2],
      ["future", 1],
    ] as const);
    return [this.#random.pick(openers[time]), ...comma, ...this.#clause(this.#subject({}), time)];
  }

  /** "Does the dog run", "Who chases the cats" */
  #question(): string[] {
    const shape = this.#random.weighted([
      ["yes or no", 5],
      ["why", 2],
      ["what", 2],
      ["who", 2],
      ["which", 2],
      ["where", 1],
    ] as const);
    if (shape === "who") {
      return [
        "who",
        ...this.#predicate({ words: [], number: "singular", kind: "person", pronoun: pronouns.he }, "any", {}),
      ];
    }
    if (shape === "which") {
      const noun = this.#noun(nounKinds);
      const number = this.#number();
      const subject = { words: [], number, kind: noun.kind, pronoun: this.#pronounFor(noun, number) };
      return ["which", noun[number], ...this.#predicate(subject, "any", {})];
    }
    const subject = withoutAgreement(this.#subject({ plain: true }));
    if (shape === "where")
      return ["where", this.#auxiliary(this.#random.pick(["be", "was"]), subject), ...subject.words];
    const finite = this.#random.weighted([
      ["do", 5],
      ["be", 4],
      ["have", 3],
      ["was", 2],
      ["did", 2],
      ["had", 1],
      ["modal", 2],
      ["will", 1],
    ] as const);
    const auxiliary = this.#auxiliary(finite, subject);
    if (shape === "what") {
      const verb = this.#verb(subject.kind, { frames: ["transitive"], object: "thing" });
      if (verb === undefined || verb.stative) return [auxiliary, ...subject.words, ...this.#rest(finite, subject, {})];
      return ["what", auxiliary, ...subject.words, nonFinite(finite, verb)];
    }
    const rest = this.#rest(finite, subject, {});
    return shape === "why"
      ? [this.#random.pick(["why", "when", "how"]), auxiliary, ...subject.words, ...rest]
      : [auxiliary, ...subject.words, ...rest];
  }

  /** "There are some dogs near the house." */
  #existential(): string[] {
    const number = this.#number();
    const determiner =
      number === "singular"
        ? this.#random.pick(["a", "a", "a", "one", "no", "another"])
        : this.#random.pick(["some", "many", "several", "few", "no", ...numerals.slice(0, 3)]);
    const noun = this.#noun(nounKinds);
    const thing = [determiner, ...this.#adjective(noun.kind, 0.3), noun[number], ...this.#prepositional("any", false)];
    const form = this.#random.pick([auxiliaries.be[number], auxiliaries.be[number], auxiliaries.was[number]]);
    if (this.#random.chance(0.15)) return [form, "there", ...thing, "?"];
    if (this.#random.chance(0.1)) return ["there", "will", "be", ...thing, "."];
    return ["there", form, ...thing, "."];
  }

  /** "The dog runs because it is hungry", "When the dogs run, they bark" */
  #subordinate(): string[] {
    const conjunction = this.#random.pick(subordinators);
    const front = this.#random.chance(0.4);
    const subject = this.#subject({ initial: !front });
    const time = this.#random.pick(["present", "present", "past"] as const);
    const first = this.#clause(subject, time, { closed: true });
    const again = this.#random.chance(0.6) ? this.#referring(subject.pronoun, subject.kind) : this.#subject({});
    const second = this.#clause(again, time);
    return front ? [conjunction, ...first, ",", ...second] : [...first, conjunction, ...second];
  }

  /** "Mary said that she was happy", "John slept because he was tired" */
  #withPronoun(): string[] {
    const subject = this.#random.chance(0.8) ? this.#name() : this.#gendered();
    const time = this.#random.pick(["past", "past", "present"] as const);
    const again = () => this.#clause(this.#referring(subject.pronoun, subject.kind), time === "past" ? "past" : "any");
    if (this.#random.chance(0.5)) {
      const verb = this.#verb("person", { frames: ["complement"] });
      if (verb !== undefined) {
        return [...subject.words, time === "past" ? verb.past : present(verb, subject.number), "that", ...again()];
      }
    }
    const first = this.#clause(withoutAgreement(subject), time, {
      closed: true,
      frames: ["intransitive", "transitive"],
    });
    return [...first, this.#random.pick(subordinators.slice(0, 4)), ...again()];
  }

  /** "These are the dogs of …", "This is a house" */
  #demonstrative(): string[] {
    const number = this.#number();
    const noun = this.#noun(nounKinds);
    const pointer = number === "singular" ? ["this", "that"] : ["these", "those"];
    const determiner = number === "singular" ? ["a", "the", "my", "our"] : ["the", "my", "our", "their"];
    return [
      this.#random.pick(pointer),
      auxiliaries[this.#random.pick(["be", "was"] as const)][number],
      this.#random.pick(determiner),
      ...this.#adjective(noun.kind, 0.3),
      noun[number],
    ];
  }

  /** "Please help the girl" */
  #imperative(): string[] {
    const verb = this.#verb("person", { frames: ["transitive", "intransitive"] });
    if (verb === undefined) return ["please", "go"];
    const you = { words: ["you"], number: "plural", kind: "person", pronoun: pronouns.you } as const;
    const not = this.#random.chance(0.3) ? ["do", "not"] : [];
    return ["please", ...not, verb.base, ...this.#complement(verb, you, {})];
  }

  // Noun phrases

  /** A subject: mostly a noun, with whatever stands between it and its verb. */
  #subject(options: { initial?: boolean; plain?: boolean; embedded?: boolean }): NounPhrase {
    const shape = this.#random.weighted([
      ["noun", 76],
      ["name", 8],
      ["pronoun", 7],
      ["coordination", 6],
      ["partitive", 3],
    ] as const);
    switch (shape) {
      case "name":
        return this.#name();
      case "pronoun": {
        const pronoun = this.#random.pick(Object.values(pronouns));
        return this.#referring(pronoun, pronoun === pronouns.it ? "thing" : "person");
      }
      case "coordination":
        return this.#coordinated();
      case "partitive":
        return this.#partitive();
      case "noun":
        return options.plain === true
          ? this.#plain()
          : this.#modified(options.initial === true, options.embedded === true);
    }
  }

  /** A noun with its modifiers; they decide in which construction its verb stands. */
  #modified(initial: boolean, embedded: boolean): NounPhrase {
    const noun = this.#noun(nounKinds);
    const number = this.#number();
    const words = [...this.#determined(noun, number, !initial)];
    const before = this.#numbers.length;
    const as = (construction: Construction): NounPhrase => {
      const attractors = this.#numbers.slice(before);
      return {
        words,
        number,
        kind: noun.kind,
        pronoun: this.#pronounFor(noun, number),
        agreement: { construction, noun, attractors },
      };
    };
    const shape = this.#random.weighted<Construction>([
      ["simple", 28],
      ["nounpp", 16],
      ["coordination", 11],
      ["long", 12],
      ["subject_rc", embedded ? 0 : 16],
      ["object_rc", embedded ? 0 : 17],
    ]);
    switch (shape) {
      case "nounpp":
        words.push(...this.#prepositional("any", false));
        return as("nounpp");
      case "coordination":
        words.push(...this.#prepositional("any", false, true));
        return as("coordination");
      case "long":
        words.push(...this.#prepositional("any", false), ...this.#prepositional("any", false));
        // Three in a row, or a relative clause after the phrase, now and then.
        if (this.#random.chance(0.1)) words.push(...this.#prepositional("any", false));
        else if (!embedded && this.#random.chance(0.15)) {
          words.splice(words.length, 0, ...this.#objectRelative(noun, number));
        }
        return as("long");
      case "subject_rc": {
        const { words: clause, long } = this.#subjectRelative(noun, number);
        words.push(...clause);
        return as(long ? "long" : "subject_rc");
      }
      case "object_rc":
        words.push(...this.#objectRelative(noun, number));
        return as("object_rc");
      default:
        return as("simple");
    }
  }

  /** "that chased the cats": its verb agrees with the head. */
  #subjectRelative(noun: Noun, number: Grammatical): { words: string[]; long: boolean } {
    const pronoun = this.#pronounFor(noun, number);
    const head: NounPhrase = {
      words: [],
      number,
      kind: noun.kind,
      pronoun,
      agreement: { construction: "within_subject_rc", noun, attractors: [] },
    };
    const long = this.#random.chance(0.12);
    const options = { embedded: true, closed: true, frames: ["transitive", "transitive", "intransitive"] as const };
    const words = [
      this.#relativizer(noun),
      ...this.#predicate(head, this.#random.chance(0.5) ? "unmarked" : "any", options),
    ];
    return { words: long ? [...words, ...this.#prepositional("any", false)] : words, long };
  }

  /** "that the cats chase": its verb agrees with its own subject; nothing for a head that nobody can do anything to. */
  #objectRelative(head: Noun, headNumber: Grammatical): string[] {
    const before = this.#numbers.length;
    const example = this.#random.pick(this.#tables.transitiveOn(head.kind));
    const kind = this.#random.pick(example.subjects);
    let subject: NounPhrase;
    if (kind === "person" && this.#random.chance(0.15)) {
      subject = this.#random.chance(0.5)
        ? this.#name()
        : this.#referring(this.#random.pick([pronouns.I, pronouns.we, pronouns.they]), "person");
    } else {
      const noun = this.#noun([kind]);
      const number = this.#number();
      const words = this.#determined(noun, number, false);
      const attractors = [headNumber, ...this.#numbers.slice(before, -1)];
      subject = {
        words,
        number,
        kind,
        pronoun: this.#pronounFor(noun, number),
        agreement: { construction: "within_object_rc", noun, attractors },
      };
    }
    const verbs = this.#tables.transitive(kind, head.kind);
    const plan = this.#agreeing(
      subject,
      () => ({
        finite: this.#random.weighted(finiteWeights.any),
        verb: this.#random.pick(verbs),
      }),
      true,
    );
    const adverb = this.#frequencyAdverb(0.05);
    return [this.#relativizer(head), ...subject.words, ...this.#finiteVerb(plan, subject, adverb)];
  }

  #relativizer(noun: Noun): string {
    return noun.kind === "person" && this.#random.chance(0.35) ? "who" : "that";
  }

  /** A noun with a determiner and perhaps an adjective, without more. */
  #plain(kinds: readonly NounKind[] = nounKinds): NounPhrase {
    const noun = this.#noun(kinds);
    const number = this.#number();
    return {
      words: this.#determined(noun, number, true),
      number,
      kind: noun.kind,
      pronoun: this.#pronounFor(noun, number),
      agreement: { construction: "simple", noun, attractors: [] },
    };
  }

  #gendered(): NounPhrase {
    const noun = this.#random.pick(this.#tables.gendered);
    return {
      words: ["the", noun.singular],
      number: "singular",
      kind: "person",
      pronoun: this.#pronounFor(noun, "singular"),
    };
  }

  #name(): NounPhrase {
    const { name, gender } = this.#random.pick(this.#lexicon.names);
    return { words: [name], number: "singular", kind: "person", pronoun: gender === "m" ? pronouns.he : pronouns.she };
  }

  #referring(pronoun: Pronoun, kind: NounKind): NounPhrase {
    return { words: [pronoun.subject], number: pronoun.number, kind, pronoun };
  }

  /** "the dog and the cats", plural whatever its parts; never with a phrase after the first part. */
  #coordinated(): NounPhrase {
    const kinds = this.#random.pick([["person"], ["animal"], ["person", "animal"], ["thing"], ["place"]] as const);
    const part = () => (kinds[0] === "person" && this.#random.chance(0.25) ? this.#name() : this.#definite(kinds));
    const [first, second] = [part(), part()];
    return {
      words: [...first.words, "and", ...second.words],
      number: "plural",
      kind: first.kind,
      pronoun: pronouns.they,
    };
  }

  #definite(kinds: readonly NounKind[]): NounPhrase {
    const noun = this.#noun(kinds);
    const number = this.#number();
    const words = [
      this.#random.pick(["the", "the", "the", "my", "our", "his", "her"]),
      ...this.#adjective(noun.kind, 0.1),
      noun[number],
    ];
    return { words, number, kind: noun.kind, pronoun: this.#pronounFor(noun, number) };
  }

  /** "one of the dogs", "many of the dogs" */
  #partitive(): NounPhrase {
    const [quantifier, number] = this.#random.pick(partitives);
    const noun = this.#noun(nounKinds);
    const words = [quantifier, "of", this.#random.pick(["the", "the", "these", "those", "my", "our"]), noun.plural];
    return { words, number, kind: noun.kind, pronoun: this.#pronounFor(noun, number) };
  }

  /** "the dog", "a small dog", "these three dogs" */
  #determined(noun: Noun, number: Grammatical, bare: boolean): string[] {
    this.#numbers.push(number);
    const shape = this.#random.weighted([
      ["the", 56],
      ["numbered", 20],
      ["demonstrative", 6],
      ["possessive", 8],
      ["numeral", 4],
      ["bare", 6],
    ] as const);
    const rest = [...this.#adjective(noun.kind, 0.18), noun[number]];
    if (shape === "numbered") {
      return [
        this.#random.chance(0.25) && number === "singular" ? "a" : this.#random.pick(determiners[number]),
        ...rest,
      ];
    }
    if (shape === "demonstrative") return [number === "singular" ? "this" : "these", ...rest];
    if (shape === "possessive") return [this.#random.pick(neutralDeterminers), ...rest];
    if (shape === "numeral" && number === "plural") {
      const the = bare && this.#random.chance(0.4) ? [this.#random.pick(["the", "these", "those"])] : [];
      return [...the, this.#random.pick(numerals), ...rest];
    }
    return shape === "bare" && bare && number === "plural" ? rest : ["the", ...rest];
  }

  /** "near the tables", or with `two` "near the cats and the birds" */
  #prepositional(kinds: NounKind | "any", locative: boolean, two = false): string[] {
    const preposition = this.#random.pick(locative ? this.#tables.locatives : this.#lexicon.prepositions);
    const allowed = kinds === "any" ? preposition.kinds : preposition.kinds.filter((kind) => kind === kinds);
    const part = () =>
      this.#determined(this.#noun(allowed.length > 0 ? allowed : preposition.kinds), this.#number(), !two);
    const words = two ? [...part(), "and", ...part()] : part();
    return [preposition.word, ...words.map((word) => (word === "no" ? "the" : word))];
  }

  #adjective(kind: NounKind, probability: number): string[] {
    return this.#random.chance(probability) ? [this.#random.pick(this.#tables.adjectives(kind))] : [];
  }

  // Predicates

  #clause(subject: NounPhrase, tense: Tense, options: PredicateOptions = {}): string[] {
    return [...subject.words, ...this.#predicate(subject, tense, options)];
  }

  /** A finite verb and what follows it; notes the agreement. */
  #predicate(subject: NounPhrase, tense: Tense, options: PredicateOptions): string[] {
    const plan = this.#agreeing(subject, () => ({
      finite: this.#random.weighted(finiteWeights[tense]),
      verb: this.#mainVerb(subject.kind, options),
    }));
    if (plan.finite === "present" || plan.finite === "past") {
      const adverb = this.#frequencyAdverb(0.09);
      const tense = plan.finite === "past" ? "past" : "any";
      return [...this.#finiteVerb(plan, subject, adverb), ...this.#complement(plan.verb, subject, options, tense)];
    }
    const auxiliary = this.#auxiliary(plan.finite, subject);
    return [auxiliary, ...this.#rest(plan.finite, subject, options, plan.verb)];
  }

  /**
   * Draws plans until one is not held out of the subject's construction, and notes it. With `progressive`, a form of be is sure to be followed
   * by the main verb, which then is no stative one.
   */
  #agreeing(subject: NounPhrase, draw: () => Plan, progressive = false): Plan {
    const agreement = subject.agreement;
    for (let attempt = 0; ; attempt++) {
      const plan = draw();
      if (progressive && plan.verb.stative && (plan.finite === "be" || plan.finite === "was")) continue;
      const verb = agreeingVerb(plan);
      if (agreement === undefined || verb === undefined) return plan;
      const { construction, noun, attractors } = agreement;
      if (attempt < 50 && heldOut(construction, noun.singular, verb) && !this.#random.chance(leak)) continue;
      this.#agreements.push({ construction, noun: noun.singular, verb, number: subject.number, attractors });
      return plan;
    }
  }

  /** "runs", "often runs", "has never run": the verb group without its complement. */
  #finiteVerb(plan: Plan, subject: NounPhrase, adverb: readonly string[]): string[] {
    if (plan.finite === "past") return [...adverb, plan.verb.past];
    if (plan.finite === "present") {
      const first = subject.pronoun === pronouns.I;
      return [...adverb, present(plan.verb, first ? "plural" : subject.number)];
    }
    const negative = plan.finite === "do" || plan.finite === "did" ? ["not"] : adverb;
    return [this.#auxiliary(plan.finite, subject), ...negative, nonFinite(plan.finite, plan.verb)];
  }

  #auxiliary(finite: Exclude<Finite, "present" | "past">, subject: NounPhrase): string {
    if (finite === "will" || finite === "had" || finite === "did") return finite;
    if (finite === "modal") return this.#random.pick(modals);
    if (subject.pronoun === pronouns.I) return { be: "am", was: "was", have: "have", do: "do" }[finite];
    return auxiliaries[finite][subject.number];
  }

  /** What follows an auxiliary: "not running", "happy", "near the tables", "run". */
  #rest(
    finite: Exclude<Finite, "present" | "past">,
    subject: NounPhrase,
    options: PredicateOptions,
    given?: Verb,
  ): string[] {
    const verb = given ?? this.#mainVerb(subject.kind, options);
    const question = given === undefined;
    const not = !question && (finite === "do" || finite === "did" || this.#random.chance(0.06)) ? ["not"] : [];
    const adverb = not.length === 0 && finite !== "do" && finite !== "did" ? this.#frequencyAdverb(0.06) : [];
    const lead = [...not, ...adverb];
    const verbal = () => [...lead, nonFinite(finite, verb), ...this.#complement(verb, subject, options)];
    if (finite === "be" || finite === "was") return [...lead, ...this.#afterBe(finite, subject, options, verb)];
    if (
      finite === "have" &&
      subject.kind !== "thing" &&
      subject.kind !== "place" &&
      !question &&
      this.#random.chance(0.25)
    ) {
      return this.#plain(["thing"]).words as string[];
    }
    if ((finite === "will" || finite === "modal") && this.#random.chance(0.2)) {
      return [...lead, "be", this.#random.pick(this.#tables.adjectives(subject.kind))];
    }
    return verbal();
  }

  #afterBe(finite: "be" | "was", subject: NounPhrase, options: PredicateOptions, verb: Verb): string[] {
    const shape = this.#random.weighted([
      ["verb", verb.stative ? 0 : 42],
      ["adjective", 26],
      ["place", 18],
      ["passive", 8],
      ["noun", subject.kind === "person" ? 6 : 0],
    ] as const);
    if (shape === "adjective") {
      const very = this.#random.chance(0.1) ? this.#random.pick(["really", "still", "very"]) : undefined;
      const adjective = this.#random.pick(this.#tables.adjectives(subject.kind));
      return very === undefined ? [adjective] : [very, adjective];
    }
    if (shape === "place") return this.#prepositional("any", true);
    if (shape === "noun") {
      const noun = this.#random.pick(this.#tables.genderless);
      const number = subject.number;
      return [...(number === "singular" ? ["a"] : []), ...this.#adjective("person", 0.25), noun[number]];
    }
    if (shape === "passive") {
      const passive = this.#random.pick(this.#tables.transitiveOn(subject.kind));
      const by = this.#random.chance(0.6) ? ["by", ...this.#plain([this.#random.pick(passive.subjects)]).words] : [];
      return [passive.participle, ...by];
    }
    return [nonFinite(finite, verb), ...this.#complement(verb, subject, options)];
  }

  /** What follows a main verb; a clause there is in the given tense. */
  #complement(verb: Verb, subject: NounPhrase, options: PredicateOptions, tense: Tense = "any"): string[] {
    switch (verb.frame) {
      case "transitive":
        return [...this.#object(verb, subject, options), ...this.#end(options.embedded === true ? 0 : 0.1)];
      case "ditransitive":
        return [...this.#plain(["person"]).words, ...this.#plain(["thing"]).words];
      case "complement": {
        const that = this.#random.chance(0.8) ? ["that"] : [];
        const inner =
          this.#random.chance(0.45) || subject.words.length === 1
            ? this.#referring(subject.pronoun, subject.kind)
            : this.#subject({ embedded: true });
        return [...that, ...this.#clause(inner, tense, { embedded: true })];
      }
      case "intransitive": {
        if (this.#random.chance(0.22)) return this.#prepositional("any", true);
        return this.#end(options.embedded === true ? 0.05 : 0.2);
      }
    }
  }

  #object(verb: Verb, subject: NounPhrase, options: PredicateOptions): string[] {
    const kind = this.#random.weighted(verb.objects.map((k) => [k, this.#tables.nouns(k).length] as const));
    if (this.#random.chance(kind === "person" ? 0.16 : 0.05)) {
      const { kind: own, pronoun } = subject;
      if (this.#random.chance(0.3) && own === kind && own !== "thing") return [pronoun.reflexive];
      if (kind === "person" && this.#random.chance(0.5)) return [...this.#name().words];
      const others = kind === "person" ? people.filter((other) => other !== pronoun) : [pronouns.it, pronouns.they];
      return [this.#random.pick(others).object];
    }
    const noun = this.#noun([kind]);
    const number = this.#number();
    const words = this.#determined(noun, number, true);
    if (options.embedded === true || options.closed === true) return words;
    const shape = this.#random.uniform();
    if (shape < 0.16) return [...words, ...this.#prepositional("any", false)];
    if (shape < 0.24) return [...words, ...this.#subjectRelative(noun, number).words];
    if (shape < 0.32) return [...words, ...this.#objectRelative(noun, number)];
    return words;
  }

  /** An adverb at the end of a clause, or nothing. */
  #end(probability: number): string[] {
    if (!this.#random.chance(probability)) return [];
    return [this.#random.pick(this.#random.chance(0.5) ? places : this.#lexicon.mannerAdverbs)];
  }

  #frequencyAdverb(probability: number): string[] {
    const adverbs = [...this.#lexicon.frequencyAdverbs, "often", "usually", "sometimes"];
    return this.#random.chance(probability) ? [this.#random.pick(adverbs)] : [];
  }

  // Words

  #number(): Grammatical {
    return this.#random.chance(0.5) ? "singular" : "plural";
  }

  #noun(kinds: readonly NounKind[]): Noun {
    const kind =
      kinds.length === 1
        ? kinds[0]!
        : this.#random.weighted(kinds.map((k) => [k, this.#tables.nouns(k).length] as const));
    return this.#random.pick(this.#tables.nouns(kind));
  }

  #mainVerb(kind: NounKind, options: PredicateOptions): Verb {
    const frames = options.frames ?? (options.embedded === true || options.closed === true ? simpleFrames : allFrames);
    return this.#verb(kind, { frames }) ?? this.#random.pick(this.#tables.verbs(kind, "intransitive"));
  }

  /** A verb for a subject of some kind, the frame drawn first; undefined if there is none. */
  #verb(kind: NounKind, options: { frames: readonly Frame[]; object?: NounKind }): Verb | undefined {
    const frame = this.#random.pick(options.frames);
    const verbs = this.#tables
      .verbs(kind, frame)
      .filter((v) => options.object === undefined || v.objects.includes(options.object));
    return verbs.length > 0 ? this.#random.pick(verbs) : undefined;
  }

  #pronounFor(noun: Noun, number: Grammatical): Pronoun {
    if (number === "plural") return pronouns.they;
    if (noun.kind !== "person") return pronouns.it;
    const gender = noun.gender ?? this.#random.pick(["m", "f"]);
    return gender === "m" ? pronouns.he : pronouns.she;
  }
}

interface PredicateOptions {
  /** In a relative or complement clause: no clause below it (never two centre embeddings), short objects. */
  readonly embedded?: boolean;
  /** Something follows in the same sentence: no clause at its end. */
  readonly closed?: boolean;
  readonly frames?: readonly Frame[];
}

const { it: _, ...personal } = pronouns;
const people: readonly Pronoun[] = Object.values(personal);

const simpleFrames: readonly Frame[] = ["intransitive", "transitive"];
const allFrames: readonly Frame[] = [
  ...Array<Frame>(8).fill("intransitive"),
  ...Array<Frame>(9).fill("transitive"),
  "complement",
  "complement",
  "ditransitive",
];

function withoutAgreement(phrase: NounPhrase): NounPhrase {
  const { agreement: _, ...rest } = phrase;
  return rest;
}
