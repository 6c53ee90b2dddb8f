"""`tensorrt` 11.4.0, the double of `tests/doubles/tensorrt_double`, for a subprocess with this folder in PYTHONPATH."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import tensorrt_double

sys.modules[__name__] = tensorrt_double.module("11.4.0")
