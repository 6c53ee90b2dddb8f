"""Times INT8 in OpenVINO, frame to labels, against FP32 in OpenVINO, ONNX Runtime and eager PyTorch, in one run.

python benchmarks/int8_speed.py --json docs/results/int8-speed-512x1024.json

Speed does not depend on what the weights are, so they are random; ranges come from the repository's own images. PyTorch
runs both in channels_last and contiguous: the faster of the two counts.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from calibration.calibrate import HeldOutChoice, calibrate
from calibration.share import int8_share, text_of
from export.exporter import export
from pspnet.checkpoint import load_model, save_checkpoint
from pspnet.dataset import open_dataset
from pspnet.errors import PspnetError
from pspnet.files import write_json
from pspnet.initialise import new_model
from pspnet.spec import size_from_text
from runtime.bench_report import print_table, stamped
from runtime.benchmark import Candidate, benchmark, median_interval
from runtime.runner import Runner, open_runner
from runtime.segmenter import CpuSegmenter
from runtime.torch_runner import TorchRunner

ROOT = Path(__file__).resolve().parents[1]
CLIP = ROOT / "demo" / "video" / "solidWhiteRight.mp4"
IMAGES = ROOT / "demo" / "camvid11_tiny"
PROGRAM = "python benchmarks/int8_speed.py"


class Contiguous(nn.Module):
    """A network that gets its input in NCHW order, whatever order the caller has it in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) float32 -> the network's outputs."""
        return self.model(images.contiguous())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each backbone; ratios are formed round by round."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--backbones", default="resnet18,resnet50")
    options.add_argument("--size", default="512x1024", help="HxW of the network's input")
    options.add_argument("--output-stride", type=int, default=8)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--frames", type=int, default=2, help="per round and candidate (default 2)")
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--json", help="write the figures here")
    args = options.parse_args(arguments)
    try:
        results = {name: measured(name, args) for name in args.backbones.split(",")}
        if args.json:
            write_json(args.json, results)
    except PspnetError as error:
        print(f"int8_speed.py: {error}", file=sys.stderr)
        return 2
    return 0


def measured(backbone: str, args: argparse.Namespace) -> dict[str, Any]:
    """The stamped benchmark of one backbone, with INT8's share and what it gains on every other candidate."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        fp32, int8 = Path(folder) / f"{backbone}.onnx", Path(folder) / f"{backbone}.int8.onnx"
        checkpoint = random_checkpoint(backbone, args, Path(folder))
        export(checkpoint, fp32)
        calibrate(fp32, int8, IMAGES, count=4, held_out=HeldOutChoice(check=False))
        runners: list[tuple[Path, Runner]] = [
            (fp32, open_runner(fp32, "openvino", args.threads)), (int8, open_runner(int8, "openvino", args.threads)),
            (fp32, open_runner(fp32, "ort", args.threads)),
            *((checkpoint, runner) for runner in eager(checkpoint, args.threads)),
        ]  # fmt: skip
        candidates = [Candidate(path, stack.enter_context(runner), CpuSegmenter(runner)) for path, runner in runners]
        result = benchmark(candidates, str(CLIP), args.rounds, args.frames, args.threads)
        share = int8_share(int8, "openvino", args.threads)
    result = stamped({**result, "int8_share": share.facts(), "int8_gains": gains(candidates, candidates[1])}, PROGRAM)
    print_table(result)
    print(text_of("openvino", share.facts()))
    for name, gain in result["int8_gains"].items():
        print(f"INT8 is {gain['median']:.2f} times ({gain['low']:.2f} to {gain['high']:.2f}) as fast as {name}")
    return result


def eager(checkpoint: Path, threads: int) -> list[TorchRunner]:
    """The checkpoint on PyTorch's CPU kernels in both memory formats; precision tells which."""
    torch.set_num_threads(threads)
    spec, model = load_model(checkpoint)
    runners = [TorchRunner(Contiguous(model), spec)]
    runners.append(TorchRunner(load_model(checkpoint)[1].to(memory_format=torch.channels_last), spec))
    for runner, order in zip(runners, ("contiguous", "channels_last"), strict=True):
        runner.name, runner.precision = str(checkpoint), f"fp32, {order}"
    return runners


def gains(candidates: Sequence[Candidate], fast: Candidate) -> dict[str, dict[str, float]]:
    """By name, how many times the throughput of every other candidate `fast` has: median and interval over rounds."""
    return {
        other.name: median_interval(np.divide(fast.rounds_fps, other.rounds_fps).tolist())
        for other in candidates
        if other is not fast
    }


def random_checkpoint(backbone: str, args: argparse.Namespace, folder: Path) -> Path:
    """A seeded network whose batch norm has seen a few noise pictures, so that its activations have sane ranges."""
    dataset = open_dataset("camvid11", IMAGES, "train")
    size = size_from_text(args.size)
    with contextlib.redirect_stdout(io.StringIO()):  # what was loaded: nothing
        spec, model = new_model(dataset, backbone, args.output_stride, (1, 2, 3, 6), size, "stretch", False, "none", 0)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(2, 3, 192, 192))
    save_checkpoint(folder / f"{backbone}.pt", spec, model.state_dict())
    return folder / f"{backbone}.pt"


if __name__ == "__main__":
    sys.exit(main())
