"""NVRTC, NVIDIA's compiler as a library: CUDA C++ to machine code of one GPU, without nvcc or CUDA's headers."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pspnet.errors import PspnetError

NAMES = {11: "libnvrtc.so.11.2", **{major: f"libnvrtc.so.{major}" for major in range(12, 31)}}
"""Major version of CUDA -> the library's file name; through all of CUDA 11 it was that of 11.2."""
TOOLKITS = Path("/usr/local")
INSTALL = (
    "On a Jetson it comes with JetPack: apt-get install nvidia-jetpack (or cuda-nvrtc-{major}-{minor}); elsewhere "
    "{package}, or install the CUDA toolkit"
)


class CannotCompile(PspnetError):
    """NVRTC is missing, broken, or does not know the GPU."""


class Nvrtc:
    """One NVRTC library. version: (major, minor) of its CUDA."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = major.value, minor.value

    def architectures(self) -> list[int]:
        """The GPUs that it knows, as 10 times major plus minor of the compute capability: 87 for sm_87."""
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        known = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", known)
        return list(known)

    def cubin(self, source: str, name: str, options: tuple[str, ...]) -> bytes:
        """Machine code of a source, for the one GPU that the options say.

        name: what the errors call the source. CannotCompile with the compiler's first error.
        """
        program = ctypes.c_void_p()
        self._call(
            "nvrtcCreateProgram", ctypes.byref(program), source.encode(), name.encode(), 0, None, None
        )  # fmt: skip
        try:
            given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            if self._library.nvrtcCompileProgram(program, len(options), given):
                log = self._text(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog").rstrip(b"\0").decode()
                lines = [line for line in log.splitlines() if "error" in line] or log.splitlines()
                raise CannotCompile(
                    f"NVRTC {version_text(self.version)} does not compile {name} with {' '.join(options)}: "
                    f"{lines[0] if lines else 'it says nothing'}. Install NVRTC of CUDA 11.8 or later"
                )
            return self._text(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN")
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _text(self, program: ctypes.c_void_p, size_function: str, function: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(size_function, program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._call(function, program, text)
        return text.raw

    def _call(self, function: str, *arguments: Any) -> None:
        if code := getattr(self._library, function)(*arguments):
            said = self._library.nvrtcGetErrorString
            said.restype = ctypes.c_char_p
            raise CannotCompile(f"{function} failed: {said(code).decode()}. Install NVRTC again")


def open_nvrtc(driver_version: str) -> Nvrtc:
    """The newest NVRTC here whose machine code the driver takes; CannotCompile saying what to install where none is.

    driver_version: CUDA of the driver, "12.6", as `Device.driver_version`. A driver takes code of later minor versions,
    not of later major ones.
    """
    major = int(driver_version.partition(".")[0])
    for candidate in usable_majors(driver_version):
        if (library := _opened(candidate)) is not None:
            return Nvrtc(library)
    newer = [known for known in NAMES if known > major and any(_files(known))]
    found = f"that of CUDA {newer[0]} is too new for it, and there is no other" if newer else "there is none here"
    package = "pip install nvidia-cuda-nvrtc" + ("" if major >= 13 else f"-cu{major}")
    raise CannotCompile(
        f"the kernels have to be compiled by NVRTC, and the driver has CUDA {driver_version}: {found}. "
        + INSTALL.format(major=major, minor=driver_version.partition(".")[2] or 0, package=package)
    )


def usable_majors(driver_version: str) -> list[int]:
    """Major versions of CUDA whose machine code a driver takes, the newest first."""
    return [known for known in sorted(NAMES, reverse=True) if known <= int(driver_version.partition(".")[0])]


def version_text(version: tuple[int, int]) -> str:
    """ "13.2" """
    return f"{version[0]}.{version[1]}"


def _opened(major: int) -> ctypes.CDLL | None:
    for place in (*_files(major), NAMES[major]):  # the bare name is what the loader finds by itself
        try:
            return ctypes.CDLL(str(place))
        except OSError:
            continue
    return None


def _files(major: int) -> Iterator[Path]:
    """Where a toolkit or a Python package keeps the library of this CUDA."""
    named = [Path(home) for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")) if home]
    toolkits = [*named, *sorted(TOOLKITS.glob("cuda*"), reverse=True)]
    folders = [folder for kit in toolkits for folder in (kit / "lib64", kit / "lib", *kit.glob("targets/*/lib"))]
    folders += [folder for entry in sys.path if entry for folder in Path(entry).glob("nvidia/*/lib")]
    for folder in folders:
        if (path := folder / NAMES[major]).exists():
            yield path
