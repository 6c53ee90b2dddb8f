"""Files to build engines of, and what a build asked the TensorRT double for."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibration import build_check, build_race
from calibration.build_check import seeded_pictures
from calibration.timing import taking_turns
from pspnet.cli import main
from pspnet.metadata import spec_from_model
from runtime.fp16_typing import fp16_from_fp32, half_path
from runtime.ort import session_from_model
from tests.doubles import tensorrt_double
from tests.nets import CAMVID

CALIBRATION = ["--data", str(CAMVID), "--images", "4", "--method", "minmax", "--no-check", "--fp16"]


def balanced(exported: Path, output: Path) -> Path:
    """The network with a classifier that lets every class win somewhere; random weights alone give one label."""
    model = onnx.load(exported)
    pictures = np.concatenate(seeded_pictures(spec_from_model(model)).inputs)
    (logits,) = session_from_model(model, 1).run(["logits"], {"image": pictures})
    weight, bias = last_convolution(model)
    deviation, mean = logits.std((0, 2, 3)), logits.mean((0, 2, 3))
    replace(weight, numpy_helper.to_array(weight) / deviation[:, None, None, None])
    replace(bias, (numpy_helper.to_array(bias) - mean) / deviation)
    onnx.save(model, output)
    return output


def write_files(folder: Path, exported: Path) -> Path:
    """net.onnx with net.fp16.onnx, net.int8.onnx with its table and net.int8.fp16.onnx in `folder`; returns net.onnx.

    exported: a network with random weights. Its classifier is scaled so that every class wins somewhere.
    """
    float_file = balanced(exported, folder / "net.onnx")
    onnx.save(fp16_from_fp32(onnx.load(float_file)), half_path(float_file))
    assert main(["calibrate", str(float_file), "-o", str(folder / "net.int8.onnx"), *CALIBRATION]) == 0
    return float_file


def copied(files: Path, folder: Path) -> Path:
    """A copy of what lies beside `files`, to change or to build in; returns the copy of that file."""
    for path in files.parent.iterdir():
        if path.name.startswith("net."):
            shutil.copy(path, folder / path.name)
    return folder / files.name


def damaged(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose last convolution gives each class the score of another: the same types, other labels."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for tensor in last_convolution(other):
        replace(tensor, numpy_helper.to_array(tensor)[::-1])
    return other


def last_convolution(model: onnx.ModelProto) -> tuple[onnx.TensorProto, onnx.TensorProto]:
    """Weight and bias."""
    names = [node for node in model.graph.node if node.op_type == "Conv"][-1].input[1:]
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    return stored[names[0]], stored[names[1]]


def replace(tensor: onnx.TensorProto, values: np.ndarray) -> None:
    """Set the values, in the type that the tensor has."""
    kind = numpy_helper.to_array(tensor).dtype
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, kind), tensor.name))


def watch_builds(monkeypatch: pytest.MonkeyPatch, trt: ModuleType) -> list[dict[str, Any]]:
    """What every later build asks for: typing, flags by name, pools in bytes, the profile, and other settings."""
    seen: list[dict[str, Any]] = []
    build = trt.Builder.build_serialized_network

    def watched(self: Any, network: Any, config: Any) -> Any:
        asked = {
            "strong": network._state.strong,
            "flags": {name for name, flag in trt.BuilderFlag.__members__.items() if config.get_flag(flag)},
            "pools": dict(config._state.pools),
            "profiles": config._state.profiles,
            "types": {layer.op_type for layer in network._state.graph.nodes},
            "monitored": config.progress_monitor is not None,
        }
        for name in ("builder_optimization_level", "max_aux_streams", "profiling_verbosity"):
            asked[name] = getattr(config, name)
        asked["tiling"] = getattr(config, "tiling_optimization_level", None)
        seen.append(asked)
        return build(self, network, config)

    monkeypatch.setattr(trt.Builder, "build_serialized_network", watched)
    return seen


def quick_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str) -> ModuleType:
    """TensorRT's double, timings in a folder of the test, few pictures, short races; returns the module `tensorrt`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build_check, "SEEDED_PICTURES", 2)
    monkeypatch.setattr(build_race, "taking_turns", lambda runners, inputs: taking_turns(runners, inputs[:1], 0.01))
    return tensorrt_double.install(monkeypatch, version)
