"""Makes test/fixtures/dictionaries: small SAEs saved by SAELens, with the codes and reconstructions that it computes.

    python3 test/oracles/make_dictionaries.py

Needs torch, safetensors and sae-lens 6. README.md beside this file describes what is written.
"""

import json
from pathlib import Path

import torch
from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig
from safetensors.torch import save_file

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "dictionaries"
D, F, TOKENS = 8, 24, 40

# (folder, class, config class, hook, further settings)
SAES = [
    ("saes/resid_post.1", StandardSAE, StandardSAEConfig, "blocks.1.hook_resid_post", dict(apply_b_dec_to_input=True)),
    ("saes/attn_out.0", StandardSAE, StandardSAEConfig, "blocks.0.hook_attn_out", dict(apply_b_dec_to_input=False)),
    ("saes/mlp_out.0", JumpReLUSAE, JumpReLUSAEConfig, "blocks.0.hook_mlp_out", dict(apply_b_dec_to_input=False)),
    ("saes/by-hook", JumpReLUSAE, JumpReLUSAEConfig, "blocks.1.hook_resid_pre", dict(apply_b_dec_to_input=True)),
    ("saes/attn_z.1", JumpReLUSAE, JumpReLUSAEConfig, "blocks.1.attn.hook_z", dict(reshape_activations="hook_z")),
]


def randomise(sae, generator):
    """Random weights; a quarter of the thresholds is negative, which the ReLU before them makes zero."""
    for name, parameter in sae.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 0.5 * noise + 0.4 if name == "threshold" else 0.5 * noise


def results(sae, x):
    """Codes [tokens,F] and reconstructions [tokens,D]. An attention SAE takes heads apart: here two heads of D/2."""
    with torch.no_grad():
        codes = sae.encode(x.reshape(TOKENS, 2, D // 2) if sae.cfg.reshape_activations == "hook_z" else x)
        return codes.contiguous(), sae.decode(codes).reshape(TOKENS, D).contiguous()


def earlier_version(folder):
    """The same standard SAE with the settings file of SAELens 3: everything on one level, names of that time."""
    config = json.loads((FIXTURES / "saes/resid_post.1/cfg.json").read_text())
    old = dict(
        model_name="tiny",
        hook_point="blocks.1.hook_resid_post",
        hook_point_layer=1,
        hook_point_head_index=None,
        d_in=D,
        d_sae=F,
        activation_fn_str="relu",
        normalize_activations="none",
        dtype="torch.float32",
        sae_lens_training_version="3.2.0",
    )
    assert config["d_in"] == D
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(old))
    (folder / "sae_weights.safetensors").write_bytes((FIXTURES / "saes/resid_post.1/sae_weights.safetensors").read_bytes())


def main():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, D, generator=generator)
    expected = {"x": x}
    for path, sae_class, config_class, hook, settings in SAES:
        sae = sae_class(config_class(d_in=D, d_sae=F, **settings))
        randomise(sae, generator)
        sae.cfg.metadata.hook_name = hook
        sae.cfg.metadata.model_name = "tiny"
        sae.save_model(FIXTURES / path)
        expected[f"{path}/codes"], expected[f"{path}/reconstruction"] = results(SAE.load_from_disk(FIXTURES / path), x)

    earlier_version(FIXTURES / "earlier/resid_post.1")
    codes, reconstruction = results(SAE.load_from_disk(FIXTURES / "earlier/resid_post.1"), x)
    expected["earlier/resid_post.1/codes"], expected["earlier/resid_post.1/reconstruction"] = codes, reconstruction

    # The weights of a JumpReLU SAE that subtracts nothing, in one file, as bfloat16.
    weights = SAE.load_from_disk(FIXTURES / "saes/mlp_out.0")
    layer_file = {name: parameter.data.bfloat16() for name, parameter in weights.named_parameters()}
    (FIXTURES / "layers").mkdir(exist_ok=True)
    save_file(layer_file, FIXTURES / "layers/layer_1.safetensors")
    for name, parameter in weights.named_parameters():
        parameter.data = layer_file[name].float()
    expected["layers/layer_1/codes"], expected["layers/layer_1/reconstruction"] = results(weights, x)

    save_file(expected, FIXTURES / "expected.safetensors")
    for file in FIXTURES.rglob("*"):
        if file.is_file():
            file.chmod(0o644)


if __name__ == "__main__":
    main()
