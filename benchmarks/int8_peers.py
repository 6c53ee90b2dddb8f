"""INT8 of this project and of other tools: one network, one set of calibration pictures, one engine, one evaluation.

pip install -e ".[peers]"            # in an environment of its own: Model-Optimizer brings older ONNX packages
python benchmarks/int8_peers.py model.onnx --data DIR --split val --json docs/results/int8-peers.json
python benchmarks/int8_peers.py model.onnx --data DIR --ours "--method auto --bias-correction" --files FOLDER

Every tool writes an ONNX file, which runs in OpenVINO through the runner of our own files; tools that are not installed
are named and left out. Each works as its own documentation says for a CPU or TensorRT, from the same pictures of the
training split. Each --ours is a row: further flags of `pspnet calibrate`, "" for none, or an INT8 file of ours that
exists; without --ours there is one row, of the defaults. --files keeps the files, and takes those of the other tools
that are there already, of the same network and pictures.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import multiprocessing
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from calibration.images import CalibrationImages, calibration_images
from calibration.share import int8_share
from pspnet.cli import main as pspnet
from pspnet.dataset import Dataset, open_dataset
from pspnet.errors import PspnetError
from pspnet.evaluate import check_classes, scores_of
from pspnet.files import sha256_of, write_json
from pspnet.metadata import attach_spec, extra, read_model, spec_from_model
from pspnet.metrics import ConfusionMatrix
from runtime.bench_report import print_table, stamped
from runtime.benchmark import RESAMPLES, Candidate, benchmark
from runtime.runner import open_runner
from runtime.segmenter import CpuSegmenter

CLIP = Path(__file__).resolve().parents[1] / "demo" / "video" / "solidWhiteRight.mp4"
PROGRAM = "python benchmarks/int8_peers.py"
MADE_BY = "peer"
"""Metadata entry of a quantised file: tool, its version, SHA-256 of the network, picture hashes and seconds."""


def with_modelopt(model: Path, images: list[np.ndarray], output: Path) -> None:
    """NVIDIA Model-Optimizer's ONNX post-training quantisation; what stays in float is float32, for a CPU."""
    from modelopt.onnx.quantization import quantize

    quantize(
        str(model), "int8", {"image": np.concatenate(images)}, calibration_eps=["cpu"], high_precision_dtype="fp32",
        output_path=str(output), log_level="ERROR",
    )  # fmt: skip


def with_nncf(model: Path, images: list[np.ndarray], output: Path) -> None:
    """OpenVINO's NNCF on the ONNX graph, so that the result is one too; with its bias correction, its default."""
    import nncf

    dataset = nncf.Dataset(images, lambda image: {"image": image})
    onnx.save(nncf.quantize(onnx.load(model), dataset, subset_size=len(images)), output)


def with_onnxruntime(model: Path, images: list[np.ndarray], output: Path) -> None:
    """ONNX Runtime's static quantisation to Q/DQ, after its own preparation of the graph; weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = ({"image": image} for image in images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        quant_pre_process(str(model), prepared)
        quantize_static(prepared, str(output), Reader(), quant_format=QuantFormat.QDQ, per_channel=True)


Quantise = Callable[[Path, list[np.ndarray], Path], None]
PEERS: dict[str, tuple[Quantise, str]] = {
    "modelopt": (with_modelopt, 'pip install "nvidia-modelopt[onnx]"'),
    "nncf": (with_nncf, "pip install nncf"),
    "onnxruntime": (with_onnxruntime, "pip install onnxruntime"),
}
"""Name of the row and of the module -> function, and how to get it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; write it to --json."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model", type=Path, help="the fp32 file that `pspnet export` wrote")
    options.add_argument("--data", required=True, help="data set with a train split, for ranges, and --split, for mIoU")
    options.add_argument("--dataset", default="auto", help="kind of the data set (default: recognised)")
    options.add_argument("--split", default="val", help="scored; choose on val (default), test is for the last figure")
    options.add_argument("--images", type=int, default=64, help="calibration pictures of the train split (default 64)")
    options.add_argument("--peers", default=",".join(PEERS), help=f"with commas (default {','.join(PEERS)})")
    options.add_argument("--ours", action="append", help='--ours="--method mse", --ours=tuned.int8.onnx, ...')
    options.add_argument("--files", type=Path, help="folder that keeps the quantised files")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--frames", type=int, default=10, help="per round and file (default 10)")
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--json", help="write the figures here")
    args = options.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = compared(args, args.files or Path(folder))
        if args.json:
            write_json(args.json, result)
    except PspnetError as error:
        print(f"int8_peers.py: {error}", file=sys.stderr)
        return 2
    return 0


def compared(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Quantise with every tool, then time all files in one run and score them on one split."""
    spec = spec_from_model(read_model(args.model), args.model)
    dataset = open_dataset(args.dataset, args.data, args.split)
    check_classes(spec, dataset)
    images = calibration_images(args.data, args.dataset, "train", args.images, spec)
    folder.mkdir(parents=True, exist_ok=True)
    files = {"fp32": args.model}
    for number, flags in enumerate(args.ours or [""]):
        path = ours(args, flags, folder / f"pspnet{number}.onnx")
        files[f"pspnet {path.name if flags.endswith('.onnx') else flags}".strip()] = path
    for name in args.peers.split(","):
        if path := theirs(name, args.model, images, folder / f"{name}.onnx"):
            files[name] = path
    with ExitStack() as stack:
        runners = [stack.enter_context(open_runner(path, "openvino", args.threads)) for path in files.values()]
        candidates = [Candidate(Path(runner.name), runner, CpuSegmenter(runner)) for runner in runners]
        result = benchmark(candidates, str(CLIP), args.rounds, args.frames, args.threads)
        confusions = [confusions_of(candidate, dataset) for candidate in candidates]
    for name, entry, counts in zip(files, result["candidates"], confusions, strict=True):
        entry |= {"name": name, "scores": scores_of(summed(counts), spec, dataset)}
        entry["miou_loss"] = miou_loss(confusions[0], counts)
        entry["int8_share"] = int8_share(files[name], "openvino", args.threads).facts()
        entry["made"] = extra(files[name], MADE_BY)
    result = stamped({**result, "calibration_images": len(images.inputs)}, PROGRAM)
    show(result)
    return result


def ours(args: argparse.Namespace, flags: str, output: Path) -> Path:
    """The file of `pspnet calibrate` with `flags`, on the same pictures, or the file that `flags` names."""
    if flags.endswith(".onnx"):
        return Path(flags)
    start = time.perf_counter()
    command = ["calibrate", str(args.model), "--data", str(args.data), "--dataset", args.dataset, "--split", "train"]
    if code := pspnet([*command, "--images", str(args.images), "-o", str(output), *shlex.split(flags)]):
        raise PspnetError(f"`pspnet calibrate {flags}` ended with {code}: see above, and change --ours")
    model = read_model(output)
    made = {"tool": "pspnet", "flags": flags, "seconds": time.perf_counter() - start}
    attach_spec(model, spec_from_model(model), **{MADE_BY: made})
    onnx.save(model, output)
    return output


def theirs(name: str, model: Path, images: CalibrationImages, output: Path) -> Path | None:
    """The file of another tool with our spec attached, or None where it is not installed, which is printed."""
    if name not in PEERS:
        raise PspnetError(f"unknown tool {name!r}: choose among {', '.join(PEERS)} with --peers")
    quantise, install = PEERS[name]
    if importlib.util.find_spec(name) is None:
        print(f"{name} is not installed and left out: {install}")
        return None
    version = importlib.import_module(name).__version__
    made = {"tool": name, "version": version, "onnx_sha256": sha256_of(model), "images": images.hashes}
    if output.is_file() and made.items() <= (extra(output, MADE_BY) or {}).items():
        return output
    start = time.perf_counter()
    in_own_process(quantise, model, images.inputs, output)
    made["seconds"] = time.perf_counter() - start
    result = onnx.load(output)
    attach_spec(result, spec_from_model(read_model(model)), precision="int8", **{MADE_BY: made})
    onnx.save(result, output)
    return output


def in_own_process(quantise: Quantise, *arguments: Any) -> None:
    """Call a tool where its threads and changes do not stay: Model-Optimizer alters ONNX Runtime's quantiser."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(quantise, *arguments).result()


def confusions_of(candidate: Candidate, dataset: Dataset) -> np.ndarray:
    """(pictures, classes, classes + 1) int64: the confusion counts of every picture by itself."""
    counts = []
    for index in tqdm(range(len(dataset)), desc=candidate.path.name, unit="image", leave=False):
        picture, target = dataset.read(index)
        matrix = ConfusionMatrix(candidate.runner.spec.classes)
        matrix.add(target, candidate.segmenter.labels(picture))
        counts.append(matrix.counts)
    return np.stack(counts)


def summed(counts: np.ndarray) -> ConfusionMatrix:
    """The matrix of all pictures."""
    matrix = ConfusionMatrix(counts.shape[1])
    matrix.counts += counts.sum(0)
    return matrix


def miou_loss(first: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """mIoU of `first` less that of `other` in percent, with the 95 % bootstrap interval over pictures, paired.

    Both are confusion counts as of `confusions_of`. An interval that holds 0 says that these pictures cannot tell the
    two apart.
    """
    chosen = np.random.default_rng(0).integers(len(first), size=(RESAMPLES, len(first)))
    losses = [_miou(first[rows].sum(0)) - _miou(other[rows].sum(0)) for rows in chosen]
    low, high = np.nanpercentile(losses, [2.5, 97.5])
    return {"loss": _miou(first.sum(0)) - _miou(other.sum(0)), "low": float(low), "high": float(high)}


def _miou(counts: np.ndarray) -> float:
    correct = np.diag(counts).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return float(np.nanmean(100 * correct / (counts.sum(1) + counts[:, :-1].sum(0) - correct)))


def show(result: dict[str, Any]) -> None:
    """The table of `pspnet bench`, then what each file keeps and how it was made."""
    print_table(result)
    entries = result["candidates"]
    width = max(len(entry["name"]) for entry in entries)
    print(f"\n{'':{width}}  {'mIoU %':>7} {'loss':>6} {'interval':>15} {'INT8 %':>7} {'made in s':>9}")
    for entry in entries:
        loss, made = entry["miou_loss"], entry["made"] or {}
        seconds = f"{made['seconds']:9.0f}" if made else f"{'-':>9}"
        print(
            f"{entry['name']:{width}}  {entry['scores']['miou']:7.2f} {loss['loss']:6.2f} "
            f"{loss['low']:6.2f} to {loss['high']:5.2f} {100 * entry['int8_share']['fraction']:7.1f} {seconds}"
        )


if __name__ == "__main__":
    sys.exit(main())
