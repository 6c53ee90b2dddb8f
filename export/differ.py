"""Where an exported graph first leaves the trained model: a failed proof names the layer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pspnet.model import Head, PSPNet
from pspnet.spec import ModelSpec
from runtime.ort import session_from_model

LAYER_LIMIT = 1e-5  # of the layer's largest value: one layer more than its predecessor, in float32

Reading = Callable[[np.ndarray], np.ndarray]


def first_difference(model: PSPNet, spec: ModelSpec, graph: onnx.ModelProto, images: np.ndarray) -> str:
    """One phrase: the first layer, in the graph's order, whose output differs from the model's, and by how much.

    Every convolution of the graph is compared with the convolution and batch norm of the same name in float32 PyTorch,
    the pooled cells with torch.nn.functional.adaptive_avg_pool2d. images: (N, H, W, 3) uint8 RGB.
    """
    references = _references(model, spec, images)
    probes = [probe for probe in _probes(graph, model.head) if probe[1] in references]
    watched = onnx.ModelProto()
    watched.CopyFrom(graph)
    watched.graph.ClearField("output")
    watched.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor, _, _ in probes)
    values = session_from_model(watched).run(None, {"image": images})
    errors = []
    for (_, layer, read), value in zip(probes, values, strict=True):
        expected = references[layer]
        error = float(np.abs(read(value) - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
        errors.append((error, layer))
        # Rounding grows from layer to layer; a mistake is a jump.
        if not error <= LAYER_LIMIT and not error <= 10 * max((e for e, _ in errors[:-1]), default=0.0):
            return f"the first layer to differ is {layer}, by {error:.2g} of its largest value"
    worst = max(errors)
    return f"no single layer stands out: the largest difference is in {worst[1]}, {worst[0]:.2g} of its largest value"


def _references(model: PSPNet, spec: ModelSpec, images: np.ndarray) -> dict[str, np.ndarray]:
    """Output of each convolution, after its batch norm, by the convolution's name; and the head's pooled cells."""
    kept: dict[str, np.ndarray] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            kept[name] = output.numpy().copy()  # activations after it work in place

        return hook

    with torch.inference_mode():
        handles = [module.register_forward_hook(keep(name)) for name, module in _outputs(model)]
        try:
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
            mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
            features, _ = model.backbone((pixels - mean) / std)
            model.head(features)
        finally:
            for handle in handles:
                handle.remove()
        cells = [F.adaptive_avg_pool2d(features, b).flatten(2) for b in model.head.ppm.bins]
    if not cells:  # no pyramid
        return kept
    branches = [kept[f"head.ppm.branches.{k}.0"] for k in range(len(cells))]
    kept["head.cells"] = torch.cat(cells, 2).numpy()
    kept["head.project"] = np.concatenate([b.reshape(*b.shape[:2], -1).ravel() for b in branches])
    kept["head.bottleneck"] = kept["head.bottleneck.0"]
    return kept


def _outputs(model: PSPNet) -> Iterator[tuple[str, nn.Module]]:
    """Each convolution's name with the module that gives its result: itself, or the batch norm behind it."""
    for parent_name, parent in model.named_modules():
        for (name, module), (_, follower) in itertools.pairwise([*parent.named_children(), ("", nn.Identity())]):
            if isinstance(module, nn.Conv2d):
                result = follower if isinstance(follower, nn.BatchNorm2d) else module
                yield (f"{parent_name}.{name}" if parent_name else name), result


def _probes(graph: onnx.ModelProto, head: Head) -> Iterator[tuple[str, str, Reading]]:
    """(tensor, layer, how to read the tensor as the layer's reference) in the graph's order."""
    producers = {output: node for node in graph.graph.node for output in node.output}
    for node in graph.graph.node:
        if node.op_type == "Conv":
            layer = node.input[1].removesuffix(".weight")
            if layer == "head.project":
                yield node.input[0], "head.cells", lambda value: _cells(value, head)
                yield node.output[0], layer, lambda value: _own_cells(value, head)
            elif layer != "head.bottleneck":
                yield node.output[0], layer, lambda value: value
        elif node.op_type == "Add" and "head.bottleneck.weight" in _weights(node, producers):
            yield node.output[0], "head.bottleneck", lambda value: value  # with the context's share


def _weights(node: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> list[str]:
    """Names of the weights of the convolutions that a node reads from."""
    return [producers[name].input[1] for name in node.input if name in producers and producers[name].op_type == "Conv"]


def _cells(value: np.ndarray, head: Head) -> np.ndarray:
    """(N, C, 1, padded cells) of the folded head without the padding."""
    return value[:, :, 0, : sum(b * b for b in head.ppm.bins)]


def _own_cells(value: np.ndarray, head: Head) -> np.ndarray:
    """What each branch computes on its own bin's cells, flat, branch by branch."""
    parts, row, start = [], 0, 0
    for bin_size, branch in zip(head.ppm.bins, head.ppm.branches, strict=True):
        width = next(m.out_channels for m in branch.modules() if isinstance(m, torch.nn.Conv2d))
        parts.append(value[:, row : row + width, 0, start : start + bin_size**2].ravel())
        row, start = row + width, start + bin_size**2
    return np.concatenate(parts)
