import { type Adjective, type Lexicon, type NounKind, nouns, split, verbs } from "./lexicon.ts";

const people: readonly NounKind[] = ["person"];
const animals: readonly NounKind[] = ["animal"];
const animate: readonly NounKind[] = ["person", "animal"];
const things: readonly NounKind[] = ["thing"];
const places: readonly NounKind[] = ["place"];
const inanimate: readonly NounKind[] = ["thing", "place"];
const anything: readonly NounKind[] = ["person", "animal", "thing", "place"];
const movable: readonly NounKind[] = ["person", "animal", "thing"];

function adjectives(kinds: readonly NounKind[], words: string): Adjective[] {
  return split(words).map((word) => ({ word, kinds }));
}

/** The lexicon of the embedded model: every form of every word is one token of its tokenizer. */
export const demoLexicon: Lexicon = {
  name: "demo",
  nouns: [
    ...nouns(
      "person",
      `man/men:m woman/women:f child/children person/people boy:m girl:f king:m queen:f prince:m princess:f
      father:m mother:f brother:m sister:f uncle:m aunt:f son:m daughter:f nephew:m niece:f husband:m wife/wives:f
      grandfather:m grandmother:f cousin friend neighbor stranger guest guy:m lady:f gentleman/gentlemen:m
      actor:m actress:f waiter:m waitress:f hero/heroes thief/thieves wizard:m witch:f emperor:m empress:f
      duke:m duchess:f monk:m nun:f priest bishop postman/postmen:m policeman/policemen:m fisherman/fishermen:m
      doctor nurse teacher student farmer lawyer dancer singer writer painter poet sailor soldier baker butcher
      carpenter plumber tailor barber chef pirate knight giant scientist engineer chemist biologist historian artist
      musician pianist violinist guitarist drummer composer conductor editor journalist reporter photographer
      librarian secretary manager director president senator mayor minister governor ambassador banker accountant
      merchant trader builder architect mechanic electrician miner detective agent officer captain sergeant colonel
      hunter gardener shepherd cowboy:m rider driver cyclist runner swimmer skater climber athlete referee kid baby
      toddler teenager adult twin orphan widow:f bride:f customer client patient tourist traveler passenger visitor
      citizen villager peasant servant maid:f butler:m consultant expert dentist surgeon pharmacist therapist professor
      scholar author novelist critic translator candidate winner loser champion rival leader prisoner criminal burglar
      victim executive assistant parent guard ballerina:f astronaut magician juggler clown`,
    ),
    ...nouns(
      "animal",
      `dog cat mouse/mice rat goose/geese duck hen rooster chicken turkey pig cow bull calf/calves horse pony donkey
      mule goat lamb ox/oxen wolf/wolves fox bear lion tiger leopard cheetah panther elephant giraffe zebra hippo rhino
      camel monkey gorilla chimpanzee kangaroo koala panda rabbit hare squirrel hedgehog beaver otter badger raccoon
      skunk frog toad lizard snake crocodile alligator turtle tortoise dolphin whale penguin owl eagle hawk falcon crow
      raven sparrow pigeon parrot swan stork heron butterfly bee wasp ant spider beetle mosquito/mosquitoes cricket
      snail worm crab lobster octopus kitten puppy hamster hound dragon unicorn`,
    ),
    ...nouns(
      "thing",
      `book pencil pen letter envelope notebook newspaper magazine dictionary map picture statue poster mirror clock
      lamp candle lantern table chair desk sofa bed bench shelf/shelves cupboard drawer wardrobe carpet curtain pillow
      blanket towel bottle glass cup plate bowl spoon fork knife/knives pan pot kettle oven fridge stove toaster bucket
      basket box bag suitcase backpack wallet purse key door window wall roof chimney fence gate ladder hammer nail axe
      shovel needle rope chain wheel engine bicycle bike motorcycle car truck bus van taxi tram ship canoe ferry
      submarine airplane helicopter rocket balloon kite ball toy puzzle drum guitar piano violin flute trumpet hat coat
      jacket shirt skirt sweater scarf/scarves glove shoe boot sock belt necklace bracelet crown sword shield arrow flag
      leaf/leaves tooth/teeth foot/feet loaf/loaves cake pie cookie sandwich apple orange banana lemon peach cherry
      strawberry tomato/tomatoes potato/potatoes carrot onion cabbage mushroom egg pancake flower tulip daisy tree bush
      branch stone coin diamond pearl jewel computer keyboard telephone camera television radio printer battery machine
      robot telescope microscope umbrella broom cactus/cacti sculpture feather trophy medal`,
    ),
    ...nouns(
      "place",
      `house hut cottage castle palace tower church temple school college university library museum theater hospital
      hotel restaurant bakery factory office supermarket pharmacy bank station airport harbor city town village country
      island beach river lake pond mountain hill valley forest desert jungle meadow garden field barn street road avenue
      bridge tunnel corner kitchen bathroom bedroom hallway cellar attic balcony courtyard stadium gym prison cave
      canyon volcano/volcanoes cemetery embassy monastery fountain lighthouse windmill`,
    ),
  ],
  verbs: [
    ...verbs("intransitive", anything, "appear disappear vanish remain* exist* move fall/fell/fallen stay change"),
    ...verbs(
      "intransitive",
      animate,
      `sleep/slept run+/ran/run swim+/swam/swum go/went/gone sit+/sat stand/stood walk wait arrive kneel/knelt die live
      breathe sneeze snore yawn relax escape return wander hesitate tremble shiver stumble crawl hurry survive starve
      suffer struggle grow/grew/grown jump limp`,
    ),
    ...verbs(
      "intransitive",
      people,
      `sing/sang/sung dance laugh smile cry travel whisper shout scream whistle complain apologize argue succeed fail
      graduate retire pray joke giggle weep/wept frown blush nod+ march faint compete`,
    ),
    ...verbs(
      "intransitive",
      things,
      `shine/shone glow melt break/broke/broken rattle creak explode rust sparkle vibrate rot+ sink/sank/sunk float roll
      crack`,
    ),
    ...verbs("intransitive", inanimate, "collapse burn shake/shook/shaken"),
    ...verbs(
      "transitive",
      animate,
      `see*/saw/seen find/found like* love* avoid follow hear*/heard notice* remember* forget+*/forgot/forgotten recognize* watch
      want* need* miss* ignore protect touch lose/lost`,
      anything,
    ),
    ...verbs(
      "transitive",
      animate,
      "chase attack bite/bit/bitten scare frighten trust* fight/fought defeat rescue kick obey* lick",
      animate,
    ),
    ...verbs(
      "transitive",
      people,
      `admire* help meet/met call greet kiss hug+ thank respect* envy* blame criticize praise encourage inspire teach/taught
      invite welcome warn interview hire marry advise`,
      people,
    ),
    ...verbs(
      "transitive",
      people,
      `carry pull push lift drop+ throw/threw/thrown catch/caught bring/brought take/took/taken steal/stole/stolen buy/bought
      sell/sold draw/drew/drawn paint describe wash repair own* borrow order choose/chose/chosen collect count measure
      examine inspect study use hold/held`,
      things,
    ),
    ...verbs("transitive", people, "feed/fed ride/rode/ridden train tame", animals),
    ...verbs("transitive", people, "build/built clean decorate destroy", inanimate),
    ...verbs("transitive", animate, "enter reach explore approach", places),
    ...verbs("transitive", things, "block cover surround hide/hid/hidden", anything),
    ...verbs("transitive", movable, "surprise amuse annoy confuse", people),
    ...verbs("transitive", places, "attract impress", people),
    ...verbs(
      "complement",
      people,
      `say/said think/thought know*/knew/known believe* hope claim* admit+* deny* realize* announce explain insist* doubt*
      feel/felt discover* suspect*`,
    ),
    ...verbs("ditransitive", people, "give/gave/given send/sent show/showed/shown offer lend/lent"),
  ],
  names: [
    ...split(`Mary Anna Lisa Sarah Emma Julia Laura Maria Susan Linda Alice Helen Nancy Karen Emily Lucy Jane Kate Diana Rachel
      Sophie Clara Nora Olivia Hannah Ruth Martha Eva Irene Barbara Amanda Jessica`).map(
      (name) => ({ name, gender: "f" }) as const,
    ),
    ...split(`John Peter Paul David Tom James Robert Michael Daniel Thomas George Henry Martin Simon Adam Eric Kevin Brian
      Steven Andrew Richard William Charles Edward Oscar Felix Victor Arthur Leo Max Samuel Philip`).map(
      (name) => ({ name, gender: "m" }) as const,
    ),
  ],
  adjectives: [
    ...adjectives(
      anything,
      "big small old new beautiful ugly strange famous large tiny huge quiet dangerous wonderful lovely ordinary unusual important",
    ),
    ...adjectives(
      animate,
      `happy sad young angry hungry thirsty tired brave clever strong weak lazy busy friendly nervous calm proud shy curious
      healthy sick lonely careful gentle fierce noisy`,
    ),
    ...adjectives(people, "rich poor polite rude honest kind wise talented generous serious"),
    ...adjectives(
      things,
      "heavy wooden expensive cheap red blue green yellow white black round soft useful wet dusty shiny",
    ),
    ...adjectives(places, "distant crowded modern ancient peaceful remote"),
    ...adjectives(inanimate, "dirty bright dark empty"),
  ],
  prepositions: [
    { word: "near", kinds: anything, locative: true },
    { word: "behind", kinds: anything, locative: true },
    { word: "beside", kinds: anything, locative: true },
    { word: "above", kinds: inanimate, locative: true },
    { word: "under", kinds: things, locative: true },
    { word: "around", kinds: inanimate, locative: true },
    { word: "opposite", kinds: inanimate, locative: true },
    { word: "with", kinds: things, locative: false },
    { word: "in", kinds: places, locative: true },
    { word: "at", kinds: places, locative: true },
    { word: "from", kinds: places, locative: false },
  ],
  frequencyAdverbs: split("never always rarely really still also clearly suddenly finally probably certainly"),
  mannerAdverbs: split("slowly quickly quietly loudly happily sadly carefully calmly gently easily patiently eagerly"),
};
