"""What this machine can do, what each command lacks here, and how to get it."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pspnet.cli import explain_missing

OK, MISSING, NOTE = "ok", "missing", "note"
PYTHONS = ((3, 10), (3, 13))

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "avx512_bf16")
FLAGS_ARM = ("neon", "asimd", "asimddp", "i8mm", "bf16")
"""CPU features that change what INT8 and bfloat16 cost, as Linux spells them."""

OPENCV_WHEELS = (
    "opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless",
)  # fmt: skip
SHADOW = "pip's OpenCV has no GStreamer and shadows JetPack's"
JETSON_GSTREAMER = "apt-get install nvidia-l4t-gstreamer; a container needs --runtime nvidia"


@dataclass(frozen=True)
class Check:
    """One line: mark is ok, missing or note; lacks names the commands that need it, fix the exact remedy."""

    topic: str
    name: str
    mark: str
    detail: str
    lacks: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Library:
    """A package: what to import, its names on the package index, the commands that need it, the extra that has it."""

    module: str
    distributions: tuple[str, ...]
    lacks: str
    extra: str = ""
    needs_gpu: bool = False


LIBRARIES = (
    Library("numpy", ("numpy",), "every command"),
    Library("numba", ("numba",), "evaluate, run, bench, demo"),
    Library("onnx", ("onnx",), "every command on an ONNX file"),
    Library("cv2", OPENCV_WHEELS, "train, evaluate, calibrate, run, bench, report, demo", "opencv"),
    Library("torch", ("torch",), "train, export, demo, and every command on a checkpoint (.pt)", "train"),
    Library("torchvision", ("torchvision",), "train, export, demo, and every command on a checkpoint (.pt)", "train"),
    Library("matplotlib", ("matplotlib",), "train, demo", "train"),
    Library("openvino", ("openvino",), "--engine openvino: fast INT8 on a CPU in evaluate, run, bench, demo", "cpu"),
    Library("onnxruntime", ("onnxruntime", "onnxruntime-gpu"), "export, calibrate, demo, and --engine ort", "cpu"),
    Library("onnxscript", ("onnxscript",), "export, demo", "export"),
    Library("onnxsim", ("onnxsim",), "export, demo", "export"),
    Library("tensorrt", ("tensorrt",), "build, and every command on an engine (.engine)", "tensorrt", needs_gpu=True),
)


def checks() -> list[Check]:
    """Every line of the report, in order; nothing raises, because a broken library is a finding."""
    found = [_library(library) for library in LIBRARIES]
    return [_python(), *_machine_lines(), *_gpu(), *found, *_opencv(), *_gstreamer(), *_engines()]


def report(lines: Sequence[Check]) -> str:
    """The checks as aligned text, and a last line that counts what is missing."""
    width = max(len(line.name) for line in lines)
    parts: list[str] = []
    for topic in dict.fromkeys(line.topic for line in lines):
        parts += ["", topic]
        for line in (line for line in lines if line.topic == topic):
            parts.append(f"  {line.mark:<7}  {line.name:<{width}}  {line.detail}".rstrip())
            parts += [f"{'':{width + 13}}needed by: {line.lacks}"] if line.lacks else []
            parts += [f"{'':{width + 13}}fix: {line.fix}"] if line.fix else []
    missing = [line.name for line in lines if line.mark == MISSING]
    parts += ["", f"missing: {', '.join(missing)}" if missing else "nothing is missing"]
    return "\n".join(parts[1:])


def machine() -> dict[str, Any]:
    """The machine as measurements state it: cpu (name), flags (those that matter), cores, os and python (version)."""
    return {
        "cpu": cpu_name(), "flags": cpu_flags(), "cores": cores(), "os": platform.platform(),
        "python": platform.python_version(),
    }  # fmt: skip


def cores() -> int:
    """Logical processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """Trade name of the CPU, or of the board where an ARM kernel gives the CPU none."""
    if platform.system() == "Darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()
    listed = re.search(r"^(?:model name|Hardware)\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    name = listed[1].strip() if listed else _board()
    return name or platform.processor() or platform.machine() or "unknown"


def cpu_flags() -> list[str]:
    """Those of the kernel's CPU flags that matter for inference; empty where the system does not list them."""
    listed = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    present = set(listed[1].split()) if listed else set()
    return [flag for flag in (*FLAGS, *FLAGS_ARM) if flag in present]


def _python() -> Check:
    supported = PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]
    fix = "" if supported else "make the virtual environment with Python 3.10 to 3.13"
    return Check("Machine", "Python", OK if supported else NOTE, f"{platform.python_version()}, {sys.prefix}", fix=fix)


def _machine_lines() -> list[Check]:
    flags = " ".join(cpu_flags()) or "none of those that speed up INT8 is listed by this system"
    memory = _memory_bytes()
    return [
        Check("Machine", "system", OK, platform.platform()),
        Check("Machine", "CPU", OK, f"{cpu_name()}, {cores()} cores"),
        Check("Machine", "CPU flags", OK if cpu_flags() else NOTE, flags),
        Check("Machine", "memory", OK if memory else NOTE, f"{memory / 2**30:.1f} GiB" if memory else "unknown"),
    ]


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def _gpu() -> list[Check]:
    if is_jetson():
        return [Check("Machine", "GPU", OK, _board())]
    names = _nvidia()
    if not names:
        return [Check("Machine", "GPU", NOTE, "no NVIDIA GPU is seen: engines and CUDA stay out of reach here")]
    return [Check("Machine", "GPU", OK, name) for name in names]


def is_jetson() -> bool:
    """True on an NVIDIA Jetson, by the board's name."""
    return any(word in _board() for word in ("Jetson", "Tegra", "Orin"))


def has_nvidia_gpu() -> bool:
    """Whether nvidia-smi lists a GPU, or this is a Jetson."""
    return bool(_nvidia()) or is_jetson()


def _board() -> str:
    return _text("/proc/device-tree/model").strip("\0\n ")


@functools.cache
def _nvidia() -> tuple[str, ...]:
    rows = _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").splitlines()
    return tuple("{}, driver {}".format(*row.rsplit(", ", 1)) for row in rows if ", " in row)


def _library(library: Library) -> Check:
    version = _version(library.distributions)
    try:
        module = importlib.import_module(library.module)
        return Check("Libraries", library.module, OK, version or str(getattr(module, "__version__", "")))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a library may fail to load in any way, even by SystemExit
        cause = error
    absent = isinstance(cause, ModuleNotFoundError) and library.module.startswith(cause.name or "?") and not version
    reason = " ".join(str(cause).split())[:200] or type(cause).__name__
    detail = "not installed" if absent else f"{version} cannot be imported: {reason}".strip()
    if library.needs_gpu and not has_nvidia_gpu():
        return Check("Libraries", library.module, NOTE, f"{detail}; of use on an NVIDIA GPU only", library.lacks)
    return Check("Libraries", library.module, MISSING, detail, library.lacks, _fix(library, cause))


def _fix(library: Library, cause: BaseException) -> str:
    known = explain_missing(cause) if isinstance(cause, ImportError) else None
    if known and "apt-get" in known:
        return known[known.index("apt-get") :]
    if is_jetson() and library.module in ("cv2", "tensorrt"):
        return (
            "it comes with JetPack (apt-get install nvidia-jetpack): make the environment with --system-site-packages"
        )
    if is_jetson() and library.module in ("torch", "torchvision"):
        return "install NVIDIA's build for your JetPack; running ONNX files and engines needs no torch"
    return f"pip install 'pspnet-edge[{library.extra}]'" if library.extra else "pip install pspnet-edge"


def _opencv() -> list[Check]:
    cv2 = _loaded("cv2")
    if cv2 is None:
        return []
    wheel = next((name for name in OPENCV_WHEELS if _version((name,))), "")
    built = {name: _build_has(cv2.getBuildInformation(), name) for name in ("FFMPEG", "GStreamer", "v4l/v4l2")}
    shadow = f"{SHADOW} ({wheel})" if wheel else "this build has none"
    lines = []
    for name, key, use, lacks in (
        ("FFmpeg", "FFMPEG", "reads clips and rtsp:// cameras", "run and bench on clips, rtsp:// cameras"),
        ("GStreamer", "GStreamer", "built in; cameras use GStreamer's own libraries", ""),
        ("V4L2", "v4l/v4l2", "reads v4l2:// cameras", "run v4l2://"),
    ):
        if built[key]:
            lines.append(Check("OpenCV", name, OK, use))
        elif name == "FFmpeg":
            lines.append(
                Check("OpenCV", name, MISSING, "this build has none", lacks, "pip install 'pspnet-edge[opencv]'")
            )
        elif name == "GStreamer":
            lines.append(Check("OpenCV", name, NOTE, f"{shadow}; cameras use GStreamer's own libraries instead"))
        else:
            lines.append(Check("OpenCV", name, NOTE, "this build has none", lacks))
    return lines


def _gstreamer() -> list[Check]:
    """GStreamer's own libraries, and the elements of a Jetson."""
    try:
        library = ctypes.CDLL("libgstreamer-1.0.so.0")
    except OSError:
        mark, fix = (MISSING, JETSON_GSTREAMER) if is_jetson() else (NOTE, "apt-get install gstreamer1.0-plugins-good")
        return [Check("Cameras", "GStreamer", mark, "not installed", "run csi:// and gst://", fix)]
    library.gst_version_string.restype = ctypes.c_char_p
    library.gst_element_factory_find.restype = ctypes.c_void_p
    library.gst_init_check(None, None, None)
    lines = [Check("Cameras", "GStreamer", OK, library.gst_version_string().decode().removeprefix("GStreamer "))]
    for element, lacks in (("nvarguscamerasrc", "run csi://"), ("nvv4l2decoder", "rtsp:// decoded in hardware")):
        if library.gst_element_factory_find(element.encode()):
            lines.append(Check("Cameras", element, OK, f"for {lacks}"))
        elif is_jetson():
            lines.append(Check("Cameras", element, MISSING, "not installed", lacks, JETSON_GSTREAMER))
    return lines


def _build_has(information: str, name: str) -> bool:
    return bool(re.search(rf"^\s*{re.escape(name)}:\s*YES", information, re.MULTILINE))


def _engines() -> list[Check]:
    asked: tuple[tuple[str, str, Callable[[Any], Sequence[str]]], ...] = (
        ("openvino", "devices", lambda module: module.Core().available_devices),
        ("onnxruntime", "providers", lambda module: module.get_available_providers()),
        ("torch", "CUDA", lambda module: ["available" if module.cuda.is_available() else "not available"]),
    )
    lines = []
    for name, what, ask in asked:
        if (module := _loaded(name)) is None:
            continue
        try:
            lines.append(Check("Engines", name, OK, f"{what}: {', '.join(ask(module)) or 'none'}"))
        except Exception as error:  # an engine without its driver may raise anything
            lines.append(Check("Engines", name, NOTE, f"{what} cannot be asked: {' '.join(str(error).split())[:120]}"))
    return lines


def _loaded(module: str) -> Any:
    return sys.modules.get(module)


def _version(distributions: Sequence[str]) -> str:
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
