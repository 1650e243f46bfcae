"""Texts as the Rust library `tokenizers` splits them, for every kind of part that a tokenizer.json may have, into test/fixtures/tokenizers.json."""

import json
import tempfile
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = Path(__file__).resolve().parents[1] / "fixtures" / "tokenizers.json"

TEXTS = (
    'A cat sat.|The  keys on   the table are|" Hello," she said (softly).|we\'ve I\'LL don\'t \'S|x=1; y_2 += 3.14-7|foo_bar-baz/qux|100000 and 42|¼ cup, x² y₃ Ⅻ ①|'
    '٣٤٥ ৪২|naïve façade Ångström|e\u0301 a\u0308o\u0302 n\u0303|Straße ŒUVRE İstanbul ΟΔΟΣ|Привет, мир! Ещё|γειά σου Κόσμε|東京タワーへ行く|你好，世界。ok|안녕하세요 세계|'
    'שלום עולם|مرحبا بالعالم ١٢|हिन्दी में कि|ไทยภาษา|😀 go 👩‍👩‍👧 🇫🇷|👍🏽x|a\u00a0b\u2003c\u3000d|zero\u200bwidth\u200djoin\u200cer|\ufeffbom and \u00adsoft|'
    'tab\there|line\nbreak\r\nend|\n\n  two\n   three \n|trail   |   lead|\u0085next\u2028sep|bell\u0007 nul\u0001|<tag>in<tag> x|say<tag>now   <mask>  then|<mask>|'
    'a <end> b|unmask mask masks mask|MASK Mask maSk|ﬁne ﬂow ½ ㎏ Ａ|Ǆ ǅ ß ẞ ſ K|--- ... !!! ?!|a-b--c---d|(a)(b)|a,b, c ,d|$5 €6 £7 ^ ` ~ < = > + ||'
    'under_score __init__|camelCaseWORDS HTTPServer|¿Qué? ¡Sí! «ok» „x“ – — …|snow☃man ★|#tag @me %|2024-01-31T10:00|1st 2nd 3rd|a1b22c333d4444|ℌ𝔢𝕝𝓁𝑜|▁marked▁ text ▁|a▁▁b|Ġbyte Ċ|<mask>  <mask>\u2003<tag> <mask>|the the cat THE|  the cats these|it’s ‘so’|é́̂| |   '
).split("|")

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BEHAVIORS = ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]


def split(regex, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(regex), behavior, invert)


SPLITTERS = {
    "bert": pre_tokenizers.BertPreTokenizer(),
    "byte level": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "byte level, prefixed": pre_tokenizers.ByteLevel(add_prefix_space=True),
    "byte level, unsplit": pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
    "delimiter": pre_tokenizers.CharDelimiterSplit("a"),
    "digits": pre_tokenizers.Digits(individual_digits=False),
    "digits, each": pre_tokenizers.Digits(individual_digits=True),
    "fixed length": pre_tokenizers.FixedLength(length=3),
    **{f"metaspace {s}": pre_tokenizers.Metaspace("▁", prepend_scheme=s) for s in ["always", "first", "never"]},
    "metaspace first, unsplit": pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False),
    "metaspace of another mark": pre_tokenizers.Metaspace("_", prepend_scheme="always"),
    **{f"punctuation {b}": pre_tokenizers.Punctuation(b) for b in BEHAVIORS},
    "whitespace": pre_tokenizers.Whitespace(),
    "whitespace split": pre_tokenizers.WhitespaceSplit(),
    **{f"split {b}": split(r"[aeo\s]", b) for b in BEHAVIORS},
    **{f"split {b}, inverted": split(r"\w+", b, True) for b in BEHAVIORS},
    "split at a text": pre_tokenizers.Split(".", "merged_with_previous"),
    "split at nothing": split(r"b*", "merged_with_next"),
    "split at words": split(r"\b", "isolated"),
    "gpt-2": split(GPT2),
    "llama 3": split(LLAMA3),
    "o200k": split(O200K),
    "digits from behind": split(r"\d{1,3}(?=(?:\d{3})*(?!\d))"),
    "classes": split(r"[[:alpha:]&&[^aeiou]]+|[[:punct:]]|\h{2}|(?<=a)\W"),
    "possessive": split(r"\p{L}++(?!x)|(?>\s+)\S|[^\W\d]"),
    "repeated repetitions": split(r"((?:a+)+|(?:\p{L}{1,3})*)\d|\p{N}{1,3}+|(\s*){2,}", "merged_with_next"),
    "lines": split(r"^.|.$|\R|\A\s|\s\z"),
    "sequence": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.Metaspace("▁", prepend_scheme="first")]
    ),
}

RULES = {"ﬁ": "fi", "\u00a0": " ", "\u200b": "", "\ufeff": "", "e\u0301": "É", "n": "N", "½": "1/2", "😀": ":)", "\t": " ", "カ": "ガ", "A": "", "ÅB": "x"}


def charsmap():
    """RULES as SentencePiece compiles them. A character with its marks is looked up as a whole, and the shortest rule that fits its beginning wins."""
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv"
        points = lambda text: " ".join(f"{ord(character):X}" for character in text)
        rules.write_text("".join(f"{points(source)}\t{points(target)}\n" for source, target in RULES.items()))
        (Path(folder) / "text").write_text("the cat sat on the table\n" * 9)
        sentencepiece.SentencePieceTrainer.train(
            input=f"{folder}/text", model_prefix=f"{folder}/m", vocab_size=16, normalization_rule_tsv=str(rules), minloglevel=9
        )
        model = sentencepiece_model_pb2.ModelProto()
        model.ParseFromString((Path(folder) / "m.model").read_bytes())
        return model.normalizer_spec.precompiled_charsmap


NORMALIZERS = {
    "precompiled": normalizers.Precompiled(charsmap()),
    "bert": normalizers.BertNormalizer(),
    "bert, cased": normalizers.BertNormalizer(lowercase=False),
    "bert, accents kept": normalizers.BertNormalizer(strip_accents=False, handle_chinese_chars=False),
    "byte level": normalizers.ByteLevel(),
    "lowercase": normalizers.Lowercase(),
    **{form: getattr(normalizers, form)() for form in ["NFC", "NFD", "NFKC", "NFKD"]},
    "nmt": normalizers.Nmt(),
    "prepend": normalizers.Prepend("▁"),
    "replace": normalizers.Replace(" ", "$1$&"),
    "replace by pattern": normalizers.Replace(Regex(r"\s{2,}|(?i)the"), "_"),
    "strip": normalizers.Strip(),
    "strip left": normalizers.Strip(left=True, right=False),
    "strip accents": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    "llama": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
}


def added(content, **how):
    return AddedToken(content, **{"normalized": False, "special": False, **how})


ADDED = {
    "plain": [added("<tag>"), added("<mask>", special=True), added("mask"), added("a")],
    "lstrip": [added("<tag>", lstrip=True), added("<mask>", lstrip=True, rstrip=True)],
    "rstrip": [added("<tag>", rstrip=True), added(" "), added("<mask>", rstrip=True)],
    "single word": [added("mask", single_word=True), added("c", single_word=True), added("the", single_word=True)],
    "longest": [added("a"), added("as"), added("ask"), added("  "), added("   ")],
    "beginning": [added("<mask>", special=True)],
    "normalized": [added("Mask", normalized=True), added("<END>", normalized=True, special=True), added("É", normalized=True)],
}
FRAMES = {
    "template": processors.TemplateProcessing(single="<mask> $A", special_tokens=[("<mask>", 1)]),
    "two in front": processors.Sequence(
        [processors.ByteLevel(), processors.TemplateProcessing(single="<mask> <tag> $A", special_tokens=[("<tag>", 0), ("<mask>", 1)])]
    ),
}


def part(made):
    """A part as it stands in a tokenizer.json."""
    return json.loads(made.__getstate__())


def trained():
    """Small models of every kind, with characters and words that they do not know."""
    words = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    known = [text for text in TEXTS if text.isascii() or "é" in text] * 3 + ["the cat sat on the table", "these keys are there"] * 20

    def train(model, trainer, pre_tokenizer=words, **parts):
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizer
        tokenizer.train_from_iterator(known, trainer)
        for key, value in parts.items():
            setattr(tokenizer, key, value)
        return tokenizer

    quiet = dict(show_progress=False)
    bpe = dict(vocab_size=130, limit_alphabet=60, special_tokens=["<unk>"], **quiet)
    yield "BPE", train(models.BPE(), trainers.BpeTrainer(**bpe))
    yield "BPE, unknown", train(models.BPE(unk_token="<unk>"), trainers.BpeTrainer(**bpe))
    yield "BPE, unknown fused", train(models.BPE(unk_token="<unk>", fuse_unk=True), trainers.BpeTrainer(**bpe), pre_tokenizer=None)
    yield "BPE, prefix", train(
        models.BPE(unk_token="<unk>", continuing_subword_prefix="##"), trainers.BpeTrainer(continuing_subword_prefix="##", **bpe)
    )
    yield "BPE, suffix", train(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"), trainers.BpeTrainer(end_of_word_suffix="</w>", **bpe))
    # Bytes of all characters but those with 0xE2; what falls into bytes may be merged again.
    some = [f"<0x{byte:02X}>" for byte in range(256) if byte != 0xE2]
    plain = train(models.BPE(), trainers.BpeTrainer(**bpe), pre_tokenizer=None)
    file = json.loads(plain.to_str())
    file["model"]["vocab"].update({token: len(file["model"]["vocab"]) + i for i, token in enumerate([*some, "<0xD0><0xBC>"])})
    file["model"]["merges"].append(["<0xD0>", "<0xBC>"])
    file["model"].update(byte_fallback=True, unk_token="<unk>")
    yield "BPE, bytes", Tokenizer.from_str(json.dumps(file))
    file["model"].update(fuse_unk=True)
    yield "BPE, bytes, unknown fused", Tokenizer.from_str(json.dumps(file))
    file["model"].update(byte_fallback=False, unk_token=None, ignore_merges=True)
    file["model"]["merges"] = file["model"]["merges"][:20]
    file["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": r"\s+"}, "behavior": "Isolated", "invert": False}
    yield "BPE, merges ignored", Tokenizer.from_str(json.dumps(file))
    wordpiece = trainers.WordPieceTrainer(vocab_size=130, limit_alphabet=50, special_tokens=["[UNK]"], **quiet)
    yield "WordPiece", train(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=6), wordpiece, decoder=decoders.WordPiece())
    wordlevel = trainers.WordLevelTrainer(vocab_size=60, special_tokens=["<unk>"], **quiet)
    yield "WordLevel", train(models.WordLevel(unk_token="<unk>"), wordlevel)
    wordlevel = trainers.WordLevelTrainer(vocab_size=60, special_tokens=[], **quiet)
    yield "WordLevel, no unknown", train(models.WordLevel(unk_token="<unk>"), wordlevel)
    spaced = pre_tokenizers.Metaspace("▁")
    unigram = dict(vocab_size=110, special_tokens=["<unk>"], unk_token="<unk>", **quiet)
    yield "Unigram", train(models.Unigram(), trainers.UnigramTrainer(**unigram), pre_tokenizer=spaced, decoder=decoders.Metaspace("▁"))
    # Only together with its neighbour is "t" known, which is less likely than any token, but not than an unknown character.
    yield "Unigram, unlikely", Tokenizer(models.Unigram([("<unk>", 0.0), ("a", 3.0), ("at", -12.0), (" ", -1.0)], 0))
    unigram = train(models.Unigram(), trainers.UnigramTrainer(**unigram), pre_tokenizer=None)
    file = json.loads(unigram.to_str())
    file["model"]["vocab"] += [[token, -20.0] for token in some]
    file["model"]["vocab"] = [[token, round(score, 3)] for token, score in file["model"]["vocab"]]
    file["model"]["byte_fallback"] = True
    yield "Unigram, bytes", Tokenizer.from_str(json.dumps(file))


def ids_of(tokenizer):
    def ids(text):
        try:
            return tokenizer.encode(text).ids
        except Exception:
            return None

    return [ids(text) for text in TEXTS]


def main():
    split_up = {name: [[piece for piece, _ in made.pre_tokenize_str(text)] for text in TEXTS] for name, made in SPLITTERS.items()}
    rewritten = {name: [made.normalize_str(text) for text in TEXTS] for name, made in NORMALIZERS.items()}
    everything = [*TEXTS, *(piece for lists in split_up.values() for pieces in lists for piece in pieces), *(t for l in rewritten.values() for t in l)]
    alphabet = sorted(set("".join(everything)) | set("éÉ"))
    # Tokens tell where a piece begins: its first character is one token, each that follows another.
    vocabulary = {f"{prefix}{character}": 2 * i + j for i, character in enumerate(alphabet) for j, prefix in enumerate(["", "##"])}

    def base(**parts):
        tokenizer = Tokenizer(models.BPE(vocabulary, [], continuing_subword_prefix="##"))
        for key, value in parts.items():
            setattr(tokenizer, key, value)
        return tokenizer

    apart, frames = {}, {}
    for name, tokens in ADDED.items():
        parts = {"pre_tokenizer": pre_tokenizers.Metaspace("▁", prepend_scheme="first")}
        if name == "normalized":
            parts = {"normalizer": normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()]), **parts}
        if name == "beginning":
            parts = {"normalizer": normalizers.Sequence([normalizers.Strip(), normalizers.BertNormalizer(lowercase=False)]), **parts}
        tokenizer = base(**parts)
        tokenizer.add_tokens(tokens)
        file = json.loads(tokenizer.to_str())
        apart[name] = {**{key: file[key] for key in ["added_tokens", "normalizer", "pre_tokenizer"]}, "ids": ids_of(tokenizer)}
    for name, processor in FRAMES.items():
        tokenizer = base(post_processor=processor)
        tokenizer.add_tokens([added("<tag>"), added("<mask>", special=True)])
        file = json.loads(tokenizer.to_str())
        frames[name] = {**{key: file[key] for key in ["added_tokens", "post_processor"]}, "ids": tokenizer.encode("a cat").ids}
    files = {}
    for name, tokenizer in trained():
        ids = ids_of(tokenizer)
        decoded = None if None in ids else [tokenizer.decode(list_, skip_special_tokens=False) for list_ in ids]
        files[name] = {"file": json.loads(tokenizer.to_str()), "ids": ids, "decoded": decoded}
    made = {
        "texts": TEXTS,
        "alphabet": "".join(alphabet),
        "splits": {name: {"part": part(made), "pieces": split_up[name]} for name, made in SPLITTERS.items()},
        "normalized": {name: {"part": part(made), "texts": rewritten[name]} for name, made in NORMALIZERS.items()},
        "added": apart,
        "frames": frames,
        "models": files,
    }
    OUT.write_text(json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"{len(TEXTS)} texts, {OUT.stat().st_size // 1000} kB")


main()
