"""Stages that fit a checkpoint: what probes found, in one file per checkpoint, and the settings that follow it."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from framefusion._version import __version__
from framefusion.errors import ArgumentError, FrameFusionError
from framefusion.hf.fingerprint import fingerprint
from framefusion.reduction.amounts import AUTO, Stages
from framefusion.reduction.settings import FrameFusion

logger = logging.getLogger(__name__)

SCHEMA = 1
"""Of the files that are written; others are refused."""

Origin = Literal["default", "given", "probed"]
"""Where the stages of a cost come from."""

_warned: set[str] = set()
"""Checkpoints of which this process has said that nothing is known."""


class StagesFileError(FrameFusionError, ValueError):
    """A file of probed stages that cannot be used. The text is one sentence that names it."""


@dataclass(frozen=True)
class Fitted:
    """What a probe found for one cost.

    Attributes:
        cost: that was probed, in (0, 1].
        stages: that fit the model best there.
        prompts: how many were asked.
        divergence: mean KL divergence of these stages, in nats.
        default: that of the default stages.
        version: of framefusion.
    """

    cost: float
    stages: Stages
    prompts: int
    divergence: float
    default: float
    version: str = __version__


def default_folder() -> Path:
    """Where stages are kept: ``~/.cache/framefusion/stages``."""
    return Path.home() / ".cache" / "framefusion" / "stages"


def file_of(checkpoint: str, folder: Path | None = None) -> Path:
    """The file of a checkpoint, by its :func:`~framefusion.hf.fingerprint.fingerprint`."""
    return (default_folder() if folder is None else folder) / f"{checkpoint}.json"


def recall(checkpoint: str, folder: Path | None = None) -> list[Fitted]:
    """What is known about a checkpoint, costs ascending; empty if it was never probed.

    Raises:
        StagesFileError: its file cannot be read or holds something else.
    """
    path = file_of(checkpoint, folder)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ArgumentError(f"it is no file of stages of schema {SCHEMA}")
        found = [_entry(entry) for entry in content["probed"]]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StagesFileError(f"cannot read {path}: {error.strerror}") from error
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise StagesFileError(f"{path} is damaged ({error}); delete it, or probe the model again") from error
    return sorted(found, key=lambda entry: entry.cost)


def remember(checkpoint: str, fitted: Fitted, folder: Path | None = None) -> Path:
    """Add what a probe found to the file of a checkpoint, in the place of what was known for this cost.

    The file is written whole or not at all; a damaged one is replaced.

    Raises:
        StagesFileError: it cannot be written.
    """
    path = file_of(checkpoint, folder)
    try:
        known = recall(checkpoint, folder)
    except StagesFileError:
        known = []
    entries = sorted([*(entry for entry in known if entry.cost != fitted.cost), fitted], key=lambda entry: entry.cost)
    text = json.dumps({"schema": SCHEMA, "probed": [asdict(entry) for entry in entries]}, indent=1) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
        try:
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(draft, path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StagesFileError(f"cannot write {path}: {error.strerror}") from error
    return path


def fitted_settings(model: Any, settings: FrameFusion, layers: int, first: int) -> tuple[FrameFusion, Origin | None]:
    """Settings whose ``stages`` are no longer ``"auto"``, and where they come from.

    ``"auto"`` becomes what a probe found for the nearest cost that these stages can reach, and the default stages, with
    a warning, where nothing is known.

    Args:
        model: a supported model, unwrapped.
        settings: of the reduction.
        layers: decoder layers of the model.
        first: the first layer before which attention exists.

    Returns:
        The settings, and the origin; None without stages of a cost.

    Raises:
        StagesFileError: see :func:`recall`.
    """
    if settings.cost is None or settings.merging:
        return settings, None
    if settings.stages != AUTO:
        return settings, "default" if settings.stages is None else "given"
    checkpoint = fingerprint(model)
    cost = min(settings.cost) if isinstance(settings.cost, Sequence) else settings.cost
    for entry in sorted(recall(checkpoint), key=lambda entry: abs(entry.cost - cost)):
        chosen = replace(settings, stages=entry.stages)
        try:
            chosen.check(layers, first)
        except ArgumentError:
            continue
        return chosen, "probed"
    if checkpoint not in _warned:
        _warned.add(checkpoint)
        logger.warning(
            "stages='auto': this %s was not probed yet, so a cost is spent in the default stages; "
            "framefusion probe --model MODEL, or framefusion.probe, finds those that fit it",
            type(model).__name__,
        )
    return replace(settings, stages=None), "default"


def _entry(given: Any) -> Fitted:
    entry = Fitted(**given)
    # Both are refused here by name if they are no cost and no stages.
    checked = FrameFusion(cost=entry.cost, stages=entry.stages)
    return replace(entry, stages=checked.steps)
