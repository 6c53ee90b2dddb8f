"""How far two label maps agree, against scikit-learn and a band measured pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, recall_score

from export.agreement import Agreement, boundary_band, percent

NAMES = ("road", "car", "tree", "sky")
UNSEEN = 255
EXACT = 1e-12  # quotients of the same whole numbers in float64


def label_maps(seed: int, size: tuple[int, int] = (15, 22)) -> tuple[np.ndarray, np.ndarray]:
    """A map of coarse areas without the class car, with an unseen corner, and a copy with a tenth of it redrawn."""
    random = np.random.default_rng(seed)
    areas = random.choice([0, 2, 3], (4, 5)).astype(np.uint8).repeat(4, 0).repeat(5, 1)[: size[0], : size[1]]
    other = np.where(random.random(size) < 0.1, random.integers(0, 4, size), areas).astype(np.uint8)
    areas[:5, :4] = UNSEEN
    other[-3:, -3:] = UNSEEN
    return areas, other


def band_by_hand(labels: np.ndarray, band: int) -> np.ndarray:
    """Pixels around which two classes are found, one pixel at a time."""
    near = np.zeros(labels.shape, bool)
    for y, x in np.ndindex(*labels.shape):
        window = labels[max(y - band, 0) : y + band + 1, max(x - band, 0) : x + band + 1]
        near[y, x] = len(set(window.ravel()) - {UNSEEN}) > 1
    return near


@pytest.mark.parametrize("band", [1, 2, 3])
def test_shares_are_those_of_scikit_learn_over_all_maps(band: int) -> None:
    agreement, pairs = Agreement(NAMES, band), [label_maps(0), label_maps(1), label_maps(2, (9, 13))]
    for reference, other in pairs:
        differ = agreement.add(reference, other)
        assert np.array_equal(differ, (reference != UNSEEN) & (reference != other))
    seen = np.concatenate([(reference != UNSEEN).ravel() for reference, _ in pairs])
    near = np.concatenate([band_by_hand(reference, band).ravel() for reference, _ in pairs]) & seen
    a, b = (np.concatenate([pair[k].ravel() for pair in pairs]) for k in (0, 1))
    figures = agreement.figures()
    assert 0 < near.sum() < seen.sum() and figures["band_px"] == band
    assert (figures["pixels"], figures["flips"]) == (seen.sum(), (a != b)[seen].sum())
    assert figures["overall"] == agreement.share == pytest.approx(accuracy_score(a[seen], b[seen]), abs=EXACT)
    assert figures["boundary_band"] == pytest.approx(accuracy_score(a[near], b[near]), abs=EXACT)
    shares = recall_score(a[seen], b[seen], labels=range(4), average=None, zero_division=np.nan)
    assert list(figures["per_class"]) == list(NAMES)
    for name, share in zip(NAMES, shares, strict=True):
        if name == "car":  # B finds some, A none
            assert figures["per_class"][name] is None and np.isnan(share)
        else:
            assert figures["per_class"][name] == pytest.approx(share, abs=EXACT)


def test_the_band_has_its_width_on_both_sides_and_leaves_unseen_pixels_out() -> None:
    labels = np.zeros((6, 20), np.uint8)
    labels[:, 10:], labels[:, 18:] = 3, UNSEEN
    columns = np.flatnonzero(boundary_band(labels, 2).all(0))
    assert columns.tolist() == [8, 9, 10, 11]
    assert not boundary_band(labels, 2)[:, 12:].any()
    assert not boundary_band(np.full((5, 5), UNSEEN, np.uint8), 2).any()


def test_nothing_to_compare_is_no_share() -> None:
    agreement = Agreement(NAMES)
    assert not agreement.add(np.full((4, 4), UNSEEN, np.uint8), np.zeros((4, 4), np.uint8)).any()
    assert np.isnan(agreement.share)
    agreement.add(np.ones((4, 4), np.uint8), np.full((4, 4), UNSEEN, np.uint8))
    figures = agreement.figures()
    assert (figures["overall"], figures["boundary_band"], figures["per_class"]["car"]) == (0.0, None, 0.0)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "-"), (0.0, "0.0000"), (0.5, "50.0000"), (1.0, "100.0000"),
        (1 - 1e-9, "99.9999"), (0.999999, "99.9999"), (0.99995, "99.9950"),
    ],
)  # fmt: skip
def test_only_full_agreement_reads_as_100(share: float | None, text: str) -> None:
    assert percent(share) == text
