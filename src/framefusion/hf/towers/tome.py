"""Token merging in a vision tower (ToMe, arXiv 2210.09461): fewer rows from block to block, all again behind the last.

Rows merge within *chunks*, the frames of a video: also across windows, where blocks attend within such. They are
compared by their hidden states, not by keys as in the paper (``docs/how-it-works/tower.md``). A row that stands for
several is their mean, weighs as many keys (``log size`` is added to its scores), and keeps the rotary position and the
window of the row that the others merged into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

from framefusion.errors import StateError
from framefusion.hf.towers import running
from framefusion.reduction.tome import merged_places


class Run(running.Run):
    """One call of a tower whose rows merge.

    Args:
        counts: per chunk, in the order of the rows, its rows in each block.
        fixed: rows at the beginning of each chunk that never merge.
        implementation: name of the tower's own attention function.
    """

    def __init__(self, counts: Sequence[Sequence[int]], fixed: int, implementation: str) -> None:
        super().__init__(implementation)
        if "flash" in implementation:
            raise StateError(
                "tower='tome' weighs keys by a mask, which flash attention does not take; load the model with "
                "attn_implementation='sdpa'."
            )
        self.counts, self.fixed = counts, fixed
        self._lengths = [own[0] for own in counts]
        total = sum(self._lengths)
        # (N,): where each row is now, by the number of rows that there are then.
        self._places = {total: torch.arange(total)}
        self._size = torch.ones(total)
        # (R,) ascending: the row that each one left was, whose position and window it has.
        self._kept = torch.arange(total)
        self._merged = False
        self._tables: tuple[Tensor, ...] | None = None
        self._bounds: list[int] = []
        self._shape: tuple[int, ...] = ()

    def enter(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a block, for the rows that are left."""
        kwargs = dict(kwargs)
        if index == 0 and args:
            args = (self._start(args[0]), *args[1:])
        elif index == 0:
            kwargs["hidden_states"] = self._start(kwargs["hidden_states"])
        mask = args[1] if len(args) > 1 else kwargs.get("attention_mask")
        if isinstance(mask, Tensor):
            _check_shown(mask)
            args = (args[0], None, *args[2:]) if len(args) > 1 else args
            kwargs |= {"attention_mask": None} if "attention_mask" in kwargs else {}
        bounds = kwargs.get("cu_seqlens")
        self._bounds = _starts(self._lengths) if bounds is None else self._now(bounds)
        if bounds is not None:
            # One call of the attention function for all: it cuts the rows itself.
            kwargs["cu_seqlens"] = bounds.new_tensor([0, len(self._size)])
        if kwargs.get("position_embeddings") is not None:
            self._tables = tuple(kwargs["position_embeddings"]) if self._tables is None else self._tables
            kwargs["position_embeddings"] = self._tables
        return args, kwargs

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, function: Callable[..., Any], **kwargs: Any
    ) -> Tensor:
        """Attention frame by frame, or window by window, those with as many rows at once."""
        bias = self._size.log().to(query.dtype) if self._merged else None
        output = None
        for length, firsts in _by(pairwise(self._bounds), lambda pair: pair[1] - pair[0], lambda pair: pair[0]):
            # (C, n): the rows of the chunks of this length.
            rows = _rows(firsts, length, query.device)
            # (1, heads, R, d) → (C, heads, n, d)
            own = [states[0][:, rows].transpose(0, 1) for states in (query, key, value)]
            mask = None if bias is None else bias[rows][:, None, None].expand(-1, 1, length, -1)
            found = function(module, *own, mask, **kwargs)[0]
            output = found.new_empty(1, query.shape[2], *found.shape[2:]) if output is None else output
            output[0, rows] = found
        assert output is not None
        return output

    def leave(self, index: int, hidden: Tensor) -> Tensor:
        """Fewer rows, or behind the last block all of them."""
        if index + 1 == len(self.counts[0]):
            return self.spread(hidden)
        rows = hidden.flatten(0, -2)
        matched = self._matched(index, rows)
        if matched is None:
            return hidden
        place, kept, lengths = matched
        total = len(kept)
        size = torch.zeros(total, device=rows.device).index_add_(0, place, self._size)
        weighted = rows.float() * self._size[:, None]
        mean = weighted.new_zeros(total, rows.shape[1]).index_add_(0, place, weighted) / size[:, None]
        if self._tables is not None:
            self._tables = tuple(table[kept.to(table.device)] for table in self._tables)
        self._places[total] = place[self._places[len(rows)].to(rows.device)]
        self._kept = self._kept[kept]
        self._size, self._lengths, self._merged = size, lengths, True
        mean = mean.to(hidden.dtype)
        return mean if hidden.ndim == 2 else mean[None]

    def _matched(self, index: int, hidden: Tensor) -> tuple[Tensor, Tensor, list[int]] | None:
        """What merges behind a block, of its rows ``(R, D)``: as of :meth:`_merge`, and the rows of each chunk that are
        left; None for nothing."""
        lengths = [own[index + 1] for own in self.counts]
        return None if lengths == self._lengths else (*self._merge(hidden, lengths), lengths)

    def _merge(self, hidden: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """``(R,)``: the new place of each row ``(R, D)``; and the row that each place was."""
        device = hidden.device
        before, behind = _starts(self._lengths), _starts(lengths)
        place = torch.empty(before[-1], dtype=torch.int64, device=device)
        kept = torch.empty(behind[-1], dtype=torch.int64, device=device)
        sizes = list(zip(self._lengths, lengths, strict=True))
        for (length, left), chunks in _by(range(len(sizes)), lambda chunk: sizes[chunk], lambda chunk: chunk):
            rows = _rows([before[chunk] for chunk in chunks], length, device)
            new = _rows([behind[chunk] for chunk in chunks], left, device)
            places, stay = merged_places(hidden[rows], length - left, self.fixed)
            place[rows], kept[new] = new.gather(1, places), rows.gather(1, stay)
        return place, kept

    def before_end(self, hidden: Tensor) -> Tensor:
        """All rows for what maps each unit for itself."""
        return self.spread(hidden)

    def spread(self, hidden: Tensor) -> Tensor:
        """All rows of those that are left; copies where rows merged."""
        rows = hidden.flatten(0, -2)
        place = self._places.get(len(rows))
        if place is None:
            return hidden
        spread = rows[place.to(rows.device)]
        return spread if hidden.ndim == 2 and len(self._shape) == 1 else spread.view(*self._shape, -1)

    def _start(self, hidden: Tensor) -> Tensor:
        """``(N, D)`` → ``(N, D)``, or ``(B, P, D)`` → ``(1, N, D)``."""
        self._shape = tuple(hidden.shape[:-1])
        rows = hidden.flatten(0, -2)
        if len(rows) != len(self._size):
            raise StateError(
                f"the vision tower runs over {len(rows)} rows, but its pixels say {len(self._size)}; this release of "
                "transformers lays them out in another way. Attach without tower."
            )
        self._size, self._kept = self._size.to(hidden.device), self._kept.to(hidden.device)
        return rows if hidden.ndim == 2 else rows[None]

    def _now(self, bounds: Tensor) -> list[int]:
        """Where frames or windows begin now, of the rows where they began; without those that are empty now."""
        now = torch.searchsorted(self._kept, bounds.to(self._kept))
        return now.unique_consecutive().tolist()


T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


def _by(items: Iterable[T], key: Callable[[T], K], value: Callable[[T], V]) -> Iterable[tuple[K, list[V]]]:
    """Values of items with the same key, so that what has one size is computed at once."""
    found: dict[K, list[V]] = {}
    for item in items:
        found.setdefault(key(item), []).append(value(item))
    return found.items()


def _starts(lengths: Iterable[int]) -> list[int]:
    """Where chunks of these lengths begin, and the end."""
    return [0, *accumulate(lengths)]


def _rows(firsts: Sequence[int], length: int, device: torch.device) -> Tensor:
    """``(C, n)``: the rows of ``C`` chunks of one length that begin at these."""
    return torch.tensor(firsts, device=device)[:, None] + torch.arange(length, device=device)


def _check_shown(mask: Tensor) -> None:
    if bool((~mask if mask.dtype == torch.bool else mask < 0).any()):
        raise StateError(
            "the vision tower pads its frames and hides the padding, which tower='tome' cannot follow; show frames of "
            "one size, or attach without tower."
        )
