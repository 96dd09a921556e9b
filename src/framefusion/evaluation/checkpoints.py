"""Models that ``--model`` knows by name in an evaluation: made once from real parts, then kept in the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from framefusion.asking.loading import LoadedModel, load
from framefusion.evaluation import decoders
from framefusion.evaluation.photos import photos_checkpoint

CHECKPOINTS: dict[str, Callable[[], Path]] = {**decoders.MAKERS, "photos": photos_checkpoint}
"""By name, what returns the directory of a checkpoint, and makes it before if it is not there."""


def open_model(arguments: Mapping[str, Any]) -> LoadedModel:
    """:func:`framefusion.asking.loading.load`, which knows the names in :data:`CHECKPOINTS` too.

    Args:
        arguments: of :func:`~framefusion.asking.loading.load`.

    Raises:
        DataError: the parts of a checkpoint cannot be fetched.
        ModelError: the model cannot be used.
    """
    name = arguments.get("model")
    if name not in CHECKPOINTS:
        return load(**arguments)
    # Its name and not its directory: results are the same on every machine.
    return replace(load(**{**arguments, "model": CHECKPOINTS[name]()}), name=name)
