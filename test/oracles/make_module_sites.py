"""Writes test/fixtures/module-sites.json: of each model of test/fixtures, which modules' outputs are just what the model adds to its residual stream
(or, for the embedding and a block, what the stream then is), and whether a constant over the width in the stream changes logits.

    python3 test/oracles/make_module_sites.py

Measured with the modules of transformers themselves. Needs torch and transformers 5.
"""

import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
ATTENTION, MLP = ("self_attn", "attn", "attention"), ("mlp",)


def of_model(folder):
    config = AutoConfig.from_pretrained(folder)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(getattr(config, "text_config", config)).double().eval()
    inner = model.base_model
    blocks = inner.h if hasattr(inner, "h") else inner.layers
    with torch.no_grad():
        for parameter in model.parameters():
            # Norms and biases begin as ones and zeros, which would hide them.
            parameter.add_(torch.randn_like(parameter) * 0.3)
    first, second = blocks[0], blocks[1]
    seen = {}

    def keep(name, module, before=False):
        def hook(_, args, kwargs, output=None):
            value = (args[0] if args else kwargs["hidden_states"]) if before else output
            seen[name] = value[0] if isinstance(value, tuple) else value

        if before:
            return module.register_forward_pre_hook(lambda m, a, k: hook(m, a, k), with_kwargs=True)
        return module.register_forward_hook(lambda m, a, k, o: hook(m, a, k, o), with_kwargs=True)

    def child(names):
        return next(getattr(first, name) for name in names if hasattr(first, name))

    keep("embedding", model.get_input_embeddings())
    keep("block0 in", first, before=True)
    keep("block0 out", first)
    keep("block1 in", second, before=True)
    keep("attention", child(ATTENTION))
    keep("mlp", child(MLP))
    tokens = torch.tensor([[3, 5, 4, 6]])
    logits = model(tokens).logits
    same = lambda a, b: bool((a - b).abs().max() < 1e-9)
    added = seen["block0 out"] - seen["block0 in"]
    facts = {
        "embed": same(seen["embedding"], seen["block0 in"]),
        "attn_out and mlp_out": same(seen["attention"] + seen["mlp"], added),
        "resid_post": same(seen["block0 out"], seen["block1 in"]),
    }
    handle = second.register_forward_pre_hook(
        lambda m, a, k: ((a[0] + 1, *a[1:]), k) if a else (a, {**k, "hidden_states": k["hidden_states"] + 1}),
        with_kwargs=True,
    )
    facts["ignoresMean"] = same(model(tokens).logits, logits)
    handle.remove()
    names = [name for name, _ in model.named_parameters()]
    facts["valueBias"] = any(name.endswith(("v_proj.bias", "c_attn.bias", "query_key_value.bias")) for name in names)
    return facts


if __name__ == "__main__":
    folders = sorted(path.parent for path in FIXTURES.glob("*/config.json") if (path.parent / "model.safetensors").exists())
    facts = {folder.name: of_model(folder) for folder in folders}
    text = json.dumps(facts, indent=2) + "\n"
    (FIXTURES / "module-sites.json").write_text(text)
