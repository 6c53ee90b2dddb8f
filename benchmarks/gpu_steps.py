"""The steps of gpu_check.py: each runs commands of this repository, and gives what they found."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pspnet.errors import PspnetError
from pspnet.files import read_json
from runtime.cuda import open_device
from runtime.kernel_cache import check_known
from runtime.nvrtc import open_nvrtc
from runtime.tensorrt_library import tensorrt_module

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "weights" / "pspnet_mobilenet_v2_camvid11.pt"
IMAGES = ROOT / "demo" / "camvid11_tiny"
CLIP = ROOT / "demo" / "video" / "solidWhiteRight.mp4"
LAST_LINES = 15
STATES = ("passed", "failed", "skipped")
FIGURES = ("name", "engine", "precision", "file_bytes", "sha256", "throughput_fps", "service_ms", "stages_ms")
PROTOCOL = ("rounds", "frames_per_round", "threads", "source")
STAMPS = ("kind", "created", "version", "machine", "gpu")
"""What a benchmark's file says of itself, and gpu_check.py of them all."""
CLAIMS = {
    "kernels equal the CPU's path": ("test_runtime_kernels_gpu.",),
    "frames have the labels of float32": ("test_labels_in_every_format_are_those_of_float32",),
    "10,000 frames without growth of device memory": ("test_device_memory_does_not_grow",),
    "capture through PyCUDA's streams": ("test_a_capture_runs[pycuda]", "single_launches_give[pycuda]"),
    "capture through cuda-bindings' streams": ("test_a_capture_runs[cuda-b", "single_launches_give[cuda-b"),
}
"""What only a GPU can show -> parts of the names of the tests that show it."""


class Missing(Exception):
    """Why a step is not run: what is missing, in words."""


class Failed(Exception):
    """A command of a step that failed, with its last lines."""


@dataclass(frozen=True)
class Check:
    """What all steps share. folder: for files; models: ONNX files to build, none to make them of the weights.

    engines: those that were built so far. rounds, frames: of the benchmarks.
    """

    folder: Path
    models: tuple[Path, ...]
    rounds: int
    frames: int
    engines: list[Path] = field(default_factory=list)


def gpu_tests(check: Check) -> dict[str, Any]:
    """`pytest -m gpu`: how many passed, what that shows, and the outcome of each by name.

    Without PyTorch its tests are skipped.
    """
    if find_spec("pytest") is None:
        raise Missing("pytest: pip install 'pspnet-edge[dev]'")
    report = check.folder / "tests.xml"
    report.unlink(missing_ok=True)
    found: dict[str, Any] = {"command": "pytest -m gpu"}
    try:
        run(sys.executable, "-m", "pytest", "-q", "-m", "gpu", f"--junitxml={report}", *files_with_gpu_tests())
    except Failed as failure:
        if not report.exists():
            raise
        found |= {"outcome": "failed", "reason": str(failure)}
    cases = list(ElementTree.parse(report).iter("testcase"))
    states = {f"{case.get('classname')}.{case.get('name')}": state_of(case) for case in cases}
    counts = {state: sum(each.startswith(state) for each in states.values()) for state in STATES}
    if states and counts["skipped"] == len(states):
        raise Missing(f"a GPU for the tests, all of which say: {next(iter(states.values()))}")
    shown = {claim: shown_by(states, parts) for claim, parts in CLAIMS.items()}
    for claim, state in shown.items():
        print(f"{claim}: {state}", flush=True)
    return {**counts, "shown": shown, "tests": states, **found}


def files_with_gpu_tests() -> list[str]:
    """Only these are collected: other files import more, and a board has less."""
    return [str(path) for path in sorted((ROOT / "tests").glob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]


def state_of(case: ElementTree.Element) -> str:
    """ "passed", "failed" or "skipped" with the reason."""
    for tag, state in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        if (found := case.find(tag)) is not None:
            return f"{state}: {(found.get('message') or '').splitlines()[0] if found.get('message') else tag}"
    return "passed"


def shown_by(states: dict[str, str], parts: Sequence[str]) -> str:
    """ "passed" where each part names a test that ran and none that failed, else the first outcome that is other."""
    outcomes = []
    for part in parts:
        named = [state for name, state in states.items() if part in name]
        ran = [state for state in named if not state.startswith("skipped")]
        outcomes += ran or named[:1] or [f"no test is named {part}"]
    return next((outcome for outcome in outcomes if outcome != "passed"), "passed")


def kernels(check: Check) -> dict[str, Any]:
    """benchmarks/kernel_floor.py: each kernel in the replay of a graph, against the least time that it can take."""
    need_kernels()
    found = script(check, "kernel_floor")
    over = [
        f"{line['name']} takes {line['ratio']:.2f} times its floor, and may take {line['limit']:g}"
        for line in found["stages"] if line["limit"] and line["ratio"] and line["ratio"] > line["limit"]
    ]  # fmt: skip
    return found | missed(over)


def frame(check: Check) -> dict[str, Any]:
    """benchmarks/frame_cost.py: what a frame costs outside the network."""
    need_kernels()
    found = script(check, "frame_cost")
    over = [
        f"a frame in {line['format']} costs {line['frame_ms']['median']:.3f} ms, and may cost {line['limit_ms']:g}"
        for line in found["frames"] if line["limit_ms"] and line["frame_ms"]["median"] > line["limit_ms"]
    ]  # fmt: skip
    return found | missed(over)


def torch_network(check: Check) -> dict[str, Any]:
    """benchmarks/torch_floor.py: a float16 network on PyTorch, folded against naive head and against the floor."""
    if reason := no_torch():
        raise Missing(reason)
    if absent := [name for name in ("onnx", "onnxruntime", "cv2") if find_spec(name) is None]:
        raise Missing(f"{', '.join(absent)}: pip install 'pspnet-edge[export]'")
    return script(check, "torch_floor")


def engines(check: Check) -> dict[str, Any]:
    """`pspnet build` of each file, where every engine is compared with its ONNX file on real pictures."""
    try:
        tensorrt_module()
    except PspnetError as error:
        raise Missing(str(error)) from error
    if not any(map(find_spec, ("openvino", "onnxruntime"))):
        raise Missing("openvino or onnxruntime, to compare with: pip install onnxruntime")
    built = {}
    for model in check.models or exported(check):
        engine, report = (check.folder / model.with_suffix(suffix).name for suffix in (".engine", ".build.json"))
        written = ("-o", str(engine), "--json", str(report))
        command = pspnet("build", str(model), *written, "--data", str(IMAGES), "--images", "4")
        check.engines.append(engine)
        built[model.name] = {"command": command, **read_json(report, "report")}
    return {"engines": built}


def exported(check: Check) -> tuple[Path, ...]:
    """The shipped weights as ONNX files, float32 and INT8."""
    if find_spec("torch") is None:
        raise Missing("torch, to export the shipped weights: give ONNX files of another machine as arguments")
    model, int8 = check.folder / "model.onnx", check.folder / "model.int8.onnx"
    pspnet("export", str(CHECKPOINT), "-o", str(model))
    pspnet("calibrate", str(model), "-o", str(int8), "--data", str(IMAGES), "--images", "8", "--no-check")
    return model, int8


def bench(check: Check) -> dict[str, Any]:
    """`pspnet bench` of the engines that were built, and of the shipped weights where PyTorch sees the GPU."""
    reason = no_torch()
    artefacts = [*check.engines, *([] if reason else [CHECKPOINT])]
    if not artefacts:
        raise Missing(f"an engine to measure, and for the weights {reason}")
    figures = check.folder / "bench.json"
    command = pspnet(
        "bench", *map(str, artefacts), "--data", str(IMAGES), "--split", "test", "--source", str(CLIP), "--rounds",
        str(check.rounds), "--frames", str(check.frames), "--json", str(figures),
    )  # fmt: skip
    result = read_json(figures, "benchmark")
    rows = [{name: row[name] for name in FIGURES} | {"miou": row["scores"]["miou"]} for row in result["candidates"]]
    return {"command": command, **{name: result[name] for name in PROTOCOL}, "candidates": rows}


STEPS: dict[str, Callable[[Check], dict[str, Any]]] = {
    "tests": gpu_tests, "kernels": kernels, "frame": frame, "torch": torch_network, "engines": engines, "bench": bench,
}  # fmt: skip
"""In order: a later one uses what an earlier one made."""


def need_kernels() -> None:
    """Missing where no package for CUDA opens the GPU, or NVRTC does not compile for it."""
    if find_spec("cv2") is None:
        raise Missing("cv2: pip install 'pspnet-edge[opencv]'")
    try:
        with open_device() as device:
            check_known(device.compute_capability, open_nvrtc(device.driver_version))
    except PspnetError as error:
        raise Missing(str(error)) from error


def no_torch() -> str:
    """Why PyTorch does not see the GPU, "" where it does."""
    if find_spec("torch") is None:
        return "torch: pip install 'pspnet-edge[train]'"
    import torch

    return "" if torch.cuda.is_available() else f"torch with CUDA: {torch.__version__} sees no GPU"


def missed(limits: Sequence[str]) -> dict[str, Any]:
    """The outcome of a step whose figures are not within their limits; nothing where all are."""
    return {"outcome": "failed", "reason": "; ".join(limits)} if limits else {}


def script(check: Check, name: str) -> dict[str, Any]:
    """Run a benchmark of this folder; what it found, without its stamps."""
    figures = check.folder / f"{name}.json"
    figures.unlink(missing_ok=True)
    program = ROOT / "benchmarks" / f"{name}.py"
    run(sys.executable, str(program), "--rounds", str(check.rounds), "--json", str(figures))
    return {key: value for key, value in read_json(figures, "figures").items() if key not in STAMPS}


def pspnet(*arguments: str) -> str:
    """Run a command of pspnet here, and return it with paths as a reader would type them."""
    run(sys.executable, "-m", "pspnet", *arguments)
    return shlex.join(["pspnet", *(argument.removeprefix(f"{ROOT}/") for argument in arguments)])


def run(*command: str) -> None:
    """Run a command in the repository with its output shown; Failed with its last lines."""
    print(f"$ {shlex.join(['python', *command[1:]])}", flush=True)
    last: deque[str] = deque(maxlen=LAST_LINES)
    settings: dict[str, Any] = {"cwd": ROOT, "env": {**os.environ, "TQDM_DISABLE": "1"}, "text": True}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **settings) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            last.append(line.rstrip())
    if process.returncode:
        raise Failed("\n".join(last) or f"exit code {process.returncode}")
