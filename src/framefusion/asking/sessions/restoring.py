"""A session from the directory that it was saved into."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from framefusion.asking.fitting import Sized
from framefusion.asking.sessions.saving import NUMBERS, SCHEMA, TENSORS, VALUES, SessionFileError, model_of, shapes
from framefusion.asking.sessions.session import Session
from framefusion.asking.sessions.shown import Item
from framefusion.asking.sessions.state import Held
from framefusion.asking.sessions.turns import turn
from framefusion.asking.video import Video
from framefusion.checks import is_number, is_whole
from framefusion.errors import ArgumentError
from framefusion.reduction.plain import from_plain


def restore_session(path: str | os.PathLike[str], model: Any, processor: Any) -> Session:
    """The session that was saved, for the same model.

    Args:
        path: the directory.
        model: with the weights that it was saved with, which the first values of every tensor tell.
        processor: its processor.

    Raises:
        SessionFileError: there is none, it is damaged, or was made with another model or version of the format.
    """
    folder = Path(path)
    try:
        values = json.loads((folder / VALUES).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SessionFileError(f"{folder} holds no session ({VALUES} is missing)") from error
    except OSError as error:
        raise SessionFileError(f"cannot read {folder / VALUES}: {error.strerror}") from error
    except ValueError as error:
        raise SessionFileError(f"{folder / VALUES} is damaged ({error})") from error
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise SessionFileError(f"{folder} holds no session of schema {SCHEMA}")
    tensors = _tensors(folder, values.get("id"))
    # Older files do not say.
    if values.get("tensors", shapes(tensors)) != shapes(tensors):
        raise SessionFileError(f"{folder / TENSORS} is damaged (its tensors are not those that {VALUES} lists)")
    own = model_of(model)
    try:
        if values["model"] != own:
            was = values["model"]
            raise SessionFileError(
                f"{folder} was saved with {was['class']} {was['fingerprint']} in {was['dtype']}, but this is "
                f"{own['class']} {own['fingerprint']} in {own['dtype']}"
            )
        made = Session(model, processor, from_plain(values["settings"]), **values["options"])
        made._held = _held_of(made, values, tensors)
    except SessionFileError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SessionFileError(f"{folder} is damaged ({type(error).__name__}: {error})") from error
    return made


def _tensors(folder: Path, wanted: Any) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / TENSORS, framework="pt") as file:
            if (file.metadata() or {}).get("id") != wanted:
                raise SessionFileError(f"{folder} was not saved to its end; save the session again")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise SessionFileError(f"{folder} holds no session ({TENSORS} is missing)") from error
    except (OSError, SafetensorError) as error:
        raise SessionFileError(f"{folder / TENSORS} is damaged ({error})") from error


def _check_numbers(values: Mapping[str, Any]) -> None:
    """Refuse what would be no number only when it is counted on.

    Raises:
        LookupError, TypeError, ValueError: something is missing or no such number.
    """
    videos = [item[name] for item in values["items"] for name in ("stand_in", "pending") if item[name]]
    sets = [(item, {"frames"}, {"first", "last"}) for item in values["items"]]
    sets += [(video, {"total_frames"}, set(NUMBERS) - {"total_frames"}) for video in videos]
    sets.append((values["counts"], set(values["counts"]) - {"adding", "asking"}, {"adding", "asking"}))
    if values["prefix"] is not None:
        sets.append((values["prefix"], {"fork", "end", "length"}, set()))
        sets += [(layer, set(layer) & {"length", "slots", "seen"}, set()) for layer in values["prefix"]["layers"]]
    for owner, whole, real in sets:
        for name in (*whole, *real):
            value = owner[name]
            if not (is_whole(value) and value >= 0 if name in whole else is_number(value) and math.isfinite(value)):
                raise ArgumentError(f"{name} is {value!r}")


def _held_of(session: Session, values: Mapping[str, Any], tensors: dict[str, Tensor]) -> Held:
    _check_numbers(values)
    prefix = None
    if values["prefix"] is not None:
        own = {name.removeprefix("prefix."): value for name, value in tensors.items() if name.startswith("prefix.")}
        with turn(session.model, session.settings) as run:
            prefix = run.put_together(own, values["prefix"])
    return Held(
        prefix,
        tuple(_sized(session, _item_of(tensors, index, item)) for index, item in enumerate(values["items"])),
        tuple((asked, said) for asked, said in values["turns"]),
        **values["counts"],
    )


def _item_of(tensors: dict[str, Tensor], index: int, values: Mapping[str, Any]) -> Item:
    given = dict(values)
    for name in ("stand_in", "pending"):
        given[name] = _medium_of(tensors, f"item.{index}.{name}", given[name])
    return Item(**given)


def _sized(session: Session, item: Item) -> Item:
    """An item with the frames of older files at the size that the processor makes of them, as those that are added."""
    if not isinstance(item.stand_in, Video) or item.stand_in.read_size is not None:
        return item
    sized = Sized(session._adding.fitting)
    stand_in = sized.of(item.stand_in)
    return replace(item, stand_in=stand_in, pending=None if item.pending is None else sized.of(item.pending))


def _medium_of(tensors: dict[str, Tensor], name: str, values: Mapping[str, Any] | None) -> Any:
    if values is None:
        return None
    pixels = tensors[name].numpy()
    if not values:
        return Image.fromarray(pixels)
    times, indices = tensors[f"{name}.times"].numpy(), tensors[f"{name}.indices"].numpy()
    if len(times) != len(pixels) or pixels.dtype != np.uint8:
        raise ArgumentError(f"{name} has {len(pixels)} frames and {len(times)} times")
    given, size = dict(values), tensors.get(f"{name}.read_size")
    if size is not None:
        height, width = size.tolist()
        given["read_size"] = height, width
    return Video(pixels, times, indices, path=Path(given.pop("path")), **given)
