"""Times what a frame costs outside the network: a CudaSegmenter over a network that does nothing.

python benchmarks/frame_cost.py                               # docs/results/frame-NAME.json, NAME being the GPU's
python benchmarks/frame_cost.py --size 512x1024 --classes 11

A frame's time is that of one call, from the picture in the CPU's memory to its labels there: copies, kernels, graph
launch, wait and all of Python. "camera" pictures lie where a camera's process puts them, in shared memory that is
registered with CUDA; "elsewhere" ones are copied there first. Without a GPU nothing is written, and the exit code is 2.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu_check import gpu_facts, slug
from benchmarks.kernel_stages import STRIDE, smooth_logits
from pspnet.errors import PspnetError
from pspnet.files import write_json
from pspnet.spec import ModelSpec, size_from_text
from runtime.bench_report import stamped
from runtime.benchmark import median_interval
from runtime.cuda import Device, Stream, open_device
from runtime.cuda_pictures import MOST_CLASSES, DeviceLogits
from runtime.cuda_segmenter import CudaSegmenter
from runtime.cuda_tables import uploaded
from runtime.frame import Frame
from runtime.frame_ring import Ring

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = "python benchmarks/frame_cost.py"
ROUNDS, FRAMES, WARM_UP, SLOTS = 9, 200, 20, 3
LIMIT_MS = 0.5
"""Of a camera's picture at 1024x2048 with 19 classes."""
KINDS = [(layout, memory) for layout in ("nv12", "bgr") for memory in ("camera", "elsewhere")]


class NoNetwork:
    """A DeviceNetwork that leaves its input alone, and whose logits, seeded and smooth, are always the same."""

    engine, precision, name, largest_batch, without_graphs = "none", "fp16", "no network", 1, ""

    def __init__(self, device: Device, size: tuple[int, int], classes: int) -> None:
        names, colours = tuple(map(str, range(classes))), ((0, 0, 0),) * classes
        self.spec = ModelSpec("resnet18", STRIDE, (1,), 1, 1, 1, names, colours, size)
        self.device, self.provenance = device, dict[str, Any]()
        self.on_close: list[Callable[[], None]] = []
        shape = (classes, *self.spec.map_size)
        self._memory = device.allocate(size[0] * size[1] * 3), uploaded(device, smooth_logits(shape))
        self.input_address = self._memory[0].address
        self._logits = DeviceLogits(self._memory[1].address, shape, "float16")

    def logits(self, index: int) -> DeviceLogits:
        """Of the one picture."""
        return self._logits

    def prepare(self, count: int, stream: Stream) -> None:
        """Nothing is needed."""

    def enqueue(self, count: int, stream: Stream) -> None:
        """Nothing is done."""

    def capturing(self) -> AbstractContextManager[object]:
        """Nothing is allocated."""
        return nullcontext()

    def close(self) -> None:
        """Close what uses it; its memory goes with the device."""
        while self.on_close:
            self.on_close.pop()()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and write it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", default="1024x2048", help="HxW of camera and network (default 1024x2048)")
    options.add_argument("--classes", type=int, default=19, help="of the logits (default 19)")
    options.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    options.add_argument("--frames", type=int, default=FRAMES, help=f"of each kind in a round (default {FRAMES})")
    options.add_argument("--json", type=Path, help="default docs/results/frame-NAME.json")
    args = options.parse_args(arguments)
    try:
        size = size_from_text(args.size)
        if size[0] % 2 or size[1] % 2 or not 1 <= args.classes < MOST_CLASSES or min(args.rounds, args.frames) < 1:
            raise PspnetError(
                f"got --size {args.size} --classes {args.classes} --rounds {args.rounds} --frames {args.frames}: "
                f"needed are even sides, which NV12 has, 1 to {MOST_CLASSES - 1} classes, 1 round and 1 frame. "
                "Try --size 1024x2048 --classes 19"
            )
        facts = gpu_facts()
        with open_device() as device:
            result = measured(device, size, args.classes, args.rounds, args.frames)
        result = {"kind": "frame-cost", "gpu": facts, "size": args.size, "classes": args.classes, **result}
        target = args.json or ROOT / "docs" / "results" / f"frame-{slug(facts['name'])}.json"
        write_json(target, stamped(result, PROGRAM))
    except PspnetError as error:
        print(f"frame_cost.py: {error}", file=sys.stderr)
        return 2
    show(result)
    print(f"written to {target}")
    return 0


def measured(device: Device, size: tuple[int, int], classes: int, rounds: int, frames: int) -> dict[str, Any]:
    """Milliseconds of a frame of each kind, medians of interleaved rounds, and of the GPU's stages."""
    times_ms: dict[tuple[str, str], list[float]] = {kind: [] for kind in KINDS}
    stages_ms: dict[tuple[str, str], list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with ExitStack() as stack:
        given = {kind: stack.enter_context(pictures(*kind, size)) for kind in KINDS}
        segmenter = stack.enter_context(CudaSegmenter(NoNetwork(device, size, classes)))
        for turn in range(-1, rounds):
            for kind, seen in given.items():
                taken, stages = one_round(segmenter, seen, WARM_UP if turn < 0 else frames)
                if turn >= 0:
                    times_ms[kind].append(taken)
                    stages_ms[kind].append(stages)
        without_graphs, refusals = segmenter.without_graphs, segmenter.picture_refusals
    rows = [row(kind, times_ms[kind], stages_ms[kind]) for kind in KINDS]
    facts = {"rounds": rounds, "frames_per_round": frames, "without_graphs": without_graphs, "copied": refusals}
    return {**facts, "frames": rows}


@contextmanager
def pictures(layout: str, memory: str, size: tuple[int, int]) -> Iterator[list[Frame]]:
    """SLOTS frames of noise in a camera's shared memory, or anywhere."""
    rows = size[0] * 3 // 2 if layout == "nv12" else size[0]
    shape = (rows, size[1]) if layout == "nv12" else (rows, size[1], 3)
    name = f"{layout} {memory}"
    ring = Ring.reserve(name, 1, int(np.prod(shape)), SLOTS)
    images = [ring.picture(slot, shape) for slot in range(SLOTS)]
    if memory != "camera":
        images = [np.empty(shape, np.uint8) for _ in range(SLOTS)]
    for seed, image in enumerate(images):
        image[:] = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    yield [Frame(image, layout, name, number, 0, 0) for number, image in enumerate(images)]
    ring.close()


def one_round(segmenter: CudaSegmenter, seen: Sequence[Frame], frames: int) -> tuple[float, dict[str, float]]:
    """Median milliseconds of a call, and of its stages."""
    taken, stages = [], []
    for turn in range(frames):
        start = time.perf_counter_ns()
        result = segmenter.segment([seen[turn % len(seen)]])[0]
        taken.append((time.perf_counter_ns() - start) / 1e6)
        stages.append(result.times_ms)
    return median(taken), {name: median(each[name] for each in stages) for name in stages[0]}


def row(kind: tuple[str, str], times_ms: list[float], stages_ms: list[dict[str, float]]) -> dict[str, Any]:
    """One kind of picture with its limit."""
    return {
        "format": kind[0], "memory": kind[1], "frame_ms": median_interval(times_ms),
        "stages_ms": {name: median(each[name] for each in stages_ms) for name in stages_ms[0]},
        "limit_ms": LIMIT_MS if kind[1] == "camera" else None,
    }  # fmt: skip


def show(result: dict[str, Any]) -> None:
    """The table for the terminal."""
    for line in result["frames"]:
        stages = ", ".join(f"{name} {value:.3f}" for name, value in line["stages_ms"].items())
        limit = f"may be {line['limit_ms']}" if line["limit_ms"] else "no limit"
        name = f"{line['format']} {line['memory']}"
        print(f"{name:16}{line['frame_ms']['median']:8.3f} ms ({limit}): {stages}")
    if result["without_graphs"]:
        print(f"without CUDA graphs: {result['without_graphs']}")


if __name__ == "__main__":
    sys.exit(main())
