"""A build on a board, in a session of its own there: begun or found again, watched until its end, or ended."""

from __future__ import annotations

import codecs
import re
import sys
import time
from collections.abc import Sequence

from calibration.board import Board, ConnectionLost
from pspnet.errors import PspnetError

RESULTS = "results"
"""What the build writes, in the folder of its job."""
PICTURES, CACHE = "pictures.tar", "timing.cache"
"""Inputs that the build unpacks, and reads and writes."""
OWN_CACHES = "${XDG_CACHE_HOME:-$HOME/.cache}/pspnet-edge/timing-cache"
SAYS = "pspnet: "
POLL_S = 1.0

WITH_VENV = 'if [ -n "$2" ]; then PATH="$(cd "$2" && pwd)/bin:$PATH"; fi;'
PROBE = f"""lacks=; if [ -n "$2" ] && ! [ -x "$2/bin/pspnet" ]; then lacks=1; fi
{WITH_VENV} mkdir -p "$1" && cd "$1" && df -Pk . | tail -n 1 && {{ [ -z "$lacks" ] && command -v pspnet || echo -; }} &&
pspnet --version 2>&1 | tail -n 1"""
RUNS = '! flock -n ../lock true && [ "$(cat ../running)" = "${1##*/}" ]'
"""Whether the build of the job in the folder $1, which is the current one, runs."""
# The lock lives as long as any process of the build, so it tells of a build even where the board was restarted.
RUNNER = f"""exec 9> ../lock; flock -n 9 || exit 0; echo $$ > pid; echo "$1" > ../running; shift
trap : INT
if [ -f {PICTURES} ]; then tar -xf {PICTURES}; fi
pspnet "$@" > out 2> log < /dev/null; code=$?
cp {CACHE} {RESULTS}/ || find "{OWN_CACHES}" -name "*.cache" -newer pid -exec cp {{}} {RESULTS}/ ";"
echo $code > exit.part && mv exit.part exit"""
START = f"""{WITH_VENV} cd "$1" || exit
if [ -f exit ]; then echo "done $(cat exit)"; exit; fi
if {RUNS}; then echo running; exit; fi
if flock -n ../lock true; then
    rm -rf pid out log {RESULTS} && mkdir {RESULTS} && : > log
    runner=$3; shift 3
    setsid -f sh -c "$runner" sh "$@" > /dev/null 2>&1 < /dev/null
    for i in $(seq 50); do if [ -f pid ]; then echo started; exit; fi; sleep 0.1; done
fi
echo "other $(cat ../running)" """
STATE = f"""cd "$1" || exit
if ! [ -f exit ] && {RUNS}; then echo running
elif [ -f exit ]; then echo "done $(cat exit)"
else echo gone; fi"""
# Without the lock, the number in pid may be that of any program by now.
FOLLOW = f"""cd "$1" || exit
if {RUNS}; then exec tail -s 0.2 --pid="$(cat pid)" -c "+$2" -f log; fi
exec tail -c "+$2" log"""
END = f"""cd "$1" || exit 0
if {RUNS}; then
    kill -s INT -- "-$(cat pid)"
    for i in $(seq 300); do if [ -f exit ]; then break; fi; sleep 0.1; done
    kill -s KILL -- "-$(cat pid)" || true
fi 2> /dev/null
cd .. && rm -rf -- "${{1##*/}}" """


class Screen:
    """The board's stderr on ours, but for lines in which pspnet says why it failed: `failures` has them.

    received_bytes: of the log so far, where reading goes on after a broken connection.
    """

    def __init__(self) -> None:
        self.received_bytes = 0
        self.failures: list[str] = []
        self._text = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._at_start = True

    def show(self, piece: bytes) -> None:
        """Print what has come; the beginning of a line waits until it is clear that it is none of pspnet's."""
        self.received_bytes += len(piece)
        lines = re.split(r"(?<=[\r\n])", self._held + self._text.decode(piece))
        self._held = ""
        for line in filter(None, lines):
            whole = line[-1] in "\r\n"
            said = self._at_start and (line.startswith(SAYS) or (not whole and SAYS.startswith(line)))
            if said and whole:
                self.failures.append(line[len(SAYS) :].strip())
            elif said:
                self._held = line
            else:
                self._at_start = whole
                sys.stderr.write(line)
        sys.stderr.flush()


def watched_build(board: Board, folder: str, key: str, arguments: Sequence[str]) -> tuple[int, list[str]]:
    """Begin the build of job `key` in its folder, or find it there, and await it: its exit code, and why it failed.

    arguments: of pspnet.
    """
    begin = (folder, board.address.venv, RUNNER, key, *arguments)
    state, *more = board.insist(lambda: board.run(START, *begin)).split()
    if state == "other":
        raise PspnetError(
            f"another build runs on {board.name}, job {' '.join(more)}, and two would disturb each other's timing: run "
            "the same command again when it has ended"
        )
    found = {"started": "building", "running": "still building"}.get(state, "the build has ended")
    print(f"{found} on {board.name}; a lost connection does not end it, Ctrl-C does", file=sys.stderr)
    screen = Screen()
    while True:
        board.insist(lambda: board.follow(FOLLOW, folder, screen.received_bytes + 1, sink=screen.show))
        state, *more = board.insist(lambda: board.run(STATE, folder)).split()
        if state == "done":
            return int(more[0]), screen.failures
        if state == "gone":
            raise PspnetError(
                f"the build on {board.name} is gone without an exit code, as after a restart of the board: run the "
                "same command again"
            )
        time.sleep(POLL_S)


def end_build(board: Board, folder: str) -> None:
    """End the build on the board and remove its folder there, as Ctrl-C does with a build here."""
    print(f"\nending the build on {board.name} ...", file=sys.stderr)
    try:
        board.run(END, folder)
    except ConnectionLost:
        print(f"{board.name} is out of reach: the build goes on there, and the same command finds it", file=sys.stderr)
