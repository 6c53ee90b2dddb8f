"""Makes every fault that can be made without hardware in the real product, and writes what came of it as a table.

python benchmarks/faults.py --json docs/results/faults.json --markdown docs/faults.md

Cameras with their processes, the live loop and `pspnet run` are the real ones; the engine only takes its time. Of
several rounds the worst counts. The rows of the RTSP server need Debian's gst-rtsp-server; --quick makes a few faults
once. Exit code 1 where something that is promised was not kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import fault_cameras, fault_outputs, fault_programs, fault_streams
from benchmarks.fault_story import EXIT_MS, Measured, measure
from benchmarks.fault_table import FAULTS
from pspnet.errors import PspnetError
from pspnet.files import atomic_path, write_json
from runtime.bench_report import stamped
from tests.rtsp_streams import NEEDED, has_rtsp_server

TIMES = ("detected_ms", "recovered_ms", "backoff_ms", "exit_ms")
QUICK = ("stalled", "frozen", "crashes", "clock")
"""Stories of a run with --quick."""


def main(arguments: list[str] | None = None) -> int:
    """Print the table; write it to --json and --markdown."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--soak-minutes", type=float, default=1.0, help="of row 23 (default 1)")
    options.add_argument("--quick", action="store_true", help="four scripted faults, once")
    options.add_argument("--json", help="write the figures here")
    options.add_argument("--markdown", help="write the page here")
    args = options.parse_args(arguments)
    try:
        result = stamped(table(args), "python benchmarks/faults.py")
        if args.json:
            write_json(args.json, result)
        if args.markdown:
            with atomic_path(args.markdown) as path:
                path.write_text(markdown(result), encoding="utf-8")
    except PspnetError as error:
        print(f"benchmarks/faults.py: {error}", file=sys.stderr)
        return 2
    missed = show(result)
    return int(bool(missed))


def table(args: argparse.Namespace) -> dict[str, Any]:
    """The 24 rows, each with what was made of it."""
    if args.quick:
        stories = [story for group in fault_cameras.stories() for story in group if story.name in QUICK]
        rounds = [measure(stories)]
    else:
        rounds = [one_round() for _ in range(args.rounds)]
        rounds[0].append(fault_outputs.soaked(args.soak_minutes))
    worst = [worst_of(each) for each in same(rounds)]
    others = [each for one in rounds for each in one if each.healthy is not None]
    if others and not args.quick:
        worst.append(bystander(others))
    rows = []
    for fault in FAULTS:
        made = [dataclasses.asdict(each) for each in worst if each.number == fault.number]
        rows.append({**dataclasses.asdict(fault), "made": made})
    return {"kind": "faults", "rounds": len(rounds), "rtsp_server": has_rtsp_server(), "rows": rows}


def one_round() -> list[Measured]:
    """Everything once, but for the soak."""
    found = [each for group in fault_cameras.stories() for each in measure(group)]
    found += fault_streams.reachable()
    found += fault_streams.streams() if has_rtsp_server() else []
    return found + fault_outputs.outputs() + fault_programs.programs()


def same(rounds: Sequence[Sequence[Measured]]) -> list[list[Measured]]:
    """The same fault of all rounds, in the order of the first."""
    found: dict[tuple[int, str], list[Measured]] = {}
    for one in rounds:
        for each in one:
            found.setdefault((each.number, each.made), []).append(each)
    return list(found.values())


def worst_of(each: Sequence[Measured]) -> Measured:
    """The longest times of all rounds, and everything that was missed in any."""
    last = each[-1]
    times = {name: max((value for one in each if (value := getattr(one, name)) is not None), default=None)
             for name in TIMES}  # fmt: skip
    fared = [one.healthy for one in each if one.healthy is not None]
    healthy = {name: max(one[name] for one in fared) for name in fared[0]} if fared else None
    stale = [one.stale for one in each if one.stale is not None]
    missed = sorted({line for one in each for line in one.missed})
    return dataclasses.replace(last, **times, healthy=healthy, stale=sum(stale) if stale else None, missed=missed)


def bystander(others: Sequence[Measured]) -> Measured:
    """How the healthy camera fared beside all the faults, as a row of its own."""
    fared = [one.healthy for one in others if one.healthy is not None]
    found = Measured(24, "the healthy camera beside all the faults of this page", detect_limit_ms=None)
    found.recover_limit_ms = None
    found.healthy = {name: max(one[name] for one in fared) for name in fared[0]}
    found.stale = int(sum(one["stale"] for one in fared))
    found.found.append(f"longest gap {found.healthy['longest_gap_ms']:.0f} ms at 20 pictures a second")
    return found.judge()


def markdown(result: dict[str, Any]) -> str:
    """The page docs/faults.md."""
    lines = [*INTRODUCTION.format(command=result["command"], rounds=result["rounds"],
                                  cpu=result["machine"]["cpu"], date=result["created"][:10]).splitlines(), "",
             "| # | fault, and how it was made | noticed | back again | exit | others | stale as valid |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in result["rows"]:
        lines.append(f"| {row['number']} | **{row['name']}**: {row['required']} | | | | | |")
        lines += [_line(made) for made in row["made"]]
    missed = [f"- {row['number']}, {made['made']}: {line}" for row in result["rows"] for made in row["made"]
              for line in made["missed"]]  # fmt: skip
    lines += ["", "Not kept:" if missed else "Everything was kept.", *([""] if missed else []), *missed]
    if not result["rtsp_server"]:
        lines += ["", f"No RTSP server was there: its rows need `apt-get install {NEEDED}`."]
    lines += ["", "## Hardware", "", "| # | what needs it, and what replaces it here |", "|---|---|"]
    lines += [f"| {row['number']} | {row['hardware']} |" for row in result["rows"] if row["hardware"]]
    lines += ["", "## Tests", "", "| # | asserted by |", "|---|---|"]
    for row in result["rows"]:
        names = sorted({test.partition("::")[0] for test in row["tests"]})
        lines.append(f"| {row['number']} | {', '.join(f'[{name}](../tests/{name})' for name in names)} |")
    return "\n".join([*lines, "", LIMITS, ""])


def _line(made: dict[str, Any]) -> str:
    told = f" ({'; '.join(made['found'])})" if made["found"] else ""
    back = _time(made["recovered_ms"], made["recover_limit_ms"])
    if made["backoff_ms"]:
        back += f", back-off {made['backoff_ms']:.0f} ms"
    healthy = made["healthy"]
    others = "" if healthy is None else "unaffected" if not healthy["invalid"] else f"{healthy['invalid']:g} INVALID"
    stale = "" if made["stale"] is None else "none" if not made["stale"] else str(made["stale"])
    exit_ = _time(made["exit_ms"], EXIT_MS if made["exit_ms"] is not None else None)
    noticed = _time(made["detected_ms"], made["detect_limit_ms"])
    return f"| | {made['made']}{told} | {noticed} | {back} | {exit_} | {others} | {stale} |"


def _time(value_ms: float | None, limit_ms: float | None) -> str:
    if value_ms is None:
        return "" if limit_ms is None else "never"
    return f"{value_ms:.0f} ms" + ("" if limit_ms is None else f" (≤ {limit_ms:.0f})")


def show(result: dict[str, Any]) -> list[str]:
    """Print what was made, and return what was not kept."""
    missed = []
    for row in result["rows"]:
        for made in row["made"]:
            times = "  ".join(
                f"{name.removesuffix('_ms')} {made[name]:.0f} ms" for name in TIMES if made[name] is not None
            )
            print(f"{row['number']:>3}  {made['made']}: {times}  {'; '.join(made['found'])}")
            missed += [f"{row['number']}, {made['made']}: {line}" for line in made["missed"]]
    for line in missed:
        print(f"not kept: {line}")
    return missed


INTRODUCTION = """\
# Faults

What goes wrong with cameras, engines and outputs, made on purpose in the product itself, and what came of it. Written
on {date} ({cpu}) by

    {command}

Rounds: {rounds}, of which the worst counts. Cameras have their own processes and `pspnet run` is a process; the engine
only takes its time. Scripts of `test://` cameras and a real RTSP server make the faults; [cameras.md](cameras.md) says
how to make them yourself.

**Noticed**: from the beginning of the fault to the first INVALID record, or to what is told of it. **Back again**: from
the source's return to the first valid record, without the back-off, which is apart. **Exit**: from the signal or the
failure to the end of the process. **Others**: whether a healthy camera of the same run had INVALID records. **Stale as
valid**: records published as valid although their picture was older than `max_age_ms`, or their camera did not run.
In brackets what is promised."""

LIMITS = """\
## What is not kept

- H.264 and H.265 that arrive damaged are patched up by FFmpeg, which OpenCV does not tell, so smeared pictures pass as
  good ones until the next key picture. Over TCP, the default, nothing is damaged unless the camera sent it so.
- A frozen picture is published as valid until it is known to be frozen: 1 s for raw cameras, 10 s for RTSP."""


if __name__ == "__main__":
    sys.exit(main())
