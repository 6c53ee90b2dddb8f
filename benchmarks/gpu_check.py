"""What needs an NVIDIA GPU, in one command: the tests marked gpu, our kernels, a frame, networks, engines, a benchmark.

make gpu-check                                              # docs/results/gpu-NAME.json, NAME being the GPU's
python benchmarks/gpu_check.py                              # the same
python benchmarks/gpu_check.py model.onnx model.int8.onnx   # builds these, for a board without PyTorch

A step for which something is missing is listed as not run, with what is missing; the file is written after each step.
Without a GPU nothing is written, and the exit code is 2; it is 1 where a step failed or missed a limit.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu_steps import ROOT, STEPS, Check, Failed, Missing
from pspnet import doctor
from pspnet.errors import PspnetError
from pspnet.files import write_json
from runtime.bench_report import stamped
from runtime.cuda import open_device

PROGRAM = "python benchmarks/gpu_check.py"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps and write the result."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("models", nargs="*", type=Path, metavar="MODEL.onnx", help="default: made of the weights")
    options.add_argument("--rounds", type=int, default=7, help="of every benchmark (default 7)")
    options.add_argument("--frames", type=int, default=30, help="per round of `pspnet bench` (default 30)")
    options.add_argument("--folder", type=Path, default=ROOT / "runs" / "gpu-check", help="default runs/gpu-check")
    options.add_argument("--json", type=Path, help="default docs/results/gpu-NAME.json")
    args = options.parse_args(arguments)
    try:
        gpu = gpu_facts()
        check = Check(args.folder.resolve(), tuple(path.resolve() for path in args.models), args.rounds, args.frames)
        check.folder.mkdir(parents=True, exist_ok=True)
        target = args.json or ROOT / "docs" / "results" / f"gpu-{slug(gpu['name'])}.json"
        steps: dict[str, dict[str, Any]] = {}
        result = stamped({"kind": "gpu-check", "gpu": gpu, "libraries": libraries(), "steps": steps}, PROGRAM)
        for name, step in STEPS.items():
            steps[name] = outcome(name, step, check)
            write_json(target, result)  # what is through is not lost with a machine that was lent for minutes
    except PspnetError as error:
        print(f"gpu_check.py: {error}", file=sys.stderr)
        return 2
    print(f"\n{gpu['name']}: {target}")
    for name, found in steps.items():
        reason = f": {found['reason']}" if "reason" in found else ""
        print(f"  {name:<8}{found['outcome']} ({found['seconds']:.0f} s){reason}")
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
    """What a step gives, with "outcome": ran, failed or not run, the reason of the latter two, and its seconds."""
    print(f"\n== {name}", flush=True)
    start = time.monotonic()
    try:
        found = {"outcome": "ran", **step(check)}
    except Missing as missing:
        print(f"not run: {missing}", flush=True)
        found = {"outcome": "not run", "reason": str(missing)}
    except Failed as failure:
        found = {"outcome": "failed", "reason": str(failure)}
    return {**found, "seconds": round(time.monotonic() - start, 1)}


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
