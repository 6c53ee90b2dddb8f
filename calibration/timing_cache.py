"""The timing cache: what TensorRT measured of its kernels in earlier builds, so that the next one is short.

A cache is right for one TensorRT, one GPU and one CUDA only, and on a Jetson for one power mode, because clocks change
which kernel is the fastest.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from pspnet.errors import PspnetError
from pspnet.files import atomic_path
from runtime.cuda import Device

FOLDER = Path("pspnet-edge", "timing-cache")
OWN_ONLY = 0o700
QUERY_S = 10


def default_path(tensorrt: str, device: Device, power_mode: str | None) -> Path:
    """The cache of this TensorRT, GPU, CUDA and power mode, in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    capability = "".join(map(str, device.compute_capability))
    words = [f"tensorrt-{tensorrt}", f"sm{capability}", device.name, f"cuda-{device.driver_version}", power_mode or ""]
    name = "_".join(re.sub(r"[^A-Za-z0-9.+-]+", "-", word).strip("-") for word in words if word)
    return Path(home) / FOLDER / f"{name}.cache"


def power_mode() -> str | None:
    """The power mode of a Jetson as nvpmodel names it, for example "MAXN"; None elsewhere."""
    if not (program := shutil.which("nvpmodel")):
        return None
    try:
        asked = subprocess.run([program, "-q"], capture_output=True, text=True, timeout=QUERY_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"NV Power Mode:\s*(\S+)", asked.stdout)
    return found[1] if found else None


class TimingCache:
    """The cache in the file `path` for builds one after the other.

    named: whether the user chose the file; then one that TensorRT does not accept is refused, in place of being
    replaced. origin: where the last build's cache came from, in words.
    """

    def __init__(self, path: str | Path, named: bool) -> None:
        self.path, self._named = Path(path), named
        self.origin = "new"
        self._cache: Any = None  # TensorRT reads it during the build, so it must live as long

    def attach(self, trt: Any, config: Any) -> None:
        """Give `config` the stored timings, or an empty cache where there are none that fit."""
        stored = self._read()
        if stored and self._set(config, stored):
            self.origin = f"{self.path.name}, {len(stored)} bytes"
            return
        if stored and self._named:
            raise PspnetError(
                f"timing cache {self.path} was not written by TensorRT {trt.__version__} on this GPU, or is damaged: "
                "give another --timing-cache, or leave it out"
            )
        self.origin = f"new, because TensorRT does not accept {self.path.name}" if stored else "new"
        self._set(config, b"")

    def store(self, config: Any) -> None:
        """Write what the build with `config` measured, in place of what was there."""
        if (cache := config.get_timing_cache()) is None:
            return
        try:
            self.path.parent.mkdir(mode=OWN_ONLY, parents=True, exist_ok=True)
            with atomic_path(self.path) as temporary:
                temporary.write_bytes(bytes(cache.serialize()))
        except (PspnetError, OSError):
            if self._named:
                raise
            self.origin = f"{self.origin}, not kept: {self.path.parent} cannot be written"  # no reason to lose a build

    def _set(self, config: Any, stored: bytes) -> bool:
        try:
            self._cache = config.create_timing_cache(stored)
        except (RuntimeError, ValueError, TypeError):  # how the bindings refuse damaged bytes differs by version
            self._cache = None
        return self._cache is not None and bool(config.set_timing_cache(self._cache, False))

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            if isinstance(error, FileNotFoundError) or not self._named:
                return b""
            raise PspnetError(
                f"cannot read timing cache {self.path}: {error.strerror or error}. Give another with --timing-cache"
            ) from error
