"""The command line of a run over cameras as the DriveConfig that drive.toml would give."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pspnet.errors import PspnetError
from pspnet.geometry import region_from_text
from runtime.camera_settings import CameraSettings
from runtime.drive_config import DriveConfig, LimitsConfig, ModelConfig, OutputConfig, ServeConfig, address_from_text
from runtime.drive_secrets import holds_literal, token_from_file


def drive_from_arguments(args: argparse.Namespace, addresses: list[str]) -> DriveConfig:
    """What drive.toml would say, from the arguments of `pspnet run` and the cameras' addresses among its sources."""
    if any(holds_literal(address) for address in addresses):
        print(
            "pspnet: a password on the command line can be seen by every user of this machine (ps): write ${NAME} in "
            "single quotes in its place, or use --config",
            file=sys.stderr,
        )
    if args.token_file and not args.serve:
        raise PspnetError("--token-file is for the web page: give --serve too")
    region = region_from_text(args.region) if args.region else None
    mask = Path(args.mask) if args.mask else None
    extra = {} if args.max_age_ms is None else {"max_age_ms": args.max_age_ms}
    cameras = tuple(
        CameraSettings(f"camera{place}", address, args.fit, region, mask, allow_gstreamer=args.allow_gstreamer, **extra)
        for place, address in enumerate(addresses)
    )
    paths = {
        name: Path(value) if (value := getattr(args, name)) else None for name in ("video", "jsonl", "json", "select")
    }
    folder = Path(args.output) if args.output else None
    serve = None
    if args.serve:
        token = token_from_file(Path(args.token_file)) if args.token_file else None
        serve = ServeConfig(*address_from_text(args.serve), token)
    return DriveConfig(
        ModelConfig(Path(args.artefact), args.engine, args.threads, args.pin),
        cameras,
        LimitsConfig(args.min_confidence or 0.0, args.sync, args.seconds),
        OutputConfig(
            folder,
            **paths,
            window=args.window,
            shared_labels=args.shared_labels,
            callback=args.callback,
            alpha=args.alpha,
            keep_free_mib=args.keep_free,
            select_share=args.select_share,
        ),
        serve=serve,
    )
