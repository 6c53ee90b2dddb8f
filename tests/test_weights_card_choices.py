"""weights/card.py and card_page.py: which of several measurements a card shows, and the commands that it repeats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.test_log import PLAIN
from pspnet.checkpoint import save_checkpoint
from tests.nets import random_model
from tests.score_files import NOTES, measure
from weights import pack
from weights.card import commands_of

FLIP = f"{PLAIN}, flip"


@pytest.fixture
def net(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "net.toml").write_text(NOTES)
    return saved(folder / "net.pt", seed=0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "results" / "test_log.jsonl"


def saved(path: Path, shift: float = 0.0, **recipe: Any) -> Path:
    spec, model = random_model("mobilenet_v2", 16, (96, 128), recipe={"lr": 0.1, **recipe}, licence="free")
    model.head.classifier.bias.data += shift
    path.parent.mkdir(exist_ok=True)
    save_checkpoint(path, spec, model.state_dict())
    return path


def card(net: Path, log: Path) -> tuple[dict[str, Any], str]:
    assert pack.main([str(net), "--log", str(log)]) == 0
    return json.loads(net.with_suffix(".json").read_text()), net.with_suffix(".md").read_text()


def test_scores_in_other_modes_only(net: Path, log: Path) -> None:
    measure(log, net, 40.0, mode=FLIP)
    facts, page = card(net, log)
    assert facts["test"] is None and f"{FLIP} | 40.00 |" in page
    assert "| mIoU | mAcc |" not in page and "| class |" not in page and "no flip" not in page
    assert "on the 3 images of d test" in " ".join(page.split())


def test_the_headline_is_float32_of_the_checkpoint(net: Path, log: Path) -> None:
    measure(log, net, 41.0, artefact="model.int8.onnx", engine="openvino", precision="int8")
    measure(log, net, 42.0, artefact="model.onnx", engine="openvino")
    measure(log, net, 43.0)
    facts, page = card(net, log)
    assert (facts["test"]["miou"], facts["test"]["precision"]) == (43.0, "fp32")
    assert page.index("| 43.00 |") < page.index("| 42.00 |") < page.index("| 41.00 |")
    assert facts["precisions"] == {"fp32": 43.0, "int8": 41.0}
    assert facts["seeds"] == [{"seed": 0, "miou": 43.0, "result": "test-2.json"}]
    assert "One seed" in page


def test_a_seed_is_never_of_another_precision(net: Path, log: Path) -> None:
    measure(log, net, 41.0, artefact="model.int8.onnx", engine="openvino", precision="int8")
    assert card(net, log)[0]["seeds"] == []


def test_the_own_seed_is_that_of_the_packed_file(net: Path, log: Path, tmp_path: Path) -> None:
    last = saved(tmp_path / "run" / "last.pt", 1.0, seed=0)
    other = saved(tmp_path / "other" / "last.pt", 2.0, seed=1)
    measure(log, net, 1.0, mode=FLIP)
    measure(log, last, 30.0)
    measure(log, other, 31.0, artefact="model.onnx", engine="openvino")
    measure(log, other, 32.0)
    other_seed = {"seed": 1, "miou": 32.0, "result": "test-3.json"}
    assert card(net, log)[0]["seeds"] == [{"seed": 0, "miou": 30.0, "result": "test-1.json"}, other_seed]
    measure(log, net, 33.0)
    facts, page = card(net, log)
    assert facts["seeds"] == [{"seed": 0, "miou": 33.0, "result": "test-4.json"}, other_seed]
    text = " ".join(page.split())
    assert "2 seeds on test, fp32: seed 0 33.00, seed 1 32.00; " in text and "deviation 0.71 (`test-3.json`)." in text


def test_sizes_and_precisions_have_rows_and_commands_of_their_own(net: Path, log: Path) -> None:
    measure(log, net, 50.0)
    for miou, artefact, precision, size in (
        (51.0, "model.onnx", "fp32", None),
        (52.0, "model.onnx", "fp32", (192, 256)),
        (53.0, "model.int8.onnx", "int8", (192, 256)),
        (54.0, "model.fp16.onnx", "fp16 (simulated)", None),
    ):
        measure(log, net, miou, artefact=artefact, engine="ort", precision=precision, size=size)
    facts, page = card(net, log)
    columns = ("PyTorch fp32", "ONNX Runtime FP16 (simulation)", "ONNX Runtime INT8 (simulation) at 192x256")
    assert f"| class | {' | '.join(f'IoU {name}' for name in columns)} | share of pixels |" in page
    assert [row["miou"] for row in facts["scores"]] == [50.0, 51.0, 52.0, 53.0, 54.0]
    assert [row.get("network_size") for row in facts["scores"]] == [None, None, [192, 256], [192, 256], None]
    assert "| model.onnx, ONNX Runtime fp32 | 51.00 |" in page
    assert "| model.onnx at 192x256, ONNX Runtime fp32 | 52.00 |" in page
    assert "| model.fp16.onnx, ONNX Runtime FP16 (simulation) | 54.00 |" in page
    assert page.split("## Repeat the figures")[1].split("```")[1].splitlines()[1:] == [
        "pspnet evaluate weights/net.pt --data data/x --split test",
        "pspnet export weights/net.pt --size 96x128 --data data/x --fp16 -o runs/shipped/model.onnx",
        "pspnet evaluate runs/shipped/model.onnx --data data/x --split test --engine ort",
        "pspnet evaluate runs/shipped/model.fp16.onnx --data data/x --split test --engine ort",
        "pspnet export weights/net.pt --size 192x256 --data data/x -o runs/shipped/192x256/model.onnx",
        "pspnet evaluate runs/shipped/192x256/model.onnx --data data/x --split test --engine ort",
        "pspnet calibrate runs/shipped/192x256/model.onnx --data data/x",
        "pspnet evaluate runs/shipped/192x256/model.int8.onnx --data data/x --split test --engine ort",
    ]


def test_the_flags_of_the_calibration_are_those_of_the_notes(net: Path, log: Path) -> None:
    measure(log, net, 50.0)
    measure(log, net, 49.9, artefact="model.int8.onnx", engine="openvino", precision="int8")
    notes = net.with_suffix(".toml")
    notes.write_text(f'calibrate = "--equalise --finetune 2"\n{notes.read_text()}')
    commands = card(net, log)[1].split("## Repeat the figures")[1]
    assert "pspnet calibrate runs/shipped/model.onnx --data data/x --equalise --finetune 2\n" in commands


def made(command: str, before: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"made_with": {"command": f"pspnet train --data d {command}"}} | ({"init_recipe": before} if before else {})


def test_commands_begin_with_a_file_that_no_training_writes() -> None:
    """`--init weights/X.pt`: no folder weights is made by a training before it."""
    first = made("--weights net.pth")
    again = made("--init weights/x.pt --lr 0.1", first)
    assert commands_of(again, "net", {}) == ["pspnet train --data d --init weights/x.pt --lr 0.1 -o runs/net"]
    assert commands_of(made("--init=runs/b/best.pt", again), "net", {}) == [
        "pspnet train --data d --init weights/x.pt --lr 0.1 -o runs/b",
        "pspnet train --data d --init=runs/b/best.pt -o runs/net",
    ]
    pruned = made("--init pruned.pt", {"pruned": "last.pt", "init_recipe": first})
    assert commands_of(pruned, "net", {}) == ["pspnet train --data d --init pruned.pt -o runs/net"]
    assert commands_of(pruned, "net", {"commands": ["pspnet prune"]}) == ["pspnet prune"]
    assert commands_of(made("--init last.pt", {"lr": 1.0}), "net", {}) == []


def test_a_run_that_is_kept_by_its_file_alone_gets_a_folder() -> None:
    """As of `--init /elsewhere/last.pt`: -o . is no folder for a run."""
    first = made("--weights net.pth")
    for flag in ("--init ", "--init="):
        assert commands_of(made(f"{flag}last.pt --lr 0.1", first), "net", {}) == [
            "pspnet train --data d --weights net.pth -o runs/net-stage1",
            f"pspnet train --data d {flag}runs/net-stage1/last.pt --lr 0.1 -o runs/net",
        ]
