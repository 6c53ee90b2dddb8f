"""Lists of pairs, as hszhao/semseg writes them: `IMAGE LABEL` a line, relative to the data's root.

A list of which every line is one path, like semseg's own test lists, is a split without labels.

ROOT/list/{train,val,test}.txt (or fine_train.txt, training.txt and the like), or one such file in place of the root.
Classes: ROOT/classes.json, or semseg's *_names.txt and *_colors.txt, in the root or beside the lists. Names in a list
must not hold spaces. Paths of another machine are found by their ends: /SegNet/CamVid/train/a.png is ROOT/train/a.png.
"""

from __future__ import annotations

from pathlib import Path

from pspnet.dataset_classes import Classes, classes_from_json, classes_from_text
from pspnet.dataset_labels import index_labels
from pspnet.dataset_layout import SPLITS, Found, Layout, Pair
from pspnet.errors import PspnetError
from pspnet.wording import counted

NAMES = {
    "train": ("train", "fine_train", "training", "train_aug"),
    "val": ("val", "fine_val", "validation"),
    "test": ("test", "fine_test", "testing"),
}
"""Stems of list files by split, of semseg's own lists too."""


def pairs_of_list(path: Path, roots: tuple[Path, ...]) -> list[Pair]:
    """The pairs of a list file, in its order; files that no root holds are given under the first root."""
    pairs = []
    for number, names in enumerate(_lines(path), 1):
        if len(names) % 2:
            raise PspnetError(
                f"{path} line {number} holds {counted(len(names), 'name')}: write IMAGE LABEL, without spaces in them"
            )
        pairs += [(_located(i, roots), _located(j, roots)) for i, j in zip(names[::2], names[1::2], strict=True)]
    if not pairs:
        raise PspnetError(f"{path} lists no pair: write one line IMAGE LABEL for each")
    return pairs


def pictures_of_list(path: Path, roots: tuple[Path, ...]) -> list[Path]:
    """The pictures of a list file that names nothing else, in its order; of any other list none."""
    lines = [names for names in _lines(path) if names]
    return [_located(names[0], roots) for names in lines] if all(len(names) == 1 for names in lines) else []


def _lines(path: Path) -> list[list[str]]:
    """The names on every line."""
    try:
        return [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise PspnetError(f"cannot read list {path}: {error}") from error


def _located(name: str, roots: tuple[Path, ...]) -> Path:
    path = Path(name)
    parts = path.parts[1:] if path.is_absolute() else path.parts
    if path.is_absolute() and path.is_file():
        return path
    for start in range(len(parts)):
        for root in roots:
            if (candidate := root.joinpath(*parts[start:])).is_file():
                return candidate
    return roots[0].joinpath(*parts)


def _list_of(root: Path, split: str) -> Path | None:
    """The list file of a split; "all" is for a single list whose name names no split."""
    if root.is_dir():
        return next((p for name in NAMES[split] if (p := root / "list" / f"{name}.txt").is_file()), None)
    own = next((s for s in SPLITS if root.stem in NAMES[s]), "all")
    if own == split:
        return root
    if "all" in (own, split):
        return None
    siblings = (root.with_name(f"{name}.txt") for name in NAMES[split])
    return next((path for path in siblings if path.is_file()), None)


def _recognises(root: Path) -> bool:
    return bool(_splits(root)) if root.is_dir() else root.is_file() and root.suffix == ".txt"


def _splits(root: Path) -> tuple[str, ...]:
    if root.is_file() and _list_of(root, "all"):
        return ("all",)
    return tuple(split for split in SPLITS if _list_of(root, split))


def _find(root: Path, splits: tuple[str, ...]) -> Found:
    folder = root if root.is_dir() else root.parent
    roots = (folder,) if root.is_dir() else (folder, folder.parent)
    classes, source = _classes((folder, folder / "list", folder.parent) if root.is_dir() else roots)
    reader = index_labels(classes, source)
    pairs: list[Pair] = []
    unlabelled: dict[Path, list[Path]] = {}
    for split in splits:
        if (path := _list_of(root, split)) is None:
            raise PspnetError(
                f"{root} has no list for the split {split}: write {folder / 'list' / f'{split}.txt'} with IMAGE LABEL "
                "lines" + (", or use --split all" if _splits(root) == ("all",) else "")
            )
        if pictures := pictures_of_list(path, roots):
            unlabelled[path] = pictures
        else:
            pairs += pairs_of_list(path, roots)
    if not unlabelled:
        return Found(classes, reader, tuple(pairs))
    note = f"{' and '.join(map(str, unlabelled))}: every line is one path, so its pictures have no labels: "
    if pairs:
        return Found(classes, reader, tuple(pairs), note=note + "they are left out")
    note += "nothing can be learned from them or scored on them. Use another --split, or write IMAGE LABEL lines"
    pictures = [picture for each in unlabelled.values() for picture in each]
    return Found(classes, reader, (), note=note, unlabelled=tuple(pictures))


def _classes(folders: tuple[Path, ...]) -> tuple[Classes, str]:
    for folder in folders:
        if (path := folder / "classes.json").is_file():
            return classes_from_json(path), str(path)
        names = sorted(folder.glob("*_names.txt"))
        if len(names) > 1:
            raise PspnetError(f"{folder} holds {len(names)} files *_names.txt: keep the one of this data set")
        if names:
            colours = names[0].with_name(names[0].name.replace("_names.txt", "_colors.txt"))
            return classes_from_text(names[0], colours), str(names[0])
    raise PspnetError(
        f"{folders[0]} has lists but no classes: put classes.json there, or semseg's NAME_names.txt and NAME_colors.txt"
    )


LAYOUTS = (Layout("list", "list/train.txt or a .txt of IMAGE LABEL lines", _recognises, _splits, _find),)
