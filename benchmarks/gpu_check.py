"""What needs an NVIDIA GPU, in one command: the tests marked gpu, engines built of our files, and a benchmark.

make gpu-check                                              # docs/results/gpu-NAME.json, NAME being the GPU's
python benchmarks/gpu_check.py                              # the same
python benchmarks/gpu_check.py model.onnx model.int8.onnx   # builds these, for a board without PyTorch

A step for which something is missing is listed as not run, with what is missing. Without a GPU nothing is written, and
the exit code is 2; it is 1 where a step failed.
"""

from __future__ import annotations

import argparse
import os
import re
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pspnet import doctor
from pspnet.errors import PspnetError
from pspnet.files import read_json, write_json
from runtime.bench_report import stamped
from runtime.cuda import open_device
from runtime.tensorrt_library import tensorrt_module

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = "python benchmarks/gpu_check.py"
CHECKPOINT = ROOT / "weights" / "pspnet_mobilenet_v2_camvid11.pt"
IMAGES = ROOT / "demo" / "camvid11_tiny"
CLIP = ROOT / "demo" / "video" / "solidWhiteRight.mp4"
LAST_LINES = 15
STATES = ("passed", "failed", "skipped")
FIGURES = ("name", "engine", "precision", "file_bytes", "sha256", "throughput_fps", "service_ms", "stages_ms")
PROTOCOL = ("rounds", "frames_per_round", "threads", "source")


class Missing(Exception):
    """Why a step is not run: what is missing, in words."""


class Failed(Exception):
    """A command of a step that failed, with its last lines."""


@dataclass(frozen=True)
class Check:
    """What all steps share. folder: for files; models: ONNX files to build, none to make them of the weights.

    engines: those that were built so far. rounds, frames: of the benchmark.
    """

    folder: Path
    models: tuple[Path, ...]
    rounds: int
    frames: int
    engines: list[Path] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps and write the result."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("models", nargs="*", type=Path, metavar="MODEL.onnx", help="default: made of the weights")
    options.add_argument("--rounds", type=int, default=7, help="of the benchmark (default 7)")
    options.add_argument("--frames", type=int, default=30, help="per round (default 30)")
    options.add_argument("--folder", type=Path, default=ROOT / "runs" / "gpu-check", help="default runs/gpu-check")
    options.add_argument("--json", type=Path, help="default docs/results/gpu-NAME.json")
    args = options.parse_args(arguments)
    try:
        gpu = gpu_facts()
        check = Check(args.folder.resolve(), tuple(path.resolve() for path in args.models), args.rounds, args.frames)
        check.folder.mkdir(parents=True, exist_ok=True)
        steps = {name: outcome(name, step, check) for name, step in STEPS.items()}
        target = args.json or ROOT / "docs" / "results" / f"gpu-{slug(gpu['name'])}.json"
        result = {"kind": "gpu-check", "gpu": gpu, "libraries": libraries(), "steps": steps}
        write_json(target, stamped(result, PROGRAM))
    except PspnetError as error:
        print(f"gpu_check.py: {error}", file=sys.stderr)
        return 2
    print(f"\n{gpu['name']}: {target}")
    for name, found in steps.items():
        print(f"  {name:<8}{found['outcome']}" + (f": {found['reason']}" if "reason" in found else ""))
    return int(any(found["outcome"] == "failed" for found in steps.values()))


def gpu_facts() -> dict[str, Any]:
    """The GPU as CUDA names it, or as nvidia-smi does where no CUDA package is installed; PspnetError without one."""
    smi = asked("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").partition("\n")[0]
    name, _, driver = smi.rpartition(", ")
    release = Path("/etc/nv_tegra_release")
    system = {"driver": driver or None, "l4t": release.read_text().splitlines()[0] if release.exists() else None}
    try:
        with open_device() as device:
            return {
                "name": device.name, "compute_capability": "{}.{}".format(*device.compute_capability),
                "integrated": device.integrated, "memory_bytes": device.memory_bytes()[1],
                "cuda": device.driver_version, "backend": device.backend, **system,
            }  # fmt: skip
    except PspnetError as error:
        if name:
            return {"name": name, "not_opened": str(error), **system}
        raise PspnetError(f"no NVIDIA GPU can be used, so nothing was run and nothing written: {error}") from error


def libraries() -> dict[str, str]:
    """Version of each library that a command may use, or why it cannot be used."""
    return {line.name: line.detail for line in doctor.checks() if line.topic == "Libraries"}


def outcome(name: str, step: Callable[[Check], dict[str, Any]], check: Check) -> dict[str, Any]:
    """What a step gives, with "outcome": ran, failed or not run, and the reason of the latter two."""
    print(f"\n== {name}", flush=True)
    try:
        return {"outcome": "ran", **step(check)}
    except Missing as missing:
        print(f"not run: {missing}", flush=True)
        return {"outcome": "not run", "reason": str(missing)}
    except Failed as failure:
        return {"outcome": "failed", "reason": str(failure)}


def gpu_tests(check: Check) -> dict[str, Any]:
    """`pytest -m gpu`: how many passed, and the outcome of each by name. Without PyTorch its tests are skipped."""
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
    return {**counts, "tests": states, **found}


def files_with_gpu_tests() -> list[str]:
    """Only these are collected: other files import more, and a board has less."""
    return [str(path) for path in sorted((ROOT / "tests").glob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]


def state_of(case: ElementTree.Element) -> str:
    """ "passed", "failed" or "skipped" with the reason."""
    for tag, state in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        if (found := case.find(tag)) is not None:
            return f"{state}: {(found.get('message') or '').splitlines()[0] if found.get('message') else tag}"
    return "passed"


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


STEPS: dict[str, Callable[[Check], dict[str, Any]]] = {"tests": gpu_tests, "engines": engines, "bench": bench}
"""In order: a later one uses what an earlier one made."""


def no_torch() -> str:
    """Why PyTorch does not see the GPU, "" where it does."""
    if find_spec("torch") is None:
        return "torch: pip install 'pspnet-edge[train]'"
    import torch

    return "" if torch.cuda.is_available() else f"torch with CUDA: {torch.__version__} sees no GPU"


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


def slug(name: str) -> str:
    """A GPU's name as part of a file's: nvidia-h200."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def asked(*command: str) -> str:
    """What a program prints, "" where it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


if __name__ == "__main__":
    sys.exit(main())
