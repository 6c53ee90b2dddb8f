"""drive.toml: what it says arrives in the right place, and what is wrong in it is refused by its name."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import cv2
import numpy as np
import pytest

from pspnet.cli import main
from pspnet.errors import PspnetError
from runtime.drive_check import check_cameras, check_drive, check_places, secrets_set, text_of
from runtime.drive_config import address_from_text, read_drive
from runtime.drive_secrets import holds_literal, read_secrets, token_from_file

SMALL = """
[model]
artefact = "model.onnx"
[[camera]]
name = "front"
url = "test://pattern?size=96x128"
"""
WHOLE = """
secrets_file = "secrets.env"
[model]
artefact = "nets/model.onnx"
engine = "ort"
threads = 2
[[camera]]
name = "front"
url = "rtsp://${FRONT_USER}:${FRONT_PASSWORD}@192.0.2.7/stream"
fit = "letterbox"
region = "540x960+180+160"
mask = "bonnet.png"
max_age_ms = 100
fps = 30
rotate = 180
[[camera]]
name = "rear"
url = "v4l2:///dev/video7"
[limits]
max_age_ms = 400
min_confidence = 0.4
sync_ms = 20
[output]
jsonl = "out/drive.jsonl"
select = "/var/picked"
select_share = 0.2
shared_labels = "labels"
window = true
[merge]
flat = ["Road", "Pavement"]
[serve]
address = "127.0.0.1:0"
token = "${PAGE_TOKEN}"
"""


def written(folder: Path, text: str, mode: int = 0o644, name: str = "drive.toml") -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(mode)
    return path


def test_every_section_arrives(tmp_path: Path) -> None:
    written(tmp_path, "# secrets\nFRONT_USER=a\nFRONT_PASSWORD='p@s s'\nPAGE_TOKEN=abc\n", 0o600, "secrets.env")
    config = read_drive(written(tmp_path, WHOLE))
    assert (config.model.artefact, config.model.engine, config.model.threads) == (
        tmp_path / "nets" / "model.onnx", "ort", 2,
    )  # fmt: skip
    front, rear = config.cameras
    assert (front.name, front.fit, front.region, front.rotate) == ("front", "letterbox", (180, 160, 540, 960), 180)
    assert (front.mask, front.fps, front.max_age_ms) == (tmp_path / "bonnet.png", 30.0, 100.0)
    assert (rear.max_age_ms, rear.mask) == (400.0, None)
    assert (config.limits.min_confidence, config.limits.sync_ms, config.limits.seconds) == (0.4, 20.0, None)
    assert (config.output.jsonl, config.output.select) == (tmp_path / "out" / "drive.jsonl", Path("/var/picked"))
    assert config.output.select_share == 0.2
    assert config.output.window and config.output.shared_labels == "labels" and config.output.video is None
    assert config.merge == {"flat": ("Road", "Pavement")}
    assert config.serve is not None and (config.serve.port, config.serve.token) == (0, "abc")
    assert "p@s s" not in repr(config) and "abc" not in repr(config)
    uris = check_cameras(config)
    assert (uris[0].user, uris[0].password, uris[0].literal_password) == ("a", "p@s s", False)


def test_secrets_are_in_the_environment_only_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("KEPT", "before")
    monkeypatch.delenv("FRESH", raising=False)
    written(tmp_path, "KEPT=inside\nFRESH=1", 0o600, "secrets.env")
    config = read_drive(written(tmp_path, 'secrets_file = "secrets.env"\n' + SMALL))
    with secrets_set(config):
        assert (os.environ["KEPT"], os.environ["FRESH"]) == ("inside", "1")
    assert os.environ["KEPT"] == "before" and "FRESH" not in os.environ


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SMALL.replace("artefact", "artifact"), r"\[model\] has no key artifact: did you mean artefact\?"),
        (SMALL.replace("[[camera]]", "[[cameras]]"), r"no section \[cameras\]: did you mean camera\?"),
        (SMALL + "max_age = 3", r"\[\[camera\]\] front has no key max_age: did you mean max_age_ms\?"),
        (SMALL + "[output]\nzebra = 1", r"\[output\] has no key zebra: give one of folder, video"),
        (SMALL + '[limits]\nmax_age_ms = "3"', r"\[limits\] max_age_ms is '3': give a number"),
        (SMALL + "[limits]\nmin_confidence = 2", "min_confidence is 2: give 0 to 1"),
        (SMALL + "slots = 4.5", r"slots is '4.5': give a whole number"),
        (SMALL + "slots = true", "give a whole number"),
        (SMALL + 'fit = "squash"', "camera front: fit is 'squash': give one of stretch, letterbox, crop"),
        (SMALL + 'region = "left"', "HEIGHTxWIDTH"),
        (SMALL + "fps = 0", "camera front: fps is 0"),
        (SMALL + "[merge]\nflat = 'Road'", r"\[merge\] flat must be a list"),
        (SMALL + "[serve]\naddress = '1.2.3.4:port'", "write HOST:PORT"),
        (SMALL + "[serve]\ntoken = 'a'\ntoken_file = 'b'", "leave one out"),
        (SMALL + "[serve]\ntoken = '${NOT_SET_ANYWHERE}'", "variable NOT_SET_ANYWHERE is not set"),
        (SMALL.replace('url = "test://pattern?size=96x128"', ""), "front has no url"),
        ("[model]\nartefact = 'm.onnx'", r"no camera: begin each with a line \[\[camera\]\]"),
        (SMALL.replace('artefact = "model.onnx"', ""), "has no artefact"),
        ("model = 3", "model is no section"),
        ("[model", "is not valid TOML"),
        ('secrets_file = "gone.env"\n' + SMALL, "cannot read secrets_file .*gone.env"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(PspnetError, match=message) as refused:
        read_drive(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PspnetError, match=r"cannot read .*drive\.toml: No such file"):
        read_drive(tmp_path / "drive.toml")


def test_a_literal_password_needs_a_private_file(tmp_path: Path) -> None:
    text = SMALL.replace("test://pattern?size=96x128", "rtsp://me:s3cret@192.0.2.7/a")
    with pytest.raises(PspnetError, match="camera front holds a credential") as refused:
        read_drive(written(tmp_path, text))
    assert "s3cret" not in str(refused.value) and "chmod 600" in str(refused.value)
    assert read_drive(written(tmp_path, text, 0o600)).cameras[0].name == "front"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_files_with_secrets_must_be_private(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path, "TOKEN=x", mode, "s.env")
    with pytest.raises(PspnetError, match="chmod 600"):
        read_secrets(path)
    with pytest.raises(PspnetError, match="chmod 600"):
        token_from_file(path)
    path.chmod(0o400)
    assert read_secrets(path) == {"TOKEN": "x"} and token_from_file(path) == "TOKEN=x"


@pytest.mark.parametrize(
    ("address", "literal"),
    [
        ("rtsp://u:p@h/x", True), ("rtsp://u:${P}@h/x", False), ("rtsp://h:554/x", False), ("rtsp://u:a@b@h/x", True),
        ("http://h/x?token=abc", True), ("http://h/x?token=${T}", False), ("${URL}", False), ("test://pattern", False),
    ],
)  # fmt: skip
def test_literal_credentials_are_seen(address: str, literal: bool) -> None:
    assert holds_literal(address) is literal


def test_addresses() -> None:
    assert address_from_text("127.0.0.1:80") == ("127.0.0.1", 80)
    assert address_from_text("localhost") == ("localhost", 8080)
    assert address_from_text(":9000") == ("127.0.0.1", 9000)
    assert address_from_text("[::1]:9000") == ("::1", 9000)
    assert address_from_text("[::1]") == ("::1", 8080)
    for wrong in ("::1:9000", "1.2.3.4:66000", "1.2.3.4:-1", "http://h:1", "1.2.3.4:"):
        with pytest.raises(PspnetError, match="HOST:PORT"):
            address_from_text(wrong)


def test_check_prints_a_summary(tmp_path: Path, small_onnx: Path) -> None:
    mask = tmp_path / "bonnet.png"
    cv2.imwrite(str(mask), np.zeros((96, 128), np.uint8))
    text = (
        SMALL.replace("model.onnx", str(small_onnx))
        + f'mask = "{mask.name}"\n[merge]\nflat = ["Road", "Pavement"]\n[output]\njsonl = "a.jsonl"'
    )
    config = read_drive(written(tmp_path, text))
    checked = check_drive(config)
    assert checked.spec.classes == 10 and checked.spec.class_names[0] == "flat"
    summary = text_of(config, checked)
    for part in ("drive.toml is sound", "front: test://pattern?size=96x128", "mask bonnet.png", "jsonl: "):
        assert part in summary
    assert "will be made" not in summary


def test_check_says_which_folders_will_be_made_and_makes_none(tmp_path: Path, small_onnx: Path) -> None:
    text = SMALL.replace("model.onnx", str(small_onnx))
    text += '[output]\njsonl = "deep/a.jsonl"\nvideo = "films"\nfolder = "."\njson = "r.json"'
    config = read_drive(written(tmp_path, text))
    summary = text_of(config, check_drive(config)).splitlines()
    made = [line.split(None, 1)[1] for line in summary if "will be made" in line]
    assert made == [
        f"video: {tmp_path / 'films'} (will be made)",
        f"jsonl: {tmp_path / 'deep' / 'a.jsonl'} ({tmp_path / 'deep'} will be made)",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["drive.toml"]


@pytest.mark.parametrize("alpha", ["3", "-0.5", "nan"])
def test_alpha_of_a_configuration_is_checked(tmp_path: Path, alpha: str) -> None:
    with pytest.raises(PspnetError, match=r"alpha is .*: give 0 \(picture\) to 1"):
        read_drive(written(tmp_path, SMALL + f"[output]\nwindow = true\nalpha = {float(alpha)}"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('mask = "bonnet.png"', "camera front: mask .*bonnet.png is 50x60, its pictures are 96x128"),
        ('mask = "bonnet.jpg"', "is no PNG"),
        ('region = "96x128+1+0"', "camera front: region .* is not inside the picture of 96x128"),
        ("rotate = 90\nregion = '96x128+0+0'", "is not inside the picture of 128x96"),
        ('[merge]\nflat = ["Raod"]', "'Raod', which is no class of this artefact: .*Road"),
        ('[[camera]]\nname = "front"\nurl = "test://pattern"', "two cameras are called front"),
        ('[output]\njsonl = "drive.toml"\njson = "drive.toml"', "written by another option"),
    ],
)
def test_check_finds(tmp_path: Path, small_onnx: Path, more: str, message: str) -> None:
    for name in ("bonnet.png", "bonnet.jpg"):
        cv2.imwrite(str(tmp_path / name), np.zeros((50, 60), np.uint8))
    more += "" if "[output]" in more else "\n[output]\nwindow = true"
    config = read_drive(written(tmp_path, SMALL.replace("model.onnx", str(small_onnx)) + more))
    with pytest.raises(PspnetError, match=message):
        check_drive(config)


def test_check_finds_one_device_twice(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    text = SMALL.replace("test://pattern?size=96x128", "v4l2:///dev/video41")
    text += '[[camera]]\nname = "rear"\nurl = "v4l2:///dev/../dev/video41"'
    with pytest.raises(PspnetError, match="not understood"):
        check_cameras(read_drive(written(tmp_path, text)))
    with pytest.raises(PspnetError, match="cameras front and rear are the same device"):
        check_cameras(read_drive(written(tmp_path, text.replace("/dev/../dev", "/dev"))))


def test_check_finds_a_taken_port_and_an_open_address(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        text = SMALL + f'[serve]\naddress = "127.0.0.1:{taken.getsockname()[1]}"'
        with pytest.raises(PspnetError, match="Address already in use"):
            check_places(read_drive(written(tmp_path, text)))
    with pytest.raises(PspnetError, match="lets others see the cameras: give a token"):
        check_places(read_drive(written(tmp_path, SMALL + '[serve]\naddress = "0.0.0.0:0"')))


def test_config_check_and_run(tmp_path: Path, small_onnx: Path, capsys: pytest.CaptureFixture) -> None:
    config = tmp_path / "drive.toml"
    config.write_text(
        f'[model]\nartefact = "{small_onnx}"\nthreads = 1\n[[camera]]\nname = "front"\n'
        'url = "test://pattern?size=96x128&fps=10"\n[output]\njsonl = "drive.jsonl"\n[limits]\nseconds = 60\n'
    )
    assert main(["run", "--config", str(config), "--check"]) == 0
    assert "is sound" in capsys.readouterr().out and not (tmp_path / "drive.jsonl").exists()
    assert main(["run", "--config", str(config), "--seconds", "3", "--json", str(tmp_path / "r.json")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["cameras"]["front"]["valid"] > 0
    assert (tmp_path / "drive.jsonl").stat().st_size > 0
