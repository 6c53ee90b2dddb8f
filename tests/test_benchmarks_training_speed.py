"""benchmarks/training_speed.py: what it writes, on a small network; its times are not judged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import training_speed
from benchmarks.training_speed import main
from tests.drives import write_drives

SAME = 0.05  # of a loss of about 1: bfloat16 has 8 bits


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drives(tmp_path_factory.mktemp("drives") / "data", frames=8)


def test_every_variant_is_a_row(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", str(data), "--crop", "96", "--batch", "2", "--rounds", "2", "--steps", "1", "--profile"]
    words += ["--variants", "default,contiguous,bf16", "--json", str(tmp_path / "s.json")]
    assert main(words) == 0
    found = json.loads((tmp_path / "s.json").read_text())
    assert list(found["variants"]) == ["default", "contiguous", "bf16"] and found["data_ms_one_process"] > 0
    assert found["variants"]["default"]["times_faster"]["median"] == 1
    for row in found["variants"].values():
        assert 0 < row["step_ms"]["low"] <= row["step_ms"]["median"] <= row["step_ms"]["high"]
    own = [row["ms"] for row in found["operations"]]
    assert own == sorted(own, reverse=True) and any("conv" in row["name"] for row in found["operations"])
    assert found["machine"]["cores"] >= 1 and "times faster" in capsys.readouterr().out


def test_variants_train_the_same_network(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They differ in speed, not in what they learn: the first losses agree."""
    losses: dict[str, list[float]] = {}
    real = training_speed.rounds

    def noted(steps: dict, batch: list, count: int, per_round: int) -> dict[str, list[float]]:
        for name, step in steps.items():
            for module in step.state.model.modules():  # its masks depend on the memory format
                if isinstance(module, torch.nn.Dropout2d):
                    module.p = 0.0
            losses[name] = [step([batch], "again") for _ in range(2)]
        return real(steps, batch, count, per_round)

    monkeypatch.setattr(training_speed, "rounds", noted)
    monkeypatch.setattr(training_speed, "WARM_UP", 0)
    words = ["--data", str(data), "--crop", "96", "--batch", "4", "--rounds", "1", "--steps", "1"]
    assert main([*words, "--variants", "default,contiguous,bf16"]) == 0
    for name in ("contiguous", "bf16"):
        assert np.allclose(losses[name], losses["default"], rtol=SAME), losses


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--variants", "fast"], "unknown variant 'fast'"), (["--rounds", "0"], "give --rounds 1"),
        (["--batch", "99"], "fewer than a batch of 99"),
    ],
)  # fmt: skip
def test_refusals(words: list[str], said: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(data), *words]) == 2
    assert said in capsys.readouterr().err
