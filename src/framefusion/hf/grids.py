"""Grids of videos and images that ``generate()`` encodes ahead of the prefill, where nothing else tells them.

``generate()`` drops the grids once the encoder ran. While installed, each video's or image's features carry their own
as an attribute, which goes with them through batches, beams and returned sequences.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from framefusion.hf import methods
from framefusion.hf.families import find
from framefusion.hf.families.base import GRID


def install(model: Any) -> Iterator[Callable[[], None]]:
    """Let the features of a multimodal model carry their grids from now on, where its family asks for that; gives the
    functions that undo it."""
    for kind, argument in find(model).carried.items():
        yield methods.replace(model, f"get_{kind}_features", partial(_carrying, argument))


def _carrying(argument: str, encode: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(encode)

    def features(*args: Any, **kwargs: Any) -> Any:
        output = encode(*args, **kwargs)
        grids = signature.bind_partial(*args, **kwargs).arguments.get(argument)
        items = getattr(output, "pooler_output", None)
        if grids is not None and items is not None:
            for item, grid in zip(items, grids.tolist(), strict=True):
                setattr(item, GRID, tuple(grid))
        return output

    return features
