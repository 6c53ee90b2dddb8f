"""Addresses of cameras: parsed strictly, shown without their credentials, errors included."""

from __future__ import annotations

import pickle
import re
import time

import pytest

from pspnet.errors import PspnetError
from runtime import camera_link
from runtime import camera_uri as uris
from runtime.camera_uri import camera_uri, is_camera, without_credentials
from runtime.drive_secrets import holds_literal

ENVIRONMENT = {"PW": "p@s/s:w#o?r%d", "URL": "rtsp://joe:hidden@cam/live", "EMPTY": "", "BAD": "a\nb"}


@pytest.mark.parametrize(
    ("text", "user", "password", "host", "port", "address"),
    [
        ("rtsp://cam/s", "", "", "cam", 554, "rtsp://cam/s"),
        ("rtsp://joe:secret1@cam:8554/s?ch=1", "joe", "secret1", "cam", 8554, "rtsp://cam:8554/s?ch=1"),
        ("rtsp://joe:se@cr@et1@cam/s", "joe", "se@cr@et1", "cam", 554, "rtsp://cam/s"),
        ("rtsp://joe:a:b%2Fc%40@cam", "joe", "a:b/c@", "cam", 554, "rtsp://cam"),
        ("rtsp://joe:${PW}@10.0.0.7/s", "joe", "p@s/s:w#o?r%d", "10.0.0.7", 554, "rtsp://10.0.0.7/s"),
        ("rtsps://joe@[fe80::1]:333/s", "joe", "", "fe80::1", 333, "rtsps://[fe80::1]:333/s"),
        ("https://cam", "", "", "cam", 443, "https://cam"),
        ("HTTP://cam:8080/v.mjpg", "", "", "cam", 8080, "http://cam:8080/v.mjpg"),
    ],
)
def test_parts_of_network_cameras(text: str, user: str, password: str, host: str, port: int, address: str) -> None:
    uri = camera_uri(text, ENVIRONMENT)
    assert (uri.user, uri.password, uri.host, uri.port, uri.address) == (user, password, host, port, address)
    for shown in (uri.redacted, str(uri), repr(uri)):
        assert all(secret not in shown for secret in ("secret1", "et1", "a:b", ENVIRONMENT["PW"], "w#o") if secret)


def test_url_for_ffmpeg_has_the_credentials_percent_encoded() -> None:
    uri = camera_uri("rtsp://j@e:${PW}@cam:99/s", ENVIRONMENT)
    assert uri.url == "rtsp://j%40e:p%40s%2Fs%3Aw%23o%3Fr%25d@cam:99/s"
    assert camera_uri("rtsp://cam/s").url == "rtsp://cam/s"


def test_own_options_follow_the_hash_and_the_cameras_stay_in_the_address() -> None:
    uri = camera_uri("rtsp://cam/s?channel=1&subtype=0#transport=udp&decoder=ffmpeg&timeout_ms=1500")
    assert uri.address == "rtsp://cam/s?channel=1&subtype=0"
    assert uri.options == {"transport": "udp", "decoder": "ffmpeg", "timeout_ms": "1500"}


def test_devices_clips_and_tests_take_options_behind_the_question_mark() -> None:
    uri = camera_uri("v4l2:///dev/v4l/by-id/usb-A-video-index0?width=1280&height=720&fps=30&format=uyvy&range=full")
    assert uri.address == "/dev/v4l/by-id/usb-A-video-index0" and uri.options["format"] == "uyvy"
    assert camera_uri("csi://1?width=1280&flip=2").address == "1"
    assert camera_uri("clip:///data/a b.mp4?loop=1").address == "/data/a b.mp4"
    uri = camera_uri("test://pattern?size=90x120&script=ok 2s; stall 1s&seed=3")
    assert uri.options["script"] == "ok 2s; stall 1s" and uri.memory is not None


@pytest.mark.parametrize(
    "name",
    ["access_token", "loginpas", "pw", "psw", "userpwd", "key", "credential", "session", "client_secret", "authSig"],
)
def test_any_setting_that_may_hold_a_credential_is_hidden(name: str) -> None:
    uri = camera_uri(f"http://cam/video.mjpg?channel=1&{name}=hidden&size=2")
    assert uri.redacted == f"http://cam/video.mjpg?channel=1&{name}=***&size=2" and "hidden" in uri.secret
    assert holds_literal(f"http://cam/v?{name}=hidden") and not holds_literal(f"http://cam/v?{name}=${{KEY}}")


def test_a_camera_s_process_gets_no_secret_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_link, "names_expanded", names := set())
    monkeypatch.setattr(uris, "names_expanded", names)
    given = {"PATH": "/bin", "LC_ALL": "C", "PAGE_TOKEN": "hidden", "REAR_PASSWORD": "hidden", "GST_SECRET": "hidden"}
    camera_uri("rtsp://joe:${GST_SECRET}@cam/live", given)
    made = camera_link.worker_environment({**given, "GST_DEBUG": "3", "OMP_NUM_THREADS": "2"})
    ours = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "2"}
    assert made == {"PATH": "/bin", "LC_ALL": "C", "GST_DEBUG": "3", **ours}


def test_long_texts_are_searched_quickly() -> None:
    began = time.monotonic()
    assert without_credentials("key" * 30_000) == "key" * 30_000
    assert time.monotonic() - began < 5.0  # seconds; in cubic time it would be years


def test_whole_address_may_be_a_variable_and_is_shown_redacted() -> None:
    uri = camera_uri("${URL}", ENVIRONMENT)
    assert (uri.host, uri.password, uri.redacted) == ("cam", "hidden", "rtsp://***@cam/live")
    assert not uri.literal_password


def test_literal_passwords_are_told_from_variables() -> None:
    assert camera_uri("rtsp://joe:x1@cam").literal_password
    assert not camera_uri("rtsp://joe:${PW}@cam", ENVIRONMENT).literal_password
    assert not camera_uri("rtsp://cam").literal_password


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://joe:hush/hush@cam/s", "rtsp://joe:hush#hush@cam/s", "rtsp://joe:hush?x@cam/s", "rtsp://joe:55/hush@cam/s",
        "rtsp://joe:hush@cam/hush@s", "rtsp://joe:hush@:554/s", "rtsp://joe:hush@cam:0/s", "rtsp://joe:hush@cam:70000/s",
        "rtsp://joe:hush@ca m/s", "rtsp://joe:hush@cam/a b", "rtsp://joe:hush@cam/<x>", "rtsp://joe:hush@cam#mode=x",
        "rtsp://joe:hush@cam#transport=udp&transport=tcp", "ftp://joe:hush@cam/s", "rtsp://joe:hush@cam/\x00",
        "rtsp://joe:hush@-cam/s", "rtsp://joe:hush@cam\n/s", "http://joe:hush@cam/s?password=hush#tls=no", "http://",
        "rtsp://joe:${NONE}hush@cam", "rtsp://joe:${BAD}hush@cam",
        "rtsp://joe:hush@" + "a" * 5000,
    ],
)  # fmt: skip
def test_odd_network_addresses_are_refused_without_their_secret(text: str) -> None:
    with pytest.raises(PspnetError) as caught:
        camera_uri(text, ENVIRONMENT)
    assert "hush" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "v4l2://video0", "v4l2:///etc/passwd", "v4l2:///dev/../etc/passwd", "v4l2:///dev/video0?width=0",
        "v4l2:///dev/video0?format=h264", "v4l2:///dev/video0?exposure=1", "csi://x", "csi://0 ! filesink", "csi://0?flip=8",
        "test://pattern?size=1x1", "test://pattern?script=explode", "test://", "clip://", "exec:rm", "file:///a.mp4",
        "photo.jpg", "csi://0?width=1920;rm", "csi://0?width=1920&width=1280",
    ],
)  # fmt: skip
def test_odd_addresses_are_refused(text: str) -> None:
    with pytest.raises(PspnetError):
        camera_uri(text)


def test_raw_pipelines_need_to_be_allowed() -> None:
    with pytest.raises(PspnetError, match="--allow-gstreamer"):
        camera_uri("gst://videotestsrc")
    uri = camera_uri('gst://rtspsrc location=rtsp://a:pw1@b user-pw="pw 2" ! fakesink', allow_gstreamer=True)
    assert uri.address.startswith("rtspsrc location=rtsp://a:pw1@b")
    assert "pw1" not in str(uri) and "pw 2" not in str(uri)


def test_is_camera_tells_addresses_from_paths() -> None:
    cameras = ("rtsp://a", "RTSPS://a", "csi://0", "test://pattern", "clip://a", "gst://a", "https://a", "${CAMERA}")
    assert all(map(is_camera, cameras))
    assert not any(map(is_camera, ("clip.mp4", "/data/rtsp/a.png", "C:\\a.png", "ftp://a", "${CAMERA}/a.png")))


def test_messages_of_libraries_are_scrubbed() -> None:
    uri = camera_uri("rtsp://joe:${PW}@cam/s?token=tok9", ENVIRONMENT)
    text = uri.scrubbed(f"cannot open {uri.url}, password {ENVIRONMENT['PW']} and tok9")
    assert "tok9" not in text and ENVIRONMENT["PW"] not in text and "w%23o" not in text and "cannot open" in text


def test_settings_that_name_a_secret_are_hidden_anywhere() -> None:
    text = without_credentials("http://cam/cgi?user=admin&password=a1&pwd=b2&Token=c3&channel=1, user-pw=d4 api_key=e5")
    assert all(secret not in text for secret in ("a1", "b2", "c3", "d4", "e5")) and "channel=1" in text


@pytest.mark.parametrize("mark", [",", ":", ".", ";", ")", "',"])
def test_what_was_hidden_before_stays_as_it_is(mark: str) -> None:
    once = without_credentials("it redirects to http://me:pw@cam/v?a=b&token=t0p, another, or to /w?token=t0p") + mark
    assert once.startswith("it redirects to http://***@cam/v?a=b&token=***") and "t0p" not in once
    said = f"to http://***@cam/v?a=b&token=***{mark} another host{mark}"
    assert without_credentials(said) == said and without_credentials(without_credentials(once)) == once
    assert without_credentials("http://cam/v?token=***t0p") == "http://cam/v?token=***"


def test_address_travels_to_another_process() -> None:
    uri = camera_uri("rtsp://joe:${PW}@cam/s#transport=udp", ENVIRONMENT)
    assert pickle.loads(pickle.dumps(uri)) == uri


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("test://pattern?fps=0", "fps=0 is not possible: fps is a whole number from 1 to 999999"),
        ("clip:///a.mp4?fps=0.5", "fps=0.5 is not possible: fps is a whole number"),
        ("test://pattern?size=0x0", "size=0x0 is not possible: size is HEIGHTxWIDTH in pixels, as 360x480"),
        ("test://pattern?format=rgb", "format=rgb is not possible: format is one of bgr, nv12, yuyv, uyvy"),
        ("http://host/v#timeout_ms=5", "timeout_ms=5 is not possible: timeout_ms is whole milliseconds from 100"),
        ("test://pattern?fps=5&fps=6", "fps is given twice: leave one out"),
    ],
)
def test_a_value_that_is_not_possible_is_named_with_what_is(text: str, said: str) -> None:
    with pytest.raises(PspnetError) as caught:
        camera_uri(text)
    assert said in str(caught.value) and str(caught.value).startswith(f"{text}: ") and "\n" not in str(caught.value)


def test_what_each_option_takes_is_said_in_words() -> None:
    for options in uris.OPTIONS.values():
        for name, pattern in options.items():
            if name != "script":
                assert re.fullmatch(r"[\w|]+", pattern) or pattern in uris.NEEDED, name
