"""A benchmark's result as a stamped record and as a table for the terminal."""

from __future__ import annotations

import shlex
import sys
from datetime import datetime, timezone
from typing import Any

from pspnet.doctor import machine
from pspnet.wording import engine_facts, own_version


def stamped(result: dict[str, Any], program: str = "pspnet") -> dict[str, Any]:
    """`result` with what a figure needs to be believed: date, command (that of `program`), version and machine."""
    return {
        "kind": "bench", "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": f"{program} {shlex.join(sys.argv[1:])}", "version": own_version(),
        "machine": machine(), **result,
    }  # fmt: skip


def print_table(result: dict[str, Any]) -> None:
    """One row per candidate, the stages of each, then how the figures came about."""
    entries = result["candidates"]
    width = max(len(entry["name"]) for entry in entries)
    titles = (
        f"{'FPS':>7} {'interval':>15} {'ratio':>6} {'p50 ms':>8} {'p90 ms':>8} {'p99 ms':>8} {'MB':>6} {'mIoU %':>7}"
    )
    print(f"{'':{width}}  {titles}")
    for entry in entries:
        fps, service = entry["throughput_fps"], entry["service_ms"]
        miou = f"{entry['scores']['miou']:7.2f}" if entry["scores"] else f"{'-':>7}"
        print(
            f"{entry['name']:{width}}  {fps['median']:7.2f} {fps['low']:7.2f}-{fps['high']:7.2f} "
            f"{entry['ratio_to_first']['median']:6.2f} {service['p50']:8.1f} {service['p90']:8.1f} "
            f"{service['p99']:8.1f} {entry['file_bytes'] / 1e6:6.1f} {miou}"
        )
    stages = list(entries[0]["stages_ms"])
    print(f"{'p50 in ms of':>{width}}  {' '.join(f'{stage:>8}' for stage in stages)}")
    for entry in entries:
        medians = [f"{entry['stages_ms'][stage]['p50']:8.2f}" for stage in stages]
        print(f"{entry['name']:{width}}  {' '.join(medians)}")
    scores = entries[0]["scores"]
    gpus = {gpu_text(entry["provenance"]) for entry in entries if entry.get("provenance")}
    images = f"; mIoU on {scores['protocol']['images']} images of {scores['protocol']['split']}" if scores else ""
    print(
        f"{result['rounds']} interleaved rounds of {result['frames_per_round']} frames of {result['source']}, "
        f"{result['threads']} threads, {result['machine']['cpu']}{''.join(sorted(gpus))}{images}"
    )


def gpu_text(provenance: dict[str, Any]) -> str:
    """ ", NVIDIA H100 (TensorRT 10.3.0)" """
    library, version, gpu = engine_facts(provenance)
    return f", {gpu} ({library} {version})" if gpu else f", {library} {version}"
