"""Augmentation: picture and labels stay together, and every setting does what it says."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pspnet.recipe import TrainConfig
from pspnet.spec import ModelSpec
from pspnet.transforms import PhotometricDistort, TrainTransform, View, shift_hue
from tests.nets import random_model

BILINEAR, NEAREST = InterpolationMode.BILINEAR, InterpolationMode.NEAREST_EXACT
GREY_LEVELS = 1.0  # two roundings to uint8
HUE_LEVELS = 9.0  # 1/256 turn is 6 grey levels of a pure colour; hue, saturation and value are all rounded to 8 bits
STILL = {"smallest_scale": 1, "largest_scale": 1, "rotate": 0, "blur": 0, "flip": 0, "photometric": 0, "crop": 96}
"""No augmentation but the crop."""


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return random_model("mobilenet_v2", 32, (161, 192))[0]


def transform(spec: ModelSpec, **changes: Any) -> TrainTransform:
    return TrainTransform(spec, TrainConfig(**{**STILL, **changes}))


def blocks(height: int = 161, width: int = 192, side: int = 23) -> tuple[Tensor, Tensor]:
    """A picture (3, H, W) whose colour tells the class of its blocks, and the labels; two classes per band."""
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(0, 8, (height // side + 1, width // side + 1), generator=generator, dtype=torch.uint8)
    labels = small.repeat_interleave(side, 0).repeat_interleave(side, 1)[:height, :width].contiguous()
    bits = [(labels >> bit) & 1 for bit in range(3)]
    return torch.stack(bits) * 200 + 20, labels


def grey_levels(spec: ModelSpec, picture: Tensor) -> Tensor:
    """What was normalised, (3, H, W) from 0 to 255."""
    return picture * torch.tensor(spec.std).view(3, 1, 1) + torch.tensor(spec.mean).view(3, 1, 1)


def classes_from_colour(levels: Tensor) -> Tensor:
    """Classes that the colours of `blocks` tell."""
    return sum(((levels[bit] > 120).long() << bit for bit in range(3)), torch.zeros(levels.shape[1:]).long())


def inside(labels: Tensor, margin: int) -> Tensor:
    """Pixels without another label within `margin` pixels, where interpolation mixes no classes."""
    grown = torch.nn.functional.max_pool2d
    values = labels.float()[None, None]
    highest, lowest = (grown(v, 2 * margin + 1, 1, margin)[0, 0] for v in (values, -values))
    seen = torch.zeros(labels.shape, dtype=torch.bool)  # what lies beyond the crop's border is mixed in, too
    seen[margin:-margin, margin:-margin] = True
    return (highest == -lowest) & (labels != 255) & seen


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"smallest_scale": 0.5, "largest_scale": 2.0},
        {"rotate": 45.0},
        {"flip": 1.0},
        {"blur": 1.0},
        {"crop": 300, "smallest_scale": 0.5, "largest_scale": 2.0, "rotate": 10.0},
        {"smallest_scale": 0.5, "largest_scale": 2.0, "rotate": 180.0, "blur": 0.5, "flip": 0.5, "cat_max_ratio": 0.75},
    ],
)
def test_picture_and_labels_stay_together(spec: ModelSpec, changes: dict[str, float]) -> None:
    augment, (image, labels) = transform(spec, **changes), blocks()
    compared = 0
    for seed in range(20):
        torch.manual_seed(seed)
        picture, truth = augment(image, labels)
        crop = augment.config.crop
        assert picture.shape == (3, crop, crop) and truth.shape == (crop, crop)
        assert picture.dtype == torch.float32 and truth.dtype == torch.int64
        sure = inside(truth, 3)
        assert torch.equal(classes_from_colour(grey_levels(spec, picture))[sure], truth[sure])
        compared += int(sure.sum())
    assert compared > 20 * 1000


def test_all_of_a_still_picture_is_itself(spec: ModelSpec) -> None:
    image, labels = blocks(161, 192)
    noise = torch.randint(0, 256, image.shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    picture, truth = transform(spec, crop=192)(noise, labels)
    rows = (truth != 255).any(1).nonzero()
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    assert bottom - top == 161 and torch.equal(truth[top:bottom], labels.long())
    torch.testing.assert_close(grey_levels(spec, picture)[:, top:bottom], noise.float(), rtol=0, atol=1e-3)
    assert (truth[:top] == 255).all() and (truth[bottom:] == 255).all()
    outside = torch.cat([picture[:, :top], picture[:, bottom:]], 1)
    assert outside.numel() and outside.abs().max() < 0.01  # the mean, rounded to a grey level


def test_scale_follows_the_fit_of_the_model(spec: ModelSpec) -> None:
    """A picture twice as large is seen at the network's scale."""
    image, labels = blocks()
    doubled = (
        image.repeat_interleave(2, 1).repeat_interleave(2, 2),
        labels.repeat_interleave(2, 0).repeat_interleave(2, 1),
    )
    for pair in ((image, labels), doubled):
        torch.manual_seed(3)
        found = transform(spec, smallest_scale=1.3, largest_scale=1.3)(*pair)[1]
        if pair[1] is labels:
            expected = found
    assert float((found == expected).float().mean()) > 0.97  # boundaries lie up to half an original pixel off


@pytest.mark.parametrize("factor", [0.5, 0.83, 1.0, 1.4, 2.0])
def test_a_view_is_a_part_of_the_resized_picture(factor: float) -> None:
    """Against resizing all of it; the difference is at most half an original pixel, so a smooth picture is near."""
    y, x = torch.meshgrid(torch.linspace(0, 250, 160), torch.linspace(0, 250, 200), indexing="ij")
    image = torch.stack([y, x, (x + y) / 2]).round().to(torch.uint8)
    scaled = round(160 * factor), round(200 * factor)
    whole = F.resize(image, list(scaled), interpolation=BILINEAR, antialias=True).float()
    for top, left in ((0, 0), (3, 11), (scaled[0] - 64, scaled[1] - 64)):
        part = View(scaled, 0.0, top, left, (64, 64)).of(image, BILINEAR, [0, 0, 0]).float()
        expected = whole[:, top : top + 64, left : left + 64]
        slope = 250 / 159  # grey levels per original pixel
        assert (part - expected).abs().max() <= slope / 2 + GREY_LEVELS + 0.5


@pytest.mark.parametrize("angle", [-180.0, -90.0, -30.0, -7.0, 0.01, 10.0, 45.0, 120.0])
@pytest.mark.parametrize("corner", [(0, 0), (70, 20), (40, 130), (-10, -3)])
def test_a_rotated_view_is_a_part_of_the_rotated_picture(angle: float, corner: tuple[int, int]) -> None:
    y, x = torch.meshgrid(torch.linspace(20, 250, 161), torch.linspace(20, 250, 193), indexing="ij")
    image = torch.stack([y, x, (x + y) / 2]).round().to(torch.uint8)
    frame = 400  # an upright frame large enough for every corner of the rotated picture
    padded = torch.zeros(3, frame + 1, frame + 1, dtype=torch.uint8)
    padded[:, 120:281, 104:297] = image
    whole = F.rotate(padded, angle, interpolation=BILINEAR, fill=[0, 0, 0])
    top, left = corner
    expected = whole[:, 120 + top : 120 + top + 64, 104 + left : 104 + left + 64].float()
    part = View((161, 193), angle, top, left, (64, 64)).of(image, BILINEAR, [0, 0, 0]).float()
    away = F.rotate((padded[:1] > 0).to(torch.uint8) * 255, angle, interpolation=BILINEAR, fill=[0])
    solid = -torch.nn.functional.max_pool2d(-away.float(), 5, 1, 2) == 255  # two pixels inside of the picture's edge
    solid = solid[0, 120 + top : 120 + top + 64, 104 + left : 104 + left + 64]
    difference = (part - expected).abs().amax(0)
    assert (difference[solid] <= 230 / 160 * 0.75 + GREY_LEVELS).all()  # half a pixel off on both axes
    assert float((difference < 20).float().mean()) > 0.9  # what is empty is empty in both


def test_rotation_stays_within_its_range(spec: ModelSpec) -> None:
    """The angle measured on an edge through the middle of the picture."""
    image = torch.zeros(3, 161, 192, dtype=torch.uint8)
    labels = torch.zeros(161, 192, dtype=torch.uint8)
    labels[80:] = 1
    angles = []
    for seed in range(60):
        torch.manual_seed(seed)
        _, truth = transform(spec, rotate=10.0, crop=192)(image, labels)
        columns = torch.arange(60, 132)
        edges = [int((truth[:, c] == 1).nonzero()[0]) for c in columns]
        slope = np.polyfit(columns.numpy(), edges, 1)[0]
        angles.append(np.degrees(np.arctan(slope)))
    assert max(map(abs, angles)) < 10.5 and min(angles) < -6 < 6 < max(angles)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_flip_has_its_probability(spec: ModelSpec, probability: float) -> None:
    image, labels = blocks()
    labels = torch.arange(192, dtype=torch.uint8).repeat(161, 1)
    augment, flipped = transform(spec, flip=probability), 0
    for seed in range(100):
        torch.manual_seed(seed)
        truth = augment(image, labels)[1]
        flipped += int(truth[0, 0] > truth[0, -1])
    assert abs(flipped / 100 - probability) < 0.15


def test_blur_is_gaussian_and_leaves_the_labels(spec: ModelSpec) -> None:
    """Against the kernel of cv2.GaussianBlur(image, (5, 5), 0), which semseg uses."""
    image = torch.randint(0, 256, (3, 161, 192), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    labels = blocks()[1]
    pairs = []
    for blur in (0.0, 1.0):
        torch.manual_seed(0)
        pairs.append(transform(spec, blur=blur)(image, labels))
    (sharp, truth), (soft, same) = pairs
    assert torch.equal(truth, same)
    array = grey_levels(spec, sharp).round().byte().permute(1, 2, 0).numpy()
    expected = cv2.GaussianBlur(array, (5, 5), 0).astype(float)
    found = grey_levels(spec, soft).permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= GREY_LEVELS + 0.01


def test_cat_max_ratio_is_kept_where_a_crop_can_keep_it(spec: ModelSpec) -> None:
    """Two thirds of the crops break the ratio; that ten do has a chance of about one in a hundred."""
    labels = torch.zeros(161, 192, dtype=torch.uint8)
    labels[:, 130:170] = 1
    labels[:40] = 255
    image = torch.zeros(3, 161, 192, dtype=torch.uint8)

    def mixed(ratio: float) -> int:
        kept = 0
        for seed in range(40):
            torch.manual_seed(seed)
            truth = transform(spec, crop=64, cat_max_ratio=ratio)(image, labels)[1]
            counts = torch.bincount(truth[truth != 255], minlength=2)
            kept += int(counts.max() < 0.75 * counts.sum() and (counts > 0).sum() > 1)
        return kept

    assert mixed(1.0) < 25 and mixed(0.75) >= 38


def test_cat_max_ratio_gives_up_on_a_picture_of_one_class(spec: ModelSpec) -> None:
    for value in (3, 255):
        labels = torch.full((161, 192), value, dtype=torch.uint8)
        truth = transform(spec, cat_max_ratio=0.75)(torch.zeros(3, 161, 192, dtype=torch.uint8), labels)[1]
        assert (truth == value).all()


def test_photometric_strength(spec: ModelSpec) -> None:
    image, labels = blocks()
    changes = []
    for strength in (0.0, 0.2, 1.0, 2.0):
        distances = []
        for seed in range(30):
            torch.manual_seed(seed)
            picture, truth = transform(spec, photometric=strength)(image, labels)
            torch.manual_seed(seed)
            still, same = transform(spec)(image, labels)
            assert torch.equal(truth, same)
            distances.append(float((picture - still).abs().mean()))
        changes.append(np.mean(distances))
    assert changes[0] == 0 and 0 < changes[1] < changes[2] < changes[3]


def test_photometric_ranges_are_torchvisions_times_the_strength() -> None:
    from torchvision.transforms.v2 import RandomPhotometricDistort

    reference = RandomPhotometricDistort()
    for strength in (0.5, 1.0, 2.0):
        ours = PhotometricDistort(strength)
        for name in ("brightness", "contrast", "saturation", "hue"):
            low, high = getattr(reference, name)
            middle = (low + high) / 2
            expected = middle + (low - middle) * strength, middle + (high - middle) * strength
            assert ours.ranges[name] == pytest.approx(expected)
    red = torch.zeros(3, 8, 8, dtype=torch.uint8)
    red[0] = 200
    for seed in range(30):  # red stays the strongest band: bands are not swapped
        torch.manual_seed(seed)
        assert (PhotometricDistort(1.0)(red).float().mean((1, 2)).argmax()) == 0


def test_hue_is_torchvisions_up_to_eight_bits() -> None:
    picture = torch.randint(0, 256, (3, 40, 50), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for turns in (-0.1, -0.05, 0.0, 0.03, 0.1):
        steps = round(turns * 256) / 256
        difference = (shift_hue(picture, turns).float() - F.adjust_hue(picture, steps).float()).abs()
        assert difference.max() <= HUE_LEVELS and difference.mean() < 1
    assert (shift_hue(picture, 0.1).float() - picture.float()).abs().mean() > 10


def test_the_seed_alone_decides(spec: ModelSpec) -> None:
    image, labels = blocks()
    augment = transform(
        spec,
        smallest_scale=0.5,
        largest_scale=2.0,
        rotate=10.0,
        blur=0.5,
        flip=0.5,
        photometric=1.0,
        cat_max_ratio=0.75,
    )

    def draw(seed: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed)
        return augment(image, labels)

    first, other = draw(1), draw(2)
    np.random.seed(5)
    again = draw(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)) and not torch.equal(first[0], other[0])


def test_the_input_is_left_alone(spec: ModelSpec) -> None:
    image, labels = blocks()
    before = image.clone(), labels.clone()
    torch.manual_seed(0)
    picture, truth = transform(spec, photometric=1.0, crop=64)(image, labels)
    picture.zero_()
    truth.zero_()
    assert torch.equal(image, before[0]) and torch.equal(labels, before[1])
