"""Shows which conditions of segmentation health the frames of a clip raise; exits with 1 where one does.

python benchmarks/health_check.py model.onnx --data demo/video/solidWhiteRight.mp4

Time is the clip's own, so that every frame counts however fast the machine is. --loops plays it several times: the
drift of class shares has a baseline only after 20 s.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from pspnet.errors import PspnetError
from pspnet.files import write_json
from runtime.bench_report import stamped
from runtime.health import CONDITIONS, LEARN_S, HealthWatch
from runtime.runner import open_runner
from runtime.segmenter import CpuSegmenter
from runtime.source import open_source

DEFAULT_FPS = 25.0


def main() -> int:
    """Print the table; write it to --json too."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("artefact", help="checkpoint or ONNX file")
    options.add_argument("--data", required=True, help="clip or folder of pictures that are sound")
    options.add_argument("--loops", type=int, default=4, help="how often it is played (default 4)")
    options.add_argument("--engine", default="auto", help="openvino, ort or torch")
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--json", help="write the figures here")
    args = options.parse_args()
    try:
        result = stamped(watched(args), "python benchmarks/health_check.py")
        if args.json:
            write_json(args.json, result)
    except PspnetError as error:
        print(f"benchmarks/health_check.py: {error}", file=sys.stderr)
        return 2
    show(result)
    return int(any(row["frames"] for row in result["conditions"].values()))


def watched(args: argparse.Namespace) -> dict[str, Any]:
    """Frames in which each condition held, and the largest value of each."""
    raised: Counter[str] = Counter()
    largest: dict[str, float] = dict.fromkeys(CONDITIONS, 0.0)
    source, count = open_source(args.data), 0
    period_ns = int(1e9 / (source.fps or DEFAULT_FPS))
    with open_runner(args.artefact, args.engine, args.threads) as runner:
        segmenter, watch = CpuSegmenter(runner), HealthWatch(runner.spec.classes)
        for _ in range(args.loops):
            for frame in source:
                [result] = segmenter.segment([frame])
                timed = dataclasses.replace(frame, captured_ns=count * period_ns)
                raised.update(watch.see(timed, result.labels))
                largest = {name: max(largest[name], watch.values.get(name, 0.0)) for name in CONDITIONS}
                count += 1
        engine = {"engine": runner.engine, "precision": runner.precision}
    return {
        "kind": "health", "artefact": Path(args.artefact).name, "data": Path(args.data).name, **engine, "frames": count,
        "seconds": count * period_ns / 1e9,
        "conditions": {
            name: {"frames": raised[name], "largest": largest[name], "limit": condition.above}
            for name, condition in CONDITIONS.items()
        },
    }  # fmt: skip


def show(result: dict[str, Any]) -> None:
    """Print one row per condition."""
    print(f"{result['artefact']} on {result['data']}: {result['frames']} frames, {result['seconds']:.1f} s")
    for name, row in result["conditions"].items():
        print(f"{name:>14}  {row['frames']:5} frames   largest value {row['largest']:.3f}, limit {row['limit']:.3f}")
    if result["seconds"] < LEARN_S:
        print(f"{'drift':>14}  needs {LEARN_S:.0f} s for its baseline: give more --loops")


if __name__ == "__main__":
    sys.exit(main())
