"""What a kind of vision tower has to tell, so that it can run over part of its rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from framefusion.reduction.changes import latest_version
from framefusion.reduction.layout import Kind


class Clip(NamedTuple):
    """The frames of a video, or the views of an image, one after the other in a call of the tower."""

    kind: Kind
    units: Tensor
    """``(T, U, n)``: the pixel values of each unit; of an image ``T`` is 1."""
    channels: Tensor
    """``(n,)`` int64: the channel of each pixel value."""
    parts: Tensor
    """``(n,)`` int64: which of the patches of the unit, in which of its frames, each pixel value belongs to."""


class Rows(NamedTuple):
    """Which rows of a tower's input run through its blocks, of ``N``."""

    kept: Tensor
    """``(R,)`` int64, ascending."""
    source: Tensor
    """``(N,)`` int64: for each row the one of the ``R`` that is its latest encoded version."""
    unit: int
    """Rows of a unit, which stay together."""


class Tower(ABC):
    """One kind of vision tower: a stateless object, named by the families that have it."""

    features: Kind = "video"
    """The ``get_<kind>_features()`` of the model that encodes videos."""
    by_layout: bool = False
    """Whether the frames of videos go in as images, so that only the prompt tells which they are."""

    @abstractmethod
    def module(self, model: Any) -> Any:
        """The tower of a multimodal model (without the head)."""

    @abstractmethod
    def blocks(self, tower: Any) -> Sequence[Any]:
        """Its blocks, in order."""

    @abstractmethod
    def attention(self, block: Any) -> Any:
        """The attention module of a block, which calls the attention function that its ``config`` names."""

    @abstractmethod
    def clips(self, arguments: Mapping[str, Any], counts: Sequence[tuple[Kind, int]] | None, tower: Any) -> list[Clip]:
        """What a call of the tower encodes, in the order of its rows.

        Args:
            arguments: of ``get_<kind>_features()``, by name.
            counts: the frames of each video and the views of each image, where the prompt tells.
            tower: the tower.
        """

    def chunks(self, clips: Sequence[Clip], tower: Any) -> list[tuple[Kind, int]]:
        """What it is of and the number of its rows, for each frame or view.

        Args:
            clips: as :meth:`clips` gives them.
            tower: the tower.
        """
        unit, extra = self.rows_of_unit(tower), self.extra(tower)
        return [(clip.kind, extra + clip.units.shape[1] * unit) for clip in clips for _ in clip.units]

    def reason(self, tower: Any) -> str | None:
        """Why a tower cannot run over part of its rows; None if it can."""
        return None

    def ends(self, tower: Any) -> Sequence[Any]:
        """The modules behind the blocks that map each unit for itself, and behind which all units are needed."""
        return ()

    def rows_of_unit(self, tower: Any) -> int:
        """Rows of the blocks' input that one unit is."""
        return 1

    def extra(self, tower: Any) -> int:
        """Rows before the units of each frame that belong to all of it: a class token, registers."""
        return 0

    def order(self, tower: Any, arguments: Mapping[str, Any]) -> Tensor | None:
        """``(U,)`` int64: the units in the order in which the blocks have them; None for the order of the clips."""
        return None


def rows_of(masks: Sequence[Tensor], unit: int, extra: int = 0, order: Tensor | None = None) -> Rows:
    """The rows that run through the blocks, and the latest version of each.

    Args:
        masks: per clip ``(T, U)`` bool: the units that are encoded.
        unit: rows of a unit.
        extra: rows before the units of each frame that belong to all of it, such as a class token: encoded where any
            unit is. With ``unit=1`` only.
        order: ``(M,)`` int64: the ``M`` units of all clips in the order in which the blocks have them.
    """
    encoded, origins, first = [], [], 0
    for mask in masks:
        # (T, extra + U)
        own = torch.cat([mask.any(1, keepdim=True).expand(-1, extra), mask], 1)
        places = own.shape[1]
        # The unit at (t, u) was last encoded at (latest[t, u], u).
        latest = latest_version(own) * places + torch.arange(places, device=own.device)
        encoded.append(own.flatten())
        origins.append(latest.flatten() + first)
        first += own.numel()
    flat, origin = torch.cat(encoded), torch.cat(origins)
    if order is not None:
        order = order.to(flat.device)
        flat, origin = flat[order], torch.argsort(order)[origin[order]]
    number = flat.cumsum(0) - 1
    inside = torch.arange(unit, device=flat.device)
    kept = (flat.nonzero() * unit + inside).flatten()
    source = (number[origin][:, None] * unit + inside).flatten()
    return Rows(kept, source, unit)


def modules_of(owner: Any, path: str) -> Any:
    """The submodule at a dotted path, None where there is none."""
    for name in path.split("."):
        owner = getattr(owner, name, None)
    return owner if isinstance(owner, nn.Module) else None
