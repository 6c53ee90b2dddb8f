"""float16 on a GPU against its simulation on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.exporter import FixedNetwork, onnx_from_model
from export.parity import batches, relative_error
from pspnet.metadata import attach_spec
from runtime.fp16_simulation import simulated
from runtime.fp16_typing import fp16_from_fp32
from runtime.ort import session_from_model
from tests.nets import random_model

WORSE_THAN_SIMULATED = 2.0  # times the simulation's error: kernels sum in another order and fuse roundings away


@pytest.mark.gpu
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18"])
def test_the_gpu_is_no_further_from_float32_than_the_simulation(backbone: str) -> None:
    pytest.importorskip("onnxsim", reason="onnxsim is not installed")
    spec, model = random_model(backbone, 8, (180, 240))
    graph = onnx_from_model(model, spec)
    attach_spec(graph, spec, precision="fp32")
    images = next(batches(spec, []))
    expected = session_from_model(graph).run(None, {"image": images})[0]
    predicted = relative_error(
        session_from_model(simulated(fp16_from_fp32(graph))).run(None, {"image": images})[0], expected
    )
    network = FixedNetwork(model, spec).half().cuda().eval()
    with torch.inference_mode():
        pixels = torch.from_numpy(images).cuda().permute(0, 3, 1, 2).half()
        features, _ = network.backbone(pixels + network.shift)
        logits = network.head(features).float().cpu().numpy()
    assert np.isfinite(logits).all()
    assert relative_error(logits, expected) <= WORSE_THAN_SIMULATED * predicted
