"""CUDA's part of `pspnet doctor`: the driver, the Python packages for it, and the GPUs as they open."""

from __future__ import annotations

import importlib.metadata
from types import ModuleType

from pspnet.doctor import MISSING, NOTE, OK, Check, has_nvidia_gpu
from pspnet.errors import PspnetError

TOPIC = "CUDA"
NEEDED_BY = "build, and every command on a TensorRT engine (.engine)"
NO_GPU = "of use on an NVIDIA GPU only"


def checks() -> list[Check]:
    """A line for the driver, one for each backend, one for each GPU that opens or says why it does not."""
    try:
        from runtime import cuda_backend, cuda_driver
    except ImportError:  # of numpy, which has its own line
        return []
    lines = _backends(cuda_backend)
    try:
        cuda_driver.driver_library()
    except PspnetError as error:
        return [_failed("driver", error), *lines]
    return [Check(TOPIC, "driver", OK, "libcuda.so.1 can be loaded"), *lines, *_devices()]


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


def _devices() -> list[Check]:
    from runtime.cuda import backend_name, device_count, open_device

    lines = []
    try:
        if backend_name() is None:
            return []
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
    except PspnetError as error:
        lines.append(_failed(f"GPU {len(lines)}", error))
    return lines


def _failed(name: str, error: PspnetError) -> Check:
    """What is wrong, and after the first full stop what to do about it, as our errors have it."""
    what, _, fix = str(error).partition(". ")
    if not has_nvidia_gpu():
        return Check(TOPIC, name, NOTE, f"{what}; {NO_GPU}")
    return Check(TOPIC, name, MISSING, what, NEEDED_BY, fix or "see nvidia-smi")
