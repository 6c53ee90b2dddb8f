"""The installed TensorRT, 10.3 or newer, and its log: the one place that imports it."""

from __future__ import annotations

from typing import Any

from pspnet.errors import PspnetError

OLDEST = (10, 3)
OLDEST_JETPACK = "JetPack 6.1"
"""The first JetPack with the oldest TensorRT that we take: 6.0 has 8.6."""

NEWEST_CHECKED = (11, 4)
"""The newest TensorRT against whose bindings this was checked."""

KEPT_ERRORS = 50
"""Of what TensorRT logs as an error, the newest so many are kept: a runner may live for weeks."""


def tensorrt_module() -> Any:
    """The imported `tensorrt`; PspnetError where it is absent, cannot be loaded, or is older than 10.3."""
    try:
        import tensorrt
    except ModuleNotFoundError as error:
        raise PspnetError(
            "TensorRT is not installed. On a Jetson it comes with JetPack: apt-get install nvidia-jetpack, and make "
            "the environment with --system-site-packages; elsewhere: pip install 'pspnet-edge[tensorrt]'"
        ) from error
    except (ImportError, OSError) as error:  # a library that it is linked with
        reason = " ".join(str(error).split())
        raise PspnetError(
            f"TensorRT cannot be loaded: {reason}. Its libraries must be of the same version as its Python package: on "
            "a Jetson apt-get install nvidia-jetpack, elsewhere pip install 'pspnet-edge[tensorrt]'"
        ) from error
    _check_version(str(getattr(tensorrt, "__version__", "of an unknown version")))
    return tensorrt


def library_version() -> str:
    """Version of the installed TensorRT, for example "10.3.0"; PspnetError as in `tensorrt_module`."""
    return str(tensorrt_module().__version__)


def newer_than_checked(version: str) -> list[str]:
    """A note where a TensorRT is newer than those that this was checked with, otherwise nothing."""
    if _numbers(version) <= NEWEST_CHECKED:
        return []
    return [f"TensorRT {version} is newer than what was checked here ({NEWEST_CHECKED[0]}.{NEWEST_CHECKED[1]})"]


def engine_log(trt: Any) -> Any:
    """A `trt.ILogger` that keeps what TensorRT logs as an error in `errors`, oldest first, and is quiet otherwise.

    trt: what `tensorrt_module` returned. `reason()` is the newest error as one line, without a full stop. Whoever makes
    a Builder or a Runtime with the log keeps it as long as these live.
    """
    severities = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class EngineLog(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # without it, a call from C++ ends the process
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            """Called by TensorRT, from any thread; must not raise."""
            if severity in severities:
                self.errors.append(" ".join(msg.split()))
                del self.errors[:-KEPT_ERRORS]

        def reason(self) -> str:
            """The newest error, or that there is none."""
            return self.errors[-1].rstrip(".") if self.errors else "it gives no reason"

    return EngineLog()


def _check_version(version: str) -> None:
    if _numbers(version) < OLDEST:
        raise PspnetError(
            f"TensorRT {version} is too old: {OLDEST[0]}.{OLDEST[1]} or newer is needed. On a Jetson it comes with "
            f"{OLDEST_JETPACK} or later, so flash that; elsewhere: pip install -U 'pspnet-edge[tensorrt]'"
        )


def _numbers(version: str) -> tuple[int, ...]:
    """Major and minor."""
    return tuple(int(part) if part.isdecimal() else 0 for part in version.split(".")[:2])
