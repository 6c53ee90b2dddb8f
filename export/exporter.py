"""Checkpoint to ONNX: batch norm and context folded, the pyramid as constant products, normalisation inside; proven."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from export.half_parity import prove_half
from export.naming import name_after_modules
from export.parity import prove
from export.pyramid import FixedPyramidPooling, FoldedHead
from pspnet.batch_norm import without_batch_norm
from pspnet.checkpoint import load_model, replace_spec
from pspnet.errors import PspnetError
from pspnet.files import atomic_path
from pspnet.metadata import attach_spec
from pspnet.model import PSPNet
from pspnet.spec import ModelSpec
from runtime.fp16_typing import fp16_from_fp32, half_path

FORMS = ("folded", "fixed")
OPSET = 18  # per-channel Q/DQ needs 13; the exporter's own opset is 18; TensorRT 10.3 reads up to 20


class FixedNetwork(nn.Module):
    """A trained PSPNet as a network for one input size; form: of the head, "folded", "fixed", or "naive", as trained.

    Without bins there is no pyramid to rewrite: the head is as trained in every form.

    Pictures (N, H, W, 3) uint8 RGB -> logits (N, classes, h, w) and the head's input, features (N, C, h, w).
    """

    shift: Tensor

    def __init__(self, model: PSPNet, spec: ModelSpec, form: str = "folded") -> None:
        super().__init__()
        plain = fold_batch_norm(model)
        self.backbone, head = plain.backbone, plain.head
        if form == "folded" and spec.bins:
            self.head: nn.Module = FoldedHead(head, spec.map_size)
        else:
            self.head = head
            if form == "fixed" and spec.bins:
                head.add_module("ppm", FixedPyramidPooling(head.ppm, spec.map_size))
        # The mean is subtracted from the pixels, so that the convolution's zero padding stays the mean colour, as in
        # training; the division by std moves into its weights.
        first = next(module for module in self.backbone.modules() if isinstance(module, nn.Conv2d))
        first.weight.data /= torch.tensor(spec.std, dtype=torch.float64).view(1, 3, 1, 1)
        self.float()
        self.register_buffer("shift", -torch.tensor(spec.mean).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        pixels = image.float().permute(0, 3, 1, 2)  # Cast comes first: TensorRT takes uint8 only into a cast
        features, _ = self.backbone(pixels + self.shift)
        return self.head(features), features


def export(
    checkpoint: str | Path, output: str | Path, size: tuple[int, int] | None = None, fit: str | None = None,
    pictures: list[Path] | None = None, form: str = "folded", fp16: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Write `output` and return the proof that is stored in it; no file is left where the proof fails.

    size: (height, width) of the network's input, default the checkpoint's. pictures: files of real ones that the proof
    runs on beside seeded ones. form: of the head, "folded" or "fixed". fp16: write the float16-typed twin too, to
    `half_path(output)`; its figures are the proof's "fp16", and where `prove_half` refuses it, neither is written.
    """
    if form not in FORMS:
        raise PspnetError(f"head is {form!r}: choose one of {', '.join(FORMS)} with --head")
    spec, model = load_model(checkpoint)
    spec = replace_spec(spec, input_size=size or spec.input_size, fit=fit or spec.fit)
    graph = onnx_from_model(model, spec, form)
    with atomic_path(output) as temporary:
        proof = {"head": form if spec.bins else "plain"} | prove(model, spec, graph, pictures or [])
        attach_spec(graph, spec, precision="fp32", proof=proof)
        onnx.checker.check_model(graph, full_check=True)
        onnx.save(graph, temporary)
        if fp16:
            half = fp16_from_fp32(graph)
            proof["fp16"] = prove_half(graph, half, spec, pictures or [])
            attach_spec(half, spec, proof=proof)
            with atomic_path(half_path(output)) as beside:
                onnx.save(half, beside)
    return proof


def onnx_from_model(model: PSPNet, spec: ModelSpec, form: str = "folded") -> onnx.ModelProto:
    """The simplified ONNX graph, image (N, H, W, 3) uint8 -> logits (N, classes, h, w); N is symbolic.

    The head's input keeps the name "features", so that the head can be cut out and proven alone.
    """
    network = FixedNetwork(model, spec, form).eval()
    example = torch.zeros((2, *spec.input_size, 3), dtype=torch.uint8)  # a batch of 1 would be taken for a constant
    batch = torch.export.Dim("batch")
    with _quiet(), torch.inference_mode():
        program = torch.onnx.export(
            network, (example,), dynamo=True, opset_version=OPSET, input_names=["image"], verbose=False,
            output_names=["logits", "features"], dynamic_shapes={"image": {0: batch}},
        )  # fmt: skip
    assert program is not None
    graph = _hide_features(_simplified(program.model_proto))
    name_after_modules(graph)
    return graph


def fold_batch_norm(model: PSPNet) -> PSPNet:
    """A float64 copy in eval mode in which every batch norm is folded into the convolution before it."""
    return without_batch_norm(copy.deepcopy(model).double())


def _simplified(graph: onnx.ModelProto) -> onnx.ModelProto:
    """What onnxsim leaves of the graph: all of it, as long as the exporter writes nothing that could be removed."""
    import onnxsim

    simplified, valid = onnxsim.simplify(graph)
    if not valid:
        raise PspnetError("onnxsim changed the results of the exported graph: update it with pip install -U onnxsim")
    onnx.helper.set_model_props(simplified, {})  # its own log of what it did
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
