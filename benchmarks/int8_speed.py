"""Times INT8 against FP32 in OpenVINO, frame to labels, for resnet18 and mobilenet_v2 at 512x1024, in one run.

python benchmarks/int8_speed.py --json docs/results/int8-speed.json

Speed does not depend on what the weights are, so they are random; ranges come from the repository's own images.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from calibration.calibrate import calibrate
from export.exporter import export
from pspnet.checkpoint import save_checkpoint
from pspnet.dataset import open_dataset
from pspnet.errors import PspnetError
from pspnet.files import write_json
from pspnet.initialise import new_model
from pspnet.spec import size_from_text
from runtime.bench_report import print_table, stamped
from runtime.benchmark import benchmark, open_candidates

ROOT = Path(__file__).resolve().parents[1]
CLIP = ROOT / "demo" / "video" / "solidWhiteRight.mp4"
IMAGES = ROOT / "demo" / "camvid11_tiny"


def main() -> int:
    """Print a table for each backbone; the ratio is FP32's time over INT8's, round by round."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--backbones", default="resnet18,mobilenet_v2")
    options.add_argument("--size", default="512x1024", help="HxW of the network's input")
    options.add_argument("--output-stride", type=int, default=8)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--frames", type=int, default=5)
    options.add_argument("--threads", type=int, default=None)
    options.add_argument("--json", help="write the figures here")
    args = options.parse_args()
    try:
        results = {name: measured(name, args) for name in args.backbones.split(",")}
        if args.json:
            write_json(args.json, results)
    except PspnetError as error:
        print(f"int8_speed.py: {error}", file=sys.stderr)
        return 2
    return 0


def measured(backbone: str, args: argparse.Namespace) -> dict:
    """The stamped benchmark of one backbone in both precisions."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        fp32, int8 = Path(folder) / f"{backbone}.onnx", Path(folder) / f"{backbone}.int8.onnx"
        export(random_checkpoint(backbone, args, Path(folder)), fp32)
        calibrate(fp32, int8, IMAGES, count=8)
        candidates, threads = open_candidates(stack, [fp32, int8], "openvino", args.threads, None)
        result = stamped(
            benchmark(candidates, str(CLIP), args.rounds, args.frames, threads), "python benchmarks/int8_speed.py"
        )
    print_table(result)
    return result


def random_checkpoint(backbone: str, args: argparse.Namespace, folder: Path) -> Path:
    """A seeded network whose batch norm has seen a few noise pictures, so that its activations have sane ranges."""
    dataset = open_dataset("camvid11", IMAGES, "train")
    size = size_from_text(args.size)
    spec, model = new_model(dataset, backbone, args.output_stride, (1, 2, 3, 6), size, "stretch", False, "none", 0)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(2, 3, 192, 192))
    save_checkpoint(folder / f"{backbone}.pt", spec, model.state_dict())
    return folder / f"{backbone}.pt"


if __name__ == "__main__":
    sys.exit(main())
