"""What TensorRT's real Python bindings of 10.3.0 and 11.4.0 have, read on a machine without TensorRT.

The wheels on PyPI hold the true pybind11 module (about 1 MB) and none of the libraries. It loads against stubs that
export the nine C functions it asks for. Downloaded with pinned hashes once, kept in the user's cache folder.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PINS = HERE / "tensorrt_bindings.txt"
VERSIONS = ("10.3.0", "11.4.0")
PACKAGES = {"10.3.0": "tensorrt_cu12_bindings-10.3.0", "11.4.0": "tensorrt_cu13_bindings-11.4.0.106"}
STUBS = {
    "nvinfer": (
        "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry", "getPluginRegistry",
    ),
    "nvonnxparser": (
        "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getNvOnnxParserVersion",
    ),
    "nvinfer_plugin": ("initLibNvInferPlugins",),
}  # fmt: skip
DOWNLOAD_S, DUMP_S = 180, 60


class Unavailable(Exception):
    """The bindings cannot be had here; the text says why."""


@functools.cache
def surface(version: str) -> dict[str, Any]:
    """Everything that the bindings of "10.3.0" or "11.4.0" have, as `tests/tensorrt_surface.py` writes it."""
    folder = installed(version)
    environment = dict(os.environ, LD_LIBRARY_PATH=f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}")
    command = [sys.executable, str(HERE / "tensorrt_surface.py"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DUMP_S)
    if done.returncode != 0:
        raise Unavailable(f"the bindings of TensorRT {version} do not load: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def installed(version: str) -> Path:
    """Folder with the bindings' package and the stub libraries; both are made at the first call."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Unavailable("the pinned wheels of TensorRT's bindings are for Linux on x86-64")
    if shutil.which("gcc") is None:
        raise Unavailable("no gcc, which compiles the stubs that TensorRT's bindings load against")
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pspnet-edge" / "tensorrt-bindings"
    folder = cache / f"{PACKAGES[version]}-{tag}"
    wheel = checked_wheel(cache, f"{PACKAGES[version]}-{tag}-*.whl")
    if not (folder / "tensorrt_bindings" / "tensorrt.so").exists():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    for library, functions in STUBS.items():
        compile_stub(folder, f"lib{library}.so.{version.split('.')[0]}", functions)
    return folder


def checked_wheel(cache: Path, pattern: str) -> Path:
    """The wheel in the cache, downloaded if it is not there; its hash is one of the pinned ones."""
    pinned = set(re.findall(r"sha256:([0-9a-f]{64})", PINS.read_text()))
    found = next(iter(cache.glob(pattern)), None)
    if found is None:
        download(cache)
        found = next(iter(cache.glob(pattern)), None)
    if found is None:
        raise Unavailable(f"there is no wheel {pattern} on the package index")
    if hashlib.sha256(found.read_bytes()).hexdigest() not in pinned:
        raise Unavailable(f"{found.name} in the cache is not the pinned file; delete it")
    return found


def download(cache: Path) -> None:
    """Every pinned wheel for this Python, from the package index that pip is set up for."""
    cache.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--retries", "1", "-r", str(PINS), "-d", str(cache)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_S)
    except subprocess.TimeoutExpired as error:
        raise Unavailable("the download of TensorRT's bindings takes too long") from error
    if done.returncode != 0:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise Unavailable(f"TensorRT's bindings cannot be downloaded: {reasons[-1]}")


def compile_stub(folder: Path, name: str, functions: tuple[str, ...]) -> None:
    """A shared library whose functions all return null."""
    target = folder / name
    if target.exists():
        return
    source = "".join(f"void *{function}(void) {{ return 0; }}\n" for function in functions)
    temporary = folder / f"{name}.{os.getpid()}"
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{name}", "-o", str(temporary)]
    subprocess.run(command, input=source, text=True, check=True)
    temporary.replace(target)
