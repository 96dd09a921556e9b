"""The beginning of a prompt, prefilled once for all that may follow it: several questions, or more of a video.

A prefix ends with its last visual token. Up to its *fork*, the first layer before which a stage goes by the question,
its layers have run for good, and their keys and values are held. Before the fork its hidden states are held, from
which every question goes on by itself. So an answer is that of asking afresh, whatever the stages go by.

Whatever a prefix holds is never written into: what is added makes a new prefix, and every cache that goes on from one
shares its tensors until it is added to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from framefusion.errors import ArgumentError, StateError
from framefusion.hf import cache as caches
from framefusion.hf import cache_layers
from framefusion.hf.decoder import Decoder, attends, window_of
from framefusion.hf.deepstack import DeepStack
from framefusion.hf.families import find, layouts_of, unwrapped
from framefusion.reduction.held import Held
from framefusion.reduction.settings import FrameFusion


@dataclass(frozen=True, eq=False)
class Prefix:
    """The beginning of a prompt of one sample, as a model and settings left it.

    Attributes:
        settings: of the reduction.
        fork: layers that have run for good.
        ids: ``(1, N)`` int64: token ids of the columns.
        positions: ``(1 or 3, N)`` int64: of each column, as the decoder gets them; three channels for M-RoPE.
        last: ``(1 or 3, 1)`` int64: of the last column, whether or not it is counted any more.
        end: the position of a text token that follows.
        cache: keys and values of the layers before the fork; copied, never written into.
        hidden: ``(1, n, D)`` before the fork, of the columns that are held; None where no layer is left.
        held: which columns these are, and what the stages so far tell.
        groups: ``(N,)`` int64 on the CPU: columns of one group see each other; None where there are none.
        deepstack: visual features that are added behind the fork; None without.
        per_layer: ``(1, n, layers, D')``: what the layers from the fork on take beside ``hidden``; None where they take
            nothing else.
    """

    settings: FrameFusion
    fork: int
    ids: Tensor
    positions: Tensor
    last: Tensor
    end: int
    cache: Any = field(repr=False)
    hidden: Tensor | None = field(repr=False)
    held: Held = field(repr=False)
    groups: Tensor | None = field(repr=False)
    deepstack: DeepStack | None = field(repr=False)
    per_layer: Tensor | None = field(default=None, repr=False)

    @property
    def length(self) -> int:
        """Columns, ``N``, whether or not they are held."""
        return self.held.length

    @property
    def nbytes(self) -> int:
        """Bytes of the keys, values, recurrent states and hidden states."""
        hidden = sum(own.nbytes for own in (self.hidden, self.per_layer) if own is not None)
        return hidden + sum(map(cache_layers.nbytes, self.cache.layers))

    def to_continue(self, behind: Tensor | None = None) -> Any:
        """A cache from which the model goes on behind this prefix while the reduction is attached.

        The next call of the model, or of ``generate()``, is to bring at least two tokens of text, and an
        ``attention_mask`` over the prefix and them.

        Args:
            behind: ``(B, q)`` bool or int: the mask of several texts, padded on the left; None for one without padding.
        """
        rows = 1 if behind is None else len(behind)
        pads = torch.zeros(rows, dtype=torch.long) if behind is None else (behind == 0).sum(1).cpu()
        return caches.behind(caches.copied(self.cache, rows), self, pads)

    def positions_behind(self, first: int, end: int, pads: Tensor) -> Tensor:
        """``(1 or 3, B, end - first)`` int64: positions of the columns from ``first`` to before ``end``.

        Args:
            first: at least :attr:`length`.
            end: past the last.
            pads: ``(B,)`` int64: columns of padding behind the prefix.
        """
        columns = torch.arange(first, end, device=self.positions.device) - self.length
        behind = (columns[None] - pads[:, None].to(columns.device)).clamp_min(0) + self.end
        return behind.expand(len(self.positions), -1, -1)


class Extension:
    """What one forward pass adds to a prefix.

    Args:
        owner: of the reduction that is attached to the model.
        prefix: None for the first part.
        first: column of the call from which on it is added.
        end: past the last.
        continues: whether the part goes on with the last video of the prefix, of which the call shows the end before
            ``first``.

    Attributes:
        result: the prefix that it has become; None before.
        part: the :class:`~framefusion.hf.prefix_part.PartPrefill` under way.
    """

    def __init__(self, owner: Any, prefix: Prefix | None, first: int, end: int, continues: bool) -> None:
        self.owner, self.prefix, self.continues = owner, prefix, continues
        self.first, self.end = first, end
        self.result: Prefix | None = None
        self.part: Any = None

    def complete(self) -> None:
        """Every layer has run."""
        self.part.finish(None)


class ForkReached(Exception):  # noqa: N818
    """The layers that a prefix needs have run."""


def media_end(model: Any, inputs: Mapping[str, Any]) -> int:
    """The column behind the last one that a video or image of a sample fills, a newline at its end included.

    Args:
        model: a supported model.
        inputs: what it is called with, of one sample.

    Raises:
        ValueError: there is no visual token.
    """
    if len(inputs["input_ids"]) != 1:
        raise _several_rows()
    (layout,) = layouts_of(model, inputs)
    ids = inputs["input_ids"][0].cpu()
    filled = torch.isin(ids, ids[layout.columns]).nonzero()
    if not len(filled):
        raise ArgumentError("input_ids has no visual token; a prefix ends with a video or an image.")
    return int(filled[-1]) + 1 + find(unwrapped(model)).closing


def _several_rows() -> ArgumentError:
    return ArgumentError("a prefix is of one sample: pass input_ids of one row, as the processor makes them.")


def takes_padding(model: Any) -> bool:
    """Whether texts of several lengths may follow a prefix of this model as one batch: not where padding would count in
    windows, or enter recurrent states."""
    layers = Decoder(model).layers
    return all(attends(layer) and window_of(layer) is None for layer in layers)


def extension_of(
    owner: Any,
    decoder: Decoder,
    inputs: Mapping[str, Any],
    first: int,
    end: int,
    prefix: Prefix | None,
    *,
    continues: bool,
) -> Extension:
    """What to hand to the hooks, checked.

    Args:
        owner: as for :class:`Extension`.
        decoder: that will run.
        inputs: of the multimodal model.
        first: as for :class:`Extension`.
        end: likewise.
        prefix: likewise.
        continues: likewise.

    Raises:
        ValueError: the columns are none of the call, or there is nothing that could go on.
    """
    ids = inputs.get("input_ids")
    if ids is None or len(ids) != 1:
        raise _several_rows()
    if not 0 <= first < end <= ids.shape[1]:
        raise ArgumentError(f"columns {first} to {end} are not in a prompt of {ids.shape[1]} tokens.")
    if continues and (prefix is None or not first):
        raise ArgumentError(
            "a video can go on only behind a prefix that ends with it, in a call that shows its last frames again."
        )
    if continues and not decoder.family.grows:
        raise ArgumentError(
            f"{decoder.family.name} changes frames when more come behind them, so a video cannot go on; "
            "begin another video, or the whole one anew."
        )
    if decoder.module.training:
        raise StateError("the model is in training mode; a prefix is for inference. Call model.eval() first.")
    return Extension(owner, prefix, first, end, continues)
