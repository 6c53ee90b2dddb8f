"""Times labels without full-size logits against ONNX Runtime's Resize + ArgMax and PyTorch's interpolate + argmax.

python benchmarks/labels.py --artefact model.onnx --image photo.jpg      logits of a trained network
python benchmarks/labels.py                                              smooth random logits
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parents[1]))

from pspnet.errors import PspnetError
from pspnet.files import write_json
from pspnet.geometry import Geometry, network_input
from pspnet.image import read_image
from pspnet.spec import size_from_text
from runtime import labels
from runtime.bench_report import stamped
from runtime.runner import open_runner

Labels = Callable[[], np.ndarray]
ROUNDS, CALLS = 9, 10  # a round times every candidate in turn, the median of this many calls each


def main() -> int:
    """Print the table; write it to --json too."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--artefact", help="checkpoint or ONNX file whose logits are taken (needs --image)")
    options.add_argument("--image", help="picture for the artefact")
    options.add_argument("--size", default="512x1024", help="HxW of the labels")
    options.add_argument("--threads", type=int, default=os.cpu_count(), help="of the others; ours takes one")
    options.add_argument("--json", help="write the figures here")
    args = options.parse_args()
    if bool(args.artefact) != bool(args.image):
        options.error("--artefact and --image belong together")
    try:
        logits, align_corners = trained_logits(args) if args.artefact else (smooth_logits(), False)
        result = compare(logits, size_from_text(args.size), align_corners, args.threads)
        result["logits_of"] = (
            f"{Path(args.artefact).name} on {Path(args.image).name}" if args.artefact else "smooth noise"
        )
        result = stamped({"kind": "labels", **result}, "python benchmarks/labels.py")
        show(result)
        if args.json:
            write_json(args.json, result)
    except (PspnetError, ValueError) as error:
        print(f"benchmarks/labels.py: {error}", file=sys.stderr)
        return 2
    return 0


def trained_logits(args: argparse.Namespace) -> tuple[np.ndarray, bool]:
    """Logits (C, h, w) float32 of the artefact on the picture, and the model's align_corners."""
    with open_runner(args.artefact, threads=args.threads) as runner:
        image, spec = read_image(args.image), runner.spec
        geometry = Geometry((image.shape[0], image.shape[1]), spec.input_size, spec.fit)
        return np.array(runner.infer(network_input(image, geometry, spec)[None])[0]), spec.align_corners


def smooth_logits() -> np.ndarray:
    """(19, 64, 128) float32: noise smoothed over four cells, seeded."""
    noise = np.random.default_rng(0).standard_normal((19, 64, 128)).astype(np.float32)
    return np.stack([cv2.GaussianBlur(plane, (0, 0), 4) for plane in noise])


def compare(logits: np.ndarray, size: tuple[int, int], align_corners: bool, threads: int) -> dict[str, Any]:
    """Milliseconds of every candidate and its ratio to ours, over interleaved rounds, and the share of equal labels."""
    candidates: dict[str, Labels] = {
        "ours": lambda: labels.from_logits(logits, size, align_corners),
        "onnxruntime": onnxruntime_labels(logits, size, align_corners, threads),
    }
    if torch_candidate := torch_labels(logits, size, align_corners, threads):
        candidates["torch"] = torch_candidate
    outputs = {name: candidate() for name, candidate in candidates.items()}  # warms up and compiles, too
    rounds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(ROUNDS):
        for name, candidate in candidates.items():
            rounds[name].append(median(milliseconds(candidate) for _ in range(CALLS)))
    ratios = {n: [t / o for t, o in zip(times, rounds["ours"], strict=True)] for n, times in rounds.items()}
    return {
        "classes": logits.shape[0], "logits_size": logits.shape[1:], "size": size, "threads": threads,
        "align_corners": align_corners, "uniform_share": labels.uniform_share(logits), "rounds": ROUNDS, "calls": CALLS,
        "candidates": {
            name: {
                "median_ms": median(times),
                "ratio_to_ours": {"median": median(ratios[name]), "low": min(ratios[name]), "high": max(ratios[name])},
                "equal_to_ours": float((outputs[name] == outputs["ours"]).mean()),
            }
            for name, times in rounds.items()
        },
    }  # fmt: skip


def onnxruntime_labels(logits: np.ndarray, size: tuple[int, int], align_corners: bool, threads: int) -> Labels:
    """Resize and ArgMax as one ONNX graph on ONNX Runtime's CPU provider."""
    shape = [1, *logits.shape]
    mode = "align_corners" if align_corners else "half_pixel"
    nodes = [
        helper.make_node(
            "Resize", ["logits", "", "", "sizes"], ["full"], mode="linear", coordinate_transformation_mode=mode
        ),
        helper.make_node("ArgMax", ["full"], ["labels"], axis=1, keepdims=0),
    ]
    sizes = onnx.numpy_helper.from_array(np.array([*shape[:2], *size], np.int64), "sizes")
    graph = helper.make_graph(
        nodes, "labels",
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("labels", TensorProto.INT64, [1, *size])], [sizes],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"logits": logits[None]})[0][0]


def torch_labels(logits: np.ndarray, size: tuple[int, int], align_corners: bool, threads: int) -> Labels | None:
    """PyTorch's interpolate and argmax, or None where torch is not installed."""
    try:
        import torch
    except ModuleNotFoundError:
        return None
    torch.set_num_threads(threads)
    tensor = torch.from_numpy(logits)[None]
    interpolate = torch.nn.functional.interpolate
    return lambda: interpolate(tensor, size, mode="bilinear", align_corners=align_corners).argmax(1)[0].numpy()


def milliseconds(candidate: Labels) -> float:
    """Time of one call."""
    start = time.perf_counter_ns()
    candidate()
    return (time.perf_counter_ns() - start) / 1e6


def show(result: dict[str, Any]) -> None:
    """Print the figures as a table."""
    (h, w), (height, width) = result["logits_size"], result["size"]
    print(
        f"{result['logits_of']}: {result['classes']} classes, {h}x{w} -> {height}x{width}, "
        f"{result['threads']} threads (ours one)"
    )
    print(f"uniform cells {100 * result['uniform_share']:.1f} %, {result['rounds']} interleaved rounds")
    for name, row in result["candidates"].items():
        ratio = row["ratio_to_ours"]
        print(
            f"{name:>12}  {row['median_ms']:8.2f} ms   {ratio['median']:6.1f} times ours "
            f"({ratio['low']:.1f} to {ratio['high']:.1f})   {100 * row['equal_to_ours']:.4f} % equal labels"
        )


if __name__ == "__main__":
    sys.exit(main())
