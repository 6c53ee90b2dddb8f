"""The published cost of PSPNet, and the table's sums against PyTorch's own counters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.model_table import BINS, main, model_table
from pspnet.model import PSPNet, default_widths
from pspnet.spec import ModelSpec

REL = 0.01  # the published figures are rounded to three digits
SIZE = (512, 1024)


@pytest.mark.parametrize(
    ("backbone", "million_parameters", "giga_macs"),
    [
        ("resnet18", 12.6, {"7x7": 106, "v1c": 108, "deep": 121}),
        ("resnet50", 46.6, {"7x7": 354, "v1c": 357, "deep": 368}),
        ("resnet101", 65.6, {"7x7": 509, "v1c": 512, "deep": 523}),
    ],
)
def test_totals_are_the_published_ones(backbone: str, million_parameters: float, giga_macs: dict[str, float]) -> None:
    """Parameters and multiply-adds at 512x1024, output stride 8, 19 classes, without aux head."""
    for stem, expected in giga_macs.items():
        table = model_table(backbone, SIZE, stem, 8, 19)
        assert table["macs"] / 1e9 == pytest.approx(expected, rel=REL)
        if stem == "7x7":
            assert table["parameters"] / 1e6 == pytest.approx(million_parameters, rel=REL)


@pytest.mark.parametrize(
    ("backbone", "size", "output_stride", "giga_macs"),
    [
        ("resnet18", (720, 960), 8, 140), ("resnet50", (1024, 2048), 8, 1416), ("resnet18", SIZE, 16, 34.3),
        ("resnet18", SIZE, 32, 19.6), ("resnet50", SIZE, 16, 103.6), ("resnet50", SIZE, 32, 52.4),
    ],
)  # fmt: skip
def test_totals_at_other_sizes_and_strides(
    backbone: str, size: tuple[int, int], output_stride: int, giga_macs: float
) -> None:
    assert model_table(backbone, size, "7x7", output_stride, 19)["macs"] / 1e9 == pytest.approx(giga_macs, rel=REL)


@pytest.mark.parametrize(
    ("backbone", "stem"), [("resnet18", "deep"), ("resnet50", "7x7"), ("mobilenet_v3_large", "7x7")]
)
def test_sums_are_those_of_pytorchs_counters(backbone: str, stem: str) -> None:
    table = model_table(backbone, (96, 128), stem, 8, 5)
    spec = ModelSpec(
        backbone, 8, BINS, *default_widths(backbone), tuple("abcde"), ((0, 0, 0),) * 5, (96, 128), stem=stem,
        aux_stages=(),
    )  # fmt: skip
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = PSPNet(spec).eval()
        model(torch.empty(1, 3, 96, 128))
    assert 2 * table["macs"] == counter.get_total_flops()  # a multiply-add is two operations
    assert table["parameters"] == sum(p.numel() for p in model.parameters())
    for name in ("parameters", "macs"):
        assert table[name] == sum(row[name] for row in table["stages"]) == sum(row[name] for row in table["layers"])
    stages = ["stem", *(f"layer{n}" for n in (1, 2, 3, 4)), *(f"ppm bin {b}" for b in BINS), "bottleneck", "classifier"]
    assert [row["name"] for row in table["stages"]] == stages
    maps = [row["output"][1:] for row in table["stages"][:5]]
    assert maps == [[48, 64], [24, 32], [12, 16], [12, 16], [12, 16]]


def test_the_table_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "t.json"
    assert main(["--backbones", "resnet18", "--size", "96x128", "--layers", "--json", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    layers = json.loads(path.read_text())["models"][0]["layers"]
    assert len(lines) == len(layers) + 3 and lines[-1].startswith("total")
    assert lines[2].split()[:3] == ["backbone.early.0", "7x7/2", "64x48x64"]
    assert main(["--backbones", "resnet18", "--stem", "5x5"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_stored_table_is_current() -> None:
    stored = json.loads((Path(__file__).parents[1] / "docs" / "results" / "model-table.json").read_text())
    for model in stored["models"]:
        assert model == model_table(model["backbone"], SIZE, "7x7", 8, 19)
