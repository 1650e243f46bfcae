"""Makes the tokens of some hundred texts for the two real models of `npm run test:real`: test/fixtures/gguf/{smollm2,gemma3}-tokens.json.

    python3 test/oracles/make_gguf_tokens.py CACHE

CACHE is the folder that real_gguf.py fills. The tokenizers are those that transformers makes from the GGUF files, but for two things in which it
differs from the models' own tokenizer.json: SmolLM2 splits numbers into digits, and Gemma's texts have no "▁" of their own. Needs transformers 5,
gguf and tokenizers.
"""

import json
import random
import sys
from pathlib import Path

import tokenizers
from real_gguf import MODELS
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, __version__

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
WORDS = [
    *"The keys to the cabinet are on table teacher that students admire, because she said: 'Don't!' I'LL we've it's".split(),
    *"naïve café cafe\u0301 Straße İstanbul 日本語 テスト 한국어 Привет мир Ελλάδα עברית العربية हिन्दी ไทย".split(),
    *"😀 👍🏽 🏳️‍🌈 ½ ² Ⅳ ٣ ४ 3.14159 2026 1e-5 384,400 0x1F $5 50% #tag @me a_b camelCase HTTPServer".split(),
    *"def f(x): return x**2 # != <= => {'a': [1, 2]} <b> </table> <pad> … — “quoted” \u00a0 \u200b \u3000".split(" "),
]
GAPS = [" "] * 12 + ["", "", "  ", "   ", "     ", "\n", "\n\n", "\n\n\n", "\t", "\t\t", "\r\n", " " * 20]


def texts():
    rng = random.Random(1)
    made = ["", " ", "a", " a", "\n", "The", " The"]
    while len(made) < 300:
        text = "".join(rng.choice(WORDS) + rng.choice(GAPS) for _ in range(rng.randint(1, 9)))
        made.append(rng.choice(GAPS) + text if rng.random() < 0.2 else text)
    return made


def tokenizer(folder, name):
    made = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    if name.startswith("SmolLM2"):
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        digits = pre_tokenizers.Digits(individual_digits=True)
        made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    return made


if __name__ == "__main__":
    for model, (name, _, _) in MODELS.items():
        made = tokenizer(Path(sys.argv[1]) / model, name)
        rows = [dict(text=text, ids=made(text).input_ids) for text in texts()]
        library = f"transformers {__version__}, tokenizers {tokenizers.__version__}"
        out = FIXTURES / "gguf" / f"{model.split('-')[0]}-tokens.json"
        out.write_text(json.dumps(dict(library=library, rows=rows), separators=(",", ":")) + "\n")
