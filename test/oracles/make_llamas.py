"""Makes test/fixtures/llama-*: tiny random Llamas with logits, activations and gradients from transformers, in float64.

    python3 test/oracles/make_llamas.py

Needs torch, transformers, tokenizers and safetensors. README.md beside this file describes what is written.
"""

import json
import math
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"

COMMON = dict(
    attn_implementation="eager",
    bos_token_id=1,
    eos_token_id=2,
    max_position_embeddings=64,
)

# Multi-head; grouped-query, with three blocks and another RoPE base; multi-query whose heads (4 × 12) are together wider than the model (32).
LLAMAS = {
    "llama-mha": dict(
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
}

# The second prompt begins with the first three tokens of the first one.
PROMPT_LENGTHS = [5, 8, 11]
SHARED_PREFIX = 3


class Float64Torch:
    """`torch` as modeling_llama.py sees it, but without its casts to float32 (norms, softmax)."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextmanager
def float64(model):
    """The model in float64 throughout: transformers itself normalises, rotates and takes the softmax in float32."""
    softmax, to_float = torch.nn.functional.softmax, torch.Tensor.float
    modeling_llama.torch = Float64Torch()
    torch.Tensor.float = torch.Tensor.double
    torch.nn.functional.softmax = lambda x, dim=None, dtype=None: softmax(x, dim=dim, dtype=torch.float64)
    model.double()
    width, base = model.config.head_dim, model.config.rope_parameters["rope_theta"]
    model.model.rotary_emb.inv_freq = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    try:
        yield
    finally:
        modeling_llama.torch = torch
        torch.nn.functional.softmax, torch.Tensor.float = softmax, to_float


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

    model.model.embed_tokens.register_forward_hook(keep("embed"))
    for l, layer in enumerate(model.model.layers):
        layer.self_attn.o_proj.register_forward_pre_hook(keep_input(f"attn_z.{l}"))
        layer.self_attn.o_proj.register_forward_hook(keep(f"attn_out.{l}"))
        layer.mlp.register_forward_hook(keep(f"mlp_out.{l}"))
        layer.register_forward_hook(keep(f"resid_post.{l}"))
    return seen


def randomise(model, generator):
    """Weights of standard deviation .3 (so that attention picks and gates saturate), norm weights around 1."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + 0.3 * noise if name.endswith("norm.weight") else 0.3 * noise


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
    config = LlamaConfig(**COMMON, **settings)
    model = LlamaForCausalLM(config).float().eval()
    randomise(model, generator)
    model.tie_weights()

    folder = FIXTURES / name
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    word_tokenizer(config.vocab_size).save(str(folder / "tokenizer.json"), pretty=False)

    examples = prompts(config.vocab_size, generator)
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
        hook = model.model.layers[0].register_forward_hook(lambda _m, _i, y: y + sign * step * g / g.norm())
        with torch.no_grad():
            metrics.append(run(model, example)[1].item())
        hook.remove()
    slope = (metrics[0] - metrics[1]) / (2 * step)
    assert math.isclose(slope, g.norm().item(), rel_tol=1e-6), (slope, g.norm().item())


if __name__ == "__main__":
    for seed, (name, settings) in enumerate(LLAMAS.items()):
        make(name, settings, seed)
