"""Our kernels on the CPU: the same sources compiled by g++, for the CUDA driver double."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

import pytest

from runtime import cuda_kernels, kernel_cache, nvrtc
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


def keep_in(cache: Path, version: tuple[int, int], compute_capability: tuple[int, int] = (8, 7)) -> None:
    """Put what g++ makes into a cache folder, as if an NVRTC of that version had left it there."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile the kernels with")
    options = kernel_cache.options_for(compute_capability)
    cache.mkdir(parents=True)
    for name in cuda_kernels.FUNCTIONS:
        file = cache / kernel_cache.file_name(name, kernel_cache.source(name), options, version)
        file.write_bytes(hashlib.sha256(library(name)).digest() + library(name))


def without_nvrtc(monkeypatch: pytest.MonkeyPatch, cache_home: Path) -> None:
    """A machine without NVRTC, whose cache folder is below `cache_home`."""
    monkeypatch.setattr(nvrtc, "_opened", lambda major: None)
    monkeypatch.setattr(nvrtc, "_files", lambda major: [])
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_home))
