"""CUDA's part of `pspnet doctor`: driver, Python packages, the GPUs as they open, and the compiler of our kernels."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

from pspnet.doctor import MISSING, NOTE, OK, Check, has_nvidia_gpu
from pspnet.errors import PspnetError

TOPIC = "CUDA"
NEEDED_BY = "build, and every command on a TensorRT engine (.engine)"
KERNELS_FOR = "run and bench on a GPU: without it they resize pictures and make labels on the CPU"
INSTALL_NVRTC = (
    "on a Jetson apt-get install nvidia-jetpack; elsewhere pip install nvidia-cuda-nvrtc, or nvidia-cuda-nvrtc-cu12 "
    "where the driver has CUDA 12"
)
NO_GPU = "of use on an NVIDIA GPU only"


class Gpu(NamedTuple):
    """A GPU that opens, and the CUDA of its driver."""

    compute_capability: tuple[int, int]
    driver_version: str


def checks() -> list[Check]:
    """A line for the driver, each backend, each GPU that opens or says why it does not, and NVRTC."""
    try:
        from runtime import cuda_backend, cuda_driver
    except ImportError:  # of numpy, which has its own line
        return []
    lines = _backends(cuda_backend)
    try:
        cuda_driver.driver_library()
    except PspnetError as error:
        return [_failed("driver", error), *lines, _compiler([])]
    devices, gpus = _devices()
    return [Check(TOPIC, "driver", OK, "libcuda.so.1 can be loaded"), *lines, *devices, _compiler(gpus)]


def _backends(known: ModuleType) -> list[Check]:
    """known: runtime.cuda_backend."""
    try:
        failures = known.backend_failures()
    except PspnetError as error:
        return [_failed("backend", error)]
    working = [name for name, reason in failures.items() if not reason]
    lines = []
    for name, failure in failures.items():
        reason = failure.removeprefix(f"{name} is ").removeprefix(f"{name} ")
        if not reason:
            use = "in use" if name == working[0] else f"spare: {working[0]} is in use"
            lines.append(Check(TOPIC, name, OK, f"{importlib.metadata.version(name)}, {use}"))
        elif working:
            lines.append(Check(TOPIC, name, NOTE, f"{reason}; {working[0]} does its work", fix=known.INSTALL[name]))
        elif not has_nvidia_gpu():
            lines.append(Check(TOPIC, name, NOTE, f"{reason}; {NO_GPU}", NEEDED_BY, known.INSTALL[name]))
        else:  # one of them is enough, and the last in the list needs no compiler
            mark = MISSING if name == list(failures)[-1] else NOTE
            lines.append(Check(TOPIC, name, mark, reason, NEEDED_BY, known.INSTALL[name]))
    return lines


def _devices() -> tuple[list[Check], list[Gpu]]:
    from runtime.cuda import backend_name, device_count, open_device

    lines: list[Check] = []
    gpus: list[Gpu] = []
    try:
        if backend_name() is None:
            return [], []
        for index in range(device_count()):
            with open_device(index) as device:
                free, total = (count / 2**30 for count in device.memory_bytes())
                major, minor = device.compute_capability
                shared = ", shared with the CPU" if device.integrated else ""
                detail = (
                    f"{device.name}, sm_{major}{minor}, {free:.1f} of {total:.1f} GiB free{shared}, CUDA "
                    f"{device.driver_version}"
                )
            lines.append(Check(TOPIC, f"GPU {index}", OK, detail))
            gpus.append(Gpu(device.compute_capability, device.driver_version))
    except PspnetError as error:
        lines.append(_failed(f"GPU {len(lines)}", error))
    return lines, gpus


def _compiler(gpus: Sequence[Gpu]) -> Check:
    """NVRTC: which one, whether it knows the GPUs here, and where the machine code is kept."""
    from runtime import kernel_cache, nvrtc

    folder = kernel_cache.default_folder()
    try:
        found = nvrtc.open_nvrtc(gpus[0].driver_version if gpus else f"{max(nvrtc.NAMES)}.0")
        for gpu in gpus:
            kernel_cache.check_known(gpu.compute_capability, found)
        known = found.architectures()
    except PspnetError as error:
        if not gpus:  # so nothing is known of a driver, either
            mark, use = (MISSING, "") if has_nvidia_gpu() else (NOTE, f"; {NO_GPU}")
            return Check(TOPIC, "NVRTC", mark, f"not installed{use}", KERNELS_FOR, INSTALL_NVRTC)
        what, _, fix = str(error).partition(". ")
        if all(kernel_cache.all_kept(*gpu) for gpu in gpus):
            return Check(TOPIC, "NVRTC", NOTE, f"{what}; not needed as long as the kernels are in {folder}", fix=fix)
        return Check(TOPIC, "NVRTC", MISSING, what, KERNELS_FOR, fix)
    names = ", ".join(dict.fromkeys("sm_{}{}".format(*gpu.compute_capability) for gpu in gpus))
    here = f", with this machine's {names}" if gpus else ""
    version = nvrtc.version_text(found.version)
    return Check(
        TOPIC, "NVRTC", OK, f"{version}, for sm_{known[0]} to sm_{known[-1]}{here}; kernels are kept in {folder}"
    )


def _failed(name: str, error: PspnetError) -> Check:
    """What is wrong, and after the first full stop what to do about it, as our errors have it."""
    what, _, fix = str(error).partition(". ")
    if not has_nvidia_gpu():
        return Check(TOPIC, name, NOTE, f"{what}; {NO_GPU}")
    return Check(TOPIC, name, MISSING, what, NEEDED_BY, fix or "see nvidia-smi")
