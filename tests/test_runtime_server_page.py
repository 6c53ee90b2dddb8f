"""The live page in headless Chromium: what a person sees of a run, without an error in the console."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.camera_state import CameraState
from runtime.camera_status import CameraEvent
from runtime.server import Server
from tests import chromium
from tests.chromium import Chromium
from tests.served_run import TOKEN, Repeating, Run, picture, status, until

pytestmark = pytest.mark.skipif(chromium.PATH is None, reason="needs Chromium: apt-get install chromium")

CARD = "document.querySelector('article[aria-labelledby=camera-{}]')"
LEVEL = 8  # of 255; JPEG and the browser's colour management round


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium"), hurry=10) as tab:  # it asks ten times a second, not once
        yield tab


@pytest.fixture(scope="module")
def live() -> Iterator[Run]:
    """A run with results that go on, for tests that change nothing in it."""
    with Run() as run, Repeating(run.fresh, 0.1):
        run.go()
        yield run


@pytest.fixture
def tab(browser: Chromium) -> Iterator[Chromium]:
    browser.errors.clear()
    yield browser
    browser.open("about:blank")


def text(tab: Chromium, place: str) -> str:
    return str(tab.evaluate(f"{place}.innerText"))


def shown_level(tab: Chromium, camera: str) -> int:
    """The grey level of the middle of a camera's picture on the page, -1 where there is none."""
    return int(
        tab.evaluate(f"""(() => {{
        const image = {CARD.format(camera)}.querySelector('img'), canvas = document.createElement('canvas');
        if (!image.naturalWidth) return -1;
        canvas.getContext('2d').drawImage(image, 0, 0, 10, 10);
        return canvas.getContext('2d').getImageData(5, 5, 1, 1).data[0];
    }})()""")
    )


def test_a_run_is_shown_and_follows_what_happens(tab: Chromium) -> None:
    with Run() as run, Repeating(run.fresh, 0.1):
        run.go()
        run.board.set_outlets([{"name": "video", "state": "degraded", "message": "No space left on device"}])
        run.board.add_event(CameraEvent("rear", "state", 0, CameraState.STALLED, "stalled", "no picture for 400 ms"))
        with Repeating(lambda: run.pictures.show(picture(200)), 0.1):
            tab.open(run.server.url)
            tab.wait_for("document.querySelectorAll('.plot .line').length >= 3")
            assert text(tab, "document.querySelector('#ready')") == "ready"
            assert "openvino, int8" in text(tab, "document.querySelector('#run')")
            assert "running" in text(tab, CARD.format("front"))
            rear = text(tab, CARD.format("rear"))
            assert "stalled" in rear and "NO PICTURE" in rear and "no picture for 400 ms" in rear
            assert "No space left on device" in text(tab, "document.querySelector('#outlets-body')")
            tab.wait_for("document.querySelector('#events-body').innerText.includes('no picture for 400 ms')")
            assert "road (drivable)" in text(tab, "document.querySelector('#classes')")
            assert tab.wait_for(f"{CARD.format('front')}.querySelector('img').naturalWidth") == 80
            assert abs(shown_level(tab, "front") - 200) <= LEVEL
        run.board.set_status(status("front", CameraState.STALLED, cause="stalled"))
        tab.wait_for(f"{CARD.format('front')}.innerText.includes('STALE')")
        tab.wait_for("document.querySelector('#ready').innerText === 'not ready'")
        assert "no camera is fresh" in text(tab, "document.querySelector('#trouble')")
        assert "front is stale" in text(tab, "document.querySelector('#spoken')")
    assert tab.errors == []


def test_a_page_that_is_opened_while_the_engine_loads_says_so_and_goes_live_with_it(tab: Chromium) -> None:
    run = Run()
    run.server = Server(run.telemetry, run.board, port=0)  # the pictures come with the engine
    with run:
        tab.open(run.server.url)
        tab.wait_for("document.querySelector('#trouble')?.innerText === 'the engine is loading'")
        assert text(tab, "document.querySelector('#ready')") == "not ready"
        tab.wait_for("document.querySelectorAll('article').length == 2")
        front = text(tab, CARD.format("front"))
        assert "waiting" in front and "NO PICTURE" in front and "the engine is loading" in front
        run.server.show(run.pictures)
        run.go()
        with Repeating(run.fresh, 0.1), Repeating(lambda: run.pictures.show(picture(200)), 0.1):
            tab.wait_for("document.querySelector('#ready').innerText === 'ready'")
            assert tab.wait_for(f"{CARD.format('front')}.querySelector('img').naturalWidth") == 80
            assert "/stream/" in tab.evaluate(f"{CARD.format('front')}.querySelector('img').src")
    assert tab.errors == []


def test_live_pictures_are_seen_as_they_come(tab: Chromium) -> None:
    with Run() as run, Repeating(run.fresh, 0.1):
        run.go()
        tab.open(run.server.url)
        assert until(lambda: run.pictures.listeners == 2)
        for level in (40, 120, 220):  # each is seen before the next one comes
            run.pictures.show(picture(level))
            for _ in range(1000):
                if abs(shown_level(tab, "front") - level) <= LEVEL:
                    break
                tab.evaluate("new Promise((done) => setTimeout(done, 10))")
            assert abs(shown_level(tab, "front") - level) <= LEVEL


def test_nothing_stays_looking_alive_when_the_run_has_ended(tab: Chromium) -> None:
    with Run() as run, Repeating(run.fresh, 0.1):
        run.go()
        tab.open(run.server.url)
        tab.wait_for("document.querySelector('#ready')?.innerText === 'ready'")
        assert run.server.stop(10)
        tab.wait_for("document.querySelector('#ready').innerText === 'no connection'")
        assert "NO CONNECTION" in text(tab, CARD.format("front"))
        run.server.start()
        tab.wait_for("document.querySelector('#ready').innerText === 'ready'")
        tab.wait_for(f"!{CARD.format('front')}.innerText.includes('NO CONNECTION')")


def test_a_token_is_asked_for_refused_and_accepted_with_the_keyboard_alone(tab: Chromium) -> None:
    with Run(token=TOKEN) as run, Repeating(run.fresh, 0.1):
        run.go()
        tab.open(run.server.url)
        tab.wait_for("document.activeElement?.id === 'token'")
        assert tab.evaluate("document.querySelector('#content').hidden") and "front" not in text(tab, "document.body")
        tab.type("not-the-token-at-all")
        tab.press("Enter")
        tab.wait_for("document.querySelector('#refused').innerText === 'That is not the token.'")
        tab.evaluate("document.querySelector('#token').select()")
        tab.type(TOKEN)
        tab.press("Enter")
        tab.wait_for("document.querySelectorAll('article').length == 2")
        tab.wait_for("document.activeElement.id === 'cameras'")
        assert TOKEN not in tab.evaluate("document.documentElement.outerHTML + location.href + document.cookie")
        tab.open(run.server.url)  # the cookie opens it again
        tab.wait_for("document.querySelectorAll('article').length == 2")
    assert tab.errors == []


def test_the_keyboard_reaches_every_control(tab: Chromium, live: Run) -> None:
    tab.open(live.server.url)
    tab.wait_for("document.querySelectorAll('article').length == 2")
    tab.wait_for("document.querySelectorAll('.plot .line').length >= 3")
    reached: list[str] = []
    while "document" not in reached and len(reached) < 30:  # behind the last one comes the window itself
        tab.press("Tab")
        reached.append(
            tab.evaluate("""(() => { const at = document.activeElement;
            return at === document.body ? 'document' : at.innerText || at.name || '' })()""")
        )
    assert reached[0] == "Skip to the cameras" and reached.count("Enlarge") == 2 and "mark" in reached
    images = tab.evaluate("[...document.images].every((image) => image.alt)")
    named = tab.evaluate("[...document.querySelectorAll('svg')].every((plot) => plot.getAttribute('aria-label'))")
    assert images and named


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (360, False)])
def test_the_page_fits_into_its_window(tab: Chromium, live: Run, tmp_path: Path, width: int, dark: bool) -> None:
    tab.open(live.server.url, (800, width), dark)
    tab.wait_for("document.querySelectorAll('.plot .line').length >= 3")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is not dark
    tab.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000
