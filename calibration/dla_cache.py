"""TensorRT's calibration cache: scales of tensors as text, handed over by a calibrator that never sees a picture.

The format is that of NVIDIA's qdq-translator (Deep-Learning-Accelerator-SW): a line with the version that reads it,
then "tensor: scale" with the bits of the float32 in hexadecimal, most significant first.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

ALGORITHM = "EntropyCalibration2"  # the calibrator that a DLA needs, by NVIDIA's reference


def cache_text(version: str, scales: Mapping[str, float]) -> str:
    """The cache for the TensorRT of `version`, such as "10.3.0"; scales: tensor -> step of its INT8 values.

    TensorRT ignores a cache whose first line names another version than its own, and wants pictures instead.
    """
    major, minor, patch = (int(part) for part in version.split(".")[:3])
    lines = [f"TRT-{major * 10_000 + minor * 100 + patch}-{ALGORITHM}"]
    lines += [f"{tensor}: {struct.pack('>f', scale).hex()}" for tensor, scale in scales.items()]
    return "\n".join(lines) + "\n"


def calibrator(trt: Any, text: str) -> Any:
    """A calibrator with this cache and no pictures; `was_asked` tells whether TensorRT wanted some."""

    if not hasattr(trt, "IInt8EntropyCalibrator2"):
        raise TypeError(f"TensorRT {trt.__version__} has no calibrators")

    class Calibrator(trt.IInt8EntropyCalibrator2):
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)  # without it, a call from C++ ends the process
            self.was_asked = False
            self._cache = text.encode()  # TensorRT reads it where it lies, so it must live as long

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: Sequence[str]) -> None:
            self.was_asked = True

        def read_calibration_cache(self) -> bytes:
            return self._cache

        def write_calibration_cache(self, cache: Any) -> None:
            """Nothing: it is what was read."""

    return Calibrator()
