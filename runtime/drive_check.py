"""What can be known of a run over cameras before a camera is opened: `pspnet run --config drive.toml --check`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pspnet.errors import PspnetError
from pspnet.geometry import Geometry
from pspnet.outputs import check_outputs
from pspnet.spec import NetworkSpec
from runtime.camera_settings import CameraSettings
from runtime.camera_uri import CameraUri, camera_uri
from runtime.drive_config import DriveConfig
from runtime.frame_ring import unused_memory_bytes
from runtime.live_files import check_unwritten
from runtime.postprocess import merged, read_mask
from runtime.runner import open_runner
from runtime.security import check_address
from runtime.server import open_listener

SETTINGS = ("alpha", "keep_free_mib", "select_share")
"""What is no output of its own in `OutputConfig`."""
LARGEST_PICTURE_BYTES = 1920 * 1080 * 3
"""Of a camera whose address does not say its size."""


@dataclass(frozen=True)
class Checked:
    """What was found. spec: of the labels, after merges; engine, precision: as they would run; notes: worth knowing."""

    spec: NetworkSpec
    engine: str
    precision: str
    uris: tuple[CameraUri, ...]
    notes: tuple[str, ...]


def check_drive(config: DriveConfig) -> Checked:
    """Look through a whole configuration, the loaded engine included; PspnetError for the first thing that is wrong."""
    uris = check_cameras(config)
    check_places(config)
    notes = list(_notes(config, uris))
    with open_runner(config.model.artefact, config.model.engine, config.model.threads, config.model.pin) as runner:
        spec = merged(runner.spec, config.merge)[0] if config.merge else runner.spec
        for camera, uri in zip(config.cameras, uris, strict=True):
            _check_size(camera, uri, runner.spec)
        return Checked(spec, runner.engine, runner.precision, uris, tuple(notes))


def check_cameras(config: DriveConfig) -> tuple[CameraUri, ...]:
    """The address of each camera.

    PspnetError for one that is odd, for names and devices that are given twice, and for clips that do not exist: a slip
    of the keyboard would be tried again for ever.
    """
    with secrets_set(config):
        uris = tuple(camera_uri(each.uri, allow_gstreamer=each.allow_gstreamer) for each in config.cameras)
    names = [camera.name for camera in config.cameras]
    if twice := [name for name in names if names.count(name) > 1]:
        raise PspnetError(f"two cameras are called {twice[0]}: give each a name of its own")
    devices: dict[str, str] = {}
    for camera, uri in zip(config.cameras, uris, strict=True):
        device = os.path.realpath(uri.address) if uri.scheme == "v4l2" else f"{uri.scheme}://{uri.address}"
        if uri.scheme in ("v4l2", "csi") and device in devices:
            raise PspnetError(
                f"cameras {devices[device]} and {camera.name} are the same device {uri.redacted}, which opens once: "
                "leave one out"
            )
        devices[device] = camera.name
        _check_clip(camera, uri)
    return uris


def _check_clip(camera: CameraSettings, uri: CameraUri) -> None:
    """PspnetError where the file that a camera plays does not exist now. One that goes away later may come back."""
    if uri.scheme not in ("clip", "test") or (uri.scheme, uri.address) == ("test", "pattern"):
        return
    path = Path(uri.address)
    if path.is_file():
        return
    where = "" if path.is_absolute() else f" in {Path.cwd()}, the folder that the run is started in"
    what = "is no file" if path.exists() else "does not exist"
    other = ", or test://pattern" if uri.scheme == "test" else ""
    raise PspnetError(uri.scrubbed(f"camera {camera.name}: {uri}: {path} {what}{where}. Give a clip{other}"))


def check_places(config: DriveConfig) -> None:
    """PspnetError where there is no output, or one cannot be written, or the page's address cannot be bound."""
    output = config.output
    outputs = (getattr(output, each.name) for each in dataclasses.fields(output) if each.name not in SETTINGS)
    if config.serve is None and not any(outputs):
        raise PspnetError(
            "run needs an output: give --serve, --window, --jsonl FILE, --video DIR, -o DIR, --select DIR or "
            "--shared-labels NAME, or the like under [output] or [serve]"
        )
    inputs = [config.model.artefact, *(each.mask for each in config.cameras if each.mask)]
    files = [path for path in (output.jsonl, output.json) if path]
    check_outputs(inputs, files, [path for path in (output.folder, output.video, output.select) if path])
    if output.jsonl is not None:
        check_unwritten(output.jsonl)
    if output.video is not None and output.video.suffix:
        raise PspnetError(f"video {output.video}: videos of cameras come in parts: give a folder, as --video drive")
    if config.serve is not None:
        check_address(config.serve.host, config.serve.token)
        if config.serve.port:
            with open_listener(config.serve.host, config.serve.port):
                pass


@contextlib.contextmanager
def secrets_set(config: DriveConfig) -> Iterator[None]:
    """The variables of `secrets_file` in this process's environment, where cameras look theirs up."""
    before = {name: os.environ.get(name) for name in config.secrets}
    os.environ.update(config.secrets)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def text_of(config: DriveConfig, checked: Checked) -> str:
    """The summary that --check prints."""
    spec, output, limits = checked.spec, config.output, config.limits
    height, width = spec.input_size
    lines = [f"{config.source} is sound", f"  network   {config.model.artefact.name}: {height}x{width}, {spec.classes} "
             f"classes ({', '.join(spec.class_names)}), on {checked.engine} in {checked.precision}"]  # fmt: skip
    for camera, uri in zip(config.cameras, checked.uris, strict=True):
        facts = [f"labels valid for {camera.max_age_ms:g} ms"]
        facts += [f"fit {camera.fit}"] * bool(camera.fit) + [f"mask {camera.mask and camera.mask.name}"] * bool(
            camera.mask
        )
        lines.append(f"  camera    {camera.name}: {uri.redacted} ({', '.join(facts)})")
    wanted = {
        "folder": output.folder, "video": output.video, "jsonl": output.jsonl, "json": output.json,
        "shared labels": output.shared_labels, "select": output.select, "callback": output.callback,
        "window": "on this screen" * output.window,
    }  # fmt: skip
    lines += [f"  output    {name}: {value}{_folder_to_make(name, value)}" for name, value in wanted.items() if value]
    if config.serve is not None:
        guarded = "with a token" if config.serve.token else "without a token"
        lines.append(f"  page      http://{config.serve.host}:{config.serve.port} ({guarded})")
    if limits.min_confidence:
        lines.append(f"  limits    pixels below a confidence of {limits.min_confidence:g} are 255")
    if limits.sync_ms is not None:
        lines.append(f"  limits    cameras are taken together within {limits.sync_ms:g} ms")
    lines += [f"  note      {note}" for note in checked.notes]
    return "\n".join(lines)


def _folder_to_make(name: str, value: object) -> str:
    """What is said of an output whose folder is missing."""
    if not isinstance(value, Path):
        return ""
    folder = value if name in ("folder", "video", "select") else value.parent
    if folder.exists():
        return ""
    return " (will be made)" if folder == value else f" ({folder} will be made)"


def _check_size(camera: CameraSettings, uri: CameraUri, spec: NetworkSpec) -> None:
    """PspnetError where mask or region do not fit the picture, as far as its size is known."""
    mask = read_mask(camera.mask) if camera.mask else None
    size = stated_size(uri)
    if size is not None and camera.rotate in (90, 270):
        size = size[1], size[0]
    try:
        if size is None:
            size = mask.shape if mask is not None else None  # type: ignore[assignment]
        if size is not None:
            Geometry(size, spec.input_size, camera.fit or spec.fit, camera.region)
    except PspnetError as error:
        raise PspnetError(f"camera {camera.name}: {error}") from error
    if mask is not None and size is not None and mask.shape != size:
        raise PspnetError(
            f"camera {camera.name}: mask {camera.mask} is {mask.shape[0]}x{mask.shape[1]}, its pictures are "
            f"{size[0]}x{size[1]}: draw the mask at the size of the pictures"
        )


def stated_size(uri: CameraUri) -> tuple[int, int] | None:
    """(height, width) of the pictures where the address says it."""
    options = uri.options
    if found := re.fullmatch(r"(\d+)x(\d+)", options.get("size", "")):
        return int(found[1]), int(found[2])
    if "width" in options and "height" in options:
        return int(options["height"]), int(options["width"])
    return None


def _notes(config: DriveConfig, uris: tuple[CameraUri, ...]) -> Iterator[str]:
    """What is no fault and should be known."""
    for camera, uri in zip(config.cameras, uris, strict=True):
        if uri.scheme == "v4l2" and not uri.address.startswith("/dev/v4l/by-"):
            yield f"{camera.name}: {uri.address} may be another camera after a replug: ls -l /dev/v4l/by-id"
    wanted = 0
    for camera, uri in zip(config.cameras, uris, strict=True):
        size = stated_size(uri)
        wanted += camera.slots * (size[0] * size[1] * 3 if size else LARGEST_PICTURE_BYTES)
    if (free_bytes := unused_memory_bytes()) < wanted:
        yield f"{wanted >> 20} MiB are wanted for the cameras' pictures, {free_bytes >> 20} MiB of memory are free"
