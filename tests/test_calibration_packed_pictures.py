"""The archive of pictures for a board: what is read from it there is what would have been read here."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from calibration.build_check import PictureChoice
from calibration.build_sources import Source, source_at
from calibration.packed_pictures import pack_pictures
from pspnet.engine_arguments import add_build
from pspnet.errors import PspnetError
from tests.nets import CLIP


def choice_of(flags: list[str]) -> PictureChoice:
    """What `pspnet build` makes of its flags."""
    verbs = argparse.ArgumentParser().add_subparsers()
    add_build(verbs)
    args = verbs.choices["build"].parse_args(["model.onnx", *flags])
    return PictureChoice(args.data, args.dataset, args.split, args.images)


@pytest.fixture(scope="module")
def source(small_onnx: Path) -> Source:
    return source_at(small_onnx)


@pytest.mark.parametrize("kind", ["data set", "all of it", "folder", "clip"])
def test_the_board_reads_the_same_pictures(
    kind: str, source: Source, camvid_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "folder":
        shutil.copytree(camvid_tiny / "val" / "images", tmp_path / "here" / "photos")
        choice = PictureChoice(str(tmp_path / "here" / "photos"), images=2)
    else:
        choice = {
            "data set": PictureChoice(str(camvid_tiny), split="train", images=5),
            "all of it": PictureChoice(str(camvid_tiny), "camvid11", "all"),
            "clip": PictureChoice(str(CLIP), images=3),
        }[kind]
    expected = choice.read(source)
    flags = pack_pictures(choice, source, tmp_path / "p.tar")
    (tmp_path / "board").mkdir()
    monkeypatch.chdir(tmp_path / "board")
    subprocess.run(["tar", "-xf", tmp_path / "p.tar"], check=True)  # as the board does
    found = choice_of(flags).read(source)
    assert found.source == expected.source and len(found) == len(expected)
    order = {digest: index for index, digest in enumerate(found.hashes.values())}
    for index, digest in enumerate(expected.hashes.values()):
        np.testing.assert_array_equal(found.inputs[order[digest]], expected.inputs[index])
        assert found.geometries[order[digest]] == expected.geometries[index]
        if expected.targets:
            assert found.targets
            np.testing.assert_array_equal(found.targets[order[digest]], expected.targets[index])
    assert bool(found.targets) == bool(expected.targets) == (kind in ("data set", "all of it"))


def test_the_same_pictures_are_the_same_bytes(
    source: Source, camvid_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    choice = PictureChoice(str(camvid_tiny), images=2)
    for name in ("a.tar", "b.tar"):
        pack_pictures(choice, source, tmp_path / name)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert "2 pictures of camvid11_tiny go to the board with the model" in capsys.readouterr().err


def test_missing_data_is_refused(source: Source, tmp_path: Path) -> None:
    with pytest.raises(PspnetError, match="nowhere does not exist: give a data set"):
        pack_pictures(PictureChoice(str(tmp_path / "nowhere")), source, tmp_path / "p.tar")
