"""Numbers as people say them."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """1 step, 2 steps, 3 classes."""
    return f"{number} {thing}" + ("" if number == 1 else "es" if thing.endswith("s") else "s")


def duration(seconds: float) -> str:
    """A time: 42 s, 7 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
