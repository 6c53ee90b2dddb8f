"""Checkpoint to ONNX: batch norm folded, the pyramid as constant products, normalisation inside, and a proof."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from export.parity import prove
from export.pyramid import FixedPyramidPooling
from pspnet.checkpoint import load_model, replace_spec
from pspnet.errors import PspnetError
from pspnet.files import atomic_path
from pspnet.metadata import attach_spec
from pspnet.model import PSPNet
from pspnet.spec import ModelSpec

OPSET = 18  # per-channel Q/DQ needs 13; the exporter's own opset is 18; TensorRT 10.3 reads up to 20


class FixedNetwork(nn.Module):
    """A trained PSPNet as a network for one input size.

    Pictures (N, H, W, 3) uint8 RGB -> logits (N, classes, h, w) and the head's input, features (N, C, h, w).
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: PSPNet, spec: ModelSpec) -> None:
        super().__init__()
        fixed = fold_batch_norm(model)
        self.backbone, self.head = fixed.backbone, fixed.head
        self.head.add_module("ppm", FixedPyramidPooling(fixed.head.ppm, spec.map_size))
        std = torch.tensor(spec.std, dtype=torch.float64).view(1, 3, 1, 1)
        mean = torch.tensor(spec.mean, dtype=torch.float64).view(1, 3, 1, 1)
        self.register_buffer("scale", (1 / std).float())
        self.register_buffer("shift", (-mean / std).float())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        pixels = image.float().permute(0, 3, 1, 2)  # Cast comes first: TensorRT takes uint8 only into a cast
        features, _ = self.backbone(pixels * self.scale + self.shift)
        return self.head(features), features


def export(
    checkpoint: str | Path, output: str | Path, size: tuple[int, int] | None = None, fit: str | None = None,
    pictures: list[np.ndarray] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write `output` and return the proof that is stored in it; no file is left where the proof fails.

    size: (height, width) of the network's input, default the checkpoint's. pictures: real ones, (H, W, 3) uint8 BGR,
    that the proof runs on beside seeded ones.
    """
    spec, model = load_model(checkpoint)
    spec = replace_spec(spec, input_size=size or spec.input_size, fit=fit or spec.fit)
    graph = onnx_from_model(model, spec)
    with atomic_path(output) as temporary:
        onnx.save(graph, temporary)
        proof = prove(model, spec, temporary, pictures or [])
        attach_spec(graph, spec, precision="fp32", proof=proof)
        onnx.checker.check_model(graph, full_check=True)
        onnx.save(graph, temporary)
    return proof


def onnx_from_model(model: PSPNet, spec: ModelSpec) -> onnx.ModelProto:
    """The simplified ONNX graph, image (N, H, W, 3) uint8 -> logits (N, classes, h, w); N is symbolic.

    The head's input keeps the name "features", so that the head can be cut out and proven alone.
    """
    network = FixedNetwork(model, spec).eval()
    example = torch.zeros((2, *spec.input_size, 3), dtype=torch.uint8)  # a batch of 1 would be taken for a constant
    batch = torch.export.Dim("batch")
    with _quiet(), torch.inference_mode():
        program = torch.onnx.export(
            network, (example,), dynamo=True, opset_version=OPSET, input_names=["image"], verbose=False,
            output_names=["logits", "features"], dynamic_shapes={"image": {0: batch}},
        )  # fmt: skip
    assert program is not None
    return _hide_features(_simplified(program.model_proto))


def fold_batch_norm(model: PSPNet) -> PSPNet:
    """A copy in eval mode in which every batch norm is folded into the convolution before it (computed in float64)."""
    folded = copy.deepcopy(model).eval().double()
    for parent in folded.modules():
        children = list(parent.named_children())
        for (before, conv), (name, norm) in itertools.pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, before, fuse_conv_bn_eval(conv, norm))
                setattr(parent, name, nn.Identity())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    return folded.float()


def _simplified(graph: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    simplified, valid = onnxsim.simplify(graph)
    if not valid:
        raise PspnetError("onnxsim changed the results of the exported graph: update it with pip install -U onnxsim")
    return simplified


def _hide_features(graph: onnx.ModelProto) -> onnx.ModelProto:
    features = next(value for value in graph.graph.output if value.name == "features")
    graph.graph.output.remove(features)
    graph.graph.value_info.append(features)
    return graph


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    """Without the exporter's progress lines and its notes on torchvision's operators, which say nothing to a user."""
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        noisy.setLevel(level)
