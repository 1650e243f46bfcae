"""Makes test/fixtures/gguf: block formats with the numbers that gguf-py reads from them, tiny models that llama.cpp's converter converted, small
vocabularies with the tokens that their own libraries make.

    python3 test/oracles/make_gguf.py LLAMA_CPP

LLAMA_CPP is a checkout of llama.cpp, of which only `conversion/` and `gguf-py/` are used. Needs torch, transformers 5, safetensors, tokenizers and
sentencepiece. README.md beside this file describes what is written.
"""

import copy
import io
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

LLAMA_CPP = Path(sys.argv[1])
sys.path[:0] = [str(LLAMA_CPP), str(LLAMA_CPP / "gguf-py")]

import conversion
import gguf
import numpy as np
import sentencepiece
import torch
from make_models import FIXTURES, float64
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM

OUT = FIXTURES / "gguf"

# Scales and minima of a block: places of the float16 numbers among its bytes.
BLOCKS = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}


def make_blocks():
    """Matrices [2,256] of random bytes, the scales random numbers around 1; as float32, float16 and bfloat16 too."""
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(OUT / "blocks.gguf", "llama")
    expected = {}
    for name, places in BLOCKS.items():
        kind = gguf.GGMLQuantizationType[name]
        numbers, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (2, 256 // numbers, size), dtype=np.uint8)
        for place in places:
            scales = rng.normal(size=(2, 256 // numbers, 1)).astype(np.float16)
            blocks[..., place : place + 2] = scales.view(np.uint8)
        rows = blocks.reshape(2, -1)
        writer.add_tensor(name, rows, raw_dtype=kind)
        expected[name] = torch.from_numpy(gguf.quants.dequantize(rows, kind).astype(np.float32))
    for name in ("F32", "F16", "BF16"):
        kind = gguf.GGMLQuantizationType[name]
        values = rng.normal(size=(2, 256)).astype(np.float32)
        rows = gguf.quants.quantize(values, kind)
        writer.add_tensor(name, rows, raw_dtype=kind)
        expected[name] = torch.from_numpy(gguf.quants.dequantize(rows, kind).astype(np.float32))
    write(writer)
    save_file(expected, OUT / "blocks.safetensors")


def write(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


Q8_0, F16, BF16, F32 = "MOSTLY_Q8_0", "MOSTLY_F16", "MOSTLY_BF16", "ALL_F32"

# For each fixture: number format, what its config has to be changed to for GGUF to be able to say it, fields that the converter looks for under
# another name, and metadata that it leaves out because no published model needs it.
MODELS = {
    "llama-gqa": (Q8_0, {}, {}, {}),
    "llama-scaled": (F16, {}, {}, {}),
    "qwen2": (F16, dict(use_sliding_window=False, layer_types=["full_attention"] * 3), {}, {}),
    "gemma": (BF16, {}, {}, {"rope.freq_base": 1000.0}),
    "gemma2": (F16, dict(query_pre_attn_scalar=12), {}, {"rope.freq_base": 1000.0}),
    "gemma3_text": (F16, dict(query_pre_attn_scalar=12), {}, {}),
    "gpt2": (F32, {}, dict(n_ctx=24), {"feed_forward_length": 36}),
    "gpt_neox": (F16, {}, dict(rotary_pct=0.25), {"rope.freq_base": 1000.0}),
    "mistral": (F16, dict(sliding_window=None), {}, {}),
    "mistral-yarn": (F16, {}, {}, {}),
    "qwen3": (F16, dict(use_sliding_window=False, layer_types=["full_attention"] * 3), {}, {}),
    "qwen3-bias": (F16, {}, {}, {}),
    "gemma3": (BF16, {}, {}, {"attention.sliding_window_pattern": 3}),
    "llama-bias": (F16, {}, {}, {}),
    "gpt2-scaled": (
        F32,
        dict(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, activation_function="gelu_new"),
        dict(n_ctx=24),
        {},
    ),
}

# Of those that transformers reads from GGUF, it understands these completely.
READ_BY_TRANSFORMERS = ["llama-gqa", "qwen2"]


def make_model(name, kind, changes, more, metadata):
    ftype = gguf.LlamaFileType[kind]
    path = OUT / f"{name}.gguf"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder) / name
        shutil.copytree(FIXTURES / name, folder)
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(config))
        convert(folder, ftype, path, more, metadata)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    model.config.dtype = "float32"
    prompts = json.loads((FIXTURES / name / "expected.json").read_text())["prompts"]
    if name in READ_BY_TRANSFORMERS:
        check(model, path, kind, prompts)
    as_in_file(model, kind)
    with float64(model), torch.no_grad():
        return {f"{name}/p{p}": logits(model, prompt).float() for p, prompt in enumerate(prompts)}


def convert(folder, ftype, path, more, metadata):
    hparams = conversion.ModelBase.load_hparams(folder, False) | more
    architecture = conversion.get_model_architecture(hparams, conversion.ModelType.TEXT)
    base = conversion.get_model_class(architecture)

    class WithSmallVocabulary(base):
        model_arch = base.model_arch

        def set_vocab(self):
            # Llama's embedding has two rows more than there are tokens.
            padding = 2 if base.model_arch == gguf.MODEL_ARCH.LLAMA else 0
            tokens = ["<unk>", "<s>", "</s>"] + [f"w{i}" for i in range(3, self.hparams["vocab_size"] - padding)]
            self.gguf_writer.add_tokenizer_model("llama")
            self.gguf_writer.add_token_list(tokens)
            self.gguf_writer.add_token_scores([-float(i) for i in range(len(tokens))])
            self.gguf_writer.add_token_types([2, 3, 3] + [1] * (len(tokens) - 3))
            self.gguf_writer.add_bos_token_id(1)
            self.gguf_writer.add_eos_token_id(2)

        def set_gguf_parameters(self):
            super().set_gguf_parameters()
            for key, value in metadata.items():
                key = f"{gguf.MODEL_ARCH_NAMES[self.model_arch]}.{key}"
                kind = gguf.GGUFValueType.FLOAT32 if isinstance(value, float) else gguf.GGUFValueType.UINT32
                self.gguf_writer.kv_data[0].pop(key, None)
                self.gguf_writer.add_key_value(key, value, kind)

    with torch.inference_mode():
        WithSmallVocabulary(folder, ftype, path, hparams=hparams, eager=True, model_name=folder.name).write()


def as_in_file(model, kind):
    """Rounds the matrices to the number format in which the converter writes them."""
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2 or name.endswith("wpe.weight"):
            continue
        # GPT-2's are stored the other way round, in float32.
        rows = parameter.data.numpy()
        if kind == Q8_0 and rows.shape[-1] % 32 == 0:
            quantised = gguf.quants.quantize(rows, gguf.GGMLQuantizationType.Q8_0)
            parameter.data = torch.from_numpy(gguf.quants.dequantize(quantised, gguf.GGMLQuantizationType.Q8_0).copy())
        elif kind != F32:
            parameter.data = parameter.data.to(torch.bfloat16 if kind == BF16 else torch.float16).float()


def logits(model, prompt):
    return model(torch.tensor([prompt["tokens"]])).logits[0, -1]


def check(model, path, kind, prompts):
    """transformers must understand the file as we say."""
    model = copy.deepcopy(model)
    as_in_file(model, kind)
    read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    with torch.no_grad():
        for prompt in prompts:
            ours, theirs = logits(model, prompt), logits(read, prompt)
            gap = ((ours - theirs).abs().max() / ours.abs().max()).item()
            assert gap < 1e-5, f"{path.name}: transformers reads it otherwise, by {gap}"
    print(f"{path.name}: as transformers reads it")


GPT2_WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"


def split_by(regex):
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"), bytes_only])


# As the tokenizer.json of SmolLM2, GPT-2, Llama 3, Qwen 2, GPT-NeoX and, before Llama 3's had ignore_merges, Smaug have it: splits, normaliser, whether whole words that are tokens need no merges.
BYTE_LEVEL = {
    "smollm": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2_WORDS]), None, False),
    "gpt-2": (GPT2_WORDS, None, False),
    "llama-bpe": (split_by(rf"{WORDS}|\p{{N}}{{1,3}}|{REST}"), None, True),
    "qwen2": (split_by(rf"{WORDS}|\p{{N}}|{REST}"), normalizers.NFC(), False),
    "olmo": (GPT2_WORDS, normalizers.NFC(), False),
    "smaug-bpe": (split_by(rf"{WORDS}|\p{{N}}{{1,3}}|{REST}"), None, False),
}

TEXTS = [
    *["The keys to the cabinet are", " The teachers", "don't, I'LL, we've", "café, cafe\u0301, naïve", "日本語 and 😀!", "a  b   c    d     "],
    *["x = 3.14159;\n\tprint(2026)\n\n\n", "1 22 333 4444", "...?!", "end\r\n", "A<|end|>B", "<tag>kept</tag>", "", " ", "\u00a0wide", "ǅ ß İ"],
]


def corpus():
    """Text to learn merges from."""
    words = "the keys to cabinet are is teacher teachers that student near window admires print return value 2026 314 333".split()
    rng = random.Random(1)
    lines = [" ".join(rng.choice(words) for _ in range(12)) + ".\n" for _ in range(200)]
    return [*lines, *["don't we've I'll café naïve\n", "    x = 3.14;\n\n\n"] * 20]


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split_by(r"\p{N}{1,3}| ?\p{L}+|\s+|.")
    special = ["<|end|>", "<tag>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    cases = {}
    for pre, (split, normalizer, whole) in BYTE_LEVEL.items():
        merges = [tuple(merge) for merge in model["merges"]]
        made = Tokenizer(models.BPE(vocab=model["vocab"], merges=merges, ignore_merges=whole))
        made.pre_tokenizer = split
        if normalizer is not None:
            made.normalizer = normalizer
        made.add_special_tokens(special[:1])
        made.add_tokens(special[1:])
        cases[pre] = [made.encode(text).ids for text in TEXTS]
    types = [3, 4] + [1] * (len(tokens) - 2)
    return dict(tokens=tokens, types=types, merges=[" ".join(m) for m in model["merges"]], ids=cases)


def sentence_piece():
    """A SentencePiece model as Llama 2's, and the tokens that SentencePiece itself makes, with and without a space put first."""
    made, model = {}, None
    for add_space in (True, False):
        out = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus()),
            model_writer=out,
            model_type="bpe",
            vocab_size=420,
            byte_fallback=True,
            add_dummy_prefix=add_space,
            remove_extra_whitespaces=False,
            normalization_rule_name="identity",
            user_defined_symbols=["<tag>", "\u2581\u2581\u2581\u2581"],
            minloglevel=2,
        )
        model = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
        kinds = [(2, model.is_unknown), (3, model.is_control), (5, model.is_unused), (6, model.is_byte)]
        tokens = [model.id_to_piece(i) for i in range(model.vocab_size())]
        types = [next((kind for kind, test in kinds if test(i)), 1) for i in range(len(tokens))]
        for i in map(tokens.index, ["<tag>", "\u2581\u2581\u2581\u2581"]):
            types[i] = 4
        scores = [model.get_score(i) for i in range(len(tokens))]
        made["space" if add_space else "plain"] = dict(
            tokens=tokens, types=types, scores=scores, ids=[[1, *model.encode(text)] for text in TEXTS]
        )
    return made


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    make_blocks()
    expected = {}
    for name, settings in MODELS.items():
        expected |= make_model(name, *settings)
    save_file({name: x.contiguous() for name, x in expected.items()}, OUT / "expected.safetensors")
    tokenizers = dict(texts=TEXTS, bytes=byte_level(), **sentence_piece())
    (OUT / "tokenizers.json").write_text(json.dumps(tokenizers, separators=(",", ":")) + "\n")
