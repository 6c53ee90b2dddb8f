"""What a comparison of recipes finds out before its first run: flags, settings, network, steps and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.recipe_checks import check_flags, files_of
from benchmarks.recipe_file import recipes_of
from pspnet.dataset import Dataset, open_dataset
from pspnet.distributed import device
from pspnet.errors import PspnetError
from tests.drives import write_drives
from tests.nets import ROOT

SHIPPED = [ROOT / "benchmarks" / f"{name}.toml" for name in ("recipes", "ablations", "augmentation")]
SMALL = ["--bins", "1,2", "--output-stride", "32", "--crop", "64", "--batch", "4"]
CAMVID = ["--size", "360x480"]
EPOCHS = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """24 pictures."""
    return open_dataset("folder", write_drives(tmp_path_factory.mktemp("drives") / "data"), "train")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_shipped_files_are_taken(path: Path, data: Dataset) -> None:
    found = recipes_of(str(path))
    assert len(found) >= 4
    check_flags(found, CAMVID, data, EPOCHS)
    with pytest.raises(PspnetError, match="lr is 1000"):
        check_flags(found, [*CAMVID, "--lr", "1000"], data, EPOCHS)


@pytest.mark.parametrize(
    "words",
    [
        "--hold 0.5", "--hold-out=0.5", "--data elsewhere", "--dataset folder", "--datase folder", "-o x", "-ox",
        "--output x", "--ep 3", "--epochs=3", "--see 1", "--resum", "--js r.json",
    ],
)  # fmt: skip
def test_what_is_the_same_for_all_runs_cannot_be_set(words: str, data: Dataset) -> None:
    with pytest.raises(PspnetError, match=r"recipe a: --.* is this script's own"):
        check_flags({"a": {}}, [*SMALL, *words.split()], data, EPOCHS)


def test_a_recipe_cannot_set_it_by_an_abbreviation(data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('[plain]\n[mine]\nhold = "0.5"\n')
    with pytest.raises(PspnetError, match="recipe mine: --hold-out is this script's own, abbreviated or not"):
        check_flags(recipes_of(str(tmp_path / "r.toml")), SMALL, data, EPOCHS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--logit-adjust 0.5", "add --class-weights enet"),
        ("--loss lovasz --class-weights enet", "use --class-weights none"),
        ("--aux-weights 1,2,3,4", "4 aux weights for 1 aux heads"), ("--bins x", "--bins is 'x'"),
        ("--bins 1,1", "all different"), ("--backbone vgg", "unknown backbone 'vgg'"),
        ("--aux-stages 5", "aux stages are"), ("--warmup 360", "takes 360 steps, but the run has only 360"),
        ("--batch 25", "fewer than a batch of 25"), ("--batch 1", "batch is 1"),
        ("--distill-weight 2", "--distill-weight is for learning from a teacher"),
        ("--teacher gone.pt", "--teacher gone.pt is no file"), ("--init gone.pt", "--init gone.pt is no file"),
        ("--weights gone.pth", "--weights gone.pth is no file: correct the path, or bring the file back"),
        (f"--init {Path(__file__).name}", "is no file"), ("--recipe quick", "unknown recipe 'quick'"),
    ],
)  # fmt: skip
def test_what_no_run_would_take(words: str, said: str, data: Dataset) -> None:
    check_flags({"a": {}}, SMALL, data, EPOCHS)
    with pytest.raises(PspnetError, match=f"recipe b: .*{said}"):
        check_flags({"b": {}}, [*SMALL, *words.split()], data, EPOCHS)


@pytest.mark.skipif(device().type != "cpu", reason="a GPU takes fp16")
def test_fp16_needs_a_gpu(data: Dataset) -> None:
    with pytest.raises(PspnetError, match="recipe a: --amp fp16 needs a GPU"):
        check_flags({"a": {"amp": "fp16"}}, SMALL, data, EPOCHS)


def test_a_checkpoint_to_begin_with_is_read(data: Dataset, tmp_path: Path, tiny_checkpoint: Path) -> None:
    more = ["--batch", "4", "--crop", "64"]
    check_flags({"a": {"init": str(tiny_checkpoint)}}, more, data, EPOCHS)
    with pytest.raises(PspnetError, match="recipe a: --init takes the network from the checkpoint"):
        check_flags({"a": {"init": str(tiny_checkpoint), "bins": "1,2"}}, more, data, EPOCHS)
    (tmp_path / "no.pt").write_bytes(b"no checkpoint")
    with pytest.raises(PspnetError, match=r"recipe a: .*is not a whole checkpoint"):
        check_flags({"a": {"init": str(tmp_path / "no.pt")}}, more, data, EPOCHS)


def test_files_that_decide_the_result() -> None:
    """Also behind an abbreviation, which argparse takes; the last of several counts."""
    assert files_of(["--weights", "none", "--teacher", "nowhere.pt"]) == []
    assert files_of([f"--ini={__file__}", "--teacher", "nowhere.pt"]) == [__file__]
    assert files_of(["--teach", "nowhere.pt", "--weights", __file__, "--teach", __file__]) == [__file__, __file__]
