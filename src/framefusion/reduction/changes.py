"""Which units of a video changed since they were last encoded. Pure tensors, no model.

A unit is what a vision tower takes in at one place of a frame: a patch, or the patches that merge into one token. It is
compared with its *last encoded version*, not with the frame before, so that slow drift cannot add up unseen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from framefusion.checks import check_number
from framefusion.errors import ArgumentError


@dataclass(frozen=True)
class Changed:
    """The vision tower encodes only the units of a video whose pixels changed, but in its last blocks everything.

    Attributes:
        levels: a unit changed if in one of its patches, in one of its frames, the root mean square difference of the
            pixels from its last encoded version, over all channels, is more than this many grey levels, of 255.
            Default 8.
        whole: a frame of which a larger share of units changed is encoded whole, in (0, 1]. Default 0.5.
        full_blocks: share of the tower's blocks, the last ones, that run over all units, in [0, 1]; rounded up, and at
            least two. There what did not change meets what did. 0 for none. Default 0.25.
        std: what the processor divides each channel by, of pixels in [0, 1]: its ``image_std``. Default None: read
            from the processor's files beside the model's checkpoint.
    """

    levels: float = 8.0
    whole: float = 0.5
    full_blocks: float = 0.25
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        check_number("Changed.levels", self.levels, 0, 255)
        check_number("Changed.whole", self.whole, 0, 1)
        check_number("Changed.full_blocks", self.full_blocks, 0, 1)
        if self.whole == 0:
            raise ArgumentError("Changed.whole must be more than 0; at 0 every frame with a change is encoded whole.")
        if self.std is None:
            return
        if isinstance(self.std, str) or not isinstance(self.std, Sequence) or not self.std:
            raise ArgumentError(f"Changed.std must be a sequence of one number per channel, got {self.std!r}.")
        for value in self.std:
            check_number("Changed.std", value, 0, 255)
            if value == 0:
                raise ArgumentError("Changed.std must be more than 0 for every channel.")
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))

    def full(self, blocks: int) -> int:
        """How many of a tower's blocks, the last ones, run over all units."""
        return min(blocks, max(2, math.ceil(self.full_blocks * blocks))) if self.full_blocks > 0 else 0


def changed_units(units: Tensor, parts: Tensor, scale: Tensor, levels: float, whole: float = 0.5) -> Tensor:
    """Which units of a video are encoded.

    The first frame is encoded whole. A unit of a later one is if the root mean square difference of one of its parts
    from its last encoded version is more than ``levels``, and all of a frame are if more than the share ``whole`` of
    them is.

    Args:
        units: ``(T, U, n)``, any float dtype: ``n`` pixel values of each of ``U`` units in ``T`` frames.
        parts: ``(n,)`` int64: the part of its unit that each pixel value belongs to, from 0; none is empty.
        scale: ``(n,)`` or ``(1,)`` float: grey levels per step of each pixel value.
        levels: threshold in grey levels.
        whole: share of a frame's units, in (0, 1].

    Returns:
        ``(T, U)`` bool, on the device of ``units``.
    """
    mask = torch.ones(units.shape[:2], dtype=torch.bool, device=units.device)
    scale, parts = scale.to(units.device, torch.float32), parts.to(units.device)
    if not len(units):
        return mask
    sizes = parts.bincount()
    encoded = units[0].float()
    for t in range(1, len(units)):
        own = units[t].float()
        squares = ((own - encoded) * scale).square()
        # (U, P): of each part of each unit.
        means = squares.new_zeros(len(own), len(sizes)).index_add_(1, parts, squares) / sizes
        moved = (means.sqrt() > levels).any(-1)
        moved |= moved.float().mean() > whole
        mask[t] = moved
        encoded = torch.where(moved[:, None], own, encoded)
    return mask


def latest_version(mask: Tensor) -> Tensor:
    """The frame in which each unit was last encoded, itself included.

    Args:
        mask: ``(T, U)`` bool from :func:`changed_units`, whose first row is all True.

    Returns:
        ``(T, U)`` int64.
    """
    frames = torch.arange(len(mask), device=mask.device)[:, None]
    return torch.where(mask, frames, 0).cummax(0).values
