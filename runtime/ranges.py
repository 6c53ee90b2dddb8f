"""Named ranges for NVIDIA's profilers, where the package nvtx is installed; without it they are nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

_NOTHING = nullcontext()


def named_range(name: str) -> AbstractContextManager[object]:
    """`with named_range("labels"):` shows in Nsight Systems what the CPU does at that time."""
    annotate = _annotate()
    return _NOTHING if annotate is None else annotate(name, domain="pspnet")


@functools.cache
def _annotate() -> Callable[..., AbstractContextManager[object]] | None:
    try:
        from nvtx import annotate
    except ImportError:
        return None
    return annotate
