"""Numbers as people say them, and the version of this program."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """1 step, 2 steps, 3 classes, 4 mixes."""
    return f"{number} {thing}" + ("" if number == 1 else "es" if thing.endswith(("s", "x")) else "s")


def duration(seconds: float) -> str:
    """A time: 42 s, 7 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def own_version() -> str:
    """The installed version of pspnet-edge, or that it runs from a checkout without being installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pspnet-edge")
    except PackageNotFoundError:
        return "checkout, not installed"
