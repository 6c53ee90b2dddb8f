"""The few calls of GStreamer that a camera needs, through its C libraries: deadlines, interruption and typed errors.

OpenCV's GStreamer has none of them, takes the password only inside the pipeline's text, and is missing in pip's builds;
the libraries are part of every Jetson. Layouts of structs: gst/gstminiobject.h, gstbuffer.h, video/video-info.h and
video/gstvideometa.h, which have not changed since 1.0 on 64-bit systems.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, Structure, c_char_p, c_int, c_size_t, c_uint, c_uint8, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np

LIBRARIES = (
    "libglib-2.0.so.0",
    "libgobject-2.0.so.0",
    "libgstreamer-1.0.so.0",
    "libgstapp-1.0.so.0",
    "libgstvideo-1.0.so.0",
)
NULL_STATE, PLAYING, FAILURE = 1, 4, 0
MESSAGE_ERROR, MAP_READ, NO_TIME = 1 << 1, 1, 2**64 - 1
FULL_RANGE, BT709 = 1, 3  # GST_VIDEO_COLOR_RANGE_0_255, GST_VIDEO_COLOR_MATRIX_BT709
FORMATS = {"NV12": "nv12", "YUY2": "yuyv", "UYVY": "uyvy", "BGR": "bgr", "RGB": "rgb", "GRAY8": "grey"}
"""GStreamer's name of a picture format -> ours."""


class GError(Structure):
    """GLib's error."""

    _fields_ = (("domain", c_uint32), ("code", c_int), ("message", c_char_p))


class _MiniObject(Structure):
    _fields_ = (
        ("type", c_size_t), ("counts", c_int * 2), ("flags", c_uint), ("functions", c_void_p * 3), ("kept", c_uint),
        ("keeper", c_void_p),
    )  # fmt: skip


class _Buffer(Structure):
    _fields_ = (("object", _MiniObject), ("pool", c_void_p), ("pts", c_uint64))


class _Map(Structure):
    _fields_ = (
        ("memory", c_void_p), ("flags", c_int), ("data", c_void_p), ("size", c_size_t), ("maxsize", c_size_t),
        ("rest", c_void_p * 8),
    )  # fmt: skip


class _FormatInfo(Structure):
    _fields_ = (("format", c_int), ("name", c_char_p))


class _VideoInfo(Structure):
    _fields_ = (
        ("format", POINTER(_FormatInfo)), ("interlace", c_int), ("flags", c_int), ("width", c_int), ("height", c_int),
        ("size", c_size_t), ("views", c_int), ("chroma_site", c_int), ("range", c_int), ("matrix", c_int),
        ("transfer", c_int), ("primaries", c_int), ("ratios", c_int * 4), ("offset", c_size_t * 4),
        ("stride", c_int * 4), ("rest", c_uint8 * 256),
    )  # fmt: skip


class _VideoMeta(Structure):
    _fields_ = (
        ("flags", c_int), ("info", c_void_p), ("buffer", c_void_p), ("frame_flags", c_int), ("format", c_int),
        ("id", c_int), ("width", c_uint), ("height", c_uint), ("planes", c_uint), ("offset", c_size_t * 4),
        ("stride", c_int * 4),
    )  # fmt: skip


_RESULTS: dict[str, Any] = {
    "gst_parse_launch": (c_void_p, c_char_p, POINTER(POINTER(GError))),
    "gst_bin_get_by_name": (c_void_p, c_void_p, c_char_p),
    "gst_element_set_state": (c_int, c_void_p, c_int),
    "gst_element_get_bus": (c_void_p, c_void_p),
    "gst_element_get_base_time": (c_uint64, c_void_p),
    "gst_element_factory_find": (c_void_p, c_char_p),
    "gst_bus_timed_pop_filtered": (c_void_p, c_void_p, c_uint64, c_int),
    "gst_message_parse_error": (None, c_void_p, POINTER(POINTER(GError)), POINTER(c_void_p)),
    "gst_mini_object_unref": (None, c_void_p),
    "gst_object_unref": (None, c_void_p),
    "gst_init_check": (c_int, c_void_p, c_void_p, c_void_p),
    "gst_sample_get_buffer": (POINTER(_Buffer), c_void_p),
    "gst_sample_get_caps": (c_void_p, c_void_p),
    "gst_buffer_map": (c_int, POINTER(_Buffer), POINTER(_Map), c_int),
    "gst_buffer_unmap": (None, POINTER(_Buffer), POINTER(_Map)),
    "gst_app_sink_try_pull_sample": (c_void_p, c_void_p, c_uint64),
    "gst_app_sink_is_eos": (c_int, c_void_p),
    "gst_video_info_from_caps": (c_int, POINTER(_VideoInfo), c_void_p),
    "gst_buffer_get_video_meta": (POINTER(_VideoMeta), POINTER(_Buffer)),
    "g_quark_to_string": (c_char_p, c_uint32),
    "g_error_free": (None, POINTER(GError)),
    "g_free": (None, c_void_p),
}
"""Function -> type of its result, types of its arguments."""


@dataclass(frozen=True)
class GstreamerFault:
    """An error of a pipeline. domain: core, library, resource or stream; code: of that domain's enum in gsterror.h."""

    domain: str
    code: int
    message: str


@dataclass(frozen=True)
class Sample:
    """A picture of a pipeline, valid until it is released. layout: our name of the format."""

    image: np.ndarray
    layout: str
    matrix: str
    full_range: bool
    pts_ns: int | None
    release: Any


@functools.cache
def library() -> Any:
    """The functions of _RESULTS; OSError names the library that is not installed."""
    loaded = [ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL) for name in LIBRARIES]
    functions: dict[str, Any] = {"g_object_set": loaded[1].g_object_set}
    for name, (result, *arguments) in _RESULTS.items():
        function = next(getattr(one, name) for one in loaded if hasattr(one, name))
        function.restype, function.argtypes = result, arguments
        functions[name] = function
    if not functions["gst_init_check"](None, None, None):
        raise OSError("GStreamer does not start")
    return type("Library", (), {name: staticmethod(function) for name, function in functions.items()})


def has_element(name: str) -> bool:
    """Whether an element is installed; OSError without GStreamer."""
    factory = library().gst_element_factory_find(name.encode())
    if factory:
        library().gst_object_unref(factory)
    return bool(factory)


def parsed(description: str) -> int:
    """The pipeline of a launch line; ValueError with GStreamer's words."""
    error = POINTER(GError)()
    pipeline = library().gst_parse_launch(description.encode(), ctypes.byref(error))
    if error:
        fault = _taken(error)
        if pipeline:
            library().gst_object_unref(pipeline)
        raise ValueError(fault.message)
    return int(pipeline)


def set_text(pipeline: int, element: str, **settings: str) -> None:
    """Set text properties of the element of that name; _ in a name stands for -."""
    found = library().gst_bin_get_by_name(pipeline, element.encode())
    for name, value in settings.items():
        library().g_object_set(
            c_void_p(found), c_char_p(name.replace("_", "-").encode()), c_char_p(value.encode()), c_void_p(None)
        )
    library().gst_object_unref(found)


def next_fault(bus: int) -> GstreamerFault | None:
    """The first error on a bus that was not taken yet."""
    message = library().gst_bus_timed_pop_filtered(bus, 0, MESSAGE_ERROR)
    if not message:
        return None
    error, debug = POINTER(GError)(), c_void_p()
    library().gst_message_parse_error(message, ctypes.byref(error), ctypes.byref(debug))
    details = ctypes.string_at(debug.value).decode("utf-8", "replace") if debug.value else ""
    library().g_free(debug)
    library().gst_mini_object_unref(message)
    fault = _taken(error)
    last = details.strip().splitlines()[-1:] or [""]
    return GstreamerFault(fault.domain, fault.code, " ".join(f"{fault.message} {last[0]}".split()))


def pulled(sink: int, timeout_ns: int) -> Sample | None:
    """The next picture of an appsink; None where there is none in time. ValueError where its memory cannot be read."""
    calls = library()
    sample = calls.gst_app_sink_try_pull_sample(sink, timeout_ns)
    if not sample:
        return None
    buffer, mapped, info = calls.gst_sample_get_buffer(sample), _Map(), _VideoInfo()
    known = calls.gst_video_info_from_caps(ctypes.byref(info), calls.gst_sample_get_caps(sample))
    if not known or not calls.gst_buffer_map(buffer, ctypes.byref(mapped), MAP_READ):
        calls.gst_mini_object_unref(sample)
        raise ValueError("what the pipeline gives is no picture in main memory")

    def release() -> None:
        calls.gst_buffer_unmap(buffer, ctypes.byref(mapped))
        calls.gst_mini_object_unref(sample)

    try:
        name = info.format.contents.name.decode()
        image = _image(name, info, calls.gst_buffer_get_video_meta(buffer), mapped)
    except BaseException:
        release()
        raise
    pts = buffer.contents.pts
    matrix = "709" if info.matrix == BT709 else "601"
    return Sample(image, FORMATS[name], matrix, info.range == FULL_RANGE, None if pts == NO_TIME else pts, release)


def _image(name: str, info: _VideoInfo, meta: Any, mapped: _Map) -> np.ndarray:
    """A view of the mapped memory where its rows lie together, else a copy. Shapes as in `yuv.size_of`."""
    if name not in FORMATS:
        raise ValueError(f"the pipeline gives {name}, known are {', '.join(FORMATS)}: end it with videoconvert")
    layout = meta.contents if meta else info
    height, width, depth = info.height, info.width, {"NV12": 1, "GRAY8": 1, "YUY2": 2, "UYVY": 2}.get(name, 3)
    memory = np.frombuffer((c_uint8 * mapped.size).from_address(mapped.data), np.uint8)

    def rows(plane: int, count: int) -> np.ndarray:
        start, stride = int(layout.offset[plane]), int(layout.stride[plane])
        if stride < width * depth or start + (count - 1) * stride + width * depth > memory.size:
            raise ValueError(f"a picture of {memory.size} bytes is too small for {height}x{width} {name}")
        return np.lib.stride_tricks.as_strided(memory[start:], (count, width * depth), (stride, 1), writeable=False)

    luma = rows(0, height)
    if name == "NV12":
        chroma = rows(1, height // 2)
        together = (
            layout.stride[0] == layout.stride[1] == width and layout.offset[1] == layout.offset[0] + height * width
        )
        return rows(0, height * 3 // 2) if together else np.concatenate([luma, chroma])
    if depth == 1:
        return np.ascontiguousarray(luma)
    return np.ascontiguousarray(luma).reshape(height, width, depth)


def _taken(error: Any) -> GstreamerFault:
    calls = library()
    domain = (calls.g_quark_to_string(error.contents.domain) or b"").decode()
    fault = GstreamerFault(domain.removeprefix("gst-").removesuffix("-error-quark"), error.contents.code,
                           (error.contents.message or b"").decode("utf-8", "replace"))  # fmt: skip
    calls.g_error_free(error)
    return fault
