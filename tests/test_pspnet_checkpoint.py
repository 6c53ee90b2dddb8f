"""Files that are no checkpoint: one short reason each."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pspnet.checkpoint import read_checkpoint
from pspnet.errors import PspnetError


def legacy(path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: path.write_text("hello\n"), "it is no file of PyTorch"),
        (lambda path: path.write_text("c\nd\n."), "it is no file of PyTorch"),
        (lambda path: path.write_bytes(pickle.dumps(Path("x"))), "it holds more than tensors"),
        (lambda path: torch.save({"model": Path("x")}, path), "it holds more than tensors"),
        (legacy, "it is damaged or cut short"),
    ],
)  # fmt: skip
def test_the_reason_is_short(write: Callable[[Path], object], reason: str, tmp_path: Path) -> None:
    write(tmp_path / "m.pt")
    check(tmp_path / "m.pt", reason)


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_file_that_is_cut_short(share: float, small_checkpoint: Path, tmp_path: Path) -> None:
    data = small_checkpoint.read_bytes()
    (tmp_path / "m.pt").write_bytes(data[: int(share * len(data))])
    check(tmp_path / "m.pt", "it is damaged or cut short")


def check(path: Path, reason: str) -> None:
    with pytest.raises(PspnetError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == f"{path} is not a whole checkpoint ({reason}). Make one with `pspnet train`"
