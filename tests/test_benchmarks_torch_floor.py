"""benchmarks/torch_floor.py on the CPU: what it counts, compares and writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import torch_floor
from pspnet.checkpoint import replace_spec
from pspnet.errors import PspnetError
from tests import benchmarks_on_cpu
from tests.nets import ROOT, random_model

SMALL = ["--backbone", "mobilenet_v2", "--size", "96x128", "--output-stride", "16", "--rounds", "3"]


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    benchmarks_on_cpu.torch_on_cpu(monkeypatch)


def test_both_heads_have_a_time_and_a_floor(on_cpu: None, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    target = tmp_path / "torch.json"
    assert torch_floor.main([*SMALL, "--json", str(target)]) == 0
    found = json.loads(target.read_text())
    assert found["kind"] == "torch-floor" and found["size"] == "96x128" and "command" in found
    assert list(found["forms"]) == ["naive", "folded"] and found["folded_times_faster"]["median"] > 0
    assert 0 < found["difference"] <= torch_floor.LARGEST_DIFFERENCE
    assert 0 < found["forms"]["folded"]["multiply_adds"] != found["forms"]["naive"]["multiply_adds"] > 0
    assert "folded" in capsys.readouterr().out


def test_ratios_are_formed_within_rounds() -> None:
    times = {"naive": [4.0, 40.0, 6.0], "folded": [2.0, 20.0, 2.0], "matrix": [1.0, 10.0, 1.0]}
    found = torch_floor.figures(times, {"naive": torch_floor.MATRIX**3, "folded": torch_floor.MATRIX**3 // 2})
    assert found["folded_times_faster"]["median"] == 2.0  # of 2, 2 and 3
    assert found["forms"]["naive"]["times_the_floor"]["median"] == 4.0  # of 4, 4 and 6
    assert found["forms"]["folded"]["times_the_floor"]["median"] == 4.0
    assert found["forms"]["naive"]["floor_ms"]["median"] == 1.0
    assert found["multiply_adds_per_s"]["high"] == torch_floor.MATRIX**3 * 1e3


def test_multiply_adds_are_those_of_convolutions_and_products() -> None:
    """Counted by hand: outputs times the weights that each takes."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.depthwise(self.wide(pixels)) @ torch.ones(10, 5)

    with torch.inference_mode():
        found = torch_floor.multiply_adds(Network(), torch.zeros(1, 3, 12, 20))
    assert found == 6 * 10 * 8 * (3 * 9 + 9) + 8 * 6 * 5 * 10


def test_heads_that_compute_something_else_are_not_timed(on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, model = random_model("mobilenet_v2", 16, (96, 128))
    made = torch_floor.HalfNetwork

    def changed(model: nn.Module, spec: object, form: str) -> nn.Module:
        network = made(model, spec, form)  # type: ignore[arg-type]
        if form == "folded":
            network.head.classifier.bias.data += 10 * network.head.classifier.weight.abs().max()
        return network

    monkeypatch.setattr(torch_floor, "HalfNetwork", changed)
    with pytest.raises(PspnetError, match="the two heads differ by"):
        torch_floor.measured(model, replace_spec(spec), torch.device("cpu"), 1)


def test_a_network_of_a_gpu_is_in_float16_and_channels_last() -> None:
    spec, model = random_model("mobilenet_v2", 16, (96, 128))
    network = torch_floor.HalfNetwork(model, spec, "naive")
    assert {each.dtype for each in network.parameters()} == {torch.float16}
    wide = [each.weight for each in network.modules() if isinstance(each, nn.Conv2d) and each.kernel_size == (3, 3)]
    assert wide and all(weight.is_contiguous(memory_format=torch.channels_last) for weight in wide)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in network.modules())


def test_without_a_gpu_nothing_is_written(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    target = tmp_path / "torch.json"
    command = [sys.executable, "benchmarks/torch_floor.py", "--json", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and not target.exists()
    assert done.stderr.startswith("torch_floor.py: no GPU for PyTorch") and done.stderr.count("\n") == 1
