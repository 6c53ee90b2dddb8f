"""The proof that an exported graph computes what the trained model computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.utils import Extractor

from export.agreement import Agreement, percent
from export.differ import first_difference
from pspnet.errors import PspnetError
from pspnet.files import sha256_of
from pspnet.geometry import Geometry, network_input
from pspnet.image import read_image
from pspnet.model import PSPNet
from pspnet.spec import ModelSpec
from runtime.ort import session_from_model

SEEDED_PICTURES = 2
HEAD_LIMIT = 1e-5  # of max |logits|: float32 sums of a few thousand products in another order
NETWORK_LIMIT = 1e-4  # of max |logits|: the same through some fifty layers, with batch norm folded
AGREEMENT_LIMIT = 0.9999  # share of arg maxes at the head's resolution; near-ties may fall either way
MAP_BAND = 1  # cells of the logits' map on each side of an edge


def prove(model: PSPNet, spec: ModelSpec, graph: onnx.ModelProto, pictures: list[Path]) -> dict[str, Any]:
    """Compare `graph` with `model` in PyTorch, both float32 on the CPU; PspnetError, with the layer, where they differ.

    pictures: files of real ones; two seeded noise pictures are tried first, as one batch. Errors are the largest
    difference over the largest reference magnitude; the head is compared on the same features as the model's head.
    """
    network = session_from_model(graph)
    head = session_from_model(head_of(graph))
    agreement = Agreement(spec.class_names, MAP_BAND)
    head_errors, network_errors, gaps = [], [], [0.0]
    for images in batches(spec, pictures):
        features, expected = reference(model, spec, images)
        if not np.isfinite(expected).all():
            raise PspnetError(
                "the checkpoint itself gives logits that are NaN or infinite in PyTorch: its values run out of "
                "float32. Nothing was written; use another checkpoint"
            )
        head_errors.append(relative_error(head.run(None, {"features": features})[0], expected))
        logits = network.run(None, {"image": images})[0]
        network_errors.append(relative_error(logits, expected))
        for ours, theirs in zip(logits, expected, strict=True):
            flips = agreement.add(theirs.argmax(0).astype(np.uint8), ours.argmax(0).astype(np.uint8))
            gaps.append(largest_gap(theirs, ours.argmax(0), flips))
    proof = {
        "head_error": float(np.max(head_errors)), "network_error": float(np.max(network_errors)),  # NaN where one is
        "argmax_agreement": agreement.share, "largest_gap_of_a_flip": max(gaps), "agreement": agreement.figures(),
        "sizes": [list(spec.input_size)], "batches": [SEEDED_PICTURES, 1] if pictures else [SEEDED_PICTURES],
        "seeded_pictures": SEEDED_PICTURES, "real_pictures": len(pictures),
        "pictures": {path.name: sha256_of(path) for path in pictures}, **node_counts(graph),
    }  # fmt: skip
    _check(proof, model, spec, graph)
    return proof


def text_of(proof: dict[str, Any]) -> str:
    """The proof as lines to print."""
    agreement = proof["agreement"]
    height, width = proof["sizes"][0]
    ops = ", ".join(f"{count} {op}" for op, count in proof["ops"].items())
    shares = {name: share for name, share in agreement["per_class"].items() if share is not None}
    below = [f"{name} {percent(share)}" for name, share in shares.items() if share < 1]
    return "\n".join([
        f"{proof['nodes']} nodes ({ops}), {proof['head_nodes']} of them in the {proof['head']} head",
        f"proof on {proof['seeded_pictures']} seeded and {proof['real_pictures']} real images at {height}x{width}: "
        f"head error {proof['head_error']:.1e}, network error {proof['network_error']:.1e} of the largest logit",
        f"arg-max agreement {percent(agreement['overall'])} %, along edges {percent(agreement['boundary_band'])} %, "
        f"by class {', '.join(below) or f'100 in each of {len(shares)}'}",
        f"{agreement['flips']} of {agreement['pixels']} cells differ, each within "
        f"{proof['largest_gap_of_a_flip']:.1e} of the largest logit of a tie",
    ])  # fmt: skip


def head_of(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph from the backbone's output, "features", to "logits"."""
    return Extractor(graph).extract_model(["features"], ["logits"])


def node_counts(graph: onnx.ModelProto) -> dict[str, Any]:
    """Number of nodes and nodes by op, of the whole graph and of its head."""
    head = head_of(graph).graph.node
    return {
        "nodes": len(graph.graph.node), "head_nodes": len(head),
        "ops": dict(Counter(node.op_type for node in graph.graph.node).most_common()),
        "head_ops": dict(Counter(node.op_type for node in head).most_common()),
    }  # fmt: skip


def reference(model: PSPNet, spec: ModelSpec, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features and logits of the trained model, in its own floating-point type, on images (N, H, W, 3) uint8 RGB."""
    like = next(model.parameters())
    with torch.inference_mode():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(like)
        mean, std = (torch.tensor(values).to(like).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
        features, _ = model.backbone((pixels - mean) / std)
        return features.numpy(), model.head(features).numpy()


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    """Largest |difference| over the largest |reference|; where that is 0: 0 for equal values, infinity for others."""
    difference, largest = float(np.abs(value - reference).max()), float(np.abs(reference).max())
    return difference / largest if largest else float("inf" if difference else 0)


def largest_gap(logits: np.ndarray, other: np.ndarray, flips: np.ndarray) -> float:
    """How far from a tie a flipped pixel was at most: its two classes' gap in `logits` (C, h, w), over max |logits|.

    0 where no pixel flipped, and where all logits are 0, which ties them.
    """
    if not flips.any() or not logits.any():
        return 0.0
    chosen = np.take_along_axis(logits, other[None].astype(np.int64), 0)[0]
    return float((logits.max(0) - chosen)[flips].max() / np.abs(logits).max())


def _check(proof: dict[str, Any], model: PSPNet, spec: ModelSpec, graph: onnx.ModelProto) -> None:
    for name, value, limit, failed in (
        ("head error", proof["head_error"], HEAD_LIMIT, not proof["head_error"] <= HEAD_LIMIT),
        ("network error", proof["network_error"], NETWORK_LIMIT, not proof["network_error"] <= NETWORK_LIMIT),
        ("arg-max agreement", proof["argmax_agreement"], AGREEMENT_LIMIT, proof["argmax_agreement"] < AGREEMENT_LIMIT),
    ):  # fmt: skip
        if failed:
            where = first_difference(model, spec, graph, next(batches(spec, [])))
            raise PspnetError(
                f"the exported graph differs from the checkpoint: {name} is {value:.3g}, the limit is {limit:g}; "
                f"{where}. Nothing was written; report this with the versions that `pspnet doctor` prints"
            )


def batches(spec: ModelSpec, pictures: list[Path]) -> Iterator[np.ndarray]:
    """The seeded pictures as one batch, then each real one, as (N, H, W, 3) uint8 RGB."""
    noise = np.random.default_rng(0)
    height, width = spec.input_size
    # Coarse noise, enlarged: like real pictures it has areas, and the network answers it with more than one class.
    small = [noise.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8) for _ in range(SEEDED_PICTURES)]
    yield np.stack([_network_input(picture, spec) for picture in small])
    for path in pictures:
        yield _network_input(read_image(path), spec)[None]


def _network_input(picture: np.ndarray, spec: ModelSpec) -> np.ndarray:
    return network_input(picture, Geometry(picture.shape[:2], spec.input_size, spec.fit), spec)
