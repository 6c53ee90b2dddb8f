"""Boards with DLA cores for tests: TensorRT's double on one, and what a build asks it for."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.doubles.tensorrt_double.dla import CORES_VARIABLE
from tests.engine_files import quick_build

OLD, NEW = "10.3.0", "11.4.1.2"
"""A TensorRT whose DLA takes a calibration cache, and one whose DLA takes Q/DQ."""


def board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, cores: int = 2) -> ModuleType:
    """TensorRT's double of a version on a machine with DLA cores; one without a double has the surface of its era."""
    trt = quick_build(monkeypatch, tmp_path, OLD if version.startswith("10.") else "11.4.0")
    monkeypatch.setattr(trt, "__version__", version)
    monkeypatch.setenv(CORES_VARIABLE, str(cores))
    return trt


def watch(monkeypatch: pytest.MonkeyPatch, trt: ModuleType) -> tuple[list[dict[str, Any]], list[int | None]]:
    """What each later build asks for, and the DLA core of each engine that is loaded."""
    builds: list[dict[str, Any]] = []
    cores: list[int | None] = []
    build, load = trt.Builder.build_serialized_network, trt.Runtime.deserialize_cuda_engine
    set_flag, parsing = trt.OnnxParser.set_flag, set[str]()

    def watched_flag(self: Any, flag: Any) -> None:
        parsing.add(flag.name)
        set_flag(self, flag)

    def watched_build(self: Any, network: Any, settings: Any) -> Any:
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        calibrator = getattr(settings, "int8_calibrator", None)
        builds.append({
            "flags": {name for name, flag in trt.BuilderFlag.__members__.items() if settings.get_flag(flag)},
            "parser": set(parsing), "core": settings.DLA_core, "strong": network._state.strong,
            "shape": tuple(network.get_input(0).shape), "profiles": settings.num_optimization_profiles,
            "dla": [each.name for each in layers if settings.get_device_type(each) == trt.DeviceType.DLA],
            "half": [each.name for each in layers if getattr(each, "precision", None) == trt.DataType.HALF],
            "cache": calibrator and calibrator.read_calibration_cache().decode(),
        })  # fmt: skip
        return build(self, network, settings)

    def watched_load(self: Any, plan: Any) -> Any:
        engine = load(self, plan)
        cores.append(engine._state.dla_core)
        return engine

    monkeypatch.setattr(trt.OnnxParser, "set_flag", watched_flag)
    monkeypatch.setattr(trt.Builder, "build_serialized_network", watched_build)
    monkeypatch.setattr(trt.Runtime, "deserialize_cuda_engine", watched_load)
    return builds, cores
