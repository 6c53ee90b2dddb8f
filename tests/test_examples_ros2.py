"""examples/: the ROS 2 node on a fake rclpy, and the three hops as their readers run them."""

from __future__ import annotations

import array
import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pspnet.errors import PspnetError
from runtime.api import open_segmenter, open_source
from runtime.frame import Frame, Segmentation
from tests.live_doubles import SPEC
from tests.nets import ROOT

NODE = ROOT / "examples" / "ros2_node.py"


class Message:
    """Any message: the fields that are given or set, and a header where one is asked for."""

    FIELDS: tuple[str, ...] = ()

    def __init__(self, **fields: Any) -> None:
        assert set(fields) <= set(self.FIELDS), fields
        self.__dict__.update(fields)

    def __getattr__(self, name: str) -> Any:
        if name != "header":
            raise AttributeError(name)
        self.header = types.SimpleNamespace(stamp=types.SimpleNamespace(sec=0, nanosec=0), frame_id="")
        return self.header

    def __setattr__(self, name: str, value: Any) -> None:
        assert name in (*self.FIELDS, "header"), f"{type(self).__name__} has no field {name}"
        self.__dict__[name] = value


class Image(Message):
    FIELDS = ("height", "width", "encoding", "is_bigendian", "step", "data")


class VisionClass(Message):
    FIELDS = ("class_id", "class_name")


class LabelInfo(Message):
    FIELDS = ("class_map", "threshold")


class Ros:
    """What rclpy knows of this process. left: after so many spins it shuts down."""

    def __init__(self) -> None:
        self.published: dict[str, list[Any]] = {}
        self.qos: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.running, self.left = False, 3

    def node(self) -> type:
        ros = self

        class Node:
            def __init__(self, name: str) -> None:
                assert ros.running and name == "pspnet"

            def create_publisher(self, kind: type, topic: str, qos: Any) -> Any:
                ros.published[topic], ros.qos[topic] = [], qos

                def publish(message: Any) -> None:
                    assert type(message) is kind
                    ros.published[topic].append(message)

                return types.SimpleNamespace(publish=publish)

            def get_clock(self) -> Any:
                stamp = types.SimpleNamespace(sec=1, nanosec=2)
                return types.SimpleNamespace(now=lambda: types.SimpleNamespace(to_msg=lambda: stamp))

            def get_logger(self) -> Any:
                def warning(text: str, throttle_duration_sec: float) -> None:
                    ros.warnings.append(text)

                return types.SimpleNamespace(warning=warning)

            def destroy_node(self) -> None:
                pass

        return Node

    def spin_once(self, node: Any, timeout_sec: float) -> None:
        self.left -= 1
        self.running = self.left > 0


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> Ros:
    """A fake rclpy in place of the real one."""
    ros = Ros()

    def module(name: str, **names: Any) -> None:
        found = types.ModuleType(name)
        found.__dict__.update(names)
        monkeypatch.setitem(sys.modules, name, found)

    def start(args: Any) -> None:
        ros.running = True

    module("rclpy", init=start, ok=lambda: ros.running, spin_once=ros.spin_once, try_shutdown=lambda: None)
    module("rclpy.node", Node=ros.node())
    module("rclpy.utilities", remove_ros_args=lambda words: words[: words.index("--ros-args")])
    module(
        "rclpy.qos", QoSProfile=lambda **fields: fields, qos_profile_system_default="system default",
        DurabilityPolicy=types.SimpleNamespace(TRANSIENT_LOCAL="transient local"),
    )  # fmt: skip
    module("sensor_msgs.msg", Image=Image)
    module("vision_msgs.msg", LabelInfo=LabelInfo, VisionClass=VisionClass)
    return ros


@pytest.fixture
def example(ros: Ros) -> Iterator[types.ModuleType]:
    spec = importlib.util.spec_from_file_location("ros2_node_example", NODE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module


def result(age_ms: float, **fields: Any) -> Segmentation:
    labels = np.random.default_rng(0).integers(0, 5, (48, 64)).astype(np.uint8)
    labels[0] = 255
    captured_ns = time.monotonic_ns() - int(age_ms * 1e6)
    frame = Frame(np.zeros((48, 64, 3), np.uint8), "bgr", "camera", 7, captured_ns, 1_700_000_000_123_456_789)
    return Segmentation(frame, labels, **fields)


def test_labels_have_the_stamp_of_their_picture(ros: Ros, example: types.ModuleType) -> None:
    ros.running = True
    node = example.LabelNode(SPEC, "front", 60_000)
    given = result(age_ms=20)
    assert node.publish(given)
    [image] = ros.published["~/labels"]
    assert (image.header.stamp.sec, image.header.stamp.nanosec) == (1_700_000_000, 123_456_789)
    assert (image.header.frame_id, image.encoding) == ("front", "mono8")
    assert (image.height, image.width, image.step) == (48, 64, 64) and isinstance(image.data, array.array)
    np.testing.assert_array_equal(np.frombuffer(image.data, np.uint8).reshape(48, 64), given.labels)
    assert ros.qos["~/labels"] == "system default"


def test_stamp_and_age_are_the_sensor_s_where_it_gives_them(ros: Ros, example: types.ModuleType) -> None:
    ros.running = True
    node, given = example.LabelNode(SPEC, "front", 60_000), result(age_ms=20)
    frame = dataclasses.replace(given.frame, sensor_ns=given.frame.captured_ns - 23_456_789)
    assert node.publish(dataclasses.replace(given, frame=frame))
    assert ros.published["~/labels"][0].header.stamp.nanosec == 100_000_000
    old = dataclasses.replace(given.frame, sensor_ns=given.frame.captured_ns - 61 * 10**9)
    assert not node.publish(dataclasses.replace(given, frame=old))


def test_label_info_is_latched_and_names_every_class(ros: Ros, example: types.ModuleType) -> None:
    ros.running = True
    example.LabelNode(SPEC, "front", 250)
    [info] = ros.published["~/label_info"]
    names = {each.class_id: each.class_name for each in info.class_map}
    assert names == {**dict(enumerate(SPEC.class_names)), 255: "unlabelled"}
    assert ros.qos["~/label_info"] == {"depth": 1, "durability": "transient local"}


@pytest.mark.parametrize(
    ("age_ms", "fields", "said"), [(5000.0, {}, "ms old"), (0.0, {"valid": False, "reason": "dark"}, "dark")]
)
def test_nothing_old_or_invalid_is_published(
    ros: Ros, example: types.ModuleType, age_ms: float, fields: dict[str, Any], said: str
) -> None:
    ros.running = True
    node = example.LabelNode(SPEC, "front", 1000)
    assert not node.publish(result(age_ms, **fields))
    assert ros.published["~/labels"] == [] and said in ros.warnings[0]


def test_the_node_runs_from_camera_to_message(ros: Ros, example: types.ModuleType, small_onnx: Path) -> None:
    example.main(
        ["node", str(small_onnx), "test://pattern?size=96x128&fps=10", "--max-age-ms", "5000", "--ros-args", "-r"]
    )
    assert len(ros.published["~/labels"]) == 3 and ros.published["~/labels"][0].width == 128


def test_three_hops(small_onnx: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), 10, (128, 96))
    for level in range(15):
        writer.write(np.full((96, 128, 3), 10 * level, np.uint8))
    writer.release()
    uri = f"clip://{clip}"
    done = subprocess.run(
        [sys.executable, "examples/three_hops.py", str(small_onnx), uri], cwd=ROOT, capture_output=True, text=True,
        timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^\d+: mostly \w+", done.stdout, re.MULTILINE)) >= 1


def test_three_hops_are_fifteen_lines() -> None:
    lines = (ROOT / "examples" / "three_hops.py").read_text().splitlines()
    code = [line for line in lines if line.strip() and not line.startswith(("#", '"""'))]
    assert len(code) <= 15
    page = (ROOT / "docs" / "cameras.md").read_text()
    assert "\n".join(lines[lines.index("import sys") :]) in page  # the page shows what is tested here


def test_files_go_through_the_same_hops(small_onnx: Path, camvid_tiny: Path) -> None:
    photo = next((camvid_tiny / "val" / "images").iterdir())
    with open_source(str(photo)) as source, open_segmenter(small_onnx, threads=1, with_confidence=True) as segment:
        [found] = [segment(frame) for frame in source]
    assert found.labels.shape == found.frame.size and found.confidence is not None
    with pytest.raises(PspnetError, match="max_age_ms are for cameras"):
        open_source(str(photo), max_age_ms=100)


def test_a_camera_that_is_away_is_warned_of_once() -> None:
    uri = "test://pattern?size=96x128&script=refuse 4; ok"
    with open_source(uri, max_age_ms=60_000) as source, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        next(iter(source))
    [warning] = [each for each in caught if "awaited" in str(each.message)]
    assert issubclass(warning.category, RuntimeWarning) and "camera camera (test://pattern" in str(warning.message)


def test_a_failed_camera_is_an_error() -> None:
    with open_source("csi://0") as source, pytest.raises(PspnetError, match=r"camera camera \(csi://0\) has failed"):
        for _ in source:  # without nvarguscamerasrc, which no test machine has
            raise AssertionError("there is no such camera here")
