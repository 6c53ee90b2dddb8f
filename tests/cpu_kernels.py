"""Our kernels on the CPU: the same sources compiled by g++, for the CUDA driver double."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

import pytest

from runtime import cuda_kernels, kernel_cache
from tests.doubles import cuda_driver

INTRINSICS = Path(cuda_driver.__file__).with_name("cuda_intrinsics.h")
HALF = "inline float float_from(half_bits value) { return float_from_half(value); }\n"
FLAGS = (*cuda_driver.KERNEL_FLAGS, "-fsanitize=alignment", "-fsanitize-undefined-trap-on-error")
"""A word at an address that is no multiple of its size ends the process, as it ends everything on a GPU."""


def library(name: str) -> bytes:
    """kernels/NAME.cu as a "cubin" of the double; compiled where the source has changed."""
    names = cuda_kernels.FUNCTIONS[name]
    kernels = "".join(f"\nDOUBLE_KERNEL({kernel})" for kernel in names)
    text = f"{INTRINSICS.read_text()}{kernel_cache.source(name)}{HALF}{kernels}\n"
    headers = [path.read_text() for path in sorted(cuda_driver.SOURCES.glob("kernel_*.h"))]
    digest = hashlib.sha256("\0".join([text, *headers, *FLAGS]).encode()).hexdigest()
    kept = cuda_driver.cache_folder().parent / "kernels-on-cpu" / f"{name}-{digest[:24]}.so"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch, pytest.MonkeyPatch.context() as patch:
            patch.setattr(cuda_driver, "KERNEL_FLAGS", FLAGS)
            cuda_driver.kernel_library(text, Path(scratch))
            Path(scratch, "kernels.so").replace(kept)
    return kept.read_bytes()


def use_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `Kernels` take what g++ makes of the sources, in place of NVRTC; skips the test where there is no g++."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile the kernels with")
    monkeypatch.setattr(cuda_kernels, "cubin", lambda name, *device: library(name))
