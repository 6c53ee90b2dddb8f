"""Times every kernel in the replay of a CUDA graph, against the least that the GPU can take for it.

python benchmarks/kernel_floor.py                               # docs/results/kernels-NAME.json, NAME being the GPU's
python benchmarks/kernel_floor.py --size 512x1024 --classes 11

The floor is the longest of three times that are measured in the same rounds: a copy that reads and writes as many
bytes, a kernel that does nothing, and as many multiply-adds as the stage has operations. Pictures and maps stay in the
GPU's cache where they fit, in the copy as in the kernel. Without a GPU nothing is written, and the exit code is 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu_check import gpu_facts, slug
from benchmarks.kernel_stages import Launch, Stage, frame_stages
from pspnet.errors import PspnetError
from pspnet.files import write_json
from pspnet.spec import size_from_text
from runtime.bench_report import stamped
from runtime.cuda import Device, Graph, Module, Stream, open_device
from runtime.cuda_pictures import MOST_CLASSES
from runtime.cuda_tables import uploaded
from runtime.kernel_cache import compiled

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = "python benchmarks/kernel_floor.py"
ROUNDS, REPEATS, WARM_UP = 9, 50, 3  # a graph holds a stage so many times, so that an event's resolution is no matter
BLOCK = 256
CHAIN, CHAINS, PEAK_BLOCKS = 256, 8, 16  # multiply-adds of a thread one behind the other, side by side; per processor

SOURCE = """
struct alignas(16) Four { unsigned a, b, c, d; };
extern "C" {
__global__ void nothing() {}

__global__ void move(const Four *in, int read, Four *out, int written)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    Four value = {0, 0, 0, 0};
    if (i < read) value = in[i];
    if (i < written) out[i] = value;
    else if (value.a == 0x9e3779b9u && value.d == 0x7f4a7c15u) out[0] = value; // so that the load is not left out
}

__global__ void multiply_add(float *out, float factor, int count)
{
    float sums[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    for (int i = 0; i < count; i++)
        for (int k = 0; k < 8; k++) sums[k] = fmaf(sums[k], factor, 1.0f);
    float total = 0;
    for (int k = 0; k < 8; k++) total += sums[k];
    if (total == 0.125f) out[0] = total;
}
}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and write it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", default="1024x2048", help="HxW of camera and network (default 1024x2048)")
    options.add_argument("--classes", type=int, default=19, help="of the logits (default 19)")
    options.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    options.add_argument("--json", type=Path, help="default docs/results/kernels-NAME.json")
    args = options.parse_args(arguments)
    try:
        size = size_from_text(args.size)
        if size[0] % 2 or size[1] % 2 or not 1 <= args.classes <= MOST_CLASSES or args.rounds < 1:
            raise PspnetError(
                f"got --size {args.size} --classes {args.classes} --rounds {args.rounds}: needed are even sides, which "
                f"NV12 has, 1 to {MOST_CLASSES} classes and 1 round. Try --size 1024x2048 --classes 19 --rounds 9"
            )
        facts = gpu_facts()
        with open_device() as device:
            result = measured(device, size, args.classes, args.rounds)
        result = {"kind": "kernel-floor", "gpu": facts, "size": args.size, "classes": args.classes, **result}
        target = args.json or ROOT / "docs" / "results" / f"kernels-{slug(facts['name'])}.json"
        write_json(target, stamped(result, PROGRAM))
    except PspnetError as error:
        print(f"kernel_floor.py: {error}", file=sys.stderr)
        return 2
    show(result)
    print(f"written to {target}")
    return 0


def measured(device: Device, size: tuple[int, int], classes: int, rounds: int) -> dict[str, Any]:
    """Times of all stages and their floors, in microseconds, medians of interleaved rounds."""
    stream, floor = device.stream(), Floor(device)
    stages, uniform_share = frame_stages(device, stream, size, classes)
    launches: dict[str, Launch] = {"nothing": lambda: floor.nothing(stream), "peak": lambda: floor.peak(stream)}
    for stage in stages:
        launches[stage.name] = stage.launch
        launches[f"copy of {stage.name}"] = floor.copy(stream, stage.read_bytes, stage.written_bytes)
    graphs = {name: captured(device, stream, launch) for name, launch in launches.items()}
    times_us: dict[str, list[float]] = {name: [] for name in graphs}
    for turn in range(-WARM_UP, rounds):
        for name, graph in graphs.items():
            taken = replay_us(device, stream, graph)
            if turn >= 0:
                times_us[name].append(taken)
    middle = {name: median(times) for name, times in times_us.items()}
    per_us = floor.peak_operations / middle["peak"] if middle["peak"] else float("inf")
    return {
        "rounds": rounds, "repeats_in_a_graph": REPEATS, "empty_kernel_us": middle["nothing"],
        "multiply_adds_per_s": per_us * 1e6, "uniform_share": uniform_share,
        "stages": [row(stage, middle, per_us) for stage in stages],
    }  # fmt: skip


def row(stage: Stage, middle_us: dict[str, float], operations_per_us: float) -> dict[str, Any]:
    """A stage with its floor."""
    floors = {
        "copy": middle_us[f"copy of {stage.name}"],
        "empty kernel": middle_us["nothing"],
        "operations": stage.operations / operations_per_us,
    }
    floor_us, time_us = max(floors.values()), middle_us[stage.name]
    return {
        "name": stage.name, "time_us": time_us, "floor_us": floor_us, "floor_is": max(floors, key=floors.__getitem__),
        "floors_us": floors, "ratio": time_us / floor_us if floor_us else None, "limit": stage.limit,
        "read_bytes": stage.read_bytes, "written_bytes": stage.written_bytes, "operations": stage.operations,
    }  # fmt: skip


class Floor:
    """Kernels that do as little as can be."""

    def __init__(self, device: Device) -> None:
        self._device, self._module = device, floor_module(device)
        self._blocks = device.multiprocessors * PEAK_BLOCKS
        self._scratch = device.allocate(16)
        self.peak_operations = self._blocks * BLOCK * CHAIN * CHAINS

    def nothing(self, stream: Stream) -> None:
        """An empty kernel."""
        self._device.launch(self._module.function("nothing"), (1,), (32,), (), stream)

    def peak(self, stream: Stream) -> None:
        """`peak_operations` multiply-adds and little else."""
        arguments = (self._scratch, np.float32(0.5), np.int32(CHAIN))
        self._device.launch(self._module.function("multiply_add"), (self._blocks,), (BLOCK,), arguments, stream)

    def copy(self, stream: Stream, read_bytes: int, written_bytes: int) -> Launch:
        """A launch that reads and writes as many bytes, 16 at a time."""
        read, written = (-(-nbytes // 16) for nbytes in (read_bytes, written_bytes))
        arguments = (
            uploaded(self._device, np.zeros(16 * read, np.uint8)), np.int32(read),
            self._device.allocate(16 * written), np.int32(written),
        )  # fmt: skip
        grid = (-(-max(read, written) // BLOCK),)
        return lambda: self._device.launch(self._module.function("move"), grid, (BLOCK,), arguments, stream)


def floor_module(device: Device) -> Module:
    """SOURCE for this GPU."""
    return device.load_module(compiled("kernel_floor", SOURCE, device.compute_capability, device.driver_version))


def captured(device: Device, stream: Stream, launch: Launch) -> Graph:
    """A graph of REPEATS launches, of which one ran before."""
    launch()
    stream.synchronize()
    with device.capture(stream) as graph:
        for _ in range(REPEATS):
            launch()
    return graph


def replay_us(device: Device, stream: Stream, graph: Graph) -> float:
    """Microseconds of one of the launches in a graph."""
    start, stop = device.event(), device.event()
    start.record(stream)
    graph.launch(stream)
    stop.record(stream)
    stop.synchronize()
    taken_us = stop.elapsed_ms(start) * 1000 / REPEATS
    start.free()
    stop.free()
    return taken_us


def show(result: dict[str, Any]) -> None:
    """The table for the terminal."""
    print(f"{'':28}{'time us':>9}{'floor us':>10}{'ratio':>7}{'limit':>7}  floor is")
    for line in result["stages"]:
        ratio = f"{line['ratio']:7.2f}" if line["ratio"] else f"{'-':>7}"
        limit = f"{line['limit']:7.1f}" if line["limit"] else f"{'-':>7}"
        print(f"{line['name']:28}{line['time_us']:9.2f}{line['floor_us']:10.2f}{ratio}{limit}  {line['floor_is']}")
    print(f"uniform share of the cells {result['uniform_share']:.2f}, empty kernel {result['empty_kernel_us']:.2f} us")


if __name__ == "__main__":
    sys.exit(main())
