"""Makes test/fixtures/dictionaries: small SAEs in every format that we read, with the codes and reconstructions that their libraries compute.

    python3 test/oracles/make_dictionaries.py

Needs torch, numpy, safetensors, sae-lens 6, dictionary-learning and eai-sparsify. README.md beside this file describes what is written.
SAELens, dictionary_learning and sparsify write and load their own files. No library on the package index writes Gemma Scope, Llama Scope, Qwen-Scope
and OpenAI's files: these have the keys that their authors document. Llama Scope, Gemma Scope 2 and Qwen-Scope are computed by SAELens' loaders, the
others by the formula in torch.
"""

import json
from pathlib import Path

import numpy
import torch
from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
    TrainingSAE,
)
from sae_lens.loading import pretrained_sae_loaders
from safetensors.torch import load_file, save_file
from sparsify import SparseCoder, SparseCoderConfig
from sparsify.utils import eager_decode

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


# More kinds of SAELens, each in sae-lens/<name>, all on resid_post.1.
KINDS = [
    ("gated", GatedSAE, GatedSAEConfig, dict()),
    ("topk", TopKSAE, TopKSAEConfig, dict(k=4)),
    ("topk-decoder-norm", TopKSAE, TopKSAEConfig, dict(k=4, rescale_acts_by_decoder_norm=True)),
    ("layer-norm", StandardSAE, StandardSAEConfig, dict(normalize_activations="layer_norm")),
    ("constant-norm", JumpReLUSAE, JumpReLUSAEConfig, dict(normalize_activations="constant_norm_rescale")),
    ("topk-layer-norm", TopKSAE, TopKSAEConfig, dict(k=4, normalize_activations="layer_norm")),
    ("average-norm", GatedSAE, GatedSAEConfig, dict(normalize_activations="expected_average_only_in")),
    (
        "average-decoder-norm",
        TopKSAE,
        TopKSAEConfig,
        dict(k=4, rescale_acts_by_decoder_norm=True, normalize_activations="expected_average_only_in"),
    ),
]
AVERAGE_NORM = 1.7


def change_config(folder, change):
    path = folder / "cfg.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def more_sae_lens(x, generator):
    """(path, codes, reconstruction); codes of SAEs normalised per token are multiplied by the token's scale: see METHOD.md."""
    for name, sae_class, config_class, settings in KINDS:
        folder = FIXTURES / "sae-lens" / name
        sae = sae_class(config_class(d_in=D, d_sae=F, **settings))
        randomise(sae, generator)
        sae.cfg.metadata.hook_name = "blocks.1.hook_resid_post"
        sae.save_model(folder)
        sae = SAE.load_from_disk(folder)
        if settings.get("normalize_activations") == "expected_average_only_in":
            # SAELens keeps the number in its list of releases and folds it after loading.
            change_config(folder, lambda config: config | dict(norm_scaling_factor=AVERAGE_NORM))
            sae.fold_activation_norm_scaling_factor(AVERAGE_NORM)
        codes, reconstruction = results(sae, x)
        if settings.get("normalize_activations") == "layer_norm":
            codes = codes * x.std(dim=-1, keepdim=True)
        if settings.get("normalize_activations") == "constant_norm_rescale":
            codes = codes * x.norm(dim=-1, keepdim=True) / D**0.5
        yield f"sae-lens/{name}", codes, reconstruction

    training = BatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(d_in=D, d_sae=F, k=4, rescale_acts_by_decoder_norm=True, decoder_init_norm=None)
    )
    randomise(training, generator)
    training.topk_threshold.fill_(1.1)
    training.cfg.metadata.hook_name = "blocks.1.hook_resid_post"
    training.save_inference_model(FIXTURES / "sae-lens/batchtopk")
    # Its settings come in an order that changes from run to run.
    change_config(FIXTURES / "sae-lens/batchtopk", lambda config: dict(sorted(config.items())))
    yield "sae-lens/batchtopk", *results(SAE.load_from_disk(FIXTURES / "sae-lens/batchtopk"), x)

    # As SAELens 3 wrote a TopK SAE.
    folder = FIXTURES / "sae-lens/earlier-topk"
    write_folder(folder, "sae-lens/topk")
    change_config(
        folder,
        lambda config: dict(
            hook_point="blocks.1.hook_resid_post",
            d_in=D,
            d_sae=F,
            activation_fn_str="topk",
            activation_fn_kwargs=dict(k=4),
            normalize_activations=False,
            dtype="float32",
        ),
    )
    yield "sae-lens/earlier-topk", *results(SAE.load_from_disk(folder), x)

    # SAELens 6 no longer loads finetuned scaling factors; they multiply the codes of the SAE without them.
    folder = FIXTURES / "sae-lens/earlier-scaled"
    write_folder(folder, "earlier/resid_post.1")
    codes, _ = results(SAE.load_from_disk(folder), x)
    change_config(folder, lambda config: config | dict(finetuning_scaling_factor=True))
    weights = load_file(folder / "sae_weights.safetensors")
    weights["scaling_factor"] = 0.5 + torch.rand(F, generator=generator)
    save_file(weights, folder / "sae_weights.safetensors")
    codes = codes * weights["scaling_factor"]
    yield "sae-lens/earlier-scaled", codes, codes @ weights["W_dec"] + weights["b_dec"]

    folder = FIXTURES / "sae-lens/scaled-jumprelu"
    write_folder(folder, "saes/mlp_out.0")
    codes, _ = results(SAE.load_from_disk(folder), x)
    change_config(folder, lambda config: config | dict(finetuning_scaling_factor=True))
    weights = load_file(folder / "sae_weights.safetensors")
    weights["scaling_factor"] = torch.linspace(0.5, 1.5, F)
    save_file(weights, folder / "sae_weights.safetensors")
    codes = codes * weights["scaling_factor"]
    yield "sae-lens/scaled-jumprelu", codes, codes @ weights["W_dec"] + weights["b_dec"]


def write_folder(folder, source):
    folder.mkdir(parents=True, exist_ok=True)
    for file in (FIXTURES / source).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())


def dictionary_learning(x, generator):
    """Saved as the library's trainers do, loaded with its from_pretrained."""
    kinds = [
        ("standard", AutoEncoder(D, F), "resid_post_layer_1"),
        ("april", AutoEncoderNew(D, F), "resid_post_layer_1"),
        ("gated", GatedAutoEncoder(D, F), "mlp_out_layer_0"),
        ("topk", AutoEncoderTopK(D, F, k=4), "attn_out_layer_1"),
        ("batchtopk", BatchTopKSAE(D, F, k=4), None),
        ("matryoshka", MatryoshkaBatchTopKSAE(D, F, k=4, group_sizes=[8, 16]), None),
        ("jumprelu", JumpReluAutoEncoder(D, F), None),
    ]
    for name, ae, submodule in kinds:
        for parameter in ae.parameters():
            # In place, so that a matrix that lies by columns stays so.
            parameter.data.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
        if name in ("topk", "batchtopk", "matryoshka"):
            ae.threshold.fill_(0.6)
        folder = FIXTURES / "dictionary-learning" / name
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(ae.state_dict(), folder / "ae.pt")
        layer = int(submodule[-1]) if submodule else 1
        trainer = dict(dict_class=type(ae).__name__, activation_dim=D, dict_size=F, layer=layer, lm_name="tiny")
        trainer |= dict(submodule_name=submodule) if submodule else {}
        trainer |= dict(k=4) if hasattr(ae, "k") else {}
        (folder / "config.json").write_text(json.dumps(dict(trainer=trainer, buffer=dict(ctx_len=128))))
        loaded = type(ae).from_pretrained(folder / "ae.pt")
        with torch.no_grad():
            codes = loaded.encode(x)
            yield f"dictionary-learning/{name}", codes, loaded.decode(codes)

    # Published without config.json, in a folder that names the site.
    folder = FIXTURES / "dictionary-learning/attn_out_layer0/10_24"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ae.pt").write_bytes((FIXTURES / "dictionary-learning/standard/ae.pt").read_bytes())


def eleuther_sparsify(x, generator):
    coder = SparseCoder(D, SparseCoderConfig(num_latents=F, k=4))
    for parameter in coder.parameters():
        parameter.data.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    coder.save_to_disk(FIXTURES / "sparsify/layers.1.mlp")
    coder = SparseCoder.load_from_disk(FIXTURES / "sparsify/layers.1.mlp")
    with torch.no_grad():
        top = coder.encode(x)
        codes = torch.zeros(TOKENS, F).scatter_(1, top.top_indices, top.top_acts)
        # coder.decode, but with the library's decoder that needs no GPU.
        decoded = eager_decode(top.top_indices, top.top_acts, coder.W_dec.mT) + coder.b_dec
        yield "sparsify/layers.1.mlp", codes, decoded


def llama_scope(x, generator):
    folder = FIXTURES / "llama-scope/Llama3_1-8B-Base-L1M-8x"
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    hook = "blocks.1.hook_mlp_out"
    settings = dict(
        d_model=D,
        d_sae=F,
        act_fn="jumprelu",
        jump_relu_threshold=0.4,
        norm_activation="dataset-wise",
        dataset_average_activation_norm={"in": 1.9, "out": 1.9},
        hook_point_in=hook,
        hook_point_out=hook,
        use_decoder_bias=True,
        apply_decoder_bias_to_pre_encoder=False,
    )
    (folder / "hyperparams.json").write_text(json.dumps(settings))
    shapes = {"encoder.weight": (F, D), "encoder.bias": (F,), "decoder.weight": (D, F), "decoder.bias": (D,)}
    weights = {name: 0.5 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(weights, folder / "checkpoints/final.safetensors")

    def local(repo_id=None, filename=None, subfolder=None, **_):
        return str(FIXTURES / repo_id / (f"{subfolder}/{filename}" if subfolder else filename))

    pretrained_sae_loaders.hf_hub_download = local
    config, state, _ = pretrained_sae_loaders.llama_scope_sae_huggingface_loader(
        "llama-scope", folder.name, cfg_overrides=dict(dtype="float32", device="cpu")
    )
    sae = SAE.from_dict(pretrained_sae_loaders.handle_config_defaulting(config))
    sae.load_state_dict(state)
    # What SAELens' list of releases holds for each of them.
    sae.fold_activation_norm_scaling_factor(D**0.5 / settings["dataset_average_activation_norm"]["in"])
    yield f"llama-scope/{folder.name}", *results(sae, x)


def openai(x, generator):
    """Keys of openai/sparse_autoencoder's state dict; v4 is a ReLU SAE, v5 a TopK one with layer norm."""
    weights = {
        "pre_bias": 0.5 * torch.randn(D, generator=generator),
        "latent_bias": 0.5 * torch.randn(F, generator=generator),
        "stats_last_nonzero": torch.zeros(F, dtype=torch.long),
        "latents_activation_frequency": torch.ones(F),
        "latents_mean_square": torch.zeros(F),
        "encoder.weight": 0.5 * torch.randn(F, D, generator=generator),
        "decoder.weight": 0.5 * torch.randn(D, F, generator=generator),
    }
    encoder, decoder = weights["encoder.weight"].T, weights["decoder.weight"].T
    mean, std = x.mean(dim=-1, keepdim=True), x.std(dim=-1, keepdim=True)

    relu = dict(weights, activation="ReLU", activation_state_dict={})
    codes = torch.relu((x - weights["pre_bias"]) @ encoder + weights["latent_bias"])
    save_torch("openai/resid_delta_mlp_v4/autoencoders/1.pt", relu)
    yield "openai/resid_delta_mlp_v4/autoencoders/1", codes, codes @ decoder + weights["pre_bias"]

    topk = dict(weights, activation="TopK", activation_state_dict=dict(k=4, postact_fn="ReLU"))
    z = ((x - mean) / (std + 1e-5) - weights["pre_bias"]) @ encoder + weights["latent_bias"]
    top = z.topk(4)
    codes = torch.zeros_like(z).scatter_(1, top.indices, top.values.relu())
    reconstruction = (codes @ decoder + weights["pre_bias"]) * std + mean
    save_torch("openai/resid_post_mlp_v5_32k/autoencoders/1.pt", topk)
    yield "openai/resid_post_mlp_v5_32k/autoencoders/1", codes * std, reconstruction


def save_torch(path, value):
    (FIXTURES / path).parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, FIXTURES / path)


def gemma_scope(x, generator):
    """Keys and formula as Gemma Scope's tutorial has them; the same weights as plain layer files."""
    shapes = dict(W_enc=(D, F), W_dec=(F, D), b_enc=(F,), b_dec=(D,), threshold=(F,))
    weights = {name: 0.5 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    weights["threshold"] = weights["threshold"].abs()
    z = x @ weights["W_enc"] + weights["b_enc"]
    codes = z.relu() * (z > weights["threshold"])
    reconstruction = codes @ weights["W_dec"] + weights["b_dec"]

    path = "gemma-scope-2b-pt-att/layer_1/width_16k/average_l0_71/params.npz"
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    for file in (FIXTURES / path, FIXTURES / "plain/layer_1.npz"):
        file.parent.mkdir(parents=True, exist_ok=True)
        numpy.savez(file, **arrays)
    save_torch("plain/layer_2.pt", weights)
    for name in (path.removesuffix(".npz"), "plain/layer_1", "plain/layer_2"):
        yield name, codes, reconstruction

    # Broken on purpose: each must be refused.
    broken = FIXTURES / "refused"
    broken.mkdir(exist_ok=True)
    numpy.savez(broken / "fortran.npz", **arrays | dict(W_enc=numpy.asfortranarray(arrays["W_enc"])))
    numpy.savez_compressed(broken / "compressed.npz", **arrays)
    numpy.savez(broken / "objects.npz", **arrays | dict(W_enc=numpy.array([None, {}], dtype=object)))
    torch.save(weights | dict(W_enc=Runs()), broken / "system.pt")
    torch.save(weights | dict(W_enc=torch.nn.ReLU()), broken / "module.pt")


def plain_activations(x, generator):
    """Plain files whose activation is told by log_threshold or by k, by the formula in torch."""
    shapes = dict(W_enc=(D, F), W_dec=(F, D), b_enc=(F,), b_dec=(D,))
    weights = {name: 0.5 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    log_threshold = 0.5 * torch.randn(F, generator=generator) - 0.7
    z = x @ weights["W_enc"] + weights["b_enc"]
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}

    numpy.savez(FIXTURES / "plain/layer_3.npz", **arrays, log_threshold=log_threshold.numpy())
    codes = z * (z > log_threshold.exp())
    yield "plain/layer_3", codes, codes @ weights["W_dec"] + weights["b_dec"]
    for name, k, save in (
        ("plain/layer_4", 5, lambda k: save_torch("plain/layer_4.pt", weights | dict(k=k))),
        ("plain/layer_5", 3, lambda k: numpy.savez(FIXTURES / "plain/layer_5.npz", **arrays, k=numpy.int64(k))),
    ):
        save(k)
        codes = top_k(z, k)
        yield name, codes, codes @ weights["W_dec"] + weights["b_dec"]

    # What no one reads: each must be refused by its name.
    numpy.savez(FIXTURES / "refused/skip.npz", **arrays, W_skip=numpy.eye(D, dtype=numpy.float32))
    torch.save(weights | dict(input_scale=2.0), FIXTURES / "refused/number.pt")
    torch.save(weights | dict(groups=[8, 16]), FIXTURES / "refused/list.pt")
    # Numbers that lie in the file with the other sign, and two values by one name.
    torch.save(weights | dict(b_enc=torch._neg_view(weights["b_enc"])), FIXTURES / "refused/neg.pt")
    nested = {"encoder": {"bias": weights["b_enc"]}, "encoder.bias": weights["b_enc"] + 1}
    torch.save(weights | nested, FIXTURES / "refused/twice.pt")


def top_k(z, k):
    top = z.topk(k)
    return torch.zeros_like(z).scatter_(1, top.indices, top.values.relu())


def circuit_tracer(x, generator):
    """SAEs in the layout of its transcoder sets, by the formula in torch: W_enc and W_dec both [F,D], the two hooks the same."""
    for folder, layer, hook, extra in (
        ("circuit-tracer/jumprelu", 1, "hook_resid_post", dict()),
        ("circuit-tracer/topk", 0, "hook_mlp_out", dict(activation="topk", k=3)),
    ):
        shapes = {"W_enc": (F, D), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,)}
        weights = {name: 0.5 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        z = x @ weights["W_enc"].T + weights["b_enc"]
        if "k" in extra:
            codes = top_k(z, extra["k"])
        else:
            threshold = torch.rand(F, generator=generator)
            weights["activation_function.threshold"] = threshold
            codes = z * (z > threshold)
        (FIXTURES / folder).mkdir(parents=True, exist_ok=True)
        save_file(weights, FIXTURES / folder / f"layer_{layer}.safetensors")
        settings = dict(
            model_name="tiny", model_kind="transcoder_set", feature_input_hook=hook, feature_output_hook=hook, scan="tiny-scan"
        )
        lines = [f"{name}: {value}" for name, value in (settings | extra).items()]
        lines += ["transcoders:", f'- "hf://tiny/saes/layer_{layer}.safetensors"  # one for each layer']
        (FIXTURES / folder / "config.yaml").write_text("\n".join(lines) + "\n")
        reconstruction = codes @ weights["W_dec"] + weights["b_dec"]
        yield f"{folder}/layer_{layer}", codes, reconstruction
        if "k" not in extra:
            # The same by itself, with the encoder as it is and turned.
            numpy.savez(FIXTURES / "plain/layer_6.npz", **{name: tensor.numpy() for name, tensor in weights.items()})
            save_torch("plain/layer_7.pt", weights | dict(W_enc=weights["W_enc"].T.contiguous()))
            for name in ("plain/layer_6", "plain/layer_7"):
                yield name, codes, reconstruction


def with_sae_lens_loader(loader, repo, folder, x, **overrides):
    """An SAE of the hub as SAELens computes it, with the files that lie here."""
    config, state, _ = loader(repo, folder, cfg_overrides=dict(device="cpu", dtype="float32", **overrides))
    # Heads are not apart in x.
    config["reshape_activations"] = "none"
    sae = SAE.from_dict(pretrained_sae_loaders.handle_config_defaulting(config))
    sae.load_state_dict(state)
    return results(sae, x)


def gemma_scope_2(x, generator):
    for kind, layer, point in (
        ("resid_post_all", 1, "output"),
        ("attn_out", 0, "self_attn.o_proj.input"),
        ("mlp_out", 1, "post_feedforward_layernorm.output"),
    ):
        path = f"{kind}/layer_{layer}_width_16k_l0_small"
        folder = FIXTURES / "gemma-scope-2-tiny-pt" / path
        folder.mkdir(parents=True, exist_ok=True)
        shapes = dict(w_enc=(D, F), w_dec=(F, D), b_enc=(F,), b_dec=(D,))
        weights = {name: 0.5 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        weights["threshold"] = torch.rand(F, generator=generator)
        save_file(weights, folder / "params.safetensors")
        hook = f"model.layers.{layer}.{point}"
        settings = dict(
            hf_hook_point_in=hook,
            hf_hook_point_out=hook,
            width=F,
            model_name="google/gemma-3-tiny-pt",
            architecture="jump_relu",
            l0=10,
            affine_connection=False,
            type="sae",
        )
        # Some are published without.
        if kind != "mlp_out":
            (folder / "config.json").write_text(json.dumps(settings))

        def local(repo_id=None, filename=None, subfolder=None, **_):
            file = FIXTURES / "gemma-scope-2-tiny-pt" / (f"{subfolder}/{filename}" if subfolder else filename)
            return str(file) if file.exists() else missing()

        pretrained_sae_loaders.hf_hub_download = local
        pretrained_sae_loaders.get_safetensors_tensor_shapes = lambda *_: {n: list(t.shape) for n, t in weights.items()}
        loader = pretrained_sae_loaders.gemma_3_sae_huggingface_loader
        yield f"gemma-scope-2-tiny-pt/{path}/params", *with_sae_lens_loader(loader, "google/gemma-scope-2-tiny-pt", path, x)


def missing():
    raise pretrained_sae_loaders.EntryNotFoundError("no such file")


def gemma_scope_embedding(x, generator):
    """SAELens scales an embedding's SAE to the embedding times √D, which is our site; it forgets b_dec, which is scaled here."""
    shapes = dict(W_enc=(D, F), W_dec=(F, D), b_enc=(F,), b_dec=(D,))
    weights = {name: 0.5 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    weights["threshold"] = 0.3 * torch.rand(F, generator=generator)
    path = "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6"
    (FIXTURES / path).mkdir(parents=True, exist_ok=True)
    numpy.savez(FIXTURES / path / "params.npz", **{name: tensor.numpy() for name, tensor in weights.items()})
    pretrained_sae_loaders.hf_hub_download = lambda **_: FIXTURES / path / "params.npz"
    loader = pretrained_sae_loaders.gemma_2_sae_huggingface_loader
    repo, folder = path.split("/", 1)
    codes, _ = with_sae_lens_loader(loader, repo, folder, x, d_in=D, d_sae=F)
    yield f"{path}/params", codes, (codes @ weights["W_dec"] + weights["b_dec"]) * D**0.5


def qwen_scope(x, generator):
    shapes = dict(W_enc=(F, D), W_dec=(D, F), b_enc=(F,), b_dec=(D,))
    weights = {name: 0.5 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    path = "SAE-Res-Qwen3-tiny-L0_4/layer1.sae.pt"
    save_torch(path, weights)
    pretrained_sae_loaders.hf_hub_download = lambda **_: FIXTURES / path
    loader = pretrained_sae_loaders.qwen_scope_sae_huggingface_loader
    repo = "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_4"
    yield path.removesuffix(".pt"), *with_sae_lens_loader(loader, repo, "layer1.sae.pt", x, d_in=D, d_sae=F)


def sae_lens_training(x, generator):
    """A checkpoint of training, whose thresholds are logarithms, as SAELens 6 loads it."""
    folder = FIXTURES / "sae-lens/log-threshold"
    sae = JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(d_in=D, d_sae=F, decoder_init_norm=None))
    randomise(sae, generator)
    sae.cfg.metadata.hook_name = "blocks.1.hook_resid_post"
    sae.save_model(folder)
    change_config(folder, lambda config: dict(sorted(config.items())))
    weights = load_file(folder / "sae_weights.safetensors")
    weights["log_threshold"] = weights.pop("threshold").abs().log()
    save_file(weights, folder / "sae_weights.safetensors")
    yield "sae-lens/log-threshold", *results(TrainingSAE.load_from_disk(folder), x)


class Runs:
    """What a malicious file does: unpickling it runs a command (harmless here)."""

    def __reduce__(self):
        import os

        return os.system, ("echo this must not run",)


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

    formats = (more_sae_lens, dictionary_learning, eleuther_sparsify, llama_scope, openai, gemma_scope)
    formats += (plain_activations, circuit_tracer, gemma_scope_2, gemma_scope_embedding, qwen_scope, sae_lens_training)
    for make in formats:
        for path, codes, reconstruction in make(x, generator):
            expected[f"{path}/codes"], expected[f"{path}/reconstruction"] = codes, reconstruction
            print(f"{path}: {(codes != 0).sum() / TOKENS:.1f} of {F} codes active")
    # The file of a ReLU dictionary under the other name.
    (FIXTURES / "plain/layer_0.pt").write_bytes((FIXTURES / "dictionary-learning/standard/ae.pt").read_bytes())

    save_file({name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in expected.items()}, FIXTURES / "expected.safetensors")
    for file in FIXTURES.rglob("*"):
        if file.is_file():
            file.chmod(0o644)


if __name__ == "__main__":
    main()
