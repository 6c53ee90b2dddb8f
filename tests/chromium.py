"""Headless Chromium driven through its debugging pipe: opens a page, runs scripts in it, notes its errors."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

PATH = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ANSWER_S = 60.0
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update",
    "--remote-debugging-pipe",
)  # fmt: skip


HURRIED = (
    "{ const slow = window.setTimeout; window.setTimeout = (what, ms = 0, ...more) => slow(what, ms / %d, ...more); }"
)


class Chromium:
    """One tab. errors: what its console and network said of mistakes. folder: for its profile.

    hurry: so many times as fast as it says a page's timers run.
    """

    def __init__(self, folder: Path, hurry: int = 1) -> None:
        self.errors: list[str] = []
        self._hurry = hurry
        self._folder, self._number, self._text = folder, 0, b""
        self._session: str | None = None

    def __enter__(self) -> Chromium:
        assert PATH is not None
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        # Chromium reads commands from descriptor 3 and writes answers to 4; out of the way, so that neither is one yet.
        theirs = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 20) for descriptor in (commands, answers)]

        def prepare() -> None:
            os.dup2(theirs[0], 3)
            os.dup2(theirs[1], 4)

        self._browser = subprocess.Popen(
            [PATH, *FLAGS, f"--user-data-dir={self._folder}", "about:blank"], preexec_fn=prepare, pass_fds=(3, 4),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for descriptor in (commands, answers, *theirs):
            os.close(descriptor)
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")
        self._ask("Page.addScriptToEvaluateOnNewDocument", source=HURRIED % self._hurry)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._browser.terminate()
        try:
            self._browser.wait(10)
        except subprocess.TimeoutExpired:
            self._browser.kill()
            self._browser.wait()
        os.close(self._commands)
        os.close(self._answers)

    def open(self, url: str, size: tuple[int, int] = (900, 1280), dark: bool = False) -> None:
        """Go to a page. size: (height, width) in pixels."""
        self._ask(
            "Emulation.setDeviceMetricsOverride", height=size[0], width=size[1], deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        self._ask("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """The value of a script in the page; promises are waited for."""
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, script: str, seconds: float = 30.0) -> Any:
        """The value of a script as soon as it is true."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            assert time.monotonic() < end, f"not within {seconds:g} s: {script}; errors: {self.errors}"
            time.sleep(0.02)
        return value

    def press(self, key: str) -> None:
        """One key, as Tab or Enter."""
        code = {"Tab": 9, "Enter": 13, " ": 32}[key]
        named: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": code}
        self._ask("Input.dispatchKeyEvent", type="keyDown", text={"Enter": "\r"}.get(key, ""), **named)
        self._ask("Input.dispatchKeyEvent", type="keyUp", **named)

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self._ask("Input.insertText", text=text)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """A PNG of the page. whole: beyond the window, too."""
        data = self._ask("Page.captureScreenshot", captureBeyondViewport=whole, fromSurface=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + ANSWER_S
        while True:
            answer = self._next(end)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._text:
            assert select.select([self._answers], [], [], max(end - time.monotonic(), 0))[0], "Chromium does not answer"
            data = os.read(self._answers, 1 << 16)
            assert data, "Chromium ended"
            self._text += data
        line, _, self._text = self._text.partition(b"\0")
        return json.loads(line)

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.errors.append(str(parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")
