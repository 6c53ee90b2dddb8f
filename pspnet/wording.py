"""Numbers as people say them, and the version of this program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ENGINE_LIBRARIES = {"tensorrt": "TensorRT", "torch": "PyTorch", "onnxruntime": "ONNX Runtime"}


def counted(number: int, thing: str) -> str:
    """1 step, 2 steps, 3 classes, 4 mixes."""
    return f"{number} {thing}" + ("" if number == 1 else "es" if thing.endswith(("s", "x")) else "s")


def duration(seconds: float) -> str:
    """A time: 42 s, 7 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def own_version() -> str:
    """The installed version of pspnet-edge, or that it runs from a checkout without being installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pspnet-edge")
    except PackageNotFoundError:
        return "checkout, not installed"


def engine_facts(provenance: Mapping[str, Any]) -> tuple[str, str, str]:
    """Library, its version, and GPU, of what a runner on a GPU states as its provenance; "" for what it does not."""
    name = next((name for name in ENGINE_LIBRARIES if provenance.get(name)), "")
    gpu = provenance.get("gpu") or {}
    return ENGINE_LIBRARIES.get(name, ""), str(provenance.get(name) or ""), str(gpu.get("name") or "")
