"""Labels of a camera as ROS 2 messages: python3 examples/ros2_node.py model.engine csi://0 --frame-id front_camera

    ~/labels      sensor_msgs/Image, mono8: the class of each pixel, 255 unlabelled, at the camera's size
    ~/label_info  vision_msgs/LabelInfo, latched: the classes' names

The stamp is that of the picture, not of its publication, so that labels can be matched with other sensors. A label map
that is older than --max-age-ms when it is ready is not published: a consumer that misses labels for too long must stop.
Needs rclpy, sensor_msgs and vision_msgs (apt-get install ros-humble-vision-msgs), in a Python that has both these and
pspnet-edge. Time is the system's: with use_sim_time the stamps would not fit.
"""

from __future__ import annotations

import argparse
import array
import sys
import time
from collections.abc import Sequence

import rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_system_default
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import Image
from vision_msgs.msg import LabelInfo, VisionClass

from pspnet.spec import IGNORE, NetworkSpec
from runtime.api import open_segmenter, open_source
from runtime.frame import Segmentation
from runtime.scheduler import born_ns

SECOND_NS = 10**9


class LabelNode(Node):
    """Publishes the labels of one camera. frame_id: the camera's coordinate frame."""

    def __init__(self, spec: NetworkSpec, frame_id: str, max_age_ms: float) -> None:
        super().__init__("pspnet")
        self._frame_id, self._max_age_ns = frame_id, int(max_age_ms * 1e6)
        # REP 2003: publishers of sensor data use the system's default, which connects to any subscriber.
        self._labels = self.create_publisher(Image, "~/labels", qos_profile_system_default)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._info = self.create_publisher(LabelInfo, "~/label_info", latched)
        info = LabelInfo()
        info.header.stamp = self.get_clock().now().to_msg()
        info.header.frame_id = frame_id
        named = [*enumerate(spec.class_names), (IGNORE, "unlabelled")]
        info.class_map = [VisionClass(class_id=index, class_name=name) for index, name in named]
        self._info.publish(info)

    def publish(self, result: Segmentation) -> bool:
        """Publish a result, unless it is too old or not valid; whether it was published."""
        age_ns = time.monotonic_ns() - born_ns(result.frame)
        if not result.valid or age_ns > self._max_age_ns:
            reason = result.reason or f"the picture is {age_ns / 1e6:.0f} ms old"
            self.get_logger().warning(f"no labels: {reason}", throttle_duration_sec=1.0)
            return False
        taken_ns = result.frame.wall_ns - (result.frame.captured_ns - born_ns(result.frame))
        height, width = result.labels.shape
        image = Image(height=height, width=width, encoding="mono8", is_bigendian=0, step=width)
        image.header.stamp.sec, image.header.stamp.nanosec = divmod(taken_ns, SECOND_NS)
        image.header.frame_id = self._frame_id
        image.data = array.array("B", result.labels.tobytes())  # rclpy checks every byte of any other type
        self._labels.publish(image)
        return True


def main(arguments: Sequence[str] | None = None) -> None:
    """Publish until the camera ends or ROS shuts down. arguments: as sys.argv, the program's name first."""
    parser = argparse.ArgumentParser(description="labels of a camera as ROS 2 messages")
    parser.add_argument("artefact", help="model.engine or model.onnx")
    parser.add_argument("camera", help="v4l2://, csi://, rtsp://, http:// or test://")
    parser.add_argument("--frame-id", default="camera")
    parser.add_argument("--max-age-ms", type=float, default=250.0)
    words = list(sys.argv if arguments is None else arguments)
    args = parser.parse_args(remove_ros_args(words)[1:])
    rclpy.init(args=words)
    try:
        with (
            open_segmenter(args.artefact) as segment,
            open_source(args.camera, max_age_ms=args.max_age_ms) as source,
        ):
            node = LabelNode(segment.spec, args.frame_id, args.max_age_ms)
            for frame in source:
                node.publish(segment(frame))
                rclpy.spin_once(node, timeout_sec=0)
                if not rclpy.ok():
                    break
            node.destroy_node()
    except KeyboardInterrupt:  # rclpy's own handler has asked for the end
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
