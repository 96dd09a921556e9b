"""A session in a directory: JSON beside safetensors, nothing that runs when it is read."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framefusion._version import __version__
from framefusion.asking.media import Media
from framefusion.asking.sessions.shown import Item
from framefusion.asking.sessions.state import Held
from framefusion.asking.video import Video
from framefusion.errors import FrameFusionError
from framefusion.hf.families import unwrapped
from framefusion.hf.fingerprint import fingerprint
from framefusion.hf.prefix_file import taken_apart
from framefusion.reduction.plain import to_plain
from framefusion.reduction.settings import FrameFusion

SCHEMA = 1
"""Of what is written; others are refused."""
VALUES, TENSORS = "session.json", "session.safetensors"

NUMBERS = ("duration", "source_fps", "total_frames", "announced", "damaged")


class SessionFileError(FrameFusionError, ValueError):
    """A saved session that cannot be used. The text is one sentence that names it."""


def save(
    path: str | os.PathLike[str], held: Held, model: Any, settings: FrameFusion, options: Mapping[str, Any]
) -> None:
    """Write a session into a directory, in the place of one that is there.

    Killed while it writes, the directory holds the session that it held before, or is refused by
    :func:`~framefusion.asking.sessions.restoring.restore_session`.

    Args:
        path: the directory; made if it is missing.
        held: what to save; without the frames that were shown.
        model: that it was made with.
        settings: likewise.
        options: the other arguments of the session.

    Raises:
        SessionFileError: it cannot be written, or holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = Path(path)
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {
        "schema": SCHEMA,
        "version": __version__,
        "id": uuid.uuid4().hex,
        "model": model_of(model),
        "settings": to_plain(settings),
        "options": dict(options),
        "items": [_item_apart(tensors, index, item) for index, item in enumerate(held.items)],
        "turns": held.turns,
        "counts": {
            "visual_tokens": held.visual_tokens,
            "forgotten": held.forgotten,
            "questions": held.questions,
            "adding": held.adding,
            "asking": held.asking,
            "units": held.units,
            "encoded": held.encoded,
        },
        "prefix": None,
    }
    if held.prefix is not None:
        own, values["prefix"] = taken_apart(held.prefix)
        tensors |= {f"prefix.{name}": value for name, value in own.items()}
    values["tensors"] = shapes(tensors)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        strangers = [name for name in os.listdir(folder) if name.partition(".part")[0] not in (VALUES, TENSORS)]
        if strangers:
            raise SessionFileError(f"{folder} holds {sorted(strangers)[0]}; save a session into a directory of its own")
        save_file(tensors, folder / f"{TENSORS}.part", metadata={"id": values["id"]})
        # Names of files may have bytes that are no characters, which UTF-8 cannot hold.
        (folder / f"{VALUES}.part").write_text(json.dumps(values) + "\n", encoding="utf-8")
        os.replace(folder / f"{TENSORS}.part", folder / TENSORS)
        os.replace(folder / f"{VALUES}.part", folder / VALUES)
    except (OSError, SafetensorError) as error:
        for name in (TENSORS, VALUES):
            with suppress(OSError):
                (folder / f"{name}.part").unlink(missing_ok=True)
        raise SessionFileError(f"cannot write {folder}: {getattr(error, 'strerror', None) or error}") from error


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Type and shape of each tensor, as text."""
    return {name: f"{value.dtype} {tuple(value.shape)}" for name, value in tensors.items()}


def model_of(model: Any) -> dict[str, str]:
    """What tells one model from another."""
    bare = unwrapped(model)
    return {"class": type(bare).__name__, "fingerprint": fingerprint(bare), "dtype": str(bare.dtype)}


def _item_apart(tensors: dict[str, Tensor], index: int, item: Item) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(item, name) for name in ("name", "frames", "first", "last")}
    for name in ("stand_in", "pending"):
        values[name] = _medium_apart(tensors, f"item.{index}.{name}", getattr(item, name))
    return values


def _medium_apart(tensors: dict[str, Tensor], name: str, medium: Media | None) -> dict[str, Any] | None:
    if medium is None:
        return None
    if not isinstance(medium, Video):
        tensors[name] = torch.from_numpy(np.array(medium.convert("RGB")))
        return {}
    tensors[name] = torch.from_numpy(np.ascontiguousarray(medium.frames))
    tensors[f"{name}.times"] = torch.from_numpy(np.array(medium.timestamps))
    tensors[f"{name}.indices"] = torch.from_numpy(np.array(medium.indices))
    if medium.read_size is not None:
        tensors[f"{name}.read_size"] = torch.tensor(medium.read_size)
    return {"path": str(medium.path), **{number: getattr(medium, number) for number in NUMBERS}}
