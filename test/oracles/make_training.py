"""Makes test/fixtures/training: the loss of a tiny Llama on rows of text with its gradients, and steps of AdamW, from torch.

    python3 test/oracles/make_training.py

Needs torch, transformers and safetensors, and the fixture llama-mqa-headdim of make_models.py, whose weights it uses. README.md describes what is written.
"""

import json

import torch
from make_models import FIXTURES, float64
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

MODEL = "llama-mqa-headdim"
ROWS, LENGTH = 3, 12


def loss_and_gradients(folder):
    generator = torch.Generator().manual_seed(11)
    model = LlamaForCausalLM.from_pretrained(FIXTURES / MODEL, attn_implementation="eager").float().eval()
    text = torch.randint(3, model.config.vocab_size, (ROWS, LENGTH), generator=generator)
    rows = torch.cat([torch.ones(ROWS, 1, dtype=torch.long), text], dim=1)
    with float64(model):
        logits = model(rows[:, :-1]).logits
        loss = torch.nn.CrossEntropyLoss()(logits.reshape(-1, logits.shape[-1]), rows[:, 1:].reshape(-1))
        loss.backward()
    assert loss.dtype == torch.float64
    gradients = {name: p.grad.float().contiguous() for name, p in model.named_parameters()}
    save_file(gradients, folder / "gradients.safetensors")
    return dict(model=MODEL, length=LENGTH, rows=rows.tolist(), loss=loss.item())


def adam_steps():
    """Two parameters, of which the first decays, over five steps with a learning rate of their own."""
    generator = torch.Generator().manual_seed(12)
    random = lambda n: torch.randn(n, generator=generator, dtype=torch.float64)
    decayed, kept = (torch.nn.Parameter(random(n)) for n in (4, 3))
    options = dict(lr=1.0, betas=(0.9, 0.98), eps=1e-8)
    optimizer = torch.optim.AdamW([dict(params=[decayed], weight_decay=0.1), dict(params=[kept], weight_decay=0.0)], **options)
    steps = [dict(weights=decayed.tolist() + kept.tolist())]
    for learning_rate in (0.01, 0.03, 0.02, 0.005, 0.001):
        gradient = random(7) * 10 ** random(7)
        decayed.grad, kept.grad = gradient[:4].clone(), gradient[4:].clone()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        weights = decayed.tolist() + kept.tolist()
        steps.append(dict(gradient=gradient.tolist(), learning_rate=learning_rate, weights=weights))
    return dict(beta1=0.9, beta2=0.98, decay=0.1, decayed=[[0, 4]], steps=steps)


if __name__ == "__main__":
    folder = FIXTURES / "training"
    folder.mkdir(parents=True, exist_ok=True)
    expected = dict(loss=loss_and_gradients(folder), adam=adam_steps())
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
