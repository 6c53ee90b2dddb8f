"""Curves of training runs as SVG: where points lie, what bands span, and that names stay apart."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from pspnet.learning_curves import BOTTOM, HEIGHT, LEFT, NAME_LINE, RIGHT, TOP, Line, learning_curves

SVG = "{http://www.w3.org/2000/svg}"
PIXEL = 0.11  # places are written to a tenth


def drawn(lines: list[Line]) -> ElementTree.Element:
    return ElementTree.fromstring(learning_curves(lines, "epoch", "held-out mIoU in %"))


def points(element: ElementTree.Element) -> np.ndarray:
    return np.array([[float(v) for v in pair.split(",")] for pair in element.attrib["points"].split()])


def values_of(places: np.ndarray, picture: ElementTree.Element) -> np.ndarray:
    """Epochs and percents of places, read back through the ticks' own labels."""
    ticks = [text for text in picture.iter(f"{SVG}text") if text.attrib.get("class") == "tick"]
    scale = {}
    for axis, anchor in (("x", "middle"), ("y", "end")):
        own = [(float(t.attrib[axis]), float(str(t.text))) for t in ticks if t.attrib["text-anchor"] == anchor]
        (first, low), (last, high) = own[0], own[-1]
        shift = 4 if axis == "y" else 0
        scale[axis] = (first - shift, low, (high - low) / (last - first))
    return np.stack([
        scale[axis][1] + (places[:, i] - scale[axis][0]) * scale[axis][2] for i, axis in enumerate("xy")
    ], 1)  # fmt: skip


def test_a_line_is_the_mean_and_its_band_the_range() -> None:
    runs = ((10.0, 30.0, 50.0), (20.0, 34.0, 46.0), (12.0, 20.0, 60.0))
    picture = drawn([Line("enet", runs)])
    [line], [band] = picture.iter(f"{SVG}polyline"), picture.iter(f"{SVG}polygon")
    found = values_of(points(line), picture)
    assert found[:, 0] == pytest.approx([1, 2, 3], abs=0.02)
    assert found[:, 1] == pytest.approx(np.mean(runs, 0), abs=0.1)
    edges = values_of(points(band), picture)[:, 1]
    assert edges[:3] == pytest.approx(np.max(runs, 0), abs=0.1)
    assert edges[3:][::-1] == pytest.approx(np.min(runs, 0), abs=0.1)
    assert "enet 52.0" in [text.text for text in picture.iter(f"{SVG}text")]


def test_runs_of_unequal_length_are_averaged_over_those_that_are_there() -> None:
    line = Line("a", ((1.0, 2.0), (3.0, 4.0, 5.0)))
    assert line.means() == [2.0, 3.0, 5.0]
    assert len(points(next(drawn([line]).iter(f"{SVG}polyline")))) == 3


def test_everything_lies_inside_the_frame() -> None:
    random = np.random.default_rng(0)
    lines = [Line(f"recipe {n}", tuple(map(tuple, random.uniform(0, 70, (2, 9))))) for n in range(6)]
    picture = drawn(lines)
    for shape in (*picture.iter(f"{SVG}polyline"), *picture.iter(f"{SVG}polygon")):
        places = points(shape)
        assert (places[:, 0] >= LEFT - PIXEL).all() and (places[:, 0] <= RIGHT + PIXEL).all()
        assert (places[:, 1] >= TOP - PIXEL).all() and (places[:, 1] <= BOTTOM + PIXEL).all()


@pytest.mark.parametrize("ends", [[50.0] * 8, [1.0, 1.1, 1.2, 60.0], [60.0, 59.9, 59.8], list(range(20))])
def test_names_stay_apart_and_in_the_picture(ends: list[float]) -> None:
    picture = drawn([Line(f"recipe {n}", ((0.0, end),)) for n, end in enumerate(ends)])
    rows = sorted(float(t.attrib["y"]) for t in picture.iter(f"{SVG}text") if re.match("recipe", str(t.text)))
    assert len(rows) == len(ends) and rows[0] > 0 and rows[-1] <= HEIGHT
    assert all(b - a >= NAME_LINE - PIXEL for a, b in itertools.pairwise(rows))


def test_lines_are_told_apart_and_names_are_text() -> None:
    picture = drawn([Line(f"<{n}> & more", ((1.0, 2.0),)) for n in range(16)])
    styles = [(p.attrib["stroke"], p.attrib.get("stroke-dasharray")) for p in picture.iter(f"{SVG}polyline")]
    assert len(set(styles)) == 16
    assert any(str(text.text).startswith("<3> & more") for text in picture.iter(f"{SVG}text"))


def test_one_epoch_of_one_seed_is_a_dot() -> None:
    picture = drawn([Line("short", ((42.0,),))])
    assert len(list(picture.iter(f"{SVG}circle"))) == 1 and not list(picture.iter(f"{SVG}polygon"))
