"""The proof that an exported graph computes what the trained model computes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.utils import Extractor

from pspnet.errors import PspnetError
from pspnet.geometry import Geometry
from pspnet.model import PSPNet
from pspnet.spec import ModelSpec
from runtime.ort import session_from_model
from runtime.segmenter import network_input

SEEDED_PICTURES = 2
HEAD_LIMIT = 1e-5  # of max |logits|: float32 sums of a few thousand products in another order
NETWORK_LIMIT = 1e-4  # of max |logits|: the same through some fifty layers, with batch norm folded
AGREEMENT_LIMIT = 0.9999  # share of arg maxes at the head's resolution; near-ties may fall either way


def prove(model: PSPNet, spec: ModelSpec, path: Path, pictures: list[np.ndarray]) -> dict[str, Any]:
    """Compare the ONNX file at `path` with `model` in PyTorch, both float32 on the CPU; PspnetError where they differ.

    pictures: real ones, (H, W, 3) uint8 BGR; seeded noise pictures are always tried too. Errors are the largest
    difference over the largest reference magnitude; the head is compared on the same features as the model's head.
    """
    graph = onnx.load(path)
    network = session_from_model(graph)
    head = session_from_model(Extractor(graph).extract_model(["features"], ["logits"]))
    head_errors: list[float] = []
    network_errors: list[float] = []
    agreed = pixels = 0
    for image in _inputs(spec, pictures):
        features, expected = _reference(model, spec, image)
        head_errors.append(_relative(head.run(None, {"features": features})[0], expected))
        logits = network.run(None, {"image": image})[0]
        network_errors.append(_relative(logits, expected))
        agreed += int((logits.argmax(1) == expected.argmax(1)).sum())
        pixels += expected[:, 0].size
    head_error, network_error = float(np.max(head_errors)), float(np.max(network_errors))  # NaN where one is NaN
    proof = {
        "head_error": head_error, "network_error": network_error, "argmax_agreement": agreed / pixels,
        "seeded_pictures": SEEDED_PICTURES, "real_pictures": len(pictures), "size": list(spec.input_size),
        "nodes": len(graph.graph.node), "head_nodes": len(head_nodes(graph)),
        "ops": dict(Counter(node.op_type for node in graph.graph.node).most_common()),
    }  # fmt: skip
    for name, value, limit, failed in (
        ("head error", head_error, HEAD_LIMIT, not head_error <= HEAD_LIMIT),
        ("network error", network_error, NETWORK_LIMIT, not network_error <= NETWORK_LIMIT),
        ("arg-max agreement", agreed / pixels, AGREEMENT_LIMIT, agreed / pixels < AGREEMENT_LIMIT),
    ):
        if failed:
            raise PspnetError(
                f"the exported graph differs from the checkpoint: {name} is {value:.3g}, the limit is {limit:g}. "
                "Nothing was written; report this with the versions that `pspnet doctor` prints"
            )
    return proof


def head_nodes(graph: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes between the backbone's output, "features", and "logits"."""
    return list(Extractor(graph).extract_model(["features"], ["logits"]).graph.node)


def _inputs(spec: ModelSpec, pictures: list[np.ndarray]) -> list[np.ndarray]:
    noise = np.random.default_rng(0)
    height, width = spec.input_size
    seeded = [noise.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8) for _ in range(SEEDED_PICTURES)]
    # Coarse noise, enlarged: like real pictures it has areas, and the network answers it with more than one class.
    every = [*seeded, *pictures]
    return [network_input(p, Geometry(p.shape[:2], spec.input_size, spec.fit), spec)[None] for p in every]


def _reference(model: PSPNet, spec: ModelSpec, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        pixels = torch.from_numpy(image).permute(0, 3, 1, 2).float()
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
        features, _ = model.backbone((pixels - mean) / std)
        return features.numpy(), model.head(features).numpy()


def _relative(value: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(value - reference).max() / np.abs(reference).max())
