"""Checks that transformers loads models/demo, and makes test/fixtures/demo: its logits after some prompts.

    python3 test/oracles/check_demo.py

Needs torch, transformers and safetensors. README.md describes what is written. test/training-demo.test.ts compares the engine with it.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = ROOT / "models" / "demo"
FIXTURE = ROOT / "test" / "fixtures" / "demo"

PROMPTS = [
    "The dog",
    "The dogs near the car",
    "The king that the women admire",
    "The cats that chased the bird behind the table and the chair",
    "Mary said that",
    "Do the mice sleep? The boy saw these",
]

if __name__ == "__main__":
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    parameters = sum(p.numel() for p in model.parameters())
    logits, examples = {}, []
    for p, prompt in enumerate(PROMPTS):
        tokens = tokenizer(prompt).input_ids
        with torch.no_grad():
            last = model(torch.tensor([tokens])).logits[0, -1]
        logits[f"p{p}"] = last.contiguous()
        top = torch.topk(last, 3).indices.tolist()
        examples.append(dict(prompt=prompt, tokens=tokens, top=[tokenizer.decode([i]) for i in top]))
        print(f"{prompt!r} -> {examples[-1]['top']}")
    FIXTURE.mkdir(parents=True, exist_ok=True)
    save_file(logits, FIXTURE / "logits.safetensors")
    (FIXTURE / "logits.safetensors").chmod(0o644)
    text = json.dumps(dict(parameters=parameters, prompts=examples), indent=1)
    (FIXTURE / "expected.json").write_text(text + "\n")
