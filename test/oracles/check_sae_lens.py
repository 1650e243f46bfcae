"""Loads SAELens folders with SAELens and compares its codes and reconstructions with the formula, to see that ours are read as meant.

    python3 test/oracles/check_sae_lens.py FOLDER...

Needs torch, safetensors and sae-lens 6.
"""

import json
import sys
from pathlib import Path

import torch
from sae_lens import SAE
from safetensors.torch import load_file


def check(folder):
    sae = SAE.load_from_disk(folder)
    config = json.loads((folder / "cfg.json").read_text())
    stored = load_file(folder / "sae_weights.safetensors")
    w = {name: tensor.double() for name, tensor in stored.items()}

    x = torch.randn(256, sae.cfg.d_in, generator=torch.Generator().manual_seed(0)).double()
    z = (x - w["b_dec"] * config["apply_b_dec_to_input"]) @ w["W_enc"] + w["b_enc"]
    threshold = w["threshold"].clamp(min=0)
    codes = z * (z > threshold)
    # A code that lies at its threshold jumps by rounding alone: its token is left out and counted (METHOD, "Free checks").
    at_threshold = (z - threshold).abs() <= 1e-5 * z.abs().max()
    sae.turn_off_forward_pass_hook_z_reshaping()
    with torch.no_grad():
        loaded = sae.encode(x.float()).double()
        flips = (loaded > 0) != (codes > 0)
        keep = ~flips.any(1)
        gap = (loaded - codes)[keep].abs().max() / codes.abs().max()
        recon = (sae.decode(loaded.float()) - (codes @ w["W_dec"] + w["b_dec"]))[keep].abs().max()
    print(
        f"{folder}: {sae.cfg.architecture()}, stored {stored['W_enc'].dtype}, loaded {sae.W_enc.dtype}, hook {sae.cfg.metadata.hook_name}, "
        f"codes differ by {gap:.1e}, reconstructions by {recon:.1e}, mean active {(codes > 0).double().sum(1).mean():.1f}, {int(flips.sum())} codes flipped at their threshold"
    )
    assert not (flips & ~at_threshold).any(), "a code away from its threshold is there on one side only"
    assert flips.sum() <= 1e-5 * flips.numel()
    assert gap < 1e-5 and recon < 1e-4


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        check(Path(argument))
