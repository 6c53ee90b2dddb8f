"""Our CUDA kernels as machine code, compiled by NVRTC once and kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import threading
from contextlib import suppress
from pathlib import Path

from pspnet.errors import PspnetError
from pspnet.files import atomic_path
from runtime.nvrtc import CannotCompile, Nvrtc, open_nvrtc, usable_majors, version_text

SOURCES = Path(__file__).with_name("kernels")
OPTIONS = ("--std=c++17", "--fmad=false")
"""Without fused multiply-adds the labels are those of the CPU to the last pixel."""
MOST_MINOR = 20  # no CUDA has had so many minor versions
OWN_ONLY = 0o700
DIGEST_BYTES = hashlib.sha256().digest_size
_INCLUDE = re.compile(r'^#include "(.+)"\n', re.MULTILINE)
_lock = threading.Lock()


def cubin(name: str, compute_capability: tuple[int, int], driver_version: str, folder: Path | None = None) -> bytes:
    """Machine code of kernels/NAME.cu for a GPU, as `compiled`."""
    return compiled(name, source(name), compute_capability, driver_version, folder)


def compiled(
    name: str, text: str, compute_capability: tuple[int, int], driver_version: str, folder: Path | None = None
) -> bytes:
    """Machine code of a source for a GPU, from the cache where it is there and whole, else compiled.

    name: of the source; compute_capability, driver_version: as of `Device`. folder: of the cache; where it cannot be
    written, the code is compiled each time. What was kept serves without NVRTC too; CannotCompile, with what to
    install, where nothing was kept and NVRTC is missing or does not know the GPU.
    """
    folder = folder or default_folder()
    with _lock:  # two segmenters may start at once
        try:
            nvrtc = open_nvrtc(driver_version)
            check_known(compute_capability, nvrtc)
            path = folder / file_name(name, text, options_for(compute_capability), nvrtc.version)
            if (kept := _whole(path)) is not None:
                return kept
            code = nvrtc.cubin(text, f"{name}.cu", options_for(compute_capability))
        except CannotCompile:
            if (kept := kept_by_any(name, text, compute_capability, driver_version, folder)) is not None:
                return kept
            raise
        with suppress(PspnetError, OSError):  # a read-only home costs time at each start, and nothing else
            path.parent.mkdir(mode=OWN_ONLY, parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                temporary.write_bytes(hashlib.sha256(code).digest() + code)
        return code


def kept_by_any(
    name: str, text: str, compute_capability: tuple[int, int], driver_version: str, folder: Path
) -> bytes | None:
    """Machine code that an NVRTC has left in the cache which is gone since; None where there is none."""
    options = options_for(compute_capability)
    for version in itertools.product(usable_majors(driver_version), range(MOST_MINOR, -1, -1)):
        if (kept := _whole(folder / file_name(name, text, options, version))) is not None:
            return kept
    return None


def all_kept(compute_capability: tuple[int, int], driver_version: str) -> bool:
    """Whether every kernel for a GPU is in the user's cache, so that NVRTC is not needed."""
    names, folder = [path.stem for path in SOURCES.glob("*.cu")], default_folder()
    return all(kept_by_any(name, source(name), compute_capability, driver_version, folder) for name in names)


def source(name: str) -> str:
    """kernels/NAME.cu with our headers in place of their #include lines, each once; it needs no other file."""
    seen: set[str] = set()

    def put_in(match: re.Match[str]) -> str:
        if match[1] in seen:
            return ""
        seen.add(match[1])
        return _INCLUDE.sub(put_in, (SOURCES / match[1]).read_text(encoding="utf-8").replace("#pragma once\n", ""))

    return _INCLUDE.sub(put_in, (SOURCES / f"{name}.cu").read_text(encoding="utf-8"))


def check_known(compute_capability: tuple[int, int], nvrtc: Nvrtc) -> None:
    """CannotCompile where this NVRTC does not know the GPU."""
    wanted = 10 * compute_capability[0] + compute_capability[1]
    known = nvrtc.architectures()
    if wanted not in known:
        needed = "a newer" if wanted > known[0] else "an older"
        raise CannotCompile(
            f"NVRTC of CUDA {version_text(nvrtc.version)} knows sm_{known[0]} to sm_{known[-1]}, and this GPU is sm_"
            f"{wanted}. Install NVRTC and a driver of {needed} CUDA, which knows it"
        )


def options_for(compute_capability: tuple[int, int]) -> tuple[str, ...]:
    """The compiler's options for a GPU."""
    major, minor = compute_capability
    return f"--gpu-architecture=sm_{10 * major + minor}", *OPTIONS


def default_folder() -> Path:
    """Where machine code is kept, in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "pspnet-edge", "kernels")


def file_name(name: str, text: str, options: tuple[str, ...], version: tuple[int, int]) -> str:
    """One for everything that the machine code depends on."""
    parts = "\0".join((text, *options, version_text(version)))
    return f"{name}-{options[0].rpartition('=')[2]}-{hashlib.sha256(parts.encode()).hexdigest()[:24]}.cubin"


def _whole(path: Path) -> bytes | None:
    """The machine code in a file of the cache; None where it is absent or damaged."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    digest, code = stored[:DIGEST_BYTES], stored[DIGEST_BYTES:]
    return code if code and hashlib.sha256(code).digest() == digest else None
