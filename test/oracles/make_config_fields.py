"""Asks transformers what fields of config.json do to the logits of the fixtures of make_models.py.

    python3 test/oracles/make_config_fields.py

Writes test/fixtures/config-fields.json: a list of {model, change, agrees, same}. `change` is put over the fixture's config.json, a field that is null in
it is removed; `agrees` says whether the config then says one thing; `same` whether transformers' logits are still those of the fixture. And
weight-names.json: {model, change, pattern, by, same}, where `pattern` is replaced `by` something in the names of the tensors.
"""

import json
import re
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"

LLAMA3 = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, beta_fast=4.0)
DEFAULT = dict(rope_type="default")
FULL = dict(rope_type="default", rope_theta=1000.0)

# What is said twice, or changes nothing.
AGREE = [
    ("llama-gqa", dict(rope_theta=500000)),
    ("llama-scaled", dict(rope_theta=100)),
    ("mistral", dict(rope_theta=1000)),
    ("qwen3", dict(rope_theta=1000)),
    ("gemma", dict(rope_theta=1000)),
    ("gemma3_text", dict(rope_theta=1000, rope_local_base_freq=10)),
    ("gpt_neox", dict(rotary_emb_base=1000, rotary_pct=0.25)),
    ("gpt_neox-sequential", dict(rotary_pct=0.5, rope_theta=1000, partial_rotary_factor=0.5)),
    ("llama-scaled", dict(rope_scaling=LLAMA3, rope_theta=100)),
    ("llama-scaled", dict(rope_scaling=dict(LLAMA3, rope_theta=100.0))),
    ("llama-bias", dict(rope_scaling=dict(type="linear", factor=2.5), rope_theta=100)),
    ("llama-mha", dict(rope_scaling={}, rope_theta=10000)),
    ("qwen2", dict(rope_scaling=DEFAULT, rope_theta=1000)),
    ("gpt_neox-sequential", dict(rope_scaling=DEFAULT, rotary_emb_base=1000, rotary_pct=0.5)),
    ("gemma3_text", dict(rope_scaling=DEFAULT)),
    ("gemma3_text-untied", dict(rope_scaling=YARN)),
    ("gemma3_text", dict(rope_parameters=dict(full_attention=FULL, sliding_attention=None), rope_local_base_freq=10)),
    ("llama-mha", dict(partial_rotary_factor=1.0)),
    ("llama-mha", dict(rope_parameters=dict(DEFAULT, rope_theta=10000.0, partial_rotary_factor=1, factor=1.0))),
    ("llama-mha", dict(rope_parameters=None, rope_scaling=dict(rope_type="linear", factor=1), rope_theta=10000)),
    ("llama-mha", dict(rope_scaling=dict(rope_type="linear", factor=1), rope_theta=10000)),
]

# Where rope_scaling stands, transformers takes no base out of rope_parameters.
CONTRADICT = [
    ("llama-gqa", dict(rope_theta=10000)),
    ("mistral", dict(rope_theta=5000)),
    ("gemma3_text", dict(rope_theta=1000, rope_local_base_freq=20)),
    ("gemma3_text", dict(rope_theta=500)),
    ("gpt_neox", dict(rotary_emb_base=2000)),
    ("gpt_neox", dict(rotary_pct=0.5)),
    ("llama-scaled", dict(rope_scaling=LLAMA3)),
    ("llama-scaled", dict(rope_scaling=dict(LLAMA3, factor=4.0), rope_theta=100)),
    ("llama-bias", dict(rope_scaling=dict(rope_type="linear", factor=2), rope_theta=100)),
    ("gpt_neox-sequential", dict(rope_scaling=DEFAULT, rotary_emb_base=1000)),
    ("gemma3_text", dict(rope_scaling=dict(rope_type="linear", factor=2.5))),
]

HARMLESS = dict(
    name_or_path="x",
    _commit_hash="0123",
    attn_implementation="sdpa",
    _attn_implementation_autoset=True,
    add_cross_attention=False,
    auto_map={},
    bad_words_ids=[[5]],
    begin_suppress_tokens=[3],
    cross_attention_hidden_size=7,
    chunk_size_feed_forward=2,
    decoder_start_token_id=4,
    diversity_penalty=0.5,
    early_stopping=True,
    encoder_no_repeat_ngram_size=2,
    finetuning_task="x",
    forced_eos_token_id=2,
    gradient_checkpointing=True,
    is_decoder=True,
    length_penalty=0.5,
    loss_type="ForCausalLM",
    max_length=7,
    max_sequence_length=2048,
    min_length=3,
    model_max_length=4096,
    no_repeat_ngram_size=2,
    num_beams=4,
    num_beam_groups=2,
    output_attentions=True,
    output_scores=True,
    prefix="w3",
    problem_type="regression",
    pruned_heads={},
    remove_invalid_values=True,
    repetition_penalty=1.5,
    return_dict_in_generate=True,
    sep_token_id=2,
    suppress_tokens=[4],
    temperature=0.3,
    tf_legacy_loss=True,
    tie_encoder_decoder=False,
    top_k=5,
    top_p=0.7,
    torchscript=True,
    typical_p=0.8,
    unsloth_fixed=True,
    unsloth_version="2025.3.1",
    use_bfloat16=True,
)


# Names of tensors: [model, change of config.json, what is replaced in the names, by what].
UNTIED = dict(tie_word_embeddings=True)
WEIGHTS = [
    # An unembedding of its own beside a config that ties it.
    ("llama-gqa", UNTIED, "", ""),
    ("gemma2-untied", UNTIED, "", ""),
    ("gemma3_text-untied", UNTIED, "", ""),
    ("gpt2-scaled", UNTIED, "", ""),
    ("gpt_neox", UNTIED, "", ""),
    # Saved from the model without its unembedding, or with it and the names of the one without.
    ("llama-scaled", {}, r"^model\.", ""),
    ("llama-gqa", {}, r"^model\.", ""),
    ("qwen3", {}, r"^model\.", ""),
    ("gemma", {}, r"^model\.", ""),
    ("gpt2", {}, r"^transformer\.", ""),
    ("gpt_neox-relu", {}, r"^gpt_neox\.", ""),
    # Of two names of the same numbers the other one.
    ("llama-scaled", {}, r"^model\.embed_tokens", "lm_head"),
    ("gpt_neox-relu", {}, r"^gpt_neox\.embed_in", "embed_out"),
    # What the config denies, transformers leaves out.
    ("llama-bias", dict(attention_bias=False), "", ""),
    ("llama-bias", dict(mlp_bias=False), "", ""),
    ("qwen3-bias", dict(attention_bias=False), "", ""),
]


def logits(folder, tokens):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0, -1]


def changed(name, change, pattern="", by=""):
    """The logits with a changed config.json and other names of tensors; None where transformers refuses it."""
    source = FIXTURES / name
    config = json.loads((source / "config.json").read_text()) | change
    prompt = json.loads((source / "expected.json").read_text())["prompts"][2]["tokens"]
    with tempfile.TemporaryDirectory() as folder:
        tensors = load_file(source / "model.safetensors")
        renamed = {re.sub(pattern, by, tensor): values for tensor, values in tensors.items()}
        save_file(renamed, Path(folder) / "model.safetensors", metadata=dict(format="pt"))
        (Path(folder) / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        try:
            return logits(folder, prompt)
        except (ValueError, TypeError, KeyError, RuntimeError, AttributeError):
            return None


def same(name, change, pattern="", by=""):
    wanted, found = changed(name, {}), changed(name, change, pattern, by)
    return None if found is None else bool((found - wanted).abs().max() < 1e-4 * wanted.abs().max())


AGREE += [(name, {field: value}) for field, value in HARMLESS.items() for name in ("llama-gqa", "gpt2")]


def write(file, lines):
    (FIXTURES / file).write_text("[\n" + ",\n".join(map(json.dumps, lines)) + "\n]\n")


write(
    "config-fields.json",
    [
        dict(model=name, change=change, agrees=agrees, same=same(name, change))
        for agrees, cases in ((True, AGREE), (False, CONTRADICT))
        for name, change in cases
    ],
)
write(
    "weight-names.json",
    [dict(model=case[0], change=case[1], pattern=case[2], by=case[3], same=same(*case)) for case in WEIGHTS],
)
