"""One run over cameras, from a DriveConfig to its end: engine, cameras, outlets and page, opened, run and closed."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from pspnet.errors import PspnetError
from pspnet.files import write_json
from pspnet.spec import NetworkSpec
from pspnet.wording import counted
from runtime.board import Board, Engine
from runtime.camera import DELIVERING, Camera
from runtime.device_network import DeviceNetwork
from runtime.drive_check import check_cameras, check_places, secrets_set
from runtime.drive_config import DriveConfig, ServeConfig
from runtime.drive_outlets import open_outlets
from runtime.gpu_watch import GpuWatch
from runtime.live import FatalEngine, LiveSettings, Unusable, run_live
from runtime.outlet import Outlet, OutletState
from runtime.postprocess import Postprocess
from runtime.runner import Runner, check_artefact, open_runner
from runtime.segmenter import View
from runtime.segmenters import AnySegmenter, segmenting
from runtime.server import Server
from runtime.service import Progress, run_as_service
from runtime.sink_mjpeg import MjpegSink
from runtime.telemetry import AGE, Telemetry
from runtime.telling_board import TellingBoard
from runtime.watchdog import ENGINE_EXIT


class RunFailed(PspnetError):
    """The run began well and cannot go on; a new process may."""

    exit_code = ENGINE_EXIT


def run_drive(config: DriveConfig) -> int:
    """Run until a signal, the configured seconds, or the cameras' end; returns the exit code.

    70 where the engine or every camera failed while it ran, so that a supervisor starts a new process; what a new one
    would refuse as well is a PspnetError, which ends with 2. Otherwise as in `run_as_service`.
    """
    try:
        return run_as_service(lambda stop, progress: drive(config, stop, progress))
    except (FatalEngine, RunFailed) as error:
        print(f"pspnet: {error}", file=sys.stderr)
        return error.exit_code


def drive(config: DriveConfig, stop: threading.Event, progress: Progress) -> dict[str, Any]:
    """Run until `stop` is set, the configured seconds are over, or every camera is at its end; returns the figures.

    PspnetError before a camera is opened where the configuration cannot run, and Unusable where that shows in the first
    pictures; FatalEngine where the engine fails.
    """
    check_cameras(config)
    check_places(config)
    check_artefact(config.model.artefact, config.model.engine)
    board = TellingBoard({camera.name: camera.max_age_ms for camera in config.cameras})
    telemetry = Telemetry()
    with contextlib.ExitStack() as stack:
        server = _serve(stack, config.serve, telemetry, board)  # first, so that it can say that the engine is loading
        with progress.loading():
            network = _load(stack, config, telemetry)
        if stop.is_set():
            return {}
        unused = stack.enter_context(contextlib.ExitStack())  # what nobody closes if the run does not begin
        outlets = open_outlets(config, network.post.spec, stop.set, unused)
        if server is not None:
            outlets.append(_page(server, config, network.post.spec))
        board.set_engine(network.engine)
        cameras = _cameras(config, board, unused)
        progress.ready(lambda: _segmented(telemetry), lambda: _status(cameras))
        _end_in_time(stack, config.limits.seconds, stop)
        started = time.time()
        unused.pop_all()
        settings = LiveSettings(sync_ms=config.limits.sync_ms)
        try:
            result = run_live(cameras, network.segmenter, outlets, settings, stop, network.post, telemetry, board)
        except (FatalEngine, Unusable):
            raise
        except PspnetError as error:
            raise RunFailed(str(error)) from error
    ran = network.segmenter.runner
    report = _report(config, ran, cameras, outlets, telemetry, board, result, started) | {"gpu": network.watch.facts()}
    network.watch.tell()
    _tell(config, report, outlets)
    return report


@dataclass(frozen=True)
class _Network:
    """A loaded network. post: what is done to its labels; engine: what people are told of it."""

    segmenter: AnySegmenter
    post: Postprocess
    watch: GpuWatch
    engine: Engine


def _load(stack: contextlib.ExitStack, config: DriveConfig, telemetry: Telemetry) -> _Network:
    """The network of a run, open until the end of `stack`. What it really runs on is its segmenter's runner."""
    model = config.model
    runner = stack.enter_context(open_runner(model.artefact, model.engine, model.threads, model.pin))
    masks = {camera.name: camera.mask for camera in config.cameras}
    post = Postprocess(runner.spec, config.merge, config.limits.min_confidence, masks)
    segmenter = stack.enter_context(open_segmenter(config, runner))
    watch = stack.enter_context(GpuWatch(segmenter, telemetry))
    ran, spec = segmenter.runner, post.spec
    shown = Engine(
        ran.engine, ran.precision, model.artefact.name, spec.class_names, spec.palette, spec.drivable,
        runner.spec.input_size,
    )  # fmt: skip
    return _Network(segmenter, post, watch, shown)


def open_segmenter(config: DriveConfig, runner: Runner) -> AbstractContextManager[AnySegmenter]:
    """The segmenter of a run: each camera with its own fit and region; every record states its mean confidence."""
    views = {camera.name: View(camera.fit, camera.region) for camera in config.cameras}
    return segmenting(runner, views=views, with_confidence=True)


def _serve(stack: contextlib.ExitStack, serve: ServeConfig | None, telemetry: Telemetry, board: Board) -> Server | None:
    """Start the page, without pictures; None where none is wanted."""
    if serve is None:
        return None
    server = Server(telemetry, board, serve.host, serve.port, serve.token, names=serve.names)
    stack.enter_context(server)
    print(f"pspnet: live page on {server.url}", file=sys.stderr)
    return server


def _page(server: Server, config: DriveConfig, spec: NetworkSpec) -> Outlet:
    """The outlet that draws the page's pictures. spec: the classes of the labels, after merges."""
    pictures = MjpegSink(spec, [camera.name for camera in config.cameras], config.output.alpha)
    server.show(pictures)
    return Outlet(pictures, "page")


def _cameras(config: DriveConfig, board: Board, unused: contextlib.ExitStack) -> list[Camera]:
    """The cameras, not started. unused: stops them where the run does not begin."""
    with secrets_set(config):
        cameras = [Camera(camera, board.add_event) for camera in config.cameras]
    for camera in cameras:
        unused.callback(camera.stop)
    return cameras


def _end_in_time(stack: contextlib.ExitStack, seconds: float | None, stop: threading.Event) -> None:
    """Set `stop` after so many seconds, unless `stack` ends before."""
    if seconds is not None:
        timer = threading.Timer(seconds, stop.set)
        timer.daemon = True
        stack.callback(timer.cancel)
        timer.start()


def _segmented(telemetry: Telemetry) -> int:
    return sum(counts["valid"] for counts in telemetry.results().values())


def _status(cameras: Sequence[Camera]) -> str:
    """One line for systemctl status."""
    parts = []
    for camera in cameras:
        status = camera.status()
        detail = f"{status.fps:.1f} fps" if status.state in DELIVERING and not status.cause else status.cause
        parts.append(f"{camera.name} {status.state.value} {detail}".rstrip())
    return ", ".join(parts)


def _report(
    config: DriveConfig,
    runner: Runner | DeviceNetwork,
    cameras: Sequence[Camera],
    outlets: Sequence[Outlet],
    telemetry: Telemetry,
    board: TellingBoard,
    result: dict[str, Any],
    started: float,
) -> dict[str, Any]:
    """The figures of a run, for --json."""
    statuses = {camera.name: camera.status() for camera in cameras}
    failures = {name: board.last_failure(name) for name in statuses}  # a camera that was stopped has none of its own
    return {
        "artefact": config.model.artefact.name, "engine": runner.engine, "precision": runner.precision,
        "provenance": runner.provenance or None,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)), "seconds": result["seconds"],
        "cameras": {
            name: {
                "source": status.uri, "state": status.state.value, "decoder": status.decoder,
                "cause": status.cause or failures[name][0], "message": status.message or failures[name][1],
                "size": status.size, "frames": status.frames, "valid": result["cameras"][name]["valid"],
                "invalid": result["cameras"][name]["invalid"], "why_invalid": board.why_invalid(name),
                "drops": dict(Counter(status.drops) + Counter(result["cameras"][name]["drops"])),
                "reconnects": status.reconnects,
                "crashes": status.crashes, "times_ms": telemetry.percentiles(name),
            }
            for name, status in statuses.items()
        },
        "outlets": {
            status.name: {"state": status.state.value, "delivered": status.delivered, "drops": dict(status.drops),
                          "message": status.message}
            for status in (outlet.status() for outlet in outlets)
        },
    }  # fmt: skip


def _tell(config: DriveConfig, report: dict[str, Any], outlets: Sequence[Outlet]) -> None:
    """Write --json and print what an operator wants to know at the end."""
    output = config.output
    if output.json:
        write_json(output.json, report)
    for told in (outlet.status() for outlet in outlets):
        if told.errors or told.state is OutletState.ABANDONED:
            message = told.message or f"failed {counted(told.errors, 'time')}, and works again"
            print(f"pspnet: output {told.name}: {message}", file=sys.stderr)
    written = [str(path) for path in (output.folder, output.video, output.jsonl, output.select, output.json) if path]
    for name, facts in report["cameras"].items():
        age = facts["times_ms"].get(AGE)
        old = f", age p50 {age['p50']:.0f} ms, p99 {age['p99']:.0f} ms" if age else ""
        mostly = f"; most of it invalid: {facts['why_invalid']}" if facts["invalid"] > facts["valid"] else ""
        print(
            f"{name}: {counted(facts['valid'], 'frame')} in {report['seconds']:.1f} s, {facts['invalid']} invalid, "
            f"{sum(facts['drops'].values())} dropped{old} ({report['engine']}, {report['precision']}){mostly}"
        )
    if written:
        print(", ".join(written))
