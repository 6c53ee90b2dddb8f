"""benchmarks/frame_cost.py on the CUDA driver double: what it times, writes and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import frame_cost
from pspnet.geometry import Geometry
from runtime import labels
from runtime.cuda import open_device
from runtime.cuda_segmenter import CudaSegmenter
from tests.doubles.cuda_driver import CudaDouble
from tests.nets import ROOT

SIZE = 64, 128
SMALL = ["--size", "64x128", "--classes", "5", "--rounds", "3", "--frames", "4"]


def test_every_kind_of_picture_has_its_time_and_stages(
    memory_kind: str, kernels_on_cpu: None, cuda_double: CudaDouble, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    target = tmp_path / "frame.json"
    assert frame_cost.main([*SMALL, "--json", str(target)]) == 0
    found = json.loads(target.read_text())
    assert found["kind"] == "frame-cost" and found["gpu"]["name"] == "CPU double" and "command" in found
    assert (found["rounds"], found["frames_per_round"], found["without_graphs"], found["copied"]) == (3, 4, "", {})
    assert [(line["format"], line["memory"]) for line in found["frames"]] == frame_cost.KINDS
    copies = ["copy_in", "copy_out"] if memory_kind == "card" else []
    for line in found["frames"]:
        other = ["stage"] if line["memory"] == "elsewhere" else []
        assert set(line["stages_ms"]) == {*other, *copies, "pre", "infer", "labels"}
        assert line["frame_ms"]["low"] <= line["frame_ms"]["median"] <= line["frame_ms"]["high"]
        assert line["frame_ms"]["median"] > 0 and line["limit_ms"] == (0.5 if line["memory"] == "camera" else None)
    assert capsys.readouterr().out.count(" ms (") == len(frame_cost.KINDS)
    assert cuda_double.live() == {}


def test_the_frames_are_labelled_in_full(kernels_on_cpu: None, cuda_double: CudaDouble) -> None:
    """Nothing is left out but the network: the labels are those of its logits."""
    logits = frame_cost.smooth_logits((5, 8, 16)).astype(np.float32)
    with (
        open_device() as device,
        CudaSegmenter(frame_cost.NoNetwork(device, SIZE, 5)) as segmenter,
        frame_cost.pictures("nv12", "camera", SIZE) as frames,
    ):
        found = segmenter.segment(frames[:1])[0].labels
        assert np.array_equal(found, labels.from_logits_at_camera(logits, Geometry(SIZE, SIZE)))


@pytest.mark.parametrize("wrong", [["--size", "63x128"], ["--classes", "0"], ["--classes", "255"], ["--frames", "0"]])
def test_what_cannot_be_measured_is_refused(wrong: list[str], capsys: pytest.CaptureFixture) -> None:
    assert frame_cost.main(wrong) == 2
    said = capsys.readouterr().err
    assert "needed are even sides" in said and said.count("\n") == 1


def test_without_a_gpu_nothing_is_written(tmp_path: Path) -> None:
    target = tmp_path / "frame.json"
    command = [sys.executable, "benchmarks/frame_cost.py", "--json", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    if done.returncode != 2:
        pytest.skip("this machine has an NVIDIA GPU")
    assert not target.exists() and done.stderr.startswith("frame_cost.py: no NVIDIA GPU can be used")
