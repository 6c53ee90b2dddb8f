"""Proves the exported graph at many sizes and backbones against PyTorch in float64, and times the export.

python benchmarks/export_table.py --json docs/results/export-table.json

Weights are random, with batch norm that has seen noise pictures; --checkpoint FILE takes a trained network instead.
Exit code 1 where a figure misses its limit.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from export.exporter import FORMS, export, onnx_from_model
from export.parity import HEAD_LIMIT, NETWORK_LIMIT, batches, head_of, largest_gap, reference, relative_error
from pspnet.checkpoint import load_model, replace_spec, save_checkpoint
from pspnet.dataset import open_dataset
from pspnet.errors import PspnetError
from pspnet.files import write_json
from pspnet.initialise import new_model
from pspnet.metadata import read_model
from pspnet.model import PSPNet
from pspnet.spec import ModelSpec, size_from_text
from runtime.bench_report import stamped
from runtime.ort import session_from_model

IMAGES = Path(__file__).resolve().parents[1] / "demo" / "camvid11_tiny"
BINS = (1, 2, 3, 6)
SIZES = "360x480,473x473,512x1024,713x713,720x960,720x1280,1024x2048"
ERROR_RATIO = 2.0  # float32 in another order of summation: no more than twice PyTorch's own distance from float64
AGREEMENT = 0.9999
HEAD_NODES = 20


@dataclasses.dataclass
class Row:
    """One size and backbone. Errors are the largest difference over the largest reference magnitude."""

    backbone: str
    size: list[int]
    head_error: dict[str, float]  # of each form, against PyTorch in float32 on the same features
    head_nodes: dict[str, int]
    network_error: float  # of the folded graph in ONNX Runtime, against PyTorch in float64
    torch_error: float  # of PyTorch in float32, against the same
    argmax_agreement: float
    largest_gap_of_a_flip: float  # in float64, over the largest logit: a near-tie where it is below NETWORK_LIMIT
    export_s: float

    def missed(self) -> list[str]:
        """The limits that this row does not keep."""
        checks = {
            "head error": max(self.head_error.values()) <= HEAD_LIMIT,
            "network error": self.network_error <= ERROR_RATIO * self.torch_error,
            "arg-max agreement": self.argmax_agreement >= AGREEMENT,
            "near-ties": self.largest_gap_of_a_flip <= NETWORK_LIMIT,
            "head nodes": self.head_nodes["folded"] <= HEAD_NODES,
        }
        return [name for name, kept in checks.items() if not kept]


def main(arguments: list[str] | None = None) -> int:
    """Print a row for each size and backbone; 1 where one misses a limit."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sizes", default=SIZES, help="HxW with commas")
    options.add_argument("--backbones", default="mobilenet_v2,resnet18,resnet50")
    options.add_argument("--output-stride", type=int, default=8)
    options.add_argument("--checkpoint", help="a trained network in place of random weights")
    options.add_argument("--json", help="write the rows here")
    args = options.parse_args(arguments)
    rows = []
    try:
        titles = ("backbone", "head: folded / fixed", "network", "PyTorch", "agree %", "export s")
        print("{:>10} {:13} {:>21} {:>8} {:>8} {:>9} {:>8}".format("size", *titles))
        for text in args.sizes.split(","):
            for backbone in ["as trained"] if args.checkpoint else args.backbones.split(","):
                rows.append(measured(args, backbone, size_from_text(text)))
                show(rows[-1])
        if args.json:
            content = {"kind": "export table", "rows": [dataclasses.asdict(row) for row in rows]}
            write_json(args.json, stamped(content, "python benchmarks/export_table.py"))
    except PspnetError as error:
        print(f"export_table.py: {error}", file=sys.stderr)
        return 2
    return 1 if any(row.missed() for row in rows) else 0


def measured(args: argparse.Namespace, backbone: str, size: tuple[int, int]) -> Row:
    """Export as a user would, timed, then hold both forms against PyTorch in float32 and float64."""
    spec, model = load_model(args.checkpoint) if args.checkpoint else random_network(backbone, args.output_stride)
    spec = replace_spec(spec, input_size=size)
    graphs = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, output = Path(folder) / "m.pt", Path(folder) / "m.onnx"
        save_checkpoint(checkpoint, spec, model.state_dict())
        start = time.perf_counter()
        export(checkpoint, output)
        seconds = time.perf_counter() - start
        graphs["folded"] = read_model(output)
    graphs["fixed"] = onnx_from_model(model, spec, "fixed")
    heads = {form: head_of(graph) for form, graph in graphs.items()}
    picture = open_dataset("auto", IMAGES, "val").images[0]
    seeded, real = batches(spec, [picture])
    images = [seeded[:1], real]
    single = [reference(model, spec, image) for image in images]
    errors = {form: head_error(session_from_model(heads[form]), single) for form in FORMS}
    network = session_from_model(graphs["folded"])
    logits = [network.run(None, {"image": image})[0] for image in images]
    model.double()
    exact = [reference(model, spec, image)[1] for image in tqdm(images, desc="float64", leave=False)]
    flips = [ours.argmax(1) != theirs.argmax(1) for ours, theirs in zip(logits, exact, strict=True)]
    return Row(
        spec.backbone, list(size), errors, {form: len(head.graph.node) for form, head in heads.items()},
        max(relative_error(*pair) for pair in zip(logits, exact, strict=True)),
        max(relative_error(found[1], theirs) for found, theirs in zip(single, exact, strict=True)),
        1 - float(np.mean(flips)),
        max(largest_gap(e[0], o[0].argmax(0), f[0]) for e, o, f in zip(exact, logits, flips, strict=True)), seconds,
    )  # fmt: skip


def head_error(head: Any, single: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """The largest error of a head's graph on the features of PyTorch in float32."""
    return max(relative_error(head.run(None, {"features": f})[0], expected) for f, expected in single)


def random_network(backbone: str, output_stride: int) -> tuple[ModelSpec, PSPNet]:
    """A seeded network whose batch norm has seen a few noise pictures, so that its activations have sane ranges."""
    dataset = open_dataset("auto", IMAGES, "train")
    with contextlib.redirect_stdout(io.StringIO()):  # what was loaded: nothing
        spec, model = new_model(dataset, backbone, output_stride, BINS, (96, 96), "stretch", False, "none", seed=0)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(2, 3, 192, 192))
    return spec, model.eval()


def show(row: Row) -> None:
    """Print one row, and what it misses."""
    heads = " / ".join(f"{row.head_error[form]:.1e}" for form in FORMS)
    print(
        f"{row.size[0]:>5}x{row.size[1]:<4} {row.backbone:13} {heads:>21} {row.network_error:8.1e} "
        f"{row.torch_error:8.1e} {100 * row.argmax_agreement:9.4f} {row.export_s:8.1f} {', '.join(row.missed())}"
    )


if __name__ == "__main__":
    sys.exit(main())
