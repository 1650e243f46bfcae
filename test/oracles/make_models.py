"""Makes the tiny random models of test/fixtures with logits, activations and gradients from transformers, computed in float64.

    python3 test/oracles/make_models.py [NAME…]

Needs torch, transformers, tokenizers and safetensors. README.md beside this file describes what is written.
"""

import copy
import json
import math
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, modeling_rope_utils

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"

COMMON = dict(attn_implementation="eager", bos_token_id=1, eos_token_id=2, pad_token_id=None)

# What the names do not say is in README.md. Sizes are small, odd and different, so that no two of them can be mistaken for each other.
MODELS = {
    "llama-mha": dict(
        model_type="llama",
        max_position_embeddings=64,
        vocab_size=80,
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0),
    ),
    "llama-gqa": dict(
        model_type="llama",
        max_position_embeddings=64,
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        rope_parameters=dict(rope_type="default", rope_theta=500000.0),
    ),
    "llama-mqa-headdim": dict(
        model_type="llama",
        max_position_embeddings=64,
        vocab_size=64,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=12,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=1000.0),
    ),
    # Frequencies of all three kinds: as they were, in between, divided by the factor.
    "llama-scaled": dict(
        model_type="llama",
        vocab_size=64,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        rope_parameters=dict(
            rope_type="llama3",
            rope_theta=100.0,
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=32,
        ),
    ),
    # The last block's attention is windowed.
    "qwen2": dict(
        model_type="qwen2",
        vocab_size=64,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=2,
        rope_parameters=dict(rope_type="default", rope_theta=1000.0),
    ),
    # In bfloat16, where √20 is 4.46875.
    "gemma": dict(
        model_type="gemma",
        dtype="bfloat16",
        vocab_size=64,
        hidden_size=20,
        intermediate_size=36,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=12,
        max_position_embeddings=64,
        rope_parameters=dict(rope_type="default", rope_theta=1000.0),
    ),
    "gemma2": dict(
        model_type="gemma2",
        vocab_size=64,
        hidden_size=20,
        intermediate_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=12,
        query_pre_attn_scalar=10,
        attn_logit_softcapping=3.0,
        final_logit_softcapping=2.5,
        sliding_window=4,
        max_position_embeddings=64,
        rope_parameters=dict(rope_type="default", rope_theta=1000.0),
    ),
    # Block 5 alone sees everything. In bfloat16, where √18 is 4.25.
    "gemma3_text": dict(
        model_type="gemma3_text",
        dtype="bfloat16",
        vocab_size=64,
        hidden_size=18,
        intermediate_size=20,
        num_hidden_layers=7,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=12,
        query_pre_attn_scalar=10,
        sliding_window=4,
        max_position_embeddings=64,
        rope_parameters=dict(
            full_attention=dict(rope_type="default", rope_theta=1000.0),
            sliding_attention=dict(rope_type="default", rope_theta=10.0),
        ),
    ),
    # Heads of odd width.
    "gpt2": dict(
        model_type="gpt2",
        vocab_size=64,
        n_embd=21,
        n_inner=36,
        n_layer=2,
        n_head=3,
        n_positions=24,
    ),
    "gpt_neox": dict(
        model_type="gpt_neox",
        vocab_size=64,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        hidden_act="gelu",
        use_parallel_residual=True,
        rope_parameters=dict(rope_type="default", rope_theta=1000.0, partial_rotary_factor=0.25),
    ),
    "gpt_neox-sequential": dict(
        model_type="gpt_neox",
        vocab_size=64,
        hidden_size=30,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=64,
        hidden_act="gelu_new",
        use_parallel_residual=False,
        rope_parameters=dict(rope_type="default", rope_theta=1000.0, partial_rotary_factor=0.5),
    ),
    # Windowed in all blocks; heads that are together wider than the model.
    "mistral": dict(
        model_type="mistral",
        vocab_size=64,
        hidden_size=20,
        intermediate_size=36,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        sliding_window=4,
        max_position_embeddings=64,
        rope_parameters=dict(rope_type="default", rope_theta=1000.0),
    ),
    # The last block's attention is windowed; heads that are together narrower than the model.
    "qwen3": dict(
        model_type="qwen3",
        vocab_size=64,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=10,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=2,
        rope_parameters=dict(rope_type="default", rope_theta=1000.0),
    ),
    # Sees pictures too. Blocks 2 and 5 see everything. In bfloat16, where √18 is 4.25.
    "gemma3": dict(
        model_type="gemma3",
        dtype="bfloat16",
        text_config=dict(
            model_type="gemma3_text",
            vocab_size=64,
            hidden_size=18,
            intermediate_size=20,
            num_hidden_layers=6,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=12,
            query_pre_attn_scalar=12,
            sliding_window=4,
            sliding_window_pattern=3,
            max_position_embeddings=64,
            rope_parameters=dict(
                full_attention=dict(rope_type="linear", factor=8.0, rope_theta=100.0),
                sliding_attention=dict(rope_type="default", rope_theta=10.0),
            ),
        ),
        vision_config=dict(
            model_type="siglip_vision_model",
            hidden_size=4,
            intermediate_size=6,
            num_hidden_layers=1,
            num_attention_heads=1,
            image_size=8,
            patch_size=4,
            vision_use_head=False,
        ),
        mm_tokens_per_image=4,
        image_token_index=60,
        boi_token_index=61,
        eoi_token_index=62,
    ),
    # From here on what some configs ask for: biases, scaled frequencies, other activations, unembeddings of their own.
    "llama-bias": dict(
        model_type="llama",
        vocab_size=64,
        hidden_size=24,
        intermediate_size=36,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        max_position_embeddings=64,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=False,
        rope_parameters=dict(rope_type="linear", rope_theta=100.0, factor=2.5),
    ),
    "llama-yarn": dict(
        model_type="llama",
        vocab_size=64,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        rope_parameters=dict(
            rope_type="yarn",
            rope_theta=100.0,
            factor=8.0,
            original_max_position_embeddings=32,
            beta_fast=3.0,
            beta_slow=0.5,
            mscale=0.7,
            mscale_all_dim=1.5,
            truncate=False,
        ),
    ),
    "mistral-yarn": dict(
        model_type="mistral",
        vocab_size=64,
        hidden_size=24,
        intermediate_size=36,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=None,
        max_position_embeddings=128,
        rope_parameters=dict(
            rope_type="yarn",
            rope_theta=200.0,
            factor=4.0,
            original_max_position_embeddings=32,
            beta_fast=4.0,
            beta_slow=1.0,
            attention_factor=1.25,
        ),
    ),
    "qwen3-bias": dict(
        model_type="qwen3",
        vocab_size=64,
        hidden_size=24,
        intermediate_size=28,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=1024,
        attention_bias=True,
        tie_word_embeddings=False,
        rope_parameters=dict(rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=256),
    ),
    "gemma-untied": dict(
        model_type="gemma",
        vocab_size=64,
        hidden_size=20,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=12,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        rope_parameters=dict(rope_type="linear", rope_theta=1000.0, factor=3.0),
    ),
    "gemma2-untied": dict(
        model_type="gemma2",
        vocab_size=64,
        hidden_size=20,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=12,
        query_pre_attn_scalar=10,
        final_logit_softcapping=2.5,
        sliding_window=4,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        rope_parameters=dict(rope_type="default", rope_theta=1000.0),
    ),
    "gemma3_text-untied": dict(
        model_type="gemma3_text",
        vocab_size=64,
        hidden_size=18,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=12,
        query_pre_attn_scalar=10,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
        max_position_embeddings=128,
        tie_word_embeddings=False,
        rope_parameters=dict(
            full_attention=dict(
                rope_type="yarn",
                rope_theta=100.0,
                factor=4.0,
                original_max_position_embeddings=32,
                beta_fast=4.0,
            ),
            sliding_attention=dict(rope_type="default", rope_theta=10.0),
        ),
    ),
    "gpt2-scaled": dict(
        model_type="gpt2",
        vocab_size=64,
        n_embd=20,
        n_layer=3,
        n_head=2,
        n_positions=24,
        activation_function="relu",
        scale_attn_weights=False,
        scale_attn_by_inverse_layer_idx=True,
        reorder_and_upcast_attn=True,
        tie_word_embeddings=False,
    ),
    "gpt_neox-relu": dict(
        model_type="gpt_neox",
        vocab_size=64,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        hidden_act="relu",
        tie_word_embeddings=True,
        rope_parameters=dict(
            rope_type="yarn",
            rope_theta=100.0,
            partial_rotary_factor=0.5,
            factor=4.0,
            original_max_position_embeddings=32,
            beta_fast=8.0,
        ),
    ),
}

# The second prompt begins with the first three tokens of the first one.
PROMPT_LENGTHS = [5, 8, 11]
SHARED_PREFIX = 3


class Float64Torch:
    """`torch` as a model's own file sees it, but without its casts to float32 (norms, softmax, rotary positions)."""

    float = float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextmanager
def float64(model):
    """The model in float64 throughout: transformers itself normalises, rotates and takes the softmax in float32."""
    softmax, to_float = torch.nn.functional.softmax, torch.Tensor.float
    sources = [sys.modules[type(model).__module__], modeling_rope_utils]
    for source in sources:
        source.torch = Float64Torch()
    torch.Tensor.float = torch.Tensor.double
    torch.nn.functional.softmax = lambda x, dim=None, dtype=None: softmax(x, dim=dim, dtype=torch.float64)
    model.double()
    for module in model.modules():
        if type(module).__name__.endswith("RotaryEmbedding"):
            module.__init__(module.config)
    try:
        yield
    finally:
        for source in sources:
            source.torch = torch
        torch.nn.functional.softmax, torch.Tensor.float = softmax, to_float


def blocks(model):
    """The blocks of a model, and of each: the output projections of attention and MLP, and the modules whose outputs are added to the residual stream."""
    kind = model.config.model_type
    if kind == "gpt2":
        return [(b, b.attn.c_proj, b.mlp.c_proj, b.attn.c_proj, b.mlp) for b in model.transformer.h]
    if kind == "gpt_neox":
        return [(b, b.attention.dense, b.mlp.dense_4h_to_h, b.attention.dense, b.mlp) for b in model.gpt_neox.layers]
    if kind in ("gemma2", "gemma3_text", "gemma3"):
        text = model.model.language_model if kind == "gemma3" else model.model
        norms = [(b.post_attention_layernorm, b.post_feedforward_layernorm) for b in text.layers]
        return [(b, b.self_attn.o_proj, b.mlp.down_proj, *of) for b, of in zip(text.layers, norms)]
    return [(b, b.self_attn.o_proj, b.mlp.down_proj, b.self_attn.o_proj, b.mlp) for b in model.model.layers]


def vocabulary_of(model):
    return model.config.get_text_config().vocab_size


def sites(model):
    """Hooks that collect the activations of every site, in order of computation, as tensors that keep their gradient."""
    seen = {}

    def keep(name):
        def hook(_module, _inputs, output):
            seen[name] = output
            if output.requires_grad:
                output.retain_grad()

        return hook

    def keep_input(name):
        return lambda _module, inputs: keep(name)(None, None, inputs[0])

    for l, (block, heads, neurons, attention, mlp) in enumerate(blocks(model)):
        if l == 0:
            block.register_forward_pre_hook(keep_input("embed"))
        heads.register_forward_pre_hook(keep_input(f"attn_z.{l}"))
        attention.register_forward_hook(keep(f"attn_out.{l}"))
        neurons.register_forward_pre_hook(keep_input(f"mlp_act.{l}"))
        mlp.register_forward_hook(keep(f"mlp_out.{l}"))
        block.register_forward_hook(keep(f"resid_post.{l}"))
    return seen


def randomise(model, generator):
    """Weights of standard deviation .3 (so that attention picks and gates saturate), factors of norms around 1 (Gemma's count from 1)."""
    around_one = ("norm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight")
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        counted_from_one = model.config.model_type.startswith("gemma")
        parameter.data = 1 + 0.3 * noise if name.endswith(around_one) and not counted_from_one else 0.3 * noise


def round_to(dtype, model):
    """Rounds the weights, and Gemma's factor of the embeddings as its own code does, to a number format; the model stays in float32."""
    factors = [m.embed_scale for m in model.modules() if hasattr(m, "embed_scale")]
    for tensor in [*model.parameters(), *factors]:
        tensor.data = tensor.data.to(dtype).float()


def prompts(vocabulary, generator):
    """Prompts of random tokens behind BOS, with two different answer tokens each."""
    made = []
    for length in PROMPT_LENGTHS:
        tokens = [1] + torch.randint(3, vocabulary, (length - 1,), generator=generator).tolist()
        if len(made) == 1:
            tokens[:SHARED_PREFIX] = made[0]["tokens"][:SHARED_PREFIX]
        answers = (3 + torch.randperm(vocabulary - 3, generator=generator)[:2]).tolist()
        made.append(dict(tokens=tokens, clean_answer=answers[0], patch_answer=answers[1]))
    return made


def word_tokenizer(vocabulary):
    """One word per token, split at spaces, BOS in front."""
    words = ["<unk>", "<s>", "</s>"] + [f"w{i}" for i in range(3, vocabulary)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.add_special_tokens(words[:3])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair=None, special_tokens=[("<s>", 1)])
    return tokenizer


def make(name, settings, seed):
    generator = torch.Generator().manual_seed(seed)
    config = AutoConfig.for_model(**dict(dtype="float32") | COMMON | settings)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    randomise(model, generator)
    model.tie_weights()
    round_to(config.dtype, model)

    folder = FIXTURES / name
    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(config.dtype).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    word_tokenizer(vocabulary_of(model)).save(str(folder / "tokenizer.json"), pretty=False)

    examples = prompts(vocabulary_of(model), generator)
    with torch.no_grad():
        plain = [model(torch.tensor([e["tokens"]])).logits[0, -1] for e in examples]

    expected, rounding = {}, 0.0
    with float64(model):
        seen = sites(model)
        for p, example in enumerate(examples):
            logits, metric = run(model, example)
            model.zero_grad()
            metric.backward()
            example["metric"] = metric.item()
            expected[f"p{p}/logits"] = logits.detach().clone()
            for site, x in seen.items():
                expected[f"p{p}/x/{site}"] = x.detach()[0].clone().contiguous()
                expected[f"p{p}/g/{site}"] = x.grad[0].clone().contiguous()
            rounding = max(rounding, ((plain[p] - logits).abs().max() / logits.abs().max()).item())
        check_gradient(model, examples[-1], expected[f"p{len(examples) - 1}/g/resid_post.0"])

    assert all(t.dtype == torch.float64 for t in expected.values())
    assert rounding < 1e-5, f"{name}: float64 and plain transformers differ by {rounding}"
    expected = {name: x.float() for name, x in expected.items()}
    save_file(expected, folder / "expected.safetensors")
    text = json.dumps(dict(sites=list(seen), prompts=examples), indent=1)
    (folder / "expected.json").write_text(text + "\n")
    print(f"{name}: largest gap between float64 and transformers' own float32: {rounding:.1e}")


def run(model, example):
    """Logits at the last position, and the metric: logit(patch answer) - logit(clean answer)."""
    logits = model(torch.tensor([example["tokens"]])).logits[0, -1]
    return logits, logits[example["patch_answer"]] - logits[example["clean_answer"]]


def check_gradient(model, example, g):
    """Moves the output of block 0 along its gradient and back: the metric must change as the gradient says."""
    step, metrics = 1e-5, []
    for sign in (1, -1):
        hook = blocks(model)[0][0].register_forward_hook(lambda _m, _i, y: y + sign * step * g / g.norm())
        with torch.no_grad():
            metrics.append(run(model, example)[1].item())
        hook.remove()
    slope = (metrics[0] - metrics[1]) / (2 * step)
    assert math.isclose(slope, g.norm().item(), rel_tol=1e-6), (slope, g.norm().item())


if __name__ == "__main__":
    for seed, (name, settings) in enumerate(MODELS.items()):
        if name in (sys.argv[1:] or MODELS):
            make(name, settings, seed)
