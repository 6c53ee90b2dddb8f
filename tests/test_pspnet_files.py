"""Outputs are whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pspnet.errors import PspnetError
from pspnet.files import atomic_folder, atomic_path, read_json, sha256_of, write_json

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # FIPS 180-4's value of no bytes


def test_atomic_path_replaces_the_target_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "new" / "model.onnx"
    target.parent.mkdir()
    target.write_text("old")
    with atomic_path(target) as temporary:
        assert temporary.suffix == ".onnx" and temporary.parent == target.parent
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_atomic_path_leaves_the_old_file_on_any_failure(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "out.json"
    target.write_text("old")
    with pytest.raises(error), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_atomic_folder_is_whole_or_absent(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), atomic_folder(tmp_path / "out") as temporary:
        (temporary / "first.png").touch()
        raise error
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()  # an empty folder may be there
    with atomic_folder(tmp_path / "out") as temporary:
        (temporary / "first.png").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "first.png"]


def test_atomic_folder_refuses_results_of_an_earlier_run(tmp_path: Path) -> None:
    (tmp_path / "kept.png").touch()
    with pytest.raises(PspnetError, match="not an empty folder"), atomic_folder(tmp_path):
        pytest.fail("the block must not run")
    assert (tmp_path / "kept.png").exists()


@pytest.mark.parametrize("opener", [atomic_path, atomic_folder])
def test_a_target_below_a_file_is_one_clear_error(tmp_path: Path, opener) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "file").write_text("kept")
    with (
        pytest.raises(PspnetError, match=r"cannot write .*out.*Choose another place") as caught,
        opener(tmp_path / "file" / "out"),
    ):
        pytest.fail("the block must not run")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_target_that_is_a_folder_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(PspnetError, match="cannot write"), atomic_path(tmp_path / "out") as temporary:
        temporary.write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_json_has_no_nan(tmp_path: Path) -> None:
    value = {"miou": float("nan"), "rows": [1.5, float("inf"), {"p50": -float("inf")}], "name": "é"}
    write_json(tmp_path / "r.json", value)
    strict = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert strict == {"miou": None, "rows": [1.5, None, {"p50": None}], "name": "é"}
    assert read_json(tmp_path / "r.json", "result") == strict


def test_read_json_names_the_file_and_its_kind(tmp_path: Path) -> None:
    with pytest.raises(PspnetError, match=r"cannot read result .*r\.json"):
        read_json(tmp_path / "r.json", "result")
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(PspnetError, match=r"result .*r\.json is not valid JSON"):
        read_json(tmp_path / "r.json", "result")
    (tmp_path / "r.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PspnetError, match="is not valid JSON"):
        read_json(tmp_path / "r.json", "result")


def test_read_json_takes_a_byte_order_mark_and_gives_advice(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(b"\xef\xbb\xbf" + '{"name": "é"}'.encode())
    assert read_json(tmp_path / "r.json", "result") == {"name": "é"}
    (tmp_path / "r.json").write_bytes(b"\xef\xbb\xbf{")
    for name in ("r.json", "gone.json"):
        with pytest.raises(PspnetError, match=r"Make one with a pen$"):
            read_json(tmp_path / name, "result", "Make one with a pen")


def test_sha256_of(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert sha256_of(tmp_path / "empty") == EMPTY_SHA256
