"""`pspnet demo`: fine-tune, export, calibrate, measure and report on real driving images, each step by its own command.

A step whose inputs, settings and code are those of its last finished run is reused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pspnet.errors import PspnetError
from pspnet.files import read_json, sha256_of, write_json

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "demo" / "camvid11_tiny"
CLIP = ROOT / "demo" / "video" / "solidWhiteRight.mp4"
CHECKPOINT = ROOT / "weights" / "pspnet_mobilenet_v2_camvid11.pt"
INTERRUPTED = 130  # exit code of a command that was stopped with Ctrl-C
PATIENCE_S = 3.0
PACKAGES = ("pspnet", "export", "calibration", "runtime")


@dataclass(frozen=True)
class Step:
    """One command. inputs: files and folders that decide the result; outputs: what must exist for it to be reused."""

    title: str
    arguments: tuple[str, ...]
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]


def demo(output: Path) -> None:
    """Make `output`/report.html and overlay.webm from the images, the clip and the weights of this repository."""
    for needed in (IMAGES, CLIP, CHECKPOINT):
        if not needed.exists():
            raise PspnetError(f"{needed} is missing: `pspnet demo` runs in a clone of the repository. Clone it again")
    stamps_path = output / "steps.json"
    if output.exists() and not stamps_path.exists() and (not output.is_dir() or any(output.iterdir())):
        raise PspnetError(f"{output} holds files that are not the demo's: give a new folder with -o")
    stamps = read_json(stamps_path, "demo state") if stamps_path.exists() else {}
    if not isinstance(stamps, dict):
        raise PspnetError(f"{stamps_path} is damaged: remove it, and every step runs again")
    steps = _steps(output)
    for number, step in enumerate(steps, 1):
        key, known = _key(step), stamps.get(step.title, {})
        same = known.get("key") == key
        if same and known.get("done") and all(path.exists() for path in step.outputs):
            print(f"[{number}/{len(steps)}] {step.title}: reused, nothing it depends on has changed", flush=True)
            continue
        print(f"[{number}/{len(steps)}] {step.title}\n$ pspnet {shlex.join(step.arguments)}", flush=True)
        stamps[step.title] = {"key": key, "done": False}
        write_json(stamps_path, stamps)
        _run(step, resume=same)
        stamps[step.title]["done"] = True
        write_json(stamps_path, stamps)
    print(f"\nOpen {output / 'report.html'} in a browser; {output / 'overlay.webm'} is the clip with its labels.")
    print(tensorrt_line(output / "model.int8.onnx"))


def tensorrt_line(model: Path) -> str:
    """The command that builds and measures a TensorRT engine here, or what is missing for it."""
    missing = []
    if find_spec("pycuda") is None and find_spec("cuda") is None:
        missing.append("pycuda or cuda-bindings (pip install cuda-bindings)")
    if find_spec("tensorrt") is None:
        missing.append("the tensorrt package (on a Jetson: JetPack's, in a venv with --system-site-packages)")
    if not (shutil.which("nvidia-smi") or Path("/dev/nvhost-gpu").exists() or Path("/dev/nvgpu").exists()):
        missing.append("an NVIDIA GPU with its driver")
    if missing:
        return f"No TensorRT engine was built: this machine lacks {' and '.join(missing)}."
    return f"Build and measure a TensorRT engine: pspnet build {shlex.quote(str(model))} --data {_shown(IMAGES)}"


def _steps(output: Path) -> list[Step]:
    trained, model, int8 = output / "train" / "best.pt", output / "model.onnx", output / "model.int8.onnx"
    figures, page, video = output / "bench.json", output / "report.html", output / "overlay.webm"
    pictures = output / "bench.pictures"
    data = ("--data", _shown(IMAGES), "--dataset", "camvid11")
    return [
        Step(
            "fine-tune the shipped PSPNet on 8 images",
            ("train", *data, "--init", _shown(CHECKPOINT), "-o", _shown(trained.parent), "--epochs", "12",
             "--batch", "4", "--lr", "0.0005", "--head-lr", "1", "--crop", "320", "--workers", "0"),
            (IMAGES, CHECKPOINT), (trained,),
        ),
        Step(
            "export to ONNX and prove it equal",
            ("export", _shown(trained), "-o", _shown(model), *data), (trained, IMAGES), (model,),
        ),
        Step(
            "calibrate INT8",
            ("calibrate", _shown(model), "-o", _shown(int8), *data, "--images", "8"), (model, IMAGES), (int8,),
        ),
        Step(
            "run INT8 on the clip",
            ("run", _shown(int8), _shown(CLIP), "--video", _shown(video)), (int8, CLIP), (video,),
        ),
        Step(
            "measure FPS on the clip and mIoU on 5 test images",
            ("bench", _shown(model), _shown(int8), _shown(trained), "--engine", "openvino,torch", *data,
             "--split", "test", "--source", _shown(CLIP), "--frames", "15", "--pictures", "3",
             "--json", _shown(figures)),
            (model, int8, trained, IMAGES, CLIP), (figures, pictures),
        ),
        Step("write the report", ("report", _shown(figures), "-o", _shown(page)), (figures, pictures), (page,)),
    ]  # fmt: skip


def _run(step: Step, resume: bool) -> None:
    arguments = list(step.arguments)
    if step.arguments[0] == "train":
        folder = step.outputs[0].parent
        if resume and (folder / "last.pt").exists():
            arguments.append("--resume")
        else:
            for name in ("best.pt", "last.pt", "metrics.csv", "curves.png"):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    process = subprocess.Popen([sys.executable, "-m", "pspnet", *arguments], env=_environment())
    try:
        code = process.wait()
    except KeyboardInterrupt:
        _wait_for_clean_up(process)
        raise
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise PspnetError(
            f"the step `{step.title}` failed with exit code {code}, see above. `pspnet demo` goes on from there"
        )


def _wait_for_clean_up(process: subprocess.Popen) -> None:
    """Let an interrupted command remove its unfinished files. A terminal's Ctrl-C has reached it, a lone kill not."""
    try:
        process.wait(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait()


def _environment() -> dict[str, str]:
    """The subprocess imports this very checkout, installed or not."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _key(step: Step) -> str:
    """Hash of the command, the code and the contents of every input."""
    code = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    files = [*code, *(file for path in step.inputs for file in _files(path))]
    return hashlib.sha256(json.dumps([step.arguments, [sha256_of(file) for file in files]]).encode()).hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path] if path.exists() else []


def _shown(path: Path) -> str:
    """The path as a user would type it here."""
    try:
        return os.path.relpath(path)
    except ValueError:  # another drive on Windows
        return str(path)
