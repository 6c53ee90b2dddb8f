"""What the live page answers, over real connections."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pspnet.errors import PspnetError
from runtime.camera_state import CameraState
from runtime.camera_status import CameraEvent
from runtime.server import Server
from tests.served_run import PASSWORD, TOKEN, Repeating, Run, picture, record, status, until

STALE_HEADERS = ("x-pspnet-stale", "x-pspnet-reason")


@pytest.fixture
def run() -> Iterator[Run]:
    with Run() as served:
        served.go()
        yield served


@pytest.fixture(scope="module")
def shared() -> Iterator[Run]:
    """A run for tests that change nothing in it."""
    with Run() as served:
        served.go()
        yield served


@pytest.mark.parametrize(("path", "kind", "words"), [
    ("/", "text/html", b"<title>Live cameras</title>"), ("/app.js", "text/javascript", b"import"),
    ("/cards.js", "text/javascript", b"class Card"), ("/charts.js", "text/javascript", b"export function draw"),
    ("/style.css", "text/css", b"prefers-color-scheme"), ("/icon.svg", "image/svg+xml", b"<svg"),
    ("/api/status", "application/json", b'"front"'), ("/api/history", "application/json", b'"infer"'),
    ("/api/events", "application/json", b"[]"), ("/metrics", "text/plain", b"pspnet_frame_age_seconds_bucket"),
    ("/healthz", "text/plain", b"ok"), ("/readyz", "text/plain", b"ready"),
    ("/snapshot/front.png", "image/png", b"IHDR"),
])  # fmt: skip
def test_every_route_is_read_with_get_and_head(shared: Run, path: str, kind: str, words: bytes) -> None:
    # The stale headers of a snapshot say how old it is, and the figures count on: those differ between two answers.
    with Repeating(shared.fresh, 0.02):
        code, headers, body = shared.ask(path)
        head_code, head_headers, nothing = shared.ask(path, "HEAD")
    assert (code, head_code) == (200, 200) and headers["content-type"].startswith(kind) and words in body
    assert nothing == b"" and head_headers["content-type"] == headers["content-type"]
    for found in (headers, head_headers):
        assert found["x-content-type-options"] == "nosniff" and "script-src 'self'" in found["content-security-policy"]
        assert found["cache-control"] in ("no-store", "no-cache") and "server" not in found


def test_the_page_needs_nothing_from_elsewhere_and_holds_no_script(run: Run) -> None:
    page = run.ask("/")[2].decode()
    assert page.count("<script") == page.count('<script type="module" src="/app.js">') == 1
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    for path in ("/", "/app.js", "/cards.js", "/charts.js", "/style.css"):
        text = run.ask(path)[2].decode().replace("http://www.w3.org/2000/svg", "")  # a name, which nothing asks for
        assert not re.search(r"//[a-z0-9-]+\.|@import|url\(", text), path


@pytest.mark.parametrize("path", [
    "/index.html", "/static/app.js", "/../pyproject.toml", "/..%2fserver.py", "/%2e%2e/server.py", "//etc/passwd",
    "/app.js/", "/api", "/api/", "/api/status/", "/stream/nobody.mjpg", "/stream/..%2f..%2fetc.mjpg",
    "/snapshot/nobody.jpg", "/snapshot/front.gif", "/snapshot/FRONT.jpg", "/snapshot/front%00.jpg", "/snapshot/.jpg",
    "/snapshot/front/../rear.png", "/style.css%00", "/docs", "/openapi.json",
])  # fmt: skip
def test_nothing_but_the_table_of_routes_is_answered(shared: Run, path: str) -> None:
    code, headers, body = shared.ask(path)
    assert code == 404 and b"[build-system]" not in body and b"root:" not in body
    assert headers["x-content-type-options"] == "nosniff"


def test_status_tells_everything_and_no_password(run: Run) -> None:
    run.board.set_status(status("rear", CameraState.BACKOFF, cause="auth",
                                message=f"rtsp://admin:{PASSWORD}@10.0.0.5/1 refused the password"))  # fmt: skip
    run.board.add_event(CameraEvent("rear", "state", 0, CameraState.BACKOFF, "auth", f"rtsp://a:{PASSWORD}@b/1"))
    run.board.set_outlets([{"name": "video", "state": "running", "since_ns": time.monotonic_ns(), "message": "",
                            "delivered": 3, "drops": {"slow": 2}, "errors": 0}])  # fmt: skip
    run.telemetry.drop("front", "stale", 2)
    run.telemetry.throttle("thermal", True)
    told = run.json("/api/status")
    front, rear = told["cameras"]
    assert told["ready"] and told["engine"]["precision"] == "int8" and told["throttle"]["thermal"]["active"]
    assert told["engine"]["classes"][0] == {"name": "road", "colour": [128, 64, 128], "drivable": True}
    assert (front["name"], front["state"], front["stale"]) == ("front", "running", False)
    assert front["drops"] == {"busy": 3, "stale": 2} and front["reconnects"] == 1 and front["decoder"] == "none (raw)"
    assert front["stages"]["infer"] == {"p50": 20.0, "p90": 20.0, "p99": 20.0, "samples": 1}
    assert front["age"]["p99"] >= 5.0 and front["class_shares"]["road"] == pytest.approx(2 / 3, abs=1e-5)
    assert (rear["state"], rear["stale"], rear["cause"]) == ("backoff", True, "auth")
    assert told["outlets"][0]["name"] == "video" and told["outlets"][0]["since_s"] >= 0
    everything = "".join(run.ask(path)[2].decode() for path in ("/api/status", "/api/events", "/metrics", "/readyz"))
    assert PASSWORD not in everything and "p@ss" not in everything and "refused the password" in everything


def test_numbers_that_are_not_finite_become_null(run: Run) -> None:
    run.board.set_status(status("front", fps=float("nan"), last_frame_age_ms=float("inf")))
    front = run.json("/api/status")["cameras"][0]
    assert front["fps"] is None and front["last_frame_age_ms"] is None


def test_events_come_newest_first(run: Run) -> None:
    for number, cause in enumerate(("refused", "timeout")):
        run.board.add_event(CameraEvent("rear", "state", number, CameraState.BACKOFF, cause, values={"tries": 1.0}))
    events = run.json("/api/events")
    assert [event["cause"] for event in events] == ["timeout", "refused"]
    assert events[0]["state"] == "backoff" and abs(events[0]["wall_ms"] / 1e3 - time.time()) < 60


def test_metrics_are_what_prometheus_reads(run: Run) -> None:
    run.telemetry.drop("front", "busy", 4)
    run.telemetry.drop("front", "rtsp://10.0.0.5/secret")
    run.board.publish(record("front", 9, health=("dark",)))
    text = run.ask("/metrics")[2].decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert "10.0.0.5" not in text

    def value(name: str, **labels: str) -> float:
        samples = [s for family in families.values() for s in family.samples if s.name == name]
        [found] = [s.value for s in samples if labels.items() <= s.labels.items()]
        return found

    assert value("pspnet_stage_seconds_bucket", camera="front", stage="infer", le="0.016") == 0
    assert value("pspnet_stage_seconds_bucket", camera="front", stage="infer", le="0.02") == 1
    assert value("pspnet_stage_seconds_bucket", camera="front", stage="infer", le="+Inf") == 1
    assert value("pspnet_stage_seconds_sum", camera="front", stage="infer") == pytest.approx(0.02)
    limits = [s.labels["le"] for s in families["pspnet_frame_age_seconds"].samples if "le" in s.labels]
    milliseconds = [1, 2, 4, 6, 8, 10, 12, 16, 20, 25, 33, 40, 50, 66, 100, 200]
    assert [float(limit) * 1000 for limit in limits[:-1]] == pytest.approx(milliseconds) and limits[-1] == "+Inf"
    assert value("pspnet_drops_total", camera="front", cause="busy") == 7  # 3 of the camera, 4 behind it
    assert value("pspnet_drops_total", camera="front", cause="other") == 1
    assert value("pspnet_camera_state", camera="rear", pspnet_camera_state="stalled") == 1
    assert value("pspnet_camera_state", camera="rear", pspnet_camera_state="running") == 0
    assert value("pspnet_camera_fresh", camera="front") == 1 and value("pspnet_camera_fresh", camera="rear") == 0
    assert value("pspnet_health", camera="front", cause="dark") == 1 and value("pspnet_ready") == 1
    assert value("pspnet_engine_info", engine="openvino", precision="int8") == 1


def test_readiness_needs_an_engine_and_a_fresh_camera() -> None:
    with Run() as run:
        assert run.ask("/healthz")[0] == 200
        code, _, body = run.ask("/readyz")
        assert (code, body) == (503, b"not ready: the engine is loading\n")
        run.go()
        assert run.ask("/readyz")[0] == 200
        run.board.set_status(status("front", CameraState.STALLED, cause="stalled"))
        code, _, body = run.ask("/readyz")
        assert code == 503 and b"front (camera is stalled: stalled)" in body


def test_while_the_engine_is_loading_the_page_is_there_and_says_so() -> None:
    run = Run()
    run.server = Server(run.telemetry, run.board, port=0, token=TOKEN)  # the pictures come with the engine
    with run:
        assert run.ask("/healthz")[0] == 200 and run.ask("/")[0] == 200
        code, _, body = run.ask("/readyz")  # without the token: nothing in it is of a camera
        assert (code, body) == (503, b"not ready: the engine is loading\n")
        asked = {"authorization": f"Bearer {TOKEN}"}
        found = json.loads(run.ask("/api/status", headers=asked)[2])
        assert (found["ready"], found["reason"], found["engine"]) == (False, "the engine is loading", None)
        assert {(each["state"], each["reason"]) for each in found["cameras"]} == {("waiting", "the engine is loading")}
        for path in ("/stream/front.mjpg", "/snapshot/front.jpg", "/snapshot/front.png"):
            code, _, body = run.ask(path, headers=asked)
            assert code == 503 and b"the engine is loading" in body, path
        run.server.show(run.pictures)
        run.go()
        run.pictures.show(picture(200))
        assert run.ask("/readyz")[0] == 200 and run.ask("/snapshot/front.jpg", headers=asked)[0] == 200


def test_a_snapshot_says_whether_it_is_stale(run: Run) -> None:
    run.pictures.show(picture(200))
    code, headers, body = run.ask("/snapshot/front.jpg")
    assert code == 200 and [headers[name] for name in STALE_HEADERS] == ["0", ""]
    assert 0 <= int(headers["x-pspnet-age-ms"]) <= 250
    assert abs(int(cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR).mean()) - 200) <= 2  # JPEG's rounding
    run.pictures.show(picture(20), valid=False, age_ms=900.0)
    code, headers, _ = run.ask("/snapshot/front.jpg")
    assert code == 200 and [headers[name] for name in STALE_HEADERS] == ["1", "the camera is stalled"]
    assert int(headers["x-pspnet-age-ms"]) >= 900


def test_a_snapshot_waits_a_moment_for_a_picture_that_is_fresh(run: Run) -> None:
    run.pictures.show(picture(20), age_ms=5000.0)
    timer = threading.Timer(0.3, run.pictures.show, (picture(200),))
    timer.start()
    _, headers, _ = run.ask("/snapshot/front.jpg")
    timer.join()
    assert headers["x-pspnet-stale"] == "0" and until(lambda: run.pictures.listeners == 0)


def test_a_camera_without_pictures_has_no_snapshot(run: Run) -> None:
    code, headers, _ = run.ask("/snapshot/rear.jpg")
    assert code == 503 and headers["x-pspnet-stale"] == "1"


def test_labels_come_lossless_and_never_when_they_must_not_be_used(run: Run) -> None:
    run.board.publish(record("front", 5))
    with Repeating(lambda: run.board.publish(record("front", 5)), 0.02):
        code, headers, body = run.ask("/snapshot/front.png")
    assert code == 200 and headers["x-pspnet-stale"] == "0" and headers["x-pspnet-sequence"] == "5"
    decoded = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(decoded, record().labels)
    run.board.publish(record("front", 6, age_ms=5000.0))  # valid when it was published, too old to be handed out now
    code, headers, body = run.ask("/snapshot/front.png")
    assert code == 503 and headers["x-pspnet-stale"] == "1" and int(headers["x-pspnet-age-ms"]) >= 5000
    assert b"PNG" not in body
    stalled = replace(record("front", 7), valid=False, reason="the camera\nis stalled: ünïcode", labels=None)
    run.board.publish(stalled)
    code, headers, _ = run.ask("/snapshot/front.png")
    assert code == 503 and headers["x-pspnet-reason"] == "the camera is stalled: ?n?code"


def test_a_token_opens_everything_and_its_absence_nothing() -> None:
    with Run(token=TOKEN) as run:
        run.go()
        for path in ("/", "/app.js", "/style.css", "/healthz"):
            assert run.ask(path)[0] == 200
        private = ("/api/status", "/api/events", "/metrics", "/stream/front.mjpg", "/snapshot/front.png", "/nowhere")
        for path in private:
            code, headers, body = run.ask(path)
            assert code == 401 and headers["www-authenticate"].startswith("Bearer") and b"front" not in body
        shown = {"Authorization": f"Bearer {TOKEN}"}
        assert run.ask("/api/status", headers=shown)[0] == 200
        assert run.ask("/api/status", headers={"Authorization": f"Bearer {TOKEN}x"})[0] == 401
        assert run.ask(f"/api/status?token={TOKEN}")[0] == 401  # an address is seen by too many
        assert run.telemetry.refusals()["token"] >= 8


def test_a_browser_changes_the_token_for_a_cookie() -> None:
    with Run(token=TOKEN) as run:
        assert run.json("/api/session") == {"admitted": False}
        code, headers, body = run.ask("/api/session", headers={"Authorization": "Bearer wrong-but-long-enough"})
        assert code == 200 and json.loads(body) == {"admitted": False} and "set-cookie" not in headers
        code, headers, body = run.ask("/api/session", headers={"Authorization": f"Bearer {TOKEN}"})
        assert json.loads(body) == {"admitted": True}
        cookie = headers["set-cookie"].split(";")[0]
        assert TOKEN not in cookie and run.ask("/api/status", headers={"Cookie": cookie})[0] == 200
        assert json.loads(run.ask("/api/session", headers={"Cookie": cookie})[2]) == {"admitted": True}


def test_whoever_shows_no_token_is_not_told_why_a_run_is_not_ready() -> None:
    with Run(token=TOKEN) as run:
        run.board.set_trouble("camera front is gone")
        assert run.ask("/readyz")[::2] == (503, b"not ready\n")
        assert b"front" in run.ask("/readyz", headers={"Authorization": f"Bearer {TOKEN}"})[2]


def test_a_port_that_is_taken_is_one_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            Run() as run,
            pytest.raises(PspnetError, match=f"cannot serve on 127.0.0.1, port {port}: .*Choose") as caught,
        ):
            Server(run.telemetry, run.board, port=port).start()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_one_clear_error(host: str) -> None:
    with Run() as run, pytest.raises(PspnetError, match=f"cannot serve on {host}"):
        Server(run.telemetry, run.board, host, 0, TOKEN).start()
