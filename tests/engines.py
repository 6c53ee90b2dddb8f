"""Engines with passports, built by our builder on whatever `tensorrt` and CUDA the test has put in place."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from calibration.builder import BuildSettings, build_plan
from pspnet.files import passport_path, sha256_of
from pspnet.metadata import read_spec
from runtime.cuda import open_device
from runtime.passport import Passport, gpu_facts, this_platform
from runtime.tensorrt_library import library_version


def save_engine(path: Path, model: Path, route: str, precision: str = "fp32", batch: int = 1) -> Passport:
    """Build `model`, an ONNX file of ours, to `path`, for pictures 1 to `batch`; returns the passport beside it."""
    with open_device() as device:
        plan = build_plan(model, BuildSettings(batch=batch), route, precision, device, quiet=True)
        passport = Passport(
            plan_sha256=hashlib.sha256(plan).hexdigest(), plan_bytes=len(plan),
            onnx={"name": model.name, "sha256": sha256_of(model)}, table_sha256=None,
            spec=json.loads(read_spec(model).to_json()), tensorrt=library_version(), cuda=device.driver_version,
            gpu=gpu_facts(device), platform=this_platform(), power_mode=None, route=route, precision=precision,
            batch={"min": 1, "opt": batch, "max": batch}, layers={precision: 1}, audit={}, accuracy={}, latency={},
            settings={}, built="2026-01-01T00:00:00Z", build_seconds=0.0,
        )  # fmt: skip
    write_engine(path, plan, passport)
    return passport


def write_engine(path: Path, plan: bytes, passport: Passport, **changes: Any) -> None:
    """A plan and its passport with rights that loading accepts; changes: fields of the passport."""
    path.write_bytes(plan)
    dataclasses.replace(passport, **changes).save(passport_path(path))
    for each in (path, passport_path(path)):
        each.chmod(0o644)


def logits_by_onnx_runtime(model: Path, images: np.ndarray) -> np.ndarray:
    """What the ONNX file gives, node by node and in its own types, as float32."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": images})[0].astype(np.float32)


def with_half_logits(model: Path, output: Path) -> None:
    """A float16-typed file without the last Cast, so that its logits are float16."""
    graph = (loaded := onnx.load(model)).graph
    last = graph.node[-1]
    assert last.op_type == "Cast" and list(last.output) == ["logits"]
    for node in graph.node:
        node.output[:] = ["logits" if name == last.input[0] else name for name in node.output]
    graph.node.remove(last)
    graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(loaded, output)
