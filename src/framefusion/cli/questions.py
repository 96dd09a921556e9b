"""What the commands that ask many questions have in common."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from framefusion.cli.errors import fail

if TYPE_CHECKING:
    from framefusion.evaluation import Dataset

NEEDLE = "needle"
"""What ``--data`` calls the generated benchmark."""
FOOTAGE = "footage"
"""What ``--data`` calls real footage, about which no questions are asked."""


def names(text: str, option: str) -> list[str]:
    """Texts separated by commas."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        fail(f"{option} is empty; name at least one, or several separated by commas")
    return found


def shares(text: str) -> list[float]:
    """The numbers of ``--budgets``, each once."""
    found = []
    for name in names(text, "--budgets"):
        try:
            found.append(float(name))
        except ValueError:
            fail(f"--budgets must be shares such as 0.2,0.1, got {name!r}")
    return list(dict.fromkeys(found))


def check_directory(out: Path) -> None:
    """Refuse an ``--out`` that is a file."""
    if os.path.exists(out) and not os.path.isdir(out):
        fail(f"--out must be a directory, but {out} is a file")


def dataset(data: str, videos: int | None, seed: int, kinds: str | None = None) -> Dataset:
    """What ``--data`` names, with the questions of ``--kinds``."""
    from framefusion.evaluation import SETS, JsonLines

    known = SETS.get(data)
    if known is None:
        if kinds is not None:
            fail(f"--kinds chooses from the generated questions; leave it out with --data {data}")
        return JsonLines(Path(data), videos)
    asked = None if kinds is None else tuple(dict.fromkeys(part.strip() for part in kinds.split(",")))
    if unknown := [kind for kind in asked or () if kind not in known.known_kinds]:
        fail(f"--kinds must be some of {', '.join(known.known_kinds)}, separated by commas, got {', '.join(unknown)!r}")
    return known(known.usual_videos if videos is None else videos, seed, asked)


def usual_model(data: str) -> str | None:
    """The model that answers what ``--data`` names where ``--model`` names none."""
    from framefusion.evaluation import SETS

    return SETS[data].usual_model if data in SETS else None


def command_line(words: Sequence[str]) -> str:
    """How to repeat a command, for whoever reads its results."""
    return shlex.join(["framefusion", *words])
