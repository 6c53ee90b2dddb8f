"""Pictures that must not be calibrated on: each refusal with a set that deserves it, and honest sets that pass."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration import hygiene
from calibration.images import CalibrationImages, calibration_images
from pspnet import corruptions
from pspnet.dataset import open_dataset
from pspnet.errors import PspnetError
from pspnet.spec import ModelSpec
from tests.nets import CAMVID, CLIP, random_model


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return random_model("mobilenet_v2", 16, (96, 128))[0]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the repository's data set that a test may change."""
    return Path(shutil.copytree(CAMVID, tmp_path / "data"))


def checked(data: Path, spec: ModelSpec, force: bool = False) -> CalibrationImages:
    images = calibration_images(data, "auto", None, None, spec, force)
    hygiene.check_pictures(images, spec, data, "auto", force)
    return images


def write_all(folder: Path, change) -> Path:  # type: ignore[no-untyped-def]
    """The training pictures, each as `change` makes it, in a folder of their own."""
    folder.mkdir()
    for index, path in enumerate(open_dataset("camvid11", CAMVID, "train").images):
        cv2.imwrite(str(folder / f"{path.stem}.png"), change(cv2.imread(str(path)), index))
    return folder


def test_honest_pictures_pass_without_a_word(spec: ModelSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = checked(CAMVID, spec)
    assert (len(images.inputs), images.left, images.split) == (6, 2, "train")
    assert images.sizes == ((360, 480),) * 6 and [path.name for path in images.paths] == list(images.names)
    checked(CLIP, spec)
    checked(write_all(tmp_path / "dark", lambda image, i: corruptions.dark(image, 3, i)), spec)
    assert not caplog.messages
    checked(write_all(tmp_path / "fog", lambda image, i: corruptions.fog(image, 3, i)), spec)
    tints = {"cold": (1.2, 0.9, 0.6), "warm": (0.6, 0.9, 1.2)}
    for name, tint in tints.items():
        tinted = write_all(tmp_path / name, lambda x, i, tint=tint: np.clip(x * np.array(tint), 0, 255))
        checked(tinted, spec)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_picture_that_is_also_in_an_evaluation_split_is_refused_by_name(
    copied: Path, spec: ModelSpec, split: str, caplog: pytest.LogCaptureFixture
) -> None:
    stolen = sorted((copied / split / "images").iterdir())[0]
    first = sorted((copied / "train" / "images").iterdir())[0]
    shutil.copy(stolen, first)
    for data in (copied, copied / "train" / "images"):
        with pytest.raises(PspnetError, match=f"{first.name} is the same file as .*{stolen.name} of the {split} split"):
            checked(data, spec)
    checked(copied, spec, force=True)
    assert "is the same file as" in caplog.text


def test_a_file_of_equal_size_and_other_content_passes(copied: Path, spec: ModelSpec) -> None:
    other, first = (sorted((copied / split / "images").iterdir())[0] for split in ("test", "train"))
    picture = first.read_bytes()
    for path, last in ((other, b"0"), (first, b"1")):  # bytes behind the picture's end mark
        path.write_bytes(picture + last)
    checked(copied, spec)


def test_splits_other_than_train_are_refused_or_warned_of(
    copied: Path, spec: ModelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    for data, split in ((copied, "test"), (copied, "all"), (copied / "test" / "images", None)):
        with pytest.raises(PspnetError, match="flatter the score"):
            calibration_images(data, "auto", split, 4, spec)
        assert calibration_images(data, "auto", split, 4, spec, force=True).inputs
    for part in ("images", "labels"):
        for path in sorted((copied / "train" / part).iterdir())[:4]:
            shutil.copy(path, copied / "val" / part)
    caplog.clear()
    for data, split in ((copied, "val"), (copied / "val" / "images", None)):
        assert calibration_images(data, "auto", split, 4, spec).split == "val"
        assert caplog.messages.pop().endswith("calibrate on train where you can")
        caplog.clear()


def test_one_scene_is_refused_and_a_slow_drive_is_warned_of(
    spec: ModelSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = cv2.imread(str(open_dataset("camvid11", CAMVID, "train").images[0]))
    parked = write_all(tmp_path / "parked", lambda image, i: corruptions.noise(one, 1, i))
    with pytest.raises(PspnetError, match="show one scene"):
        checked(parked, spec)
    assert checked(parked, spec, force=True).inputs
    caplog.clear()
    slow = write_all(tmp_path / "slow", lambda image, i: cv2.addWeighted(one, 0.8, image, 0.2, 0))
    checked(slow, spec)
    assert "much alike" in caplog.text


def test_thumbnails_correlate_as_numpy_says(monkeypatch: pytest.MonkeyPatch, spec: ModelSpec) -> None:
    """The refused set is refused exactly above its least correlation."""
    inputs = calibration_images(CAMVID, "auto", None, 5, spec).inputs
    small = [cv2.resize(image[0].mean(2), (32, 24), interpolation=cv2.INTER_AREA).ravel() for image in inputs]
    least = np.corrcoef(small).min()
    for limit, refused in ((least - 1e-6, True), (least + 1e-6, False)):
        monkeypatch.setattr(hygiene, "SAME_SCENE", limit)
        assert (hygiene.one_scene(inputs) is not None) == refused


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda image, i: cv2.resize(image, (32, 24)), "24x32 are enlarged 4.0 times"),
        (lambda image, i: (image / 255).astype(np.uint8), "all but uniform"),
    ],
)
def test_wrong_size_and_wrong_range_are_refused(change, words: str, spec: ModelSpec, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    bigger = ModelSpec(**{**spec.__dict__, "input_size": (97, 128)})
    folder = write_all(tmp_path / "pictures", change)
    with pytest.raises(PspnetError, match=words):
        checked(folder, bigger)
    assert checked(folder, bigger, force=True).inputs


def test_swapped_bands_are_refused_where_the_first_layer_tells(spec: ModelSpec, tmp_path: Path) -> None:
    """A network for reddish pictures: its mean is far from theirs in both orders but one."""
    reddish = np.array((0.35, 0.8, 1.3))  # blue, green, red
    right = write_all(tmp_path / "right", lambda image, i: np.clip(image * reddish, 0, 255))
    wrong = write_all(tmp_path / "wrong", lambda image, i: np.clip(image * reddish, 0, 255)[..., ::-1])
    inputs = np.concatenate(calibration_images(right, "auto", None, 8, spec).inputs).reshape(-1, 3).astype(float)
    mean, std = inputs.mean(0), np.full(3, 40.0)
    own = ModelSpec(**{**spec.__dict__, "mean": tuple(mean), "std": tuple(std)})
    found = hygiene.normalised_statistics([inputs.reshape(1, 1, -1, 3).astype(np.uint8)], own)
    np.testing.assert_allclose(found, [np.zeros(3), inputs.std(0) / std], atol=1e-6)  # float64 sums of whole numbers
    checked(right, own)
    with pytest.raises(PspnetError, match=r"red and blue .* seem to be swapped"):
        checked(wrong, own)


def test_grey_and_distorted_pictures_are_warned_of(
    spec: ModelSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checked(write_all(tmp_path / "grey", lambda x, i: np.repeat(x.mean(2, keepdims=True), 3, 2)), spec)
    assert "are grey" in caplog.text
    checked(write_all(tmp_path / "wide", lambda x, i: cv2.resize(x, (960, 240))), spec)
    assert "240x960 are stretched to 96x128" in caplog.text


def test_coverage_is_the_share_of_labelled_pixels(spec: ModelSpec) -> None:
    images = calibration_images(CAMVID, "auto", None, 4, spec)
    data = open_dataset("camvid11", CAMVID, "train")
    labels = [data.reader.read(label) for image, label in zip(data.images, data.labels, strict=True)
              if image.name in images.names]  # fmt: skip
    pixels = np.concatenate([label.ravel() for label in labels])
    expected = {name: 100 * (pixels[pixels < 255] == c).mean() for c, name in enumerate(data.classes.names)}
    assert len(labels) == 4 and hygiene.coverage(images, CAMVID, "auto") == pytest.approx(expected)
    assert hygiene.coverage(images, CLIP, "auto") is None


def test_copies_count_once_and_are_said(spec: ModelSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Pixels decide, not names or files: a copy stored in another lossless format is one, too."""
    originals = [cv2.imread(str(path)) for path in open_dataset("camvid11", CAMVID, "train").images]
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, picture in enumerate(originals[:5]):
        cv2.imwrite(str(folder / f"{index}.png"), picture)
    cv2.imwrite(str(folder / "1 again.bmp"), originals[1])
    found = calibration_images(folder, "auto", None, 6, spec)
    assert sorted(found.names) == ["0.png", "1 again.bmp", "2.png", "3.png", "4.png"]  # " " sorts before "."
    assert [path.name for path in found.paths] == list(found.names) and len(found.inputs) == len(found.sizes) == 5
    assert len(set(found.hashes.values())) == 5 and "1 copy among the calibration pictures" in caplog.text
    for index in range(2, 5):
        cv2.imwrite(str(folder / f"{index}.png"), originals[0])
    caplog.clear()
    with pytest.raises(PspnetError, match=r"^2 different pictures of .*: 4 or more are needed .* --images$"):
        calibration_images(folder, "auto", None, 6, spec, force=True)
    assert "4 copies among" in caplog.text
