"""What `pspnet run` and `pspnet soak` do; everything heavy is imported inside them."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from pspnet import live_arguments
from pspnet.errors import PspnetError
from pspnet.files import write_json


def run(args: argparse.Namespace) -> int:
    """Labels of files, of a list of recordings, or of cameras, live."""
    if args.config:
        return _run_config(args)
    if args.check:
        raise PspnetError("--check looks through a configuration: give --config drive.toml too")
    if args.artefact is None:
        raise PspnetError("run needs an artefact and sources, or --config drive.toml. See: pspnet run --help")
    if args.list:
        return _run_list(args)
    if args.shard:
        raise PspnetError(f"--shard {args.shard} is a share of a list of recordings: give --list FILE.txt too")
    if not args.sources:
        raise PspnetError("run needs a source: a photo, a folder, a clip, or a camera such as v4l2:///dev/video0")
    for source in args.sources:
        _refuse_near_address(source)
    if addresses := _addresses(args):
        _refuse_set(args, live_arguments.FOR_FILES, "is for files, and a camera is given: leave it out")
        from runtime.service import leaving_at_once

        with leaving_at_once():  # what is imported here takes a moment, in which a signal may come
            from runtime.drive import run_drive
            from runtime.drive_arguments import drive_from_arguments

            return run_drive(drive_from_arguments(args, addresses))
    _refuse_set(
        args, live_arguments.FOR_CAMERAS, "is for cameras, and files are given: leave it out, or add --realtime"
    )
    from pspnet.commands import run_files

    run_files(args)
    return 0


def soak(args: argparse.Namespace) -> int:
    """Cameras that fail by chance for a while; 1 where something grew, or an old label map was published as valid."""
    from runtime.bench_report import stamped
    from runtime.service import run_as_service
    from runtime.soak import SoakSettings, text_of
    from runtime.soak import soak as work

    settings, report = SoakSettings(args.minutes, args.cameras, args.seed), {}
    chosen = (args.artefact, args.engine, args.threads)
    code = run_as_service(lambda stop, progress: report.update(work(settings, stop, progress, *chosen)))
    if report:
        print(text_of(report))
        if args.json:
            write_json(args.json, stamped({"kind": "soak", **report}))
        for line in report["exceeded"]:
            print(f"pspnet: {line}", file=sys.stderr)
    return code or int(bool(report and report["exceeded"]))


def _run_config(args: argparse.Namespace) -> int:
    given = [name for name in args.unset if name not in live_arguments.BESIDE_CONFIG]
    if args.artefact is not None:
        raise PspnetError(f"{args.artefact} and --config were given: the file says which network and cameras run")
    _refuse_set(args, given, "stands beside --config: write it into the file")
    if args.check:
        from runtime.drive_check import check_drive, text_of

        config = _config(args)
        print(text_of(config, check_drive(config)))
        return 0
    from runtime.service import leaving_at_once

    with leaving_at_once():
        from runtime.drive import run_drive

        return run_drive(_config(args))


def _config(args: argparse.Namespace) -> Any:
    """The DriveConfig of --config, with what the command line says besides."""
    from dataclasses import replace

    from runtime.drive_config import read_drive

    config = read_drive(args.config)
    if args.seconds is not None:
        config = replace(config, limits=replace(config.limits, seconds=args.seconds))
    if args.json is not None:
        config = replace(config, output=replace(config.output, json=Path(args.json)))
    return config


def _run_list(args: argparse.Namespace) -> int:
    from runtime.recordings import RecordingSettings, run_recordings

    if args.sources or not args.output:
        raise PspnetError("--list says which recordings run, and -o DIR where their labels go: give these two alone")
    _refuse_set(
        args,
        (*live_arguments.FOR_CAMERAS, "realtime", "video", "jsonl", "json"),
        "does not go with --list: leave it out",
    )
    settings = RecordingSettings(args.artefact, args.engine, args.threads, args.pin, args.fit, args.region, args.limit)
    return run_recordings(settings, args.list, args.shard or "1/1", args.output)


def _refuse_set(args: argparse.Namespace, names: tuple[str, ...] | list[str], why: str) -> None:
    """PspnetError for an argument among `names` that was given."""
    for name in names:
        if getattr(args, name) != args.unset[name]:
            flag = {"output": "-o", "sources": "a SOURCE", "artefact": "ARTEFACT"}.get(name, f"--{name}")
            raise PspnetError(f"{flag.replace('_', '-')} {why}")


def _refuse_near_address(source: str) -> None:
    """PspnetError where a source is almost the address of a camera: /dev/video0, 0 or test:pattern."""
    from runtime.camera_uri import OPTIONS, SECURE, without_credentials

    if "://" in source or Path(source).is_file() or Path(source).is_dir():
        return
    scheme, colon, rest = source.partition(":")
    if re.fullmatch(r"\d{1,2}", source):
        address = f"v4l2:///dev/video{source}"
    elif re.match(r"/dev/(video|v4l)", source):
        address = f"v4l2://{source}"
    elif colon and scheme.lower() in (*OPTIONS, *SECURE):
        address = without_credentials(f"{scheme.lower()}://{rest if scheme.lower() == 'v4l2' else rest.lstrip('/')}")
        raise PspnetError(f"a camera's address has // in it: give {address}")
    else:
        return
    raise PspnetError(f"{source} is no file: give the camera as {address}")


def _addresses(args: argparse.Namespace) -> list[str]:
    """The addresses of the cameras among the sources; with --realtime, clips become cameras."""
    from runtime.camera_uri import is_camera

    sources = list(args.sources)
    if args.realtime:
        from pspnet.image import IMAGE_SUFFIXES

        for place, source in enumerate(sources):
            path = Path(source)
            if is_camera(source):
                raise PspnetError(f"{source.partition(':')[0]}:// is a camera already: leave out --realtime")
            if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
                raise PspnetError(f"{source} has no frame rate: --realtime is for clips. Leave it out")
            if not path.is_file():
                raise PspnetError(f"source {source} does not exist: give a clip")
            sources[place] = f"clip://{path.resolve()}"
    cameras = [source for source in sources if is_camera(source) or "://" in source]
    if cameras and len(cameras) < len(sources):
        other = next(source for source in sources if source not in cameras)
        raise PspnetError(f"{other} is a file and others are cameras: run them apart, or give clip://{other}")
    return cameras
