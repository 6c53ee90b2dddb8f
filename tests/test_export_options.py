"""Every model option exports, folds, and gives PyTorch's logits in ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from calibration.placement import place
from export.exporter import onnx_from_model
from export.half_parity import prove_half
from export.lint import lint
from export.lint_targets import TARGETS
from export.parity import head_of, prove
from pspnet.metadata import attach_spec
from pspnet.model import PSPNet
from pspnet.spec import ModelSpec
from runtime.fp16_typing import fp16_from_fp32
from runtime.ort import session_from_model
from tests.nets import random_model

LOGITS_LIMIT = 1e-4  # of the largest logit: float32 through some fifty layers with batch norm folded
FOLDED_HEAD_NODES = 20
SQUEEZES = 8  # squeeze-and-excitation blocks of mobilenet_v3_large


def plain_logits(model: PSPNet, spec: ModelSpec, images: np.ndarray) -> np.ndarray:
    """Logits of pictures (N, H, W, 3) uint8 RGB, normalisation and head written out."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    pixels = (pixels - torch.tensor(spec.mean).view(1, 3, 1, 1)) / torch.tensor(spec.std).view(1, 3, 1, 1)
    with torch.inference_mode():
        features = model.backbone(pixels, ())[0]
        context = [features]
        for b, branch in zip(spec.bins, model.head.ppm.branches, strict=True):
            cells = branch(F.adaptive_avg_pool2d(features, b))
            context.append(F.interpolate(cells, features.shape[2:], mode="bilinear", align_corners=spec.align_corners))
        return model.head.classifier(model.head.bottleneck(torch.cat(context, 1))).numpy()


@pytest.fixture(scope="module")
def mobilenet_v3() -> tuple[ModelSpec, PSPNet, onnx.ModelProto]:
    """Its backbone with dilation in kernels of 3x3 and 5x5, and the graph."""
    spec, model = random_model("mobilenet_v3_large", 8, (97, 113), dilation="contract")
    return spec, model, exported(model, spec)


def exported(model: PSPNet, spec: ModelSpec) -> onnx.ModelProto:
    """The graph, after its proof, which raises where a layer differs."""
    graph = onnx_from_model(model, spec)
    proof = prove(model, spec, graph, [])
    attach_spec(graph, spec, precision="fp32")
    assert len(head_of(graph).graph.node) == proof["head_nodes"] <= FOLDED_HEAD_NODES
    return graph


@pytest.mark.parametrize(
    ("backbone", "stride", "options"),
    [
        ("resnet18", 8, {"stem": "deep", "aux_stages": (3, 2), "align_corners": True}),
        ("resnet18", 16, {"stem": "v1c", "dilation": "contract", "aux_stages": ()}),
    ],
)
def test_options_export_and_fold(backbone: str, stride: int, options: dict[str, Any]) -> None:
    spec, model = random_model(backbone, stride, (97, 113), **options)
    check_graph(exported(model, spec), model, spec)


def test_mobilenet_v3_exports_and_folds(mobilenet_v3: tuple[ModelSpec, PSPNet, onnx.ModelProto]) -> None:
    spec, model, graph = mobilenet_v3
    check_graph(graph, model, spec)


def check_graph(graph: onnx.ModelProto, model: PSPNet, spec: ModelSpec) -> None:
    """Fails where ONNX Runtime's logits differ from PyTorch's, for one picture or two."""
    assert not any("aux" in tensor.name for tensor in graph.graph.initializer)
    images = np.random.default_rng(3).integers(0, 256, (2, 97, 113, 3), np.uint8)
    expected = plain_logits(model, spec, images)
    for batch in (images, images[:1]):
        logits = session_from_model(graph).run(None, {"image": batch})[0]
        assert np.abs(logits - expected[: len(batch)]).max() <= LOGITS_LIMIT * np.abs(expected).max()


def test_mobilenet_v3_keeps_its_small_gates_in_float(
    mobilenet_v3: tuple[ModelSpec, PSPNet, onnx.ModelProto],
) -> None:
    """One mean and two convolutions on one cell per squeeze-and-excitation; INT8 and float16 leave the means alone."""
    spec, model, graph = mobilenet_v3
    ops = Counter(node.op_type for node in graph.graph.node)
    assert ops["ReduceMean"] == ops["HardSigmoid"] == SQUEEZES and ops["HardSwish"] == 19
    assert not {"Gather", "Shape", "Range"} & set(ops)
    gates = {f"{name}.{fc}" for name in _squeezes(model) for fc in ("fc1", "fc2")}
    placed = place(graph)
    assert len(gates) == 2 * SQUEEZES and not gates & set(placed.convolutions)
    producers = {output: node.op_type for node in graph.graph.node for output in node.output}
    assert "ReduceMean" not in {producers.get(name) for name in placed.activations}
    assert sum(producers.get(name) == "Mul" for name in placed.activations) == SQUEEZES + 1  # gates and the mask
    half = fp16_from_fp32(graph)
    kept = [node.op_type for node in half.graph.node if node.name in _float_nodes(half)]
    assert Counter(kept)["ReduceMean"] == SQUEEZES and "HardSwish" not in kept
    assert prove_half(graph, half, spec, [])
    for target in TARGETS:
        assert not [finding for finding in lint(graph, target) if finding.severity == "refused"]


def _squeezes(model: PSPNet) -> list[str]:
    return [name for name, module in model.named_modules() if type(module).__name__ == "SqueezeExcitation"]


def _float_nodes(half: onnx.ModelProto) -> set[str]:
    """Nodes whose result is float32, by strict type inference."""
    typed = onnx.shape_inference.infer_shapes(half, check_type=True, strict_mode=True).graph
    floats = {v.name for v in typed.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    return {node.name for node in half.graph.node if node.output[0] in floats and node.op_type != "Cast"}
