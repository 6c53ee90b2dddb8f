"""benchmarks/final_test.py: test is run once per checkpoint, seed, precision and protocol, and every run is a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import final_test
from benchmarks.final_test import main
from benchmarks.test_log import BEGUN, LOG, append, earlier, read_log, recipe_hash
from export.exporter import export
from pspnet.checkpoint import read_checkpoint, replace_spec, save_checkpoint
from pspnet.errors import PspnetError
from pspnet.files import sha256_of
from tests.nets import CAMVID, ROOT, random_model

SIZE = (96, 128)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Checkpoints of one recipe with seeds 0 and 1."""
    folder, paths = tmp_path_factory.mktemp("seeds"), []
    for seed in (0, 1):
        spec, model = random_model(
            "mobilenet_v2", 16, SIZE, recipe={"seed": seed, "lr": 0.01, "made_with": {"s": seed}}
        )
        model.head.classifier.bias.data += seed
        paths.append(folder / f"seed{seed}.pt")
        save_checkpoint(paths[-1], spec, model.state_dict())
    return paths


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "results" / "test_log.jsonl"


def scored(log: Path, *words: object) -> int:
    return main([*map(str, words), "--data", str(CAMVID), "--log", str(log)])


def test_a_run_is_a_line_with_its_scores(seeds: list[Path], log: Path) -> None:
    assert scored(log, *seeds) == 0
    rows = read_log(log)
    assert [row["seed"] for row in rows] == [0, 1] and rows[0]["recipe"] == rows[1]["recipe"]
    for row, path in zip(rows, seeds, strict=True):
        assert row["sha256"] == row["checkpoint_sha256"] == sha256_of(path) and row["reason"] == final_test.ONCE
        assert (row["engine"], row["precision"], row["mode"]) == ("torch", "fp32", "whole image, single scale")
        assert row["network_size"] == list(SIZE) and row["fit"] == "stretch"
        found = json.loads((log.parent / row["file"]).read_text())
        assert row["images"] == found["protocol"]["images"] == len(list((CAMVID / "test" / "images").iterdir()))
        assert row["labels_sha256"] == found["protocol"]["labels_sha256"]
        assert found["protocol"]["split"] == "test" and row["miou"] == round(found["miou"], 3)


def test_a_second_run_needs_a_reason(seeds: list[Path], log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scored(log, seeds[0]) == 0
    assert scored(log, seeds[1], seeds[0]) == 2  # the first of them is not run either
    said = capsys.readouterr().err
    assert "was scored on test before" in said and "--again REASON" in said
    assert len(read_log(log)) == 1
    first = json.loads((log.parent / "test-seed0-fp32-torch.json").read_text())
    assert scored(log, seeds[0], "--again", "reproduction on another day") == 0
    rows = read_log(log)
    assert [row["reason"] for row in rows] == [final_test.ONCE, "reproduction on another day"]
    assert [row["file"] for row in rows] == ["test-seed0-fp32-torch.json", "test-seed0-fp32-torch-2.json"]
    assert json.loads((log.parent / "test-seed0-fp32-torch.json").read_text()) == first
    assert scored(log, seeds[1], "--again", "x") == 2 and "has no meaning" in capsys.readouterr().err
    assert scored(log, seeds[1], seeds[1]) == 2 and "in this very command" in capsys.readouterr().err


def test_a_try_on_other_data_does_not_use_up_the_test(
    seeds: list[Path], log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = Path(shutil.copytree(CAMVID, tmp_path / "demo"))
    for part in ("images", "labels"):
        sorted((demo / "test" / part).iterdir())[0].unlink()
    assert main([str(seeds[0]), "--data", str(demo), "--log", str(log)]) == 0
    assert scored(log, seeds[0]) == 0
    assert len({row["labels_sha256"] for row in read_log(log)}) == 2
    assert scored(log, seeds[0]) == 2
    lines = [{k: v for k, v in row.items() if k not in ("images", "labels_sha256")} for row in read_log(log)]
    log.write_text(f"{json.dumps(lines[0])}\n")  # as of earlier versions: the file of scores knows the data
    assert scored(log, seeds[0]) == 0
    (log.parent / lines[0]["file"]).unlink()
    log.write_text(f"{json.dumps(lines[0])}\n")  # nothing knows it
    assert scored(log, seeds[0]) == 2
    capsys.readouterr()


def test_another_epoch_of_a_run_is_a_second_look(
    seeds: list[Path], log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, raw = read_checkpoint(seeds[0])
    best, last = tmp_path / "run" / "best.pt", tmp_path / "run" / "last.pt"
    best.parent.mkdir()
    save_checkpoint(last, spec, raw["model"])
    changed = {name: value * 1.01 for name, value in raw["model"].items()}
    resumed = replace_spec(spec, recipe=spec.recipe | {"made_with": {"commit": "later"}, "workers": 3})
    save_checkpoint(best, resumed, changed)
    assert scored(log, last, best) == 2 and not log.exists()
    assert (
        "is another checkpoint of a run that was scored on test before (run/last.pt, seed 0" in capsys.readouterr().err
    )
    assert scored(log, last) == 0
    assert scored(log, best, "--flip") == 2 and "test chooses no epoch" in capsys.readouterr().err
    assert scored(log, last, "--flip") == 0 and scored(log, seeds[1]) == 0
    assert scored(log, best, "--again", "how far epochs differ") == 0
    assert [row["checkpoint"] for row in read_log(log)] == ["run/last.pt", "run/last.pt", "seed1.pt", "run/best.pt"]


def test_the_same_last_seed_after_another_first_stage_is_another_run(
    seeds: list[Path], log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, raw = read_checkpoint(seeds[0])
    paths = [tmp_path / f"{number}.pt" for number in range(2)]
    for number, path in enumerate(paths):
        changed = {name: value * (1 + number / 100) for name, value in raw["model"].items()}
        stages = spec.recipe | {"init_recipe": {"seed": number, "lr": 0.1}}
        save_checkpoint(path, replace_spec(spec, recipe=stages), changed)
    assert scored(log, *paths) == 0
    assert [row["stage_seeds"] for row in read_log(log)] == [[0, 0], [1, 0]]
    capsys.readouterr()


def test_another_mode_is_another_protocol(seeds: list[Path], log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scored(log, seeds[0]) == 0
    assert scored(log, seeds[0], "--flip") == 0
    assert [row["mode"] for row in read_log(log)] == ["whole image, single scale", "whole image, single scale, flip"]
    assert (log.parent / "test-seed0-fp32-torch-flip.json").is_file()
    assert scored(log, seeds[0], "--flip") == 2
    capsys.readouterr()


def test_an_exported_network_belongs_to_its_checkpoint(
    seeds: list[Path], log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(seeds[0], tmp_path / "model.onnx")
    assert scored(log, tmp_path / "model.onnx") == 2 and "name it with --checkpoint" in capsys.readouterr().err
    assert scored(log, tmp_path / "model.onnx", "--checkpoint", seeds[1]) == 2
    assert "was not made from" in capsys.readouterr().err
    spec, raw = read_checkpoint(seeds[0])
    save_checkpoint(tmp_path / "last.pt", replace_spec(spec, metrics={"val": {"miou": 1.0}}), raw["model"])
    assert scored(log, tmp_path / "model.onnx", "--checkpoint", tmp_path / "last.pt") == 2  # of another epoch
    assert "its metrics is another" in capsys.readouterr().err
    assert scored(log, tmp_path / "model.onnx", "--checkpoint", seeds[0], "--scales", "0.5,1") == 2
    assert "takes 96x128 only" in capsys.readouterr().err and not log.exists()
    assert scored(log, tmp_path / "model.onnx", "--checkpoint", seeds[0], "--engine", "ort") == 0
    [row] = read_log(log)
    assert row["checkpoint_sha256"] == sha256_of(seeds[0]) and row["sha256"] == sha256_of(tmp_path / "model.onnx")
    assert scored(log, seeds[0]) == 2  # the same network in the same precision, on another engine
    assert scored(log, seeds[0], "--again", "engine comparison") == 0
    capsys.readouterr()


def test_candidates_of_a_search_are_no_final_checkpoints(
    seeds: list[Path], log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, raw = read_checkpoint(seeds[0])
    candidate = tmp_path / "candidate.pt"
    save_checkpoint(candidate, replace_spec(spec, recipe={"hold_out": {"rule": "0.2:5"}}), raw["model"])
    assert scored(log, candidate) == 2 and not log.exists()
    assert "was trained with --hold-out 0.2:5, to choose a recipe" in capsys.readouterr().err


def test_lines_of_earlier_versions_count(log: Path) -> None:
    """They lack seed, checkpoint and protocol: what they do not say is taken to agree."""
    rows = read_log(LOG)
    entry = {
        "sha256": "4f7fc8876665ee5e47cf355cf987dcba3f9f70d1ab06e9f7e7526f7fab0113fe", "checkpoint_sha256": "x",
        "seed": 0, "precision": "fp32", "mode": "whole image, single scale", "network_size": [360, 480],
        "fit": "stretch",
    }  # fmt: skip
    found = earlier(rows, entry)
    assert found is not None and found["artefact"] == "pspnet_mobilenet_v2_camvid11.pt"
    assert earlier(rows, entry | {"mode": "whole image, single scale, flip"}) is None
    assert earlier(rows, entry | {"precision": "fp16"}) is None
    assert earlier(rows, entry | {"sha256": "y"}) is None
    named = [{"checkpoint_sha256": "x", "seed": 1, "precision": "fp32"}]
    assert earlier(named, entry) is None and earlier(named, entry | {"seed": 1}) == named[0]


def test_the_log_is_only_ever_added_to(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log.jsonl"
    append(path, {"a": 1})
    path.write_text(path.read_text().rstrip("\n"))  # an editor that leaves out the last line feed
    append(path, {"b": 2})
    assert path.read_text() == '{"a": 1}\n{"b": 2}\n' and read_log(path) == [{"a": 1}, {"b": 2}]
    path.write_text('{"a": 1}\n{"b"\n')
    with pytest.raises(PspnetError, match="line 2 is no JSON object"):
        read_log(path)


def test_seeds_of_a_recipe_share_its_hash() -> None:
    def hash_of(output_stride: int = 16, **recipe: object) -> str:
        spec, _ = random_model("mobilenet_v2", output_stride, SIZE, recipe=recipe)
        return recipe_hash(spec)

    base = hash_of(seed=0, lr=0.01, workers=2, init_recipe={"seed": 4, "lr": 1.0, "made_with": {"commit": "a"}})
    assert base == hash_of(seed=7, lr=0.01, workers=-1, init_recipe={"seed": 5, "lr": 1.0})
    assert base != hash_of(seed=0, lr=0.02, init_recipe={"seed": 4, "lr": 1.0})
    assert base != hash_of(seed=0, lr=0.01, init_recipe={"seed": 4, "lr": 2.0})
    assert base != hash_of(8, seed=0, lr=0.01, init_recipe={"seed": 4, "lr": 1.0})


def test_every_line_of_the_repository_has_a_reason_and_its_file() -> None:
    rows = read_log(LOG)
    assert rows and all(row["reason"] for row in rows)
    assert all((ROOT / row["file"]).exists() for row in rows if row.get("state") != BEGUN)
