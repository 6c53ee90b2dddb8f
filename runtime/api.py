"""Three hops from camera to labels, for programs of one's own:

    with open_source("rtsp://…") as source, open_segmenter("model.engine") as segment:
        for frame in source:
            sink(segment(frame))

A camera runs in a process of its own, as in `pspnet run`: the newest picture wins, and a camera that is away is awaited
without end, with a warning. What the live run has beyond that (several cameras, INVALID records, outlets that cannot
hold up anything) is in `runtime.live`.
"""

from __future__ import annotations

import select
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from pspnet.errors import PspnetError
from pspnet.spec import NetworkSpec
from runtime import source as files
from runtime.camera import Camera
from runtime.camera_settings import CameraSettings
from runtime.camera_state import CameraState
from runtime.camera_uri import is_camera
from runtime.frame import Frame, Segmentation
from runtime.runner import open_runner
from runtime.segmenter import Region
from runtime.segmenters import AnySegmenter, segmenting

LOOK_S = 0.2


def open_source(uri: str, name: str = "camera", **settings: Any) -> files.Source:
    """The frames of a camera, clip, folder or photo; an iterable and a context manager.

    name: the camera's, in `Frame.source`; settings: further fields of `CameraSettings`, for a camera only. A camera's
    frame is valid until the next is asked for. The iteration ends where the source ends; PspnetError where it fails.
    """
    if not is_camera(uri):
        if settings:
            raise PspnetError(f"{uri} is no camera: {', '.join(settings)} are for cameras, leave them out")
        return files.open_source(uri)
    camera = Camera(CameraSettings(name, uri, **settings))
    camera.start()
    return files.Source(name, None, camera.settings.fps, None, True, lambda: _frames(camera), camera.stop)


class LabelsOf:
    """A segmenter that is called with one frame after another; a context manager that closes its engine."""

    def __init__(self, segmenter: AnySegmenter, opened: ExitStack) -> None:
        self._segmenter, self._opened = segmenter, opened

    @property
    def spec(self) -> NetworkSpec:
        """Class names, colours and sizes of the network."""
        return self._segmenter.spec

    def __call__(self, frame: Frame) -> Segmentation:
        """The labels of one frame, (H, W) uint8 at its size; they keep their memory while anybody refers to it."""
        return self._segmenter.segment([frame])[0]

    def close(self) -> None:
        """Free the engine."""
        self._opened.close()

    def __enter__(self) -> LabelsOf:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_segmenter(
    artefact: str | Path,
    engine: str = "auto",
    threads: int | None = None,
    pinned_sha256: str | None = None,
    fit: str | None = None,
    region: Region | None = None,
    with_confidence: bool = False,
) -> LabelsOf:
    """The network of an artefact, as in `open_runner` and `segmenting`."""
    with ExitStack() as stack:
        runner = stack.enter_context(open_runner(artefact, engine, threads, pinned_sha256))
        segmenter = stack.enter_context(segmenting(runner, fit, region, with_confidence=with_confidence))
        return LabelsOf(segmenter, stack.pop_all())


def _frames(camera: Camera) -> Iterator[Frame]:
    warned = False
    while camera.state not in (CameraState.STOPPED, CameraState.FAILED):
        if (frame := camera.take()) is None:
            warned = warned or _warned_of(camera)
            select.select([camera.wakeup], [], [], LOOK_S)
            continue
        try:
            yield frame
        finally:
            camera.release(frame)
        warned = False
    status = camera.status()
    if status.state is CameraState.FAILED:
        raise PspnetError(f"camera {status.name} ({status.uri}) has failed: {status.message}")


def _warned_of(camera: Camera) -> bool:
    """Whether the camera is away, of which the program's user is warned."""
    status = camera.status()
    if status.state in (CameraState.RUNNING, CameraState.STOPPED, CameraState.FAILED) or not status.message:
        return False
    text = f"camera {status.name} ({status.uri}) is {status.state.value}: {status.message}. It is awaited"
    warnings.warn(text, RuntimeWarning, stacklevel=2)
    return True
