"""Arguments of the verbs that run a network: over files, over cameras, and over cameras that fail on purpose."""

from __future__ import annotations

import argparse

from pspnet.shared_arguments import add_engine

FOR_FILES = ("limit", "list", "shard")
"""Arguments of run that are about files, and so are left out beside cameras."""
FOR_CAMERAS = (
    "serve", "token_file", "window", "shared_labels", "select", "callback", "min_confidence", "max_age_ms", "sync",
    "mask", "seconds", "allow_gstreamer", "keep_free", "select_share",
)  # fmt: skip
"""Arguments of run that are about cameras, and so are left out beside files."""
BESIDE_CONFIG = ("config", "check", "seconds", "json")
"""Arguments of run that may stand beside --config; the file says all the rest."""


def add_run(verbs: argparse._SubParsersAction) -> None:
    """`pspnet run`."""
    verb = verbs.add_parser("run", help="labels of photos, folders and clips, or of cameras, live")
    verb.add_argument("artefact", nargs="?", default=None, help="best.pt, model.onnx or model.engine")
    kinds = "photo, folder or clip; or cameras: v4l2:// csi:// rtsp:// http:// test:// (docs/cameras.md)"
    verb.add_argument("sources", nargs="*", default=[], metavar="SOURCE", help=kinds)
    verb.add_argument("--config", default=None, metavar="FILE.toml", help="in place of all else: a run over cameras")
    verb.add_argument("--check", action="store_true", help="of --config: look through all of it, open no camera")
    verb.add_argument(
        "-o", "--output", default=None, help="folder for label PNGs; of files, with pictures: a `folder` data set"
    )
    verb.add_argument(
        "--video",
        default=None,
        help="labels over the picture: NAME.webm; of cameras a folder, for parts of ten minutes",
    )
    verb.add_argument("--alpha", type=float, default=0.5, help="of the colours in pictures, 0 to 1 (default 0.5)")
    verb.add_argument("--jsonl", default=None, help="one JSON line per frame: times and class areas")
    add_engine(verb)
    verb.add_argument("--pin", metavar="SHA256", default=None, help="refuse a model.engine with another hash")
    verb.add_argument("--fit", default=None, help="stretch, letterbox or crop (default: the model's)")
    verb.add_argument("--region", default=None, help="HxW+TOP+LEFT in camera pixels that the network looks at")
    verb.add_argument("--json", help="write frames, FPS and times here")
    _add_files(verb.add_argument_group("files"))
    _add_cameras(verb.add_argument_group("cameras"))
    verb.set_defaults(unset={action.dest: action.default for action in verb._actions if action.dest != "help"})


def add_soak(verbs: argparse._SubParsersAction) -> None:
    """`pspnet soak`."""
    verb = verbs.add_parser("soak", help="cameras that fail by chance: what grows, what recovers, how old frames get")
    verb.add_argument("artefact", nargs="?", default=None, help="default: a stand-in of 20 ms that needs no network")
    verb.add_argument("--minutes", type=float, default=10.0, help="how long (default 10)")
    verb.add_argument("--cameras", type=int, default=3, help="how many (default 3); the first never fails")
    verb.add_argument("--seed", type=int, default=0, help="of the faults (default 0)")
    add_engine(verb)
    verb.add_argument("--json", help="write the report here too")


def _add_files(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--limit", type=int, default=None, help="stop after so many frames")
    group.add_argument("--list", default=None, metavar="FILE.txt", help="many recordings, one path per line, to -o DIR")
    group.add_argument("--shard", default=None, metavar="I/N", help="of --list: every Nth recording, from the Ith")
    group.add_argument(
        "--realtime", action="store_true", help="play clips as cameras: at their rate, the newest frame wins"
    )


def _add_cameras(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--serve", nargs="?", const="127.0.0.1:8080", default=None, metavar="HOST:PORT",
        help="live web page, snapshots and /metrics (without a value: 127.0.0.1:8080)",
    )  # fmt: skip
    group.add_argument(
        "--token-file", default=None, metavar="FILE", help="of --serve: what visitors must know; mode 0600"
    )
    group.add_argument("--window", action="store_true", help="show the labels on this machine's screen")
    group.add_argument(
        "--shared-labels", default=None, metavar="NAME", help="labels in shared memory NAME-CAMERA, for other programs"
    )
    group.add_argument("--select", default=None, metavar="DIR", help="keep doubtful frames with labels, for training")
    group.add_argument(
        "--select-share", type=float, default=None, metavar="SHARE",
        help="of --select: the doubtful part of a frame at least, of what the network looks at (default 0.05)",
    )  # fmt: skip
    group.add_argument(
        "--callback", default=None, metavar="MODULE:FUNCTION", help="call a Python function with every record"
    )
    group.add_argument(
        "--keep-free", type=int, default=1024, metavar="MIB", help="of the disk, where recordings stop (default 1024)"
    )
    group.add_argument(
        "--min-confidence", type=float, default=None, metavar="SHARE", help="pixels of less, 0 to 1, become 255"
    )
    group.add_argument(
        "--max-age-ms", type=float, default=None, metavar="MS", help="older labels are marked invalid (default 250)"
    )
    group.add_argument(
        "--sync", type=float, default=None, metavar="MS", help="take cameras together whose frames are no further apart"
    )
    group.add_argument("--mask", default=None, metavar="FILE.png", help="pixels other than 0 become 255: the bonnet")
    group.add_argument("--seconds", type=float, default=None, help="stop after so long (default: at Ctrl-C or SIGTERM)")
    group.add_argument("--allow-gstreamer", action="store_true", help="allow gst://PIPELINE, which can open any file")
