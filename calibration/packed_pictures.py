"""The pictures that a build compares its engines on, as one archive to be sent: those, and not the whole data set."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

import cv2

from calibration.build_check import DEFAULT_IMAGES, PictureChoice
from calibration.build_sources import Source
from calibration.held_out import FEWEST, unseen_pictures
from pspnet.wording import counted
from runtime.sink import classes_json


def pack_pictures(choice: PictureChoice, source: Source, target: Path) -> list[str]:
    """Write a tar of the pictures that `choice` takes for `source`, and return the flags that name them in it.

    Each is a PNG of exactly its pixels. With labels of the network's classes it is a `folder` data set, otherwise a
    folder of pictures, in both cases of the name that the data has here. The same pictures give the same bytes.
    """
    data, split = Path(choice.data or ""), choice.split or "val"
    choice.check()
    name, exclude = data.resolve().name, source.table.images if source.table else {}
    count, labelled = choice.images or DEFAULT_IMAGES, False
    found = unseen_pictures(data, choice.dataset, split, exclude, count, source.spec)
    with tarfile.open(target, "w") as archive:
        number = 0
        for number, (title, _, picture, labels) in enumerate(found, 1):
            stem = f"{number:04}-{Path(title).stem}"
            labelled = labels is not None
            folder = f"{name}/{'val' if split == 'all' else split}"
            _add(archive, f"{folder}/images/{stem}.png" if labelled else f"{name}/{stem}.png", _png(picture))
            if labels is not None:
                _add(archive, f"{folder}/labels/{stem}.png", _png(labels))
        if number < FEWEST:
            raise choice.too_few(number, bool(exclude))
        if labelled:
            _add(archive, f"{name}/classes.json", json.dumps(classes_json(source.spec, "")).encode())
    size = target.stat().st_size / 1e6
    print(f"{counted(number, 'picture')} of {name} go to the board with the model, {size:.1f} MB", file=sys.stderr)
    return ["--data", name, "--images", str(count), *(["--dataset", "folder", "--split", split] if labelled else [])]


def _png(image) -> bytes:  # type: ignore[no-untyped-def]
    return cv2.imencode(".png", image)[1].tobytes()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
