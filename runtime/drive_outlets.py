"""The outlets that a configuration asks for, each with its sink."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from pspnet.spec import NetworkSpec
from runtime.drive_config import DriveConfig
from runtime.outlet import LiveSink, Outlet
from runtime.sink_callback import CallbackSink, callback_from_text
from runtime.sink_recording import JsonlRecording, LabelRecording, VideoRecording
from runtime.sink_select import DOUBTFUL_SHARE, SelectSink
from runtime.sink_shared_labels import SharedLabelsSink
from runtime.sink_window import WindowSink


def open_outlets(
    config: DriveConfig, spec: NetworkSpec, on_quit: Callable[[], None], unused: contextlib.ExitStack
) -> list[Outlet]:
    """One outlet for each output of `config`, not started; PspnetError where an output cannot be written.

    spec: the classes of the labels, after merges. on_quit: called where somebody closes the window. unused: closes the
    sinks where the run does not begin.
    """
    outlets = []
    for name, sink in _sinks(config, spec, on_quit):
        unused.callback(sink.close)
        outlets.append(Outlet(sink, name))
    return outlets


def _sinks(config: DriveConfig, spec: NetworkSpec, on_quit: Callable[[], None]) -> Iterator[tuple[str, LiveSink]]:
    output, floor_bytes = config.output, config.output.keep_free_mib << 20
    names = [camera.name for camera in config.cameras]
    note = f"labels predicted by {config.model.artefact.name}; its training data: {spec.licence or 'not stated'}"
    if output.shared_labels is not None:
        yield "shared labels", SharedLabelsSink(spec, names, f"{output.shared_labels}-")
    if output.callback is not None:
        yield "callback", CallbackSink(callback_from_text(output.callback))
    if output.jsonl is not None:
        yield "jsonl", JsonlRecording(output.jsonl, floor_bytes)
    if output.folder is not None:
        yield "labels", LabelRecording(output.folder, spec, note, floor_bytes)
    if output.video is not None:
        yield "video", VideoRecording(output.video, spec, alpha=output.alpha, floor_bytes=floor_bytes)
    if output.select is not None:
        share = DOUBTFUL_SHARE if output.select_share is None else output.select_share
        yield "select", SelectSink(output.select, spec, note, share, floor_bytes=floor_bytes)
    if output.window:
        yield "window", WindowSink(spec, names, output.alpha, on_quit)
