"""DeepStack (arXiv 2406.04334): visual features added to the hidden states after the first layers (Qwen3-VL).

The model adds them by a mask of the full length. Once a prompt may be shortened in between, the features are taken
away from the model and added here, to the tokens that are still there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class DeepStack:
    """The features of one prefill.

    Args:
        visual: ``(B, N)`` bool, True for visual tokens.
        features: per layer ``(M, D)``, a row for each True of ``visual``, row by row.
    """

    def __init__(self, visual: Tensor, features: Sequence[Tensor]) -> None:
        self.features = list(features)
        flat = visual.cpu().flatten()
        self.row = torch.where(flat, flat.cumsum(0) - 1, -1).view(visual.shape)

    def between(self, first: int, end: int) -> DeepStack:
        """The features of the columns from ``first`` to before ``end`` of one sample."""
        return self.at(torch.arange(first, end))

    def at(self, columns: Tensor) -> DeepStack:
        """The features of some columns ``(n,)`` of one sample."""
        rows = self.row[:, columns]
        own = rows[rows >= 0]
        return DeepStack(rows >= 0, [features[own.to(features.device)] for features in self.features])

    @classmethod
    def joined(cls, *parts: tuple[DeepStack | None, int]) -> DeepStack | None:
        """The features of one sample's parts, one behind the other.

        Args:
            parts: the features of each, None without any, and its columns.
        """
        known = [part for part, _ in parts if part is not None]
        if not known:
            return None
        visual = [
            torch.zeros(1, columns, dtype=torch.bool) if part is None else part.row[:, :columns] >= 0
            for part, columns in parts
        ]
        features = [torch.cat(layer) for layer in zip(*(part.features for part in known), strict=True)]
        return cls(torch.cat(visual, dim=1), features)

    def repeated(self, rows: int, columns: int) -> DeepStack:
        """The same for ``rows`` samples that begin alike, of ``columns`` columns each."""
        visual = torch.zeros(rows, columns, dtype=torch.bool)
        visual[:, : self.row.shape[1]] = self.row >= 0
        return DeepStack(visual, [features.repeat(rows, 1) for features in self.features])

    def add(self, layer: int, hidden: Tensor, columns: Tensor, merged_into: Tensor) -> Tensor:
        """``hidden`` ``(B, n, D)`` after ``layer``, with its features: a merged token gets the mean of its members'.

        Args:
            layer: the layer that has run; those without features change nothing.
            hidden: ``(B, n, D)``.
            columns: ``(B, n)`` int64, the column of the prompt at each slot, -1 padding.
            merged_into: ``(B, N)`` int64, the column that holds each token, -1 if none does.
        """
        if layer >= len(self.features):
            return hidden
        features = self.features[layer].to(hidden.device)
        batch, slots, width = hidden.shape
        length = self.row.shape[1]
        # (B, N + 1): the slot that holds each column; the last one stands for no column at all.
        slot_of = torch.full((batch, length + 1), -1)
        slot_of.scatter_(1, torch.where(columns >= 0, columns, length), torch.arange(slots).expand(batch, -1))
        slot_of[:, length] = -1
        # (B, N): the slot that holds each token, its own or that of the one it merged into.
        target = slot_of.gather(1, torch.where(merged_into >= 0, merged_into, length))
        # (K,): the visual tokens that some slot holds, and that slot among all B * n.
        sample, column = ((target >= 0) & (self.row >= 0)).nonzero(as_tuple=True)
        into = (sample * slots + target[sample, column]).to(hidden.device)
        total = torch.zeros(batch * slots, width, dtype=torch.float32, device=hidden.device)
        total.index_add_(0, into, features[self.row[sample, column].to(hidden.device)].float())
        members = torch.bincount(into, minlength=batch * slots).clamp_min(1)
        return hidden + (total / members[:, None]).to(hidden.dtype).view_as(hidden)
