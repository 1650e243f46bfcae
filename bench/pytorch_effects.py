"""Effects of SAE features in plain PyTorch, to compare with: the same numbers in the same form as analytic-sfc's features.parquet.

    python bench/pytorch_effects.py MODEL SAES PAIRS --method analytic|sfc [--dtype float32|bfloat16] [--batch 64] [--threads 2] [--out features.parquet]

MODEL: a Llama in Hugging Face layout. SAES: folders resid_post.<layer> as SAELens saves JumpReLU SAEs, on the residual stream after a block.
PAIRS: JSON lines with `split` and `case`, as `sfc pairs --output` writes them. Needs torch, transformers, safetensors, numpy, pandas and pyarrow.

m = logit(patch answer) - logit(clean answer) at the clean prompt's end; effect_i = sum over positions and pairs of (f_patch - f_clean)_i <g, d_i>,
and <g, d(error)> for what the SAE leaves out. Positions of special tokens (BOS, EOS, pad) do not count.

Prints one line of JSON. Its `seconds` go from the loaded model and the loaded SAEs to the sums: reading and tokenising are not in them.
"""

import argparse
import json
import os
import platform
import time
from collections import defaultdict

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("saes")
parser.add_argument("pairs")
parser.add_argument("--method", choices=["analytic", "sfc"], default="analytic")
parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
parser.add_argument("--batch", type=int, default=64, help="pairs per padded batch")
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--limit", type=int, help="only the first so many pairs")
parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
parser.add_argument("--out", help="write the effects to this Parquet file")
arguments = parser.parse_args()
# Before torch is loaded: its OpenMP reads this once.
os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

torch.set_num_threads(arguments.threads)
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
dtype = getattr(torch, arguments.dtype)
ERROR = -1


def resident(key):
    """VmRSS: resident memory now. VmHWM: its peak since it was last reset. In bytes."""
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith(key))


# ---------------------------------------------------------------------------------------------------------------- SAEs


class Sae:
    """A JumpReLU SAE: f = z where z = (x - b_dec) W_enc + b_enc > threshold, else 0."""

    def __init__(self, folder):
        with open(f"{folder}/cfg.json") as file:
            config = json.load(file)
        if config["architecture"] != "jumprelu" or config.get("normalize_activations", "none") != "none":
            raise SystemExit(f"{folder}: expected a JumpReLU SAE without normalisation")
        weights = load_file(f"{folder}/sae_weights.safetensors")
        # Rounding to bfloat16 would move what is taken off x to where it cancels badly: it goes into the bias, once, in float32.
        bias = weights["b_enc"]
        if config.get("apply_b_dec_to_input", True):
            bias = bias - weights["b_dec"] @ weights["W_enc"]
        self.W_enc = weights["W_enc"].to(dtype)
        self.W_dec = weights["W_dec"].to(dtype)
        self.b_enc, self.b_dec = bias.to(dtype), weights["b_dec"].to(dtype)
        self.threshold = weights["threshold"].clamp(min=0).to(dtype)

    def encode(self, x):
        z = torch.addmm(self.b_enc, x, self.W_enc)
        return z.mul_(z > self.threshold)

    def decode(self, f):
        return torch.addmm(self.b_dec, f, self.W_dec)


class Sums:
    """Effects of one site, summed by group (split and case) and feature in float64; the error comes behind the features."""

    def __init__(self, groups, features):
        self.features = features
        self.total = torch.zeros(groups, features + 1, dtype=torch.float64)
        self.active = torch.zeros(groups, features + 1, dtype=torch.int64)

    def add_sparse(self, group, row, feature, effect):
        """One effect per (row, feature) whose codes differ."""
        index = group[row] * (self.features + 1) + feature
        self.total.view(-1).index_add_(0, index, effect.double())
        self.active += torch.bincount(index, minlength=self.active.numel()).view_as(self.active)

    def add_dense(self, group, effect, active):
        """effect[rows,F] and where the codes differ, by one product with the rows' groups."""
        member = torch.nn.functional.one_hot(group, self.total.shape[0]).T.float()
        self.total[:, :-1] += member @ effect.float()
        self.active[:, :-1] += (member @ active.float()).long()

    def add_error(self, group, effect):
        self.total[:, -1].index_add_(0, group, effect.double())
        self.active[:, -1] += torch.bincount(group, minlength=self.total.shape[0])


# ------------------------------------------------------------------------------------------------------------- Batches


class Batch:
    """Pairs of about the same length, padded on the right: a causal model needs no mask then, and positions count from 0."""

    def __init__(self, pairs, pad, special):
        lengths = torch.tensor([len(pair["clean"]) for pair in pairs])
        width = int(lengths.max())
        ids = lambda name: torch.tensor([pair[name] + [pad] * (width - len(pair[name])) for pair in pairs])  # noqa: E731
        self.clean, self.patch = ids("clean"), ids("patch")
        self.pairs = torch.arange(len(pairs))
        self.last = lengths - 1
        self.answers = torch.tensor([pair["answers"] for pair in pairs])  # [pairs, 2]: clean, patch
        inside = torch.arange(width) < lengths[:, None]
        is_special = torch.isin(self.clean, special) | torch.isin(self.patch, special)
        # Where all tokens so far are the same, so are all activations: nothing to encode, and no effect.
        changed = (self.clean != self.patch).cumsum(1) > 0
        self.rows = (inside & changed & ~is_special).view(-1).nonzero().squeeze(1)
        group = torch.tensor([pair["group"] for pair in pairs])
        self.group = group[:, None].expand(-1, width).reshape(-1)[self.rows]


def tokenize(path, tokenizer):
    """The pairs with token ids, and the groups: split and case."""
    with open(path) as file:
        pairs = [json.loads(line) for line in file if line.strip()][: arguments.limit]
    groups = sorted({(pair["split"], pair["case"]) for pair in pairs})
    for pair in pairs:
        pair["clean"], pair["patch"] = tokenizer(pair["clean_prefix"]).input_ids, tokenizer(pair["patch_prefix"]).input_ids
        pair["answers"] = []
        for name in ("clean_answer", "patch_answer"):
            whole = tokenizer(pair["clean_prefix"] + pair[name]).input_ids
            if whole[:-1] != pair["clean"] or len(pair["patch"]) != len(pair["clean"]):
                raise SystemExit(f"not a pair for this tokenizer: {pair}. Write the pairs with `sfc pairs --output`.")
            pair["answers"].append(whole[-1])
        pair["group"] = groups.index((pair["split"], pair["case"]))
    return pairs, groups


# --------------------------------------------------------------------------------------------------------------- Passes


class Passes:
    """A frozen model whose block outputs can be read, and replaced, by `at(layer, x)`."""

    def __init__(self, model):
        self.model = model
        self.at = None
        for layer, block in enumerate(model.model.layers):
            block.register_forward_hook(lambda _block, _input, output, layer=layer: self.hook(layer, output))

    def hook(self, layer, output):
        if self.at is None:
            return None
        if isinstance(output, tuple):  # transformers 4
            return (self.at(layer, output[0]), *output[1:])
        return self.at(layer, output)

    def run(self, tokens, at):
        """The final hidden states, norm included."""
        self.at = at
        return self.model.model(input_ids=tokens, use_cache=False).last_hidden_state

    def metric(self, hidden, batch):
        """Sum of m over the batch: only the answers' rows of the unembedding, at the last positions."""
        clean, patch = self.model.lm_head.weight[batch.answers.T]
        return (hidden[batch.pairs, batch.last].float() * (patch.float() - clean.float())).sum()

    @torch.no_grad()
    def patched(self, batch):
        """x[rows,D] of the patch prompts at every block, where they differ."""
        kept = {}

        def at(layer, x):
            kept[layer] = x.flatten(0, 1)[batch.rows]
            return x

        self.run(batch.patch, at)
        return kept


def analytic(passes, saes, batch, sums):
    """Gradients of the plain model; the encoders come afterwards, one SAE at a time, outside of any graph."""
    patch = passes.patched(batch)
    outputs = []

    def at(layer, x):
        # Nothing before the first block's output needs a gradient.
        outputs.append(x.detach().requires_grad_() if layer == 0 else x)
        return outputs[-1]

    gradients = torch.autograd.grad(passes.metric(passes.run(batch.clean, at), batch), outputs)
    with torch.no_grad():
        for layer, (x, g) in enumerate(zip(outputs, gradients)):
            rows = [tensor.detach().flatten(0, 1)[batch.rows] for tensor in (x, g)]
            analytic_effects(saes[layer], *rows, patch.pop(layer), batch.group, sums[layer])


def analytic_effects(sae, x, g, x_patch, group, sums):
    """Of a hundred thousand products of a gradient and a direction a few are wanted, those where the codes differ: sampled_addmm computes just them.

    (g W_dec^T) * (f_patch - f_clean) as dense products takes three times as long.
    """
    # Both prompts in one product, and sparse kernels in float32: there are none in bfloat16, and one conversion costs less than dense bfloat16.
    f, f_patch = sae.encode(torch.cat([x, x_patch])).float().chunk(2)
    W_dec, g = sae.W_dec.float(), g.float()
    delta = (f_patch - f).to_sparse_csr()
    gradient = torch.sparse.sampled_addmm(delta, g, W_dec.T, beta=0.0)
    row = torch.repeat_interleave(delta.crow_indices().diff())
    sums.add_sparse(group, row, delta.col_indices(), delta.values() * gradient.values())
    delta_error = x_patch.float() - x.float() - delta @ W_dec
    sums.add_error(group, (g * delta_error).sum(1))


def sfc(passes, saes, batch, sums):
    """SAEs spliced into forward and backward at all sites at once: gradients of the codes, and of the error, which lets x's gradient through."""
    patch = passes.patched(batch)
    group = batch.group

    def at(layer, x):
        sae = saes[layer]
        flat = x.flatten(0, 1)
        with torch.no_grad():
            f = sae.encode(flat)
            f_patch = sae.encode(patch[layer])
            error_patch = patch.pop(layer) - sae.decode(f_patch)
        f.requires_grad_()
        reconstruction = sae.decode(f)
        # The error has x's own gradient, so that it passes straight through to the blocks before; the first block's output needs none.
        error = flat - reconstruction.detach() if layer > 0 else (flat.detach() - reconstruction.detach()).requires_grad_()
        # The hooks hold no tensor of the graph: a cycle would keep a batch's memory beyond its end.
        delta = f_patch - f.detach()[batch.rows]
        delta_error = error_patch - error.detach()[batch.rows]

        def error_effect(gradient):
            sums[layer].add_error(group, (gradient[batch.rows].float() * delta_error.float()).sum(1))

        def effects(f):
            sums[layer].add_dense(group, delta.float() * f.grad[batch.rows].float(), delta != 0)
            # Gradients of one site's codes at a time are held.
            f.grad = None

        error.register_hook(error_effect)
        f.register_post_accumulate_grad_hook(effects)
        return (reconstruction + error).view_as(x)

    passes.metric(passes.run(batch.clean, at), batch).backward()


# ---------------------------------------------------------------------------------------------------------------- Output


def write_features(path, sums, groups, pairs):
    """Columns as in our features.parquet: means over the pairs of a split and case ('' for all its cases), ranked by size."""
    import numpy as np
    import pandas as pd

    size = defaultdict(int)
    for pair in pairs:
        size[groups[pair["group"]]] += 1
    parts = []
    for layer, site in enumerate(sums):
        for split in sorted({split for split, _ in groups}, reverse=True):
            of_split = [i for i, group in enumerate(groups) if group[0] == split]
            for members, case in [(of_split, ""), *(([i], groups[i][1]) for i in of_split)]:
                active = site.active[members].sum(0).numpy()
                feature = np.flatnonzero(active)
                effect = site.total[members].sum(0).numpy()[feature] / sum(size[groups[i]] for i in members)
                is_error = feature == site.features
                order = np.lexsort((feature, -np.abs(effect), ~is_error))
                rank = np.arange(len(order)) + 1 - is_error.sum()
                parts.append(
                    pd.DataFrame(
                        {
                            "split": split,
                            "case": case,
                            "site": f"resid_post.{layer}",
                            "feature": np.where(is_error, ERROR, feature)[order].astype("int32"),
                            "effect": effect[order],
                            "effect_abs": np.abs(effect[order]),
                            "nodes_active": active[feature][order].astype("int32"),
                            "rank": pd.array(np.where(rank > 0, rank, -1), dtype="Int32"),
                        }
                    )
                )
                parts[-1].loc[parts[-1]["rank"] < 1, "rank"] = pd.NA
    pd.concat(parts).to_parquet(path, index=False)


def main():
    started = time.perf_counter()
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=dtype, attn_implementation=arguments.attention
    )
    model.eval().requires_grad_(False)
    pairs, groups = tokenize(arguments.pairs, tokenizer)
    passes = Passes(model)
    # Weights may be read only when they are first used.
    with torch.no_grad():
        passes.run(torch.tensor([pairs[0]["clean"]]), None)
    loaded = resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the peak
    model_seconds = time.perf_counter() - started

    saes = [Sae(f"{arguments.saes}/resid_post.{layer}") for layer in range(len(model.model.layers))]
    for sae in saes:
        sae.encode(torch.zeros(1, sae.W_enc.shape[0], dtype=dtype))
        sae.decode(torch.zeros(1, sae.W_dec.shape[0], dtype=dtype))
    sae_seconds = time.perf_counter() - started - model_seconds

    pairs.sort(key=lambda pair: len(pair["clean"]))
    special = torch.tensor(tokenizer.all_special_ids)
    pad = tokenizer.pad_token_id or 0
    batches = [Batch(pairs[i : i + arguments.batch], pad, special) for i in range(0, len(pairs), arguments.batch)]
    sums = [Sums(len(groups), sae.W_enc.shape[1]) for sae in saes]
    method = {"analytic": analytic, "sfc": sfc}[arguments.method]

    started = time.perf_counter()
    for batch in batches:
        method(passes, saes, batch, sums)
    seconds = time.perf_counter() - started
    peak = resident("VmHWM")

    if arguments.out:
        write_features(arguments.out, sums, groups, pairs)
    result = {
        "method": arguments.method,
        "dtype": arguments.dtype,
        "batch": arguments.batch,
        "threads": torch.get_num_threads(),
        "attention": arguments.attention,
        "pairs": len(pairs),
        "tokens": sum(batch.clean.numel() for batch in batches),
        "seconds": seconds,
        "loading_seconds": model_seconds,
        "sae_loading_seconds": sae_seconds,
        "loaded_bytes": loaded,
        "peak_bytes": peak,
        "above_bytes": max(0, peak - loaded),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps(result))


main()
