"""The report: every figure is on the page, the page needs nothing else, and the plot puts points where they belong."""

from __future__ import annotations

import base64
import copy
import html.parser
import json
import re

import cv2
import numpy as np
import pytest

from pspnet.cli import main
from pspnet.errors import PspnetError
from pspnet.plots import Box, Point, nice_ticks, pareto, place_labels, scatter
from pspnet.report import write_report

PIXEL = 0.06  # the plot writes coordinates with one decimal
VOID = {"meta", "link", "img", "br"}
MACHINE = {"cpu": "CPU <One>", "flags": ["avx2", "avx512_vnni"], "cores": 2, "os": "Linux-6", "python": "3.11.7"}


def interval(median):
    return {"median": median, "low": median * 0.97, "high": median * 1.02}


def percentiles(p50):
    return {"p50": p50, "p90": p50 * 1.1, "p99": p50 * 1.5}


def candidate(artefact, engine, precision, fps, miou, pictures=()):
    classes = {"road": (miou + 20, 900), "<b>": (miou - 20, 100), "Tram": (None, 0)}
    return {
        "name": f"{artefact} ({engine}, {precision})", "artefact": artefact, "engine": engine, "precision": precision,
        "file_bytes": 9_610_000, "sha256": "ab", "network_size": [360, 480], "fit": "letterbox",
        "service_ms": percentiles(700 / fps),
        "stages_ms": {s: percentiles(n + 1.25) for n, s in enumerate(("capture", "pre", "infer", "labels", "sink"))},
        "throughput_fps": interval(fps), "ratio_to_first": interval(fps / 5.31),
        "scores": {
            "miou": miou, "macc": 70.0, "pixel_accuracy": 90.0, "f1": 75.0,
            "per_class": {name: {"iou": iou, "pixels": pixels} for name, (iou, pixels) in classes.items()},
            "protocol": {"dataset": "camvid11", "split": "test", "images": 11, "mode": "whole image, single scale"},
        },
        "palette": {"road": [128, 64, 128], "<b>": [1, 2, 3], "Tram": [4, 5, 6]}, "pictures": list(pictures),
    }  # fmt: skip


def bench(*candidates):
    return {
        "kind": "bench", "created": "2026-11-21T09:00:00Z", "command": "pspnet bench <a> & 'b'", "version": "0.1.0",
        "machine": dict(MACHINE), "threads": 2, "rounds": 7, "frames_per_round": 30, "source": "drive.mp4",
        "source_size": [540, 960], "candidates": list(candidates),
    }  # fmt: skip


@pytest.fixture
def two(tmp_path):
    """A bench file with two candidates and one picture each; returns its contents."""
    for name, grey in (("a-000040.jpg", 60), ("b-000040.jpg", 190)):
        cv2.imwrite(str(tmp_path / name), np.full((18, 32, 3), grey, np.uint8))
    value = bench(
        candidate("best.pt", "torch", "fp32", 5.31, 62.41, ["a-000040.jpg"]),
        candidate("model.int8.onnx", "openvino", "int8", 27.84, 61.87, ["b-000040.jpg"]),
    )
    (tmp_path / "bench.json").write_text(json.dumps(value))
    return value


def made(tmp_path, value=None, name="bench.json"):
    if value is not None:
        (tmp_path / name).write_text(json.dumps(value))
    write_report([tmp_path / name], tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


class Page(html.parser.HTMLParser):
    """Checks that tags balance; collects visible text, attributes and the pictures."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.attributes, self.tags = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def test_every_figure_is_on_the_page(tmp_path, two):
    words = Page(made(tmp_path, two)).words
    for wanted in (
        "best.pt", "torch, fp32", "9.61 MB", "360×480", "letterbox", "62.41", "61.87", "on 11 images",
        "5.31", "5.15 to 5.42", "27.8", "27.0 to 28.4", "1.00 ×", "5.24 ×", "5.09 to 5.35",
        "132", "145", "198", "25.1", "27.7", "37.7",                       # service p50, p90, p99 of both
        "1.25", "2.25", "3.25", "4.25", "5.25",                            # stages
        "82.4", "81.9", "42.4", "41.9", "−0.5", "−0.54", "90.0 %", "10.0 %", "–",  # classes
        "CPU <One>, 2 cores, Linux-6", "avx2 avx512_vnni", "2026-11-21 09:00:00 UTC", "drive.mp4 (960 × 540 pixels)",
        "Frame 40", "pspnet bench <a> & 'b'",
    ):  # fmt: skip
        assert wanted in words, wanted
    text = "".join(words)
    assert "7 rounds of 30 frames" in text and "11 images of camvid11 test" in text
    assert "27.8 frames per second, 5.24 times best.pt (torch, fp32), at −0.54 points" in text


def test_null_figures_are_called_not_measured(tmp_path, two):
    for key in ("service_ms", "throughput_fps", "ratio_to_first", "scores", "file_bytes"):
        two["candidates"][1][key] = None
    two["candidates"][1]["stages_ms"]["sink"] = None
    page = Page(made(tmp_path, two))
    assert page.words.count("not measured") == 8 and "0.00" not in page.words
    assert "Not in the plot" in "".join(page.words) and page.tags.count("circle") == 1
    for entry in two["candidates"]:
        entry.update(scores=None, stages_ms=None, pictures=[])
    assert "circle" not in Page(made(tmp_path, two)).tags


def test_the_page_needs_nothing_else(tmp_path, two):
    text = made(tmp_path, two)
    page = Page(text)
    assert "script" not in page.tags and "http:" not in text and "https:" not in text and "url(" not in text
    links = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "data")]
    assert links and all(value.startswith("data:") for value in links)
    pictures = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    for value, grey in zip(pictures, (60, 190), strict=True):
        data = np.frombuffer(base64.b64decode(value.removeprefix("data:image/jpeg;base64,")), np.uint8)
        assert abs(cv2.imdecode(data, cv2.IMREAD_COLOR).mean() - grey) < 2  # JPEG


def test_a_class_named_b_is_text(tmp_path, two):
    page = Page(made(tmp_path, two))
    assert "b" not in page.tags and "<b>" in page.words
    assert ("i", "style", "background:rgb(1,2,3)") in page.attributes


def test_a_wide_or_png_picture_becomes_a_smaller_jpeg(tmp_path, two):
    cv2.imwrite(str(tmp_path / "w.png"), np.zeros((100, 1920, 3), np.uint8))
    two["candidates"][0]["pictures"] = ["w.png"]
    source = next(v for tag, name, v in Page(made(tmp_path, two)).attributes if (tag, name) == ("img", "src"))
    data = base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (50, 960, 3)


def test_files_of_two_machines_are_joined_with_a_warning(tmp_path, two):
    other = copy.deepcopy(two)
    (tmp_path / "again.json").write_text(json.dumps(other))
    write_report([tmp_path / "bench.json", tmp_path / "again.json"], tmp_path / "r.html")
    assert "machines or thread counts differ" not in (tmp_path / "r.html").read_text()
    other["machine"]["cpu"] = "Orin"
    (tmp_path / "again.json").write_text(json.dumps(other))
    assert write_report([tmp_path / "bench.json", tmp_path / "again.json"], tmp_path / "r.html") == 4
    page = Page((tmp_path / "r.html").read_text())
    text = "".join(page.words)
    assert "machines or thread counts differ" in text and "openvino, int8, again.json" in text and "Fastest" not in text


def test_unlike_image_counts_are_pointed_out(tmp_path, two):
    two["candidates"][1]["scores"]["protocol"]["images"] = 1
    text = "".join(Page(made(tmp_path, two)).words)
    assert "on 1 image" in text and "their mIoU cannot be compared" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.update(kind="calibration table"), "no bench file .its kind is calibration table"),
        (lambda b: b.update(candidates=[]), "no candidates"),
        (lambda b: b.update(candidates=[3]), r"candidates\[0\] is 3, an object is needed"),
        (lambda b: b["machine"].pop("cpu"), r"lacks machine\.cpu"),
        (lambda b: b["candidates"][1].pop("engine"), r"lacks candidates\[1\]\.engine"),
        (lambda b: b["candidates"][1]["service_ms"].pop("p99"), r"lacks candidates\[1\]\.service_ms\.p99"),
        (lambda b: b["candidates"][0].update(throughput_fps="fast"), r"throughput_fps is 'fast', an object"),
        (lambda b: b["candidates"][0]["scores"]["per_class"]["road"].update(iou="x"), r"per_class\.road\.iou is 'x'"),
        (lambda b: b["candidates"][0]["pictures"].append("gone.jpg"), r"cannot read image .*gone\.jpg"),
        (lambda b: b["candidates"][0]["pictures"].append("bench.json"), "corrupt or not a picture"),
    ],
)
def test_a_bad_file_is_refused_and_leaves_no_page(tmp_path, two, change, message):
    change(two)
    (tmp_path / "bench.json").write_text(json.dumps(two))
    with pytest.raises(PspnetError, match=message) as caught:
        write_report([tmp_path / "bench.json"], tmp_path / "out" / "report.html")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_the_command_writes_the_page_and_refuses_other_json(tmp_path, two, capsys):
    assert main(["report", str(tmp_path / "bench.json"), "-o", str(tmp_path / "r.html")]) == 0
    assert "2 candidates" in capsys.readouterr().out and (tmp_path / "r.html").stat().st_size > 5000
    (tmp_path / "list.json").write_text("[1]")
    assert main(["report", str(tmp_path / "list.json"), "-o", str(tmp_path / "r2.html")]) == 2
    assert "no bench file" in capsys.readouterr().err and not (tmp_path / "r2.html").exists()


def test_points_stand_where_the_ticks_say():
    points = [Point("a", "x", 5.31, 5.1, 5.5, 62.41), Point("b", "y", 27.84, 27.0, 28.4, 61.87)]
    svg = scatter(points)
    # The axes are read back from their tick labels, so that a wrong scale or a wrong label shows.
    ticks = {
        axis: np.array([(float(at), float(value)) for at, value in re.findall(pattern, svg)])
        for axis, pattern in {
            "x": r'class="tick x" text-anchor="middle" x="([\d.]+)"[^>]*>([\d.]+)<',
            "y": r'class="tick y" text-anchor="end" x="[\d.]+" y="([\d.]+)">([\d.]+)<',
        }.items()
    }
    x_slope, x_start = np.polyfit(ticks["x"][:, 1], ticks["x"][:, 0], 1)
    y_slope, y_start = np.polyfit(ticks["y"][:, 1], ticks["y"][:, 0] - 4, 1)  # text stands 4 below its tick
    assert x_slope > 0 > y_slope and ticks["x"][0, 1] == 0
    circles = [tuple(map(float, pair)) for pair in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)]
    for (x, y), p in zip(circles, points, strict=True):
        assert abs(x - (x_start + x_slope * p.fps)) < 2 * PIXEL and abs(y - (y_start + y_slope * p.miou)) < 2 * PIXEL
    bars = re.findall(r'</title><line x1="([\d.]+)" x2="([\d.]+)"', svg)
    for (low, high), p in zip(bars, points, strict=True):
        assert abs(float(low) - (x_start + x_slope * p.low)) < 2 * PIXEL
        assert abs(float(high) - (x_start + x_slope * p.high)) < 2 * PIXEL
    # And one place by hand: 0 to 30 FPS on 66 to 742 pixels, 61 to 63 % on 386 to 18.
    assert circles[1] == pytest.approx((66 + 676 * 27.84 / 30, 386 - 368 * 0.87 / 2), abs=PIXEL)


def test_pareto_marks_what_nothing_beats():
    values = [(5, 62), (9, 62), (12, 61.5), (28, 61.8), (6, 61.8), (28, 61.8)]
    points = [Point(str(i), "", fps, fps, fps, miou) for i, (fps, miou) in enumerate(values)]
    assert pareto(points) == [False, True, False, True, False, True]
    assert pareto([Point("a", "", 5, 5, 5, 60), Point("b", "", 9, 9, 9, 70, group=1)]) == [True, True]
    assert scatter(points).count("mark pareto") == 3


@pytest.mark.parametrize("seed", range(8))
def test_labels_of_crowded_points_do_not_overlap(seed):
    rng = np.random.default_rng(seed)
    places = [(float(x), float(y)) for x, y in rng.normal((400, 200), (60, 40), (8, 2))]
    points = [Point("model.int8.onnx", "openvino, int8", 1, 1, 1, 1) for _ in places]
    boxes = place_labels(points, places, [(x - 5, x + 5) for x, _ in places])
    marks = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    for i, box in enumerate(boxes):
        assert box.left >= 66 and box.right <= 742 and box.top >= 18 and box.bottom <= 386
        assert all(box.overlap(other) == 0 for other in (*boxes[:i], *marks))


@pytest.mark.parametrize(("low", "high"), [(0, 29.2), (61.6, 62.7), (0, 0.31), (0, 1234), (99.5, 100)])
def test_ticks_are_round_and_enclose(low, high):
    ticks = nice_ticks(low, high)
    steps = np.diff(ticks)
    assert ticks[0] <= low and ticks[-1] >= high and 3 <= len(ticks) <= 12
    assert np.allclose(steps, steps[0]) and f"{steps[0]:.0e}"[0] in "125"


def test_one_candidate_makes_a_page(tmp_path):
    value = bench(candidate("m.onnx", "ort", "fp32", 10.0, 0.0))
    value["source_size"] = None
    page = Page(made(tmp_path, value))
    assert page.tags.count("circle") == 1 and "drive.mp4" in page.words


def test_each_engine_on_a_gpu_states_its_own_library(tmp_path, two):
    first, second = two["candidates"]
    first["provenance"] = {"torch": "2.11.0", "cuda": "13.0", "gpu": {"name": "GPU One", "compute_capability": "9.0"}}
    second["provenance"] = {"onnxruntime": "1.31.0", "provider": "CUDAExecutionProvider"}
    page = made(tmp_path, two)
    assert "torch 2.11.0 on GPU One, fp32" in page and "openvino 1.31.0, int8" in page
    second["provenance"] = {"tensorrt": "10.3.0", "gpu": {"name": "GPU Two"}}
    assert "openvino 10.3.0 on GPU Two, int8" in made(tmp_path, two)
    for wrong in ({"gpu": "GPU Two"}, {"torch": 2}, ["torch"]):
        second["provenance"] = wrong
        with pytest.raises(PspnetError, match=r"provenance.* is needed"):
            made(tmp_path, two)
