"""Times a PSPNet in float16 on PyTorch, in a CUDA graph: naive and folded head against each other and their floors.

python benchmarks/torch_floor.py                              # docs/results/torch-NAME.json, NAME being the GPU's
python benchmarks/torch_floor.py --backbone resnet18 --size 360x480

naive: as `pspnet run` runs a checkpoint, batch norm folded into the convolutions; folded: with the head of the exported
graph. Speed does not depend on what the weights are, so they are random. The floor of a network is its multiply-adds
over the rate of a large float16 matrix product, which is measured in the same rounds, replayed in turn with the
networks; a ratio is formed within each round. Without PyTorch and a GPU nothing is written, and the exit code is 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.export_table import random_network
from benchmarks.gpu_check import slug
from benchmarks.gpu_steps import no_torch
from export.exporter import FixedNetwork
from pspnet.checkpoint import replace_spec
from pspnet.errors import PspnetError
from pspnet.files import write_json
from pspnet.model import PSPNet
from pspnet.spec import ModelSpec, size_from_text
from runtime.bench_report import stamped
from runtime.benchmark import median_interval
from runtime.torch_cuda import WARM_UP, fastest

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = "python benchmarks/torch_floor.py"
PLACE = "cuda"
FORMS = ("naive", "folded")
ROUNDS, REPEATS = 9, 10  # a network is replayed so many times between two events
MATRIX = 8192  # rows and columns of the product whose rate is the floor's
LARGEST_DIFFERENCE = 2e-2  # of the largest logit: sums of float16 products, taken in another order

Replay = Callable[[], object]


class HalfNetwork(nn.Module):
    """Pictures (N, H, W, 3) uint8 RGB -> logits (N, classes, h, w) float16, in float16 and channels_last."""

    def __init__(self, model: PSPNet, spec: ModelSpec, form: str) -> None:
        super().__init__()
        network = FixedNetwork(model, spec, form).eval()
        self.register_buffer("shift", network.shift.clone())
        self.backbone, self.head = (part.half() for part in (network.backbone, network.head))
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.permute(0, 3, 1, 2).float() + self.get_buffer("shift")  # NHWC memory: channels_last
        features, _ = self.backbone(pixels.half())
        return self.head(features)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the figures and write them."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--backbone", default="resnet50", help="default resnet50")
    options.add_argument("--size", default="512x1024", help="HxW of the network's input (default 512x1024)")
    options.add_argument("--output-stride", type=int, default=8, help="default 8")
    options.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    options.add_argument("--json", type=Path, help="default docs/results/torch-NAME.json")
    args = options.parse_args(arguments)
    try:
        if reason := no_torch():
            raise PspnetError(f"no GPU for PyTorch, so nothing was run and nothing written: {reason}")
        if args.rounds < 1:
            raise PspnetError(f"rounds is {args.rounds}: give --rounds 1 or more")
        spec, model = random_network(args.backbone, args.output_stride)
        spec = replace_spec(spec, input_size=size_from_text(args.size))
        place, name = torch.device(PLACE), torch.cuda.get_device_name()
        result = {
            "kind": "torch-floor", "gpu": name, "torch": torch.__version__, "backbone": args.backbone,
            "size": args.size, **measured(model, spec, place, args.rounds),
        }  # fmt: skip
        target = args.json or ROOT / "docs" / "results" / f"torch-{slug(name)}.json"
        write_json(target, stamped(result, PROGRAM))
    except PspnetError as error:
        print(f"torch_floor.py: {error}", file=sys.stderr)
        return 2
    show(result)
    print(f"written to {target}")
    return 0


def measured(model: PSPNet, spec: ModelSpec, place: torch.device, rounds: int) -> dict[str, Any]:
    """Times of both forms and of the matrix product, and what follows from them."""
    noise = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, *spec.input_size, 3), dtype=torch.uint8, generator=noise).to(place)
    networks = {form: HalfNetwork(model, spec, form).to(place) for form in FORMS}
    factor = torch.randn((MATRIX, MATRIX), generator=noise).to(place, torch.float16)
    with torch.inference_mode(), fastest():
        counts = {form: multiply_adds(network, image) for form, network in networks.items()}
        difference = relative_difference(*(network(image).float() for network in networks.values()))
        work: dict[str, Callable[[], Tensor]] = {form: _call(network, image) for form, network in networks.items()}
        replays = {name: captured(each) for name, each in {**work, "matrix": lambda: factor @ factor}.items()}
        times: dict[str, list[float]] = {name: [] for name in replays}
        for turn in range(-1, rounds):
            for name, replay in replays.items():
                taken = taken_ms(replay)
                if turn >= 0:
                    times[name].append(taken)
    if not difference <= LARGEST_DIFFERENCE:
        raise PspnetError(f"the two heads differ by {difference:.1e} of the largest logit, so their speed says nothing")
    return {"rounds": rounds, "difference": difference, **figures(times, counts)}


def figures(times_ms: dict[str, list[float]], counts: dict[str, int]) -> dict[str, Any]:
    """Medians with their intervals; ratios are those within the rounds."""
    per_ms = [MATRIX**3 / taken for taken in times_ms["matrix"]]
    forms = {}
    for form, count in counts.items():
        floors = [count / rate for rate in per_ms]
        over = [taken / floor for taken, floor in zip(times_ms[form], floors, strict=True)]
        forms[form] = {
            "multiply_adds": count, "ms": median_interval(times_ms[form]), "floor_ms": median_interval(floors),
            "times_the_floor": median_interval(over),
        }  # fmt: skip
    naive, folded = (times_ms[form] for form in FORMS)
    faster = [first / second for first, second in zip(naive, folded, strict=True)]
    rate = median_interval([1e3 * each for each in per_ms])
    return {"multiply_adds_per_s": rate, "forms": forms, "folded_times_faster": median_interval(faster)}


def relative_difference(logits: Tensor, others: Tensor) -> float:
    """The largest difference over the largest magnitude."""
    return float((logits - others).abs().max() / logits.abs().max())


def multiply_adds(network: nn.Module, image: Tensor) -> int:
    """Of the convolutions and matrix products in a run."""
    with FlopCounterMode(display=False) as counter:
        network(image)
    return counter.get_total_flops() // 2


def captured(work: Callable[[], Tensor]) -> Replay:
    """Work as a CUDA graph, run before, so that cuDNN has chosen its kernels."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def taken_ms(replay: Replay) -> float:
    """Milliseconds of one of REPEATS replays."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(REPEATS):
        replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / REPEATS


def show(result: dict[str, Any]) -> None:
    """The figures for the terminal."""
    for form, found in result["forms"].items():
        print(
            f"{form:8}{found['ms']['median']:8.3f} ms, {found['times_the_floor']['median']:.2f} times its floor of "
            f"{found['floor_ms']['median']:.3f} ms ({found['multiply_adds'] / 1e9:.1f} billion multiply-adds)"
        )
    faster = result["folded_times_faster"]
    print(
        f"folded {faster['median']:.2f} times as fast ({faster['low']:.2f} to {faster['high']:.2f}); logits "
        f"differ by {result['difference']:.1e}"
    )


def _call(network: nn.Module, image: Tensor) -> Callable[[], Tensor]:
    return lambda: network(image)


if __name__ == "__main__":
    sys.exit(main())
