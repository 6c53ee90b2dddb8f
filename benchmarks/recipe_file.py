"""Recipes as a TOML file: a table per recipe, whose keys are flags of `pspnet train` without the dashes.

[common]                   # of every recipe; a recipe's own keys go before them
output-stride = 16

[enet]
class-weights = "enet"

[plain]                    # nothing but the common flags
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from pspnet.errors import PspnetError
from pspnet.recipe import RECIPES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COMMON = "common"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")
"""What a recipe may be called: its runs are folders of that name."""

FIXED = ("data", "dataset", "hold-out", "output", "epochs", "seed", "resume", "json")
"""Flags that are the same for every recipe, or each run's own. `recipe_checks` finds their abbreviations, too."""


def recipes_of(source: str, only: str | None = None) -> dict[str, dict[str, Any]]:
    """Name -> flags, in the file's order, of a FILE.toml or of names of `pspnet train --recipe` with commas."""
    if not source.endswith(".toml"):
        if unknown := [name for name in source.split(",") if name not in RECIPES]:
            raise PspnetError(
                f"unknown recipe {unknown[0]!r}: give a FILE.toml, or some of {','.join(RECIPES)}, with --recipes"
            )
        if only:
            raise PspnetError("--only chooses recipes of a file: name the recipes themselves with --recipes")
        return {name: {"recipe": name} for name in source.split(",")}
    tables = _tables(source)
    common = tables.pop(COMMON, {})
    if not tables:
        raise PspnetError(f"{source} holds no recipe: write a table such as [enet] with flags of `pspnet train`")
    wanted = only.split(",") if only else list(tables)
    if unknown := [name for name in wanted if name not in tables]:
        raise PspnetError(f"{source} has no recipe {unknown[0]!r}: choose some of {','.join(tables)} with --only")
    return {name: {**common, **tables[name]} for name in tables if name in wanted}


def flags_of(recipe: dict[str, Any]) -> list[str]:
    """Words of the command line for a recipe: true is --flag, false --no-flag, anything else --flag value."""
    words: list[str] = []
    for name, value in recipe.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", str(value)]
    return words


def _tables(source: str) -> dict[str, dict[str, Any]]:
    try:
        raw = tomllib.loads(Path(source).read_text(encoding="utf-8"))
    except OSError as error:
        raise PspnetError(f"cannot read recipes {source}: {error.strerror}. Give a TOML file with --recipes") from error
    except ValueError as error:
        raise PspnetError(f"{source} is no TOML file: {str(error).splitlines()[0]}. Mend it") from error
    for name, table in raw.items():
        if not isinstance(table, dict):
            raise PspnetError(f"{source} has {name!r} outside of a table: write flags below a line such as [enet]")
        if not NAME.fullmatch(name):
            raise PspnetError(
                f"{source}: recipe {name[:80]!r} cannot be the name of its runs' folders: write letters, digits, '.', "
                "'_' and '-', the first a letter or digit, 61 at most"
            )
        for key, value in table.items():
            if key.replace("_", "-") in FIXED:
                raise PspnetError(f"{source}, recipe {name}: {key} is the same for every recipe: leave it out there")
            if not isinstance(value, bool | int | float | str):
                raise PspnetError(f"{source}, recipe {name}: {key} must be a number, a text, true or false")
    return {name: {k.replace("_", "-"): v for k, v in table.items()} for name, table in raw.items()}
