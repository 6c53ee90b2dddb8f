"""What a training step costs on this machine, by option: interleaved rounds on the same pictures.

python benchmarks/training_speed.py --data data/camvid11 --json docs/results/training-speed.json
python benchmarks/training_speed.py --data data/camvid11 --variants default,bf16 --profile

default is channels_last in float32 on a CPU; the others change one flag of `pspnet train` each, and plain-... leave
out what pspnet.cpu_training does to depthwise convolutions. A step is forward, loss, backward and update on one batch,
in memory that the process keeps; --memory-returned measures without that. "data" is how long one loader process takes
to make a batch. Run it alone: times beside another load are worth nothing. --profile prints the operations of one step
of the first variant by their own time.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.training_parts import finished
from pspnet.cpu_training import freed_memory_kept, plain_depthwise
from pspnet.dataset import Dataset, open_dataset
from pspnet.errors import PspnetError
from pspnet.initialise import new_model
from pspnet.loader import Batch, EpochBatches, TrainPairs, train_loader
from pspnet.losses import criterion_from_config
from pspnet.recipe import TrainConfig
from pspnet.spec import ModelSpec
from pspnet.train import new_state
from pspnet.train_step import TrainStep
from pspnet.transforms import TrainTransform
from runtime.benchmark import median_interval

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {}, "contiguous": {"channels_last": False}, "bf16": {"amp": "bf16"}, "compile": {"compile": True},
    "compile-bf16": {"compile": True, "amp": "bf16"}, "plain": {}, "plain-bf16": {"amp": "bf16"},
}  # fmt: skip
"""Name -> what it changes of a run's settings. The plain ones keep PyTorch's own depthwise convolutions."""

WARM_UP = 2  # steps before the first round; the first one of --compile takes minutes
SHOWN_OPERATIONS = 14
DATA_BATCHES = 4


def main(arguments: list[str] | None = None) -> int:
    """Print a row per variant; write all to --json."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", required=True)
    options.add_argument("--dataset", default="auto")
    options.add_argument("--backbone", default="mobilenet_v2")
    options.add_argument("--output-stride", type=int, default=16)
    options.add_argument("--crop", type=int, default=320)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--variants", default="default,contiguous,bf16,compile", help=f"some of {','.join(VARIANTS)}")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--steps", type=int, default=2, help="of each variant in a round")
    options.add_argument("--threads", type=int, default=None, help="of PyTorch (default: its own choice)")
    options.add_argument("--memory-returned", action="store_true", help="freed memory goes back to the system")
    options.add_argument("--profile", action="store_true", help="list the operations of the first variant's step")
    options.add_argument("--json", help="write the figures here")
    return finished(options.parse_args(arguments), measured, "training_speed.py")


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Time of a step by variant and its ratio to the first, time of a batch, and, where asked for, operations."""
    names = args.variants.split(",")
    if unknown := [name for name in names if name not in VARIANTS]:
        raise PspnetError(f"unknown variant {unknown[0]!r}: choose some of {','.join(VARIANTS)} with --variants")
    if args.rounds < 1 or args.steps < 1:
        raise PspnetError(f"{args.rounds} rounds of {args.steps} steps: give --rounds 1 and --steps 1 or more")
    if args.batch < 2 or (args.threads is not None and args.threads < 1):
        raise PspnetError(f"batch {args.batch}, {args.threads} threads: give --batch 2 and --threads 1 or more")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    dataset = open_dataset(args.dataset, args.data, "train")
    config = TrainConfig(crop=args.crop, batch=args.batch, workers=0)
    spec, _ = network(args, dataset)
    batch, data_ms = batch_and_time(dataset, spec, config)
    with contextlib.nullcontext() if args.memory_returned else freed_memory_kept():
        return result_of(args, names, dataset, batch, data_ms)


def result_of(
    args: argparse.Namespace, names: list[str], dataset: Dataset, batch: Batch, data_ms: float
) -> dict[str, Any]:
    """What `measured` returns, printed as well."""
    steps = {}
    for name in names:
        steps[name] = train_step(args, dataset, name)
        for number in tqdm(range(WARM_UP), f"{name}: first steps", unit="step", leave=False):
            steps[name]([batch], f"warm-up {number}")
    times = rounds(steps, batch, args.rounds, args.steps)
    result: dict[str, Any] = {
        "kind": "training speed", "backbone": args.backbone, "output_stride": args.output_stride, "crop": args.crop,
        "batch": args.batch, "threads": torch.get_num_threads(), "torch": torch.__version__, "rounds": args.rounds,
        "memory_returned": args.memory_returned,
        "steps_per_round": args.steps, "data_ms_one_process": data_ms,
        "variants": {
            name: {
                "step_ms": median_interval(times[name]),
                "times_faster": median_interval([a / b for a, b in zip(times[names[0]], times[name], strict=True)]),
            }
            for name in names
        },
    }  # fmt: skip
    print(text_of(result))
    if args.profile:
        result["operations"] = operations(steps[names[0]], batch)
        for row in result["operations"]:
            print(f"{row['ms']:9.1f} ms  {100 * row['share']:5.1f} %  {row['calls']:5} calls  {row['name']}")
    return result


def network(args: argparse.Namespace, dataset: Dataset) -> tuple[ModelSpec, Any]:
    """A new model with random weights: the time of a step does not depend on them."""
    size = (args.crop, args.crop)
    return new_model(dataset, args.backbone, args.output_stride, None, size, None, None, "none", 0)


def train_step(args: argparse.Namespace, dataset: Dataset, name: str) -> TrainStep:
    """The step of a fresh run with some settings changed, in training mode."""
    config = TrainConfig(crop=args.crop, batch=args.batch, workers=0, **VARIANTS[name])
    spec, model = network(args, dataset)
    state = new_state(model, config, len(dataset) // args.batch)
    step = TrainStep(state, criterion_from_config(config, spec, dataset), config, dataset.images, None)
    step.train_mode()
    if name.startswith("plain"):
        plain_depthwise(state.model)
    return step


def batch_and_time(dataset: Dataset, spec: ModelSpec, config: TrainConfig) -> tuple[Batch, float]:
    """A batch of training pictures, and the milliseconds that one process with one thread takes for one."""
    batches = EpochBatches(len(dataset), config.batch, 1, config.seed)
    if not batches.steps:
        raise PspnetError(f"{len(dataset)} images are fewer than a batch of {config.batch}: give a smaller --batch")
    loader = iter(train_loader(TrainPairs(dataset, TrainTransform(spec, config)), batches, 0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a loader's process has
    try:
        batch, times = next(loader), []
        for _ in range(min(DATA_BATCHES, batches.steps - 1)):
            begin = time.perf_counter()
            next(loader)
            times.append(1000 * (time.perf_counter() - begin))
    finally:
        torch.set_num_threads(threads)
    return batch, float(np.median(times)) if times else float("nan")


def rounds(steps: dict[str, TrainStep], batch: Batch, count: int, per_round: int) -> dict[str, list[float]]:
    """Milliseconds of a step by variant, the median of each round; the variants take turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in tqdm(range(count), "rounds", unit="round", leave=False):
        for name, step in steps.items():
            own = []
            for _ in range(per_round):
                begin = time.perf_counter()
                step([batch], f"round {number}")
                own.append(1000 * (time.perf_counter() - begin))
            times[name].append(float(np.median(own)))
    return times


def operations(step: TrainStep, batch: Batch) -> list[dict[str, Any]]:
    """The operations of one step with the largest time of their own, as PyTorch's profiler sees them."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step([batch], "profile")
    events = [event for event in seen.key_averages() if event.self_cpu_time_total > 0]
    whole = sum(event.self_cpu_time_total for event in events)
    events.sort(key=lambda event: -event.self_cpu_time_total)
    return [
        {"name": event.key, "ms": event.self_cpu_time_total / 1000, "share": event.self_cpu_time_total / whole,
         "calls": event.count}
        for event in events[:SHOWN_OPERATIONS]
    ]  # fmt: skip


def text_of(result: dict[str, Any]) -> str:
    """The rows to print."""
    width = max(map(len, result["variants"]))
    lines = [f"{'':{width}}  {'step ms':>8}  {'interval':>15}  {'times faster':>12}  {'interval':>13}"]
    for name, row in result["variants"].items():
        ms, ratio = row["step_ms"], row["times_faster"]
        between = f"{ms['low']:.0f}-{ms['high']:.0f}"
        spread = f"{ratio['low']:.2f}-{ratio['high']:.2f}"
        lines.append(f"{name:{width}}  {ms['median']:8.0f}  {between:>15}  {ratio['median']:12.2f}  {spread:>13}")
    return "\n".join([
        *lines,
        f"a batch of pictures takes one loader process {result['data_ms_one_process']:.0f} ms; {result['backbone']}, "
        f"output stride {result['output_stride']}, {result['batch']} crops of {result['crop']}x{result['crop']}, "
        f"{result['threads']} threads",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
