"""The figures of a run for Prometheus: seconds as its conventions have it, labels camera, stage, cause and outlet only.

Values are counted by `Telemetry` and only put into Prometheus' form when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runtime.board import Board
from runtime.camera_state import CameraState
from runtime.server_status import merged
from runtime.telemetry import AGE, BUCKETS_MS, Counted, Telemetry, word

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_text(telemetry: Telemetry, board: Board, streams: int) -> bytes:
    """All metrics in Prometheus' text format 0.0.4."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(telemetry, board, streams))  # type: ignore[arg-type]
    return generate_latest(registry)


class _Collector:
    def __init__(self, telemetry: Telemetry, board: Board, streams: int) -> None:
        self._telemetry, self._board, self._streams = telemetry, board, streams

    def collect(self) -> Iterator[Any]:
        """Every metric with its samples."""
        yield from self._times()
        yield from self._cameras()
        yield from self._run()

    def _times(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        ages = HistogramMetricFamily(
            "pspnet_frame_age_seconds", "Age of the picture when its result was published.", labels=["camera"]
        )
        stages = HistogramMetricFamily(
            "pspnet_stage_seconds", "How long a stage took for one picture.", labels=["camera", "stage"]
        )
        for camera, series in self._telemetry.counted().items():
            for stage, counted in series.items():
                if stage == AGE:
                    ages.add_metric([camera], _cumulative(counted), counted.sum_ms / 1e3)
                else:
                    stages.add_metric([camera, stage], _cumulative(counted), counted.sum_ms / 1e3)
        results = CounterMetricFamily(
            "pspnet_results", "Results published, by whether they may be used.", labels=["camera", "outcome"]
        )
        for camera, outcomes in self._telemetry.results().items():
            for outcome, count in outcomes.items():
                results.add_metric([camera, outcome], count)
        yield from (ages, stages, results)

    def _cameras(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, StateSetMetricFamily

        camera_label = ["camera"]
        states = StateSetMetricFamily("pspnet_camera_state", "The state of the camera.", labels=camera_label)
        fresh = GaugeMetricFamily("pspnet_camera_fresh", "1 where the newest result may be used.", labels=camera_label)
        fps = GaugeMetricFamily("pspnet_camera_fps", "Pictures per second that come.", labels=camera_label)
        health = GaugeMetricFamily("pspnet_health", "1 for each condition that holds.", labels=["camera", "cause"])
        frames, reconnects, crashes, steps = (
            CounterMetricFamily(f"pspnet_camera_{name}", text, labels=camera_label)
            for name, text in (
                ("frames", "Pictures that came."), ("reconnects", "Pictures came again after they had been lost."),
                ("crashes", "The camera's process died."), ("clock_steps", "The system's clock was set."),
            )
        )  # fmt: skip
        drops = CounterMetricFamily("pspnet_drops", "Pictures that were dropped.", labels=["camera", "cause"])
        dropped = self._telemetry.drops()
        for name in self._board.cameras:
            status, record = self._board.status(name), self._board.record(name)
            fresh.add_metric([name], float(not self._board.freshness(name).stale))
            for cause in record.health if record else ():
                health.add_metric([name, word(cause)], 1)
            of_camera = {} if status is None else {word(cause): n for cause, n in status.drops.items()}
            for cause, count in merged(of_camera, dropped.get(name, {})).items():
                drops.add_metric([name, cause], count)
            if status is None:
                continue
            states.add_metric([name], {state.value: state is status.state for state in CameraState})
            fps.add_metric([name], status.fps)
            counts = (status.frames, status.reconnects, status.crashes, status.clock_steps)
            for family, count in zip((frames, reconnects, crashes, steps), counts, strict=True):
                family.add_metric([name], count)
        yield from (states, fresh, fps, health, frames, reconnects, crashes, steps, drops)

    def _run(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        yield GaugeMetricFamily("pspnet_ready", "1 where a camera is fresh.", float(not self._board.unready()))
        yield GaugeMetricFamily("pspnet_http_streams", "Streams that are being watched.", self._streams)
        refused = CounterMetricFamily("pspnet_http_refused", "Requests that were refused.", labels=["cause"])
        for cause, count in self._telemetry.refusals().items():
            refused.add_metric([cause], count)
        active = GaugeMetricFamily("pspnet_throttled", "1 while the board slows itself down.", labels=["cause"])
        begun = CounterMetricFamily("pspnet_throttles", "The board began to slow itself down.", labels=["cause"])
        for cause, (times, lasts) in self._telemetry.throttles().items():
            active.add_metric([cause], float(lasts))
            begun.add_metric([cause], times)
        delivered = CounterMetricFamily("pspnet_outlet_delivered", "Records that a sink took.", labels=["outlet"])
        running = GaugeMetricFamily("pspnet_outlet_running", "1 where the outlet runs.", labels=["outlet"])
        dropped = CounterMetricFamily("pspnet_outlet_drops", "Records not taken.", labels=["outlet", "cause"])
        for outlet in self._board.outlets:
            name, drops = word(str(outlet["name"])), outlet.get("drops", {})
            delivered.add_metric([name], float(str(outlet.get("delivered", 0))))
            running.add_metric([name], float(outlet.get("state") == "running"))
            for cause, count in drops.items() if isinstance(drops, dict) else ():
                dropped.add_metric([name, word(cause)], count)
        yield from (refused, active, begun, delivered, running, dropped)
        if engine := self._board.engine:
            facts = {"engine": engine.name, "precision": engine.precision, "artefact": engine.artefact}
            yield InfoMetricFamily("pspnet_engine", "What computes the labels.", value=facts)


def _cumulative(counted: Counted) -> list[tuple[str, float]]:
    total, found = 0, []
    for limit, count in zip([*(repr(ms / 1000) for ms in BUCKETS_MS), "+Inf"], counted.buckets, strict=True):
        total += count
        found.append((limit, float(total)))
    return found
