"""Lines of a test log with their files of scores, as if something had been measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.test_log import PLAIN, append, read_log, recipe_hash
from pspnet.checkpoint import read_checkpoint
from pspnet.files import sha256_of

NOTES = 'licence = "Free."\nlimits = "A test."\ndata = "data/x"\n'


def measure(
    log: Path, checkpoint: Path, miou: float, artefact: str = "", named: bool = True, size: Any = None,
    engine: str = "torch", precision: str = "fp32", mode: str = PLAIN,
) -> str:  # fmt: skip
    """Log `miou` of a checkpoint, or of an artefact made from it; returns the name of the file of scores.

    named: the line names the checkpoint. size: (height, width) that it ran at, where it is not the checkpoint's.
    """
    spec, _ = read_checkpoint(checkpoint)
    own = sha256_of(checkpoint)
    sha256, size = ("a" * 64 if artefact else own), list(size or spec.input_size)
    name = f"test-{len(read_log(log))}.json"
    protocol = {
        "name": "", "dataset": "d", "split": "test", "images": 3, "labels_sha256": "l", "mode": mode, "engine": engine,
        "precision": precision, "artefact": artefact or checkpoint.name, "sha256": sha256, "network_size": size,
    }  # fmt: skip
    classes = {label: {"iou": miou, "pixels": 10} for label in spec.class_names}
    figures = {"miou": miou, "macc": miou, "pixel_accuracy": miou, "f1": miou, "per_class": classes}
    log.parent.mkdir(parents=True, exist_ok=True)
    (log.parent / name).write_text(json.dumps({**figures, "protocol": protocol}))
    row = {key: protocol[key] for key in ("artefact", "sha256", "engine", "precision", "labels_sha256", "network_size")}
    row |= {"date": "2026-01-01", "mode": mode, "miou": miou, "file": name}
    if named:
        row |= {"checkpoint_sha256": own, "recipe": recipe_hash(spec), "seed": spec.recipe.get("seed")}
    append(log, row)
    return name
