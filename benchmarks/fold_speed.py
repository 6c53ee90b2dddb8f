"""Times the folded head against the naive one, alone and in whole networks, on CPU engines, in one interleaved run.

python benchmarks/fold_speed.py --json docs/results/fold-speed-512x1024.json

naive: the same weights with batch norm folded, exported by PyTorch's dynamo exporter as the model is written: adaptive
pooling, upsampling, concat, bottleneck. fixed: constant matrices for each bin. Speed does not depend on what the
weights are, so they are random. A ratio is formed within each round: how many times faster than naive.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxsim
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.export_table import random_network
from export.exporter import onnx_from_model
from export.parity import head_of, reference, relative_error
from pspnet.checkpoint import replace_spec
from pspnet.errors import PspnetError
from pspnet.files import write_json
from pspnet.spec import size_from_text
from runtime import openvino_runner, ort
from runtime.bench_report import stamped
from runtime.benchmark import median_interval

FORMS = ("naive", "fixed", "folded")
SAME = 1e-5  # of the largest logit: all forms must compute the same before their speed is worth a word
Infer = Callable[[np.ndarray], np.ndarray]


def main() -> int:
    """Print each figure as it comes; write all to --json."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--backbones", default="resnet18,resnet50", help="with commas")
    options.add_argument("--size", default="512x1024", help="HxW of the network's input")
    options.add_argument("--output-stride", type=int, default=8)
    options.add_argument("--engines", default="ort fp32,openvino fp32,openvino bf16", help="those that the CPU has")
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--json", help="write the figures here")
    args = options.parse_args()
    try:
        results = [figures for backbone in args.backbones.split(",") for figures in measured(backbone, args)]
        content = {"kind": "fold speed", "size": args.size, "rounds": args.rounds, "threads": args.threads}
        if args.json:
            write_json(args.json, stamped({**content, "results": results}, "python benchmarks/fold_speed.py"))
    except PspnetError as error:
        print(f"fold_speed.py: {error}", file=sys.stderr)
        return 2
    return 0


def measured(backbone: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Figures of the head alone and of the whole network, on each engine."""
    spec, model = random_network(backbone, args.output_stride)
    spec = replace_spec(spec, input_size=size_from_text(args.size))
    graphs = {form: for_one_image(onnx_from_model(model, spec, form)) for form in FORMS}
    noise = np.random.default_rng(0)
    images = noise.integers(0, 256, (1, *spec.input_size, 3), np.uint8)
    features = np.ascontiguousarray(reference(model, spec, images)[0])  # channels last: an engine would copy each time
    parts = (
        ("head", {form: head_of(graph) for form, graph in graphs.items()}, "features", features),
        ("network", graphs, "image", images),
    )
    with tempfile.TemporaryDirectory() as folder:
        for part, forms, name, data in parts:
            paths = {form: Path(folder) / f"{part}.{form}.onnx" for form in forms}
            for form, path in paths.items():
                onnx.save(forms[form], path)
            for engine in (name for name in engines() if name in args.engines.split(",")):
                candidates = {form: opened(engine, path, args.threads, name, data) for form, path in paths.items()}
                figures = timed(candidates, data, args.rounds, f"{backbone} {part} {engine}")
                nodes = {form: len(graph.graph.node) for form, graph in forms.items()}
                yield show({"backbone": backbone, "part": part, "engine": engine, "nodes": nodes, **figures})


def for_one_image(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph for a batch of 1: the naive form otherwise asks for shapes at run time, which would slow it down."""
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    simplified, _ = onnxsim.simplify(graph)
    return simplified


def engines() -> list[str]:
    """What this CPU can run; bfloat16 only where it has instructions for it."""
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text(encoding="utf-8") if cpu.exists() else ""
    return ["ort fp32", "openvino fp32"] + ["openvino bf16"] * ("amx_bf16" in flags or "avx512_bf16" in flags)


def opened(engine: str, path: Path, threads: int, name: str, data: np.ndarray) -> Infer:
    """A graph on an engine, as a function of its input."""
    if engine == "ort fp32":
        return ort.infer_from_file(path, threads, name, "logits")
    return openvino_runner.infer_from_file(path, threads, name, data.shape, "logits", bf16=engine == "openvino bf16")


def timed(candidates: dict[str, Infer], data: np.ndarray, rounds: int, title: str) -> dict[str, Any]:
    """Median ms of each form with its interval, and how many times faster than naive it is, round by round."""
    logits = {form: infer(data).copy() for form, infer in candidates.items()}  # warms up, too
    differences = {form: relative_error(value, logits["naive"]) for form, value in logits.items()}
    if "bf16" not in title and max(differences.values()) > SAME:
        raise PspnetError(f"{title}: the forms differ by {max(differences.values()):.1e} of the largest logit")
    times: dict[str, list[float]] = {form: [] for form in candidates}
    for _ in tqdm(range(rounds), desc=title, unit="round", leave=False):
        for form, infer in candidates.items():
            start = time.perf_counter()
            infer(data)
            times[form].append((time.perf_counter() - start) * 1e3)
    ratios = {form: np.divide(times["naive"], times[form]).tolist() for form in candidates if form != "naive"}
    return {
        "ms": {form: median_interval(values) for form, values in times.items()},
        "times_faster": {form: median_interval(values) for form, values in ratios.items()},
        "difference": differences,
    }  # fmt: skip


def show(figures: dict[str, Any]) -> dict[str, Any]:
    """Print one line of figures and hand them on."""
    times = ", ".join(
        f"{form} {figures['ms'][form]['median']:.1f} ms ({figures['nodes'][form]} nodes)" for form in FORMS
    )
    faster = figures["times_faster"]["folded"]
    print(
        f"{figures['backbone']} {figures['part']} {figures['engine']}: {times}; folded {faster['median']:.2f} times "
        f"faster ({faster['low']:.2f} to {faster['high']:.2f})"
    )
    return figures


if __name__ == "__main__":
    sys.exit(main())
