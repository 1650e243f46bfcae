"""Scores and pruning of random graphs by circuit-tracer 0.5.0 -> fixtures/pruning.json.

Needs torch and the folder in which circuit-tracer's wheel is unpacked: python make_pruning.py <folder>. Only its graph.py runs; what its
packages import besides is left out.
"""

import json
import sys
import types
from pathlib import Path

import torch

torch.set_default_dtype(torch.float64)
root, output = Path(sys.argv[1]), Path(__file__).parent.parent / "fixtures" / "pruning.json"
for name in ["circuit_tracer", "circuit_tracer.attribution", "circuit_tracer.utils", "circuit_tracer.utils.tl_nnsight_mapping",
             "circuit_tracer.attribution.targets"]:
    module = types.ModuleType(name)
    module.__path__ = [str(root / name.replace(".", "/"))]
    sys.modules[name] = module
sys.modules["circuit_tracer.utils"].get_default_device = lambda: torch.device("cpu")
mapping = sys.modules["circuit_tracer.utils.tl_nnsight_mapping"]
mapping.UnifiedConfig = object
mapping.convert_nnsight_config_to_transformerlens = lambda config: config
sys.modules["circuit_tracer.attribution.targets"].LogitTarget = object

from circuit_tracer.graph import Graph, compute_graph_scores, prune_graph  # noqa: E402


def graph(seed: int, layers: int, positions: int, per_layer: int, probabilities: list[float], density: float):
    """Features of a layer read tokens, and features and errors of earlier layers; logits read everything."""
    torch.manual_seed(seed)
    features, errors = layers * per_layer, layers * positions
    n = features + errors + positions + len(probabilities)
    layer = [f // per_layer for f in range(features)] + [e // positions for e in range(errors)] + [-1] * positions
    matrix = torch.zeros(n, n)
    for target in [*range(features), *range(n - len(probabilities), n)]:
        for source in range(n - len(probabilities)):
            below = target >= features or layer[source] < layer[target]
            if below and torch.rand(()) < density:
                matrix[target, source] = torch.randn(()) * torch.exp(0.6 * torch.randn(()))
    config = types.SimpleNamespace(n_layers=layers, d_vocab=100)
    return Graph(
        input_string="", input_tokens=torch.arange(positions),
        active_features=torch.tensor([[layer[f], 0, f] for f in range(features)]),
        adjacency_matrix=matrix, cfg=config, selected_features=torch.arange(features),
        activation_values=torch.ones(features), logit_targets=[None] * len(probabilities),
        logit_probabilities=torch.tensor(probabilities), scan="x", vocab_size=100)


cases = []
for seed, layers, positions, per_layer, probabilities, density, nodes, edges in [
    (1, 2, 2, 3, [1.0], 0.8, 0.9, 0.98),
    (2, 4, 3, 5, [0.6, 0.3, 0.05], 0.4, 0.8, 0.98),
    (3, 6, 4, 6, [0.5, 0.45], 0.25, 0.6, 0.7),
    (4, 5, 3, 8, [1.0], 0.12, 0.95, 0.9),
]:
    one = graph(seed, layers, positions, per_layer, probabilities, density)
    replacement, completeness = compute_graph_scores(one)
    node_mask, edge_mask, cumulative = prune_graph(one, nodes, edges)
    matrix = one.adjacency_matrix
    cases.append({
        "features": layers * per_layer, "errors": layers * positions, "tokens": positions, "probabilities": probabilities,
        "edges": [[s, t, matrix[t, s].item()] for t, s in matrix.nonzero().tolist()],
        "thresholds": {"nodes": nodes, "edges": edges}, "replacement": replacement, "completeness": completeness,
        "cumulative": cumulative.tolist(), "kept_nodes": node_mask.nonzero().flatten().tolist(),
        "kept_edges": [[s, t] for t, s in edge_mask.nonzero().tolist()],
    })
output.write_text(json.dumps(cases) + "\n")
