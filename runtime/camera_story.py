"""What an operator is told of one camera: outages and their ends, and that no result of a running camera can be used.

Pure decisions, told the time in nanoseconds of one clock; each call returns the line to tell, "" where there is none.
"""

from __future__ import annotations

import re
from collections import Counter

from pspnet.wording import counted
from runtime.camera_state import AGAIN, FINAL, SECOND_NS, CameraState
from runtime.camera_status import CameraEvent
from runtime.record import Record

AGAIN_NS = 60 * SECOND_NS
"""How long after an outage that was told of, or of useless results, a short one is not told of."""

SHORT_NS = 10 * SECOND_NS
"""What lasts longer than this is told of in any case, so that the last word on a camera is true."""

USELESS_NS = 3 * SECOND_NS
"""How long a running camera may have no valid result before that is told of."""

NO_RESULT = "no result for"  # as the publisher says it; of a network that is being tried it is no news
FIX = "raise --max-age-ms (max_age_ms in drive.toml), or take a faster engine or a smaller network"
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


class CameraStory:
    """The states of one camera. Within an outage each pair of state and cause is told of once.

    cause, message: of the last failure, "" while the camera runs. runs: whether it does.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.cause = self.message = ""
        self.runs = False
        self._event: CameraEvent | None = None
        self._said: CameraState | None = None
        self._ran = False
        self._away_ns: int | None = None
        self._news: set[tuple[CameraState, str]] = set()
        self._outage_ns: int | None = None
        self._untold = 0

    def enter(self, event: CameraEvent, now_ns: int) -> str:
        """Take in a new state."""
        self._event = event
        if event.state is CameraState.RUNNING:
            return self._running()
        self.runs = False
        if self._away_ns is None:
            self._away_ns = now_ns
        if event.message and event.message != AGAIN:
            self.cause, self.message = event.cause, event.message
        return self.look(now_ns)

    def look(self, now_ns: int) -> str:
        """What is due by now: an outage that was not told of when it began, because it might have been short."""
        event = self._event
        if event is None or event.state is CameraState.RUNNING or self._away_ns is None:
            return ""
        if event.state is CameraState.STOPPED and not event.message:  # somebody asked for that
            return ""
        news = event.state, "" if event.state is CameraState.CONNECTING else event.cause
        begins = self._said is CameraState.RUNNING
        recent = self._outage_ns is not None and now_ns - self._outage_ns < AGAIN_NS
        short = now_ns - self._away_ns < SHORT_NS and event.state not in FINAL
        if news in self._news or (begins and recent and short):
            return ""
        self._news.add(news)
        self._said = event.state
        before = ""
        if begins:
            self._outage_ns = now_ns
            before = f" (after {counted(self._untold, 'short outage')} not told of)" if self._untold else ""
            self._untold = 0
        return f"{self._name} is {event.state.value}" + (f": {event.message}" if event.message else "") + before

    def _running(self) -> str:
        self.cause = self.message = ""
        self._untold += self._away_ns is not None and self._said is CameraState.RUNNING
        self.runs, self._away_ns = True, None
        self._news.clear()
        if self._said is CameraState.RUNNING:
            return ""
        again = " again" if self._ran else ""
        self._said, self._ran = CameraState.RUNNING, True
        return f"{self._name} is running{again}"


class ResultStory:
    """The results of one camera, in order."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._all: Counter[str] = Counter()
        self._now: Counter[str] = Counter()  # since the last valid one
        self._examples: dict[str, str] = {}
        self._useless_ns: int | None = None
        self._told_ns: int | None = None
        self._tells = self._began = self._stale = False

    def note_stale(self) -> None:
        """Pictures of the camera were too old before they could be segmented."""
        self._began = self._stale = True

    def see(self, record: Record, runs: bool, now_ns: int) -> str:
        """Take in a record. runs: whether the camera does; why it does not is told otherwise."""
        if record.valid:
            self._useless_ns, self._began = None, True
            self._now.clear()
            tells, self._tells = self._tells, False
            return f"{self._name}: its results are valid again" if tells else ""
        self._began = self._began or bool(record.times_ms)  # only what came from the network has times
        if not self._began and record.reason.startswith(NO_RESULT):
            return ""
        kind = _NUMBER.sub("#", record.reason)
        self._examples[kind] = record.reason
        self._all[kind] += 1
        if not runs:
            self._useless_ns = None
            self._now.clear()
            return ""
        self._now[kind] += 1
        self._useless_ns = now_ns if self._useless_ns is None else self._useless_ns
        lasts_ns = now_ns - self._useless_ns
        recent = self._told_ns is not None and now_ns - self._told_ns < AGAIN_NS
        if lasts_ns < USELESS_NS or self._tells or (recent and lasts_ns < SHORT_NS):
            return ""
        self._tells, self._told_ns = True, now_ns
        why = self._why(self._now)
        return f"{self._name} runs, but had no valid result for {lasts_ns / SECOND_NS:.0f} s, most often because {why}"

    def why_invalid(self) -> str:
        """The most frequent reason of invalid records over the whole run, and what helps; "" where there was none."""
        return self._why(self._all) if self._all else ""

    def _why(self, kinds: Counter[str]) -> str:
        reason = self._examples[kinds.most_common(1)[0][0]]
        if reason.startswith(NO_RESULT) and self._stale:
            return f"its pictures are too old when their turn comes: {FIX}"
        return f"{reason}: {FIX}" if reason.startswith(NO_RESULT) or "ms are allowed" in reason else reason
