"""Makes test/fixtures/safetensors/dtypes.safetensors: the same numbers in every format, converted by torch.

    python3 test/oracles/make_safetensors.py

Needs torch and safetensors. `values` are float32; `values_f16`, `values_bf16` are torch's conversions of them, and `back_f16`, `back_bf16` those
converted to float32 again. The other tensors hold whole numbers.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

FILE = Path(__file__).resolve().parent.parent / "fixtures" / "safetensors" / "dtypes.safetensors"


def values():
    """Random numbers of all sizes, and those at which float16 and bfloat16 round to even, become subnormal, or overflow."""
    generator = torch.Generator().manual_seed(1)
    exponents = torch.randint(-30, 17, (600,), generator=generator)
    random = torch.randn(600, generator=generator) * 2.0**exponents
    special = [0.0, -0.0, 1.0, -2.0, 65504.0, 65519.0, 65520.0, -65536.0, 2**-14, 2**-24, 2**-25, 3 * 2**-25, 1023 * 2**-24]
    special += [1023.5 * 2**-24, 1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 1e-40, 3.3e38, 3.4e38]
    special += [float("inf"), float("-inf")]
    return torch.cat([random, torch.tensor(special, dtype=torch.float64).float()])


def main():
    x = values()
    small = torch.arange(-5, 7).reshape(3, 4)
    tensors = {
        "values": x,
        "values_f16": x.half(),
        "back_f16": x.half().float(),
        "values_bf16": x.bfloat16(),
        "back_bf16": x.bfloat16().float(),
        "f64": small.double() / 8,
        "i64": small.long(),
        "i32": small.int(),
        "i16": small.short(),
        "i8": small.to(torch.int8),
        "u8": (small + 5).to(torch.uint8),
        "bool": small > 0,
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }
    FILE.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, FILE, metadata={"format": "pt", "made_by": "make_safetensors.py"})
    FILE.chmod(0o644)


if __name__ == "__main__":
    main()
