"""weights/pack.py: small files with curves, and cards in which no figure is typed by hand."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import final_test
from benchmarks.test_log import read_log
from pspnet.checkpoint import load_model, read_checkpoint, replace_spec, save_checkpoint
from pspnet.cli import main as pspnet
from tests.drives import write_drives
from tests.nets import CAMVID, ROOT, random_model
from weights import pack
from weights.card import commands_of

NAME = "pspnet_mobilenet_v2_camvid11"
HALF = 2.0**-11  # of a weight: what float16 rounds away
NOTES = 'licence = "Free."\nlimits = "A test."\ndata = "data/x"\n'


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of a recipe, trained for two epochs each."""
    folder = tmp_path_factory.mktemp("runs")
    data = write_drives(folder / "data", frames=4, splits=("train", "val"))
    words = [
        "train",
        "--data",
        str(data),
        "--weights",
        "none",
        "--bins",
        "1,2",
        "--output-stride",
        "32",
        "--crop",
        "64",
    ]
    words += ["--batch", "4", "--epochs", "2", "--workers", "0"]
    for seed in (0, 1):
        assert pspnet([*words, "--seed", str(seed), "-o", str(folder / f"seed{seed}")]) == 0
    return [folder / "seed0", folder / "seed1"]


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A folder for a packed checkpoint, with its notes."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "net.toml").write_text(NOTES)
    return folder / "net.pt"


def test_the_shipped_card_is_what_its_sources_say(tmp_path: Path) -> None:
    """Written again from checkpoint, scores, log and notes, no byte differs."""
    folder = Path(shutil.copytree(ROOT / "weights", tmp_path / "weights"))
    (folder / f"{NAME}.md").unlink()
    (folder / f"{NAME}.json").unlink()
    assert pack.main([str(folder / f"{NAME}.pt")]) == 0
    for suffix in ("md", "json"):
        assert (folder / f"{NAME}.{suffix}").read_bytes() == (ROOT / "weights" / f"{NAME}.{suffix}").read_bytes()


def test_every_figure_of_the_page_is_in_a_file_of_scores() -> None:
    page = (ROOT / "weights" / f"{NAME}.md").read_text()
    of_the_tables = " ".join(page.split()).split("Every figure here is")[1].split(" seeds ")[0]
    files = re.findall(r"`(docs/results/[^`]*\.json)`", of_the_tables)
    found = [json.loads((ROOT / name).read_text()) for name in files]
    rows = re.findall(r"^\|.*\|(.*)\|(.*)\|(.*)\|(.*)\|$", page.split("| class |")[0], re.MULTILINE)[2:]
    assert found and len(rows) == len(found)
    for row, scores in zip(rows, found, strict=True):
        figures = [f"{scores[key]:.2f}" for key in ("miou", "macc", "pixel_accuracy", "f1")]
        assert [each.strip() for each in row] == figures
    by_precision = list({each["protocol"]["precision"]: each for each in reversed(found)}.values())
    assert found[0]["protocol"]["precision"] == "fp32" and by_precision
    for name, values in found[0]["per_class"].items():
        [line] = re.findall(rf"^\| {name} \|.*$", page, re.MULTILINE)
        cells = [cell.strip() for cell in line.split("|")[2:-2]]
        assert cells[0] == f"{values['iou']:.1f}" and len(cells) == len(by_precision)
        assert set(cells) == {f"{each['per_class'][name]['iou']:.1f}" for each in by_precision}


def test_a_packed_run_and_its_card(runs: list[Path], shipped: Path, tmp_path: Path) -> None:
    log = tmp_path / "results" / "test_log.jsonl"
    words = [str(runs[0] / "last.pt"), str(shipped), "--licence", "free", "--seeds", str(runs[1]), "--log", str(log)]
    assert pack.main(words) == 0
    spec, model = load_model(shipped)
    _, trained = load_model(runs[0] / "last.pt")
    for (name, ours), theirs in zip(model.state_dict().items(), trained.state_dict().values(), strict=True):
        if ours.is_floating_point() and ours.ndim > 1:
            assert torch.allclose(ours, theirs, rtol=HALF, atol=1e-7), name
        else:
            assert torch.equal(ours, theirs), name
    _, raw = read_checkpoint(shipped)
    _, last = read_checkpoint(runs[1] / "last.pt")
    assert [each["seed"] for each in raw["histories"]] == [0, 1] and raw["histories"][1]["rows"] == last["history"]
    assert set(raw) == {"format", "spec", "model", "histories"}
    page = shipped.with_suffix(".md").read_text()
    assert "![mIoU over the epochs, by seed](net.svg)" in page and "## Scores" not in page
    assert shipped.with_suffix(".svg").read_text().count("<polyline") == 2
    (told,) = re.findall(r"1\. from random weights: (.*)", page)
    assert "epochs 2, batch 4" in told and "seed 0" in told  # seed and batch are told even where they are defaults
    assert not {"momentum", "schedule", "workers"} & set(re.findall(r"\w+", told))
    assert "pspnet train --data data --weights none" in page and "-o runs/net" in page
    assert str(tmp_path) not in page and str(runs[0].parent) not in page
    facts = json.loads(shipped.with_suffix(".json").read_text())
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert facts["classes"] == list(spec.class_names) and facts["test"] is None
    assert pspnet(["weights", "--folder", str(shipped.parent)]) == 0


def test_scores_of_all_seeds_come_from_the_log(shipped: Path, tmp_path: Path) -> None:
    log, paths = tmp_path / "results" / "test_log.jsonl", []
    for seed in (5, 6):
        spec, model = random_model("mobilenet_v2", 16, (96, 128), recipe={"seed": seed, "lr": 0.1}, licence="free")
        model.head.classifier.bias.data[seed] += 9
        paths.append(tmp_path / f"seed{seed}.pt")
        save_checkpoint(paths[-1], spec, model.state_dict())
    assert pack.main([str(paths[0]), str(shipped), "--licence", "free", "--log", str(log)]) == 0
    test = ["--data", str(CAMVID), "--log", str(log)]
    assert final_test.main([str(shipped), str(paths[1]), *test]) == 0
    assert final_test.main([str(shipped), "--flip", *test]) == 0
    assert pack.main([str(shipped), "--log", str(log)]) == 0
    page = " ".join(shipped.with_suffix(".md").read_text().split())
    facts = json.loads(shipped.with_suffix(".json").read_text())
    own, other, flipped = [row["miou"] for row in read_log(log)]
    assert f"| checkpoint, PyTorch fp32 | {own:.2f} |" in page
    mean = (own + other) / 2
    assert f"2 seeds on test, fp32: seed 5 {own:.2f}, seed 6 {other:.2f}; mean {mean:.2f}" in page
    assert f"whole image, single scale, flip | {flipped:.2f} |" in page
    assert facts["test"]["miou"] == pytest.approx(own, abs=1e-3) and facts["precisions"].keys() == {"fp32"}
    tried = write_fewer(tmp_path / "tried")
    assert final_test.main([str(shipped), str(paths[1]), "--data", str(tried), "--log", str(log)]) == 0
    assert len(read_log(log)) == 5
    before = shipped.with_suffix(".json").read_bytes()
    assert pack.main([str(shipped), "--log", str(log)]) == 0
    assert shipped.with_suffix(".json").read_bytes() == before  # a try on fewer pictures is no score of the card


def write_fewer(folder: Path) -> Path:
    """The tiny CamVid with one test picture less."""
    shutil.copytree(CAMVID, folder)
    for part in ("images", "labels"):
        sorted((folder / "test" / part).iterdir())[0].unlink()
    return folder


def test_refusals(runs: list[Path], shipped: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    last, log = str(runs[0] / "last.pt"), ["--log", str(shipped.parent / "log.jsonl")]
    assert pack.main([last, str(shipped)]) == 2 and "give --licence" in capsys.readouterr().err
    spec, raw = read_checkpoint(last)
    candidate = shipped.parent / "candidate"
    held_out = replace_spec(spec, recipe=spec.recipe | {"hold_out": {"rule": "0.2:5"}})
    save_checkpoint(candidate, held_out, raw["model"])
    assert pack.main([str(candidate), str(shipped), "--licence", "x"]) == 2
    assert "ship one that was trained on everything" in capsys.readouterr().err
    seed1, _ = read_checkpoint(runs[1] / "last.pt")
    for recipe, said in (
        ({"hold_out": {"rule": "0.2:5"}}, "was trained with --hold-out 0.2:5, to choose a recipe"),
        ({"lr": 0.5}, "is no other seed of"),
        ({"init_recipe": {"lr": 1.0}}, "(another network, data or earlier stage)"),
        ({"seed": 0}, "seed 0 is given twice"),
    ):
        (shipped.parent / "other").mkdir(exist_ok=True)
        other = replace_spec(seed1, recipe=seed1.recipe | recipe)
        save_checkpoint(shipped.parent / "other" / "last.pt", other, raw["model"], history=[{"miou": 1.0}])
        assert pack.main([last, str(shipped), "--licence", "x", "--seeds", str(shipped.parent / "other"), *log]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1 and not shipped.exists()
        assert "lr" not in recipe or "(another lr 0.01 → 0.5)" in error
    with monkeypatch.context() as patch:
        patch.setattr(pack, "LARGEST_BYTES", 1000)
        assert pack.main([last, str(shipped), "--licence", "x", *log]) == 2
        assert "Ship a smaller network" in capsys.readouterr().err and not shipped.exists()
    assert pack.main([last, "--note", "x"]) == 2 and "are for packing" in capsys.readouterr().err
    shipped.with_suffix(".toml").write_text('licence = "x"')
    assert pack.main([last, str(shipped), "--licence", "x", *log]) == 2
    assert "lacks limits" in capsys.readouterr().err and not shipped.exists()
    shipped.with_suffix(".toml").write_text(NOTES + 'limit = "x"')
    assert pack.main([last, str(shipped), "--licence", "x", *log]) == 2
    assert "unknown key limit" in capsys.readouterr().err
    shipped.with_suffix(".toml").unlink()
    assert pack.main([last, str(shipped), "--licence", "x", *log]) == 2
    assert "a card needs the licence" in capsys.readouterr().err and not shipped.exists()


def test_commands_of_several_stages_name_each_other() -> None:
    first = {"weights": "net.pth", "made_with": {"command": "pspnet train --data d --weights net.pth --epochs 40"}}
    second = {"init": "last.pt", "init_recipe": first}
    second["made_with"] = {"command": "pspnet train --data d --init runs/s16/last.pt --epochs 7"}
    assert commands_of(second, "net", {}) == [
        "pspnet train --data d --weights net.pth --epochs 40 -o runs/s16",
        "pspnet train --data d --init runs/s16/last.pt --epochs 7 -o runs/net",
    ]
    first["made_with"] = {}
    assert commands_of(second, "net", {"commands": ["pspnet train -o x"]}) == ["pspnet train -o x"]
