"""Lower resolution: each frame pooled into as many blocks as it may keep. The control that looks at nothing."""

from __future__ import annotations

import numpy as np
import torch

from framefusion.reduction.budgets import uniform
from framefusion.reduction.selectors.candidates import Candidates, Selected
from framefusion.reduction.selectors.groups import by_frame


def select(candidates: Candidates) -> Selected:
    """Average-pool each frame over rectangles of patches, exactly as many as the budget says.

    A segment's budget goes to its frames in proportion to their tokens. A frame is halved along its longer side, and
    each part again, until every part stands for one kept token: the one nearest to its middle, with the mean of the
    part. Where the budget allows, all rectangles are equal; otherwise a cut lies where the parts come nearest to
    equal shares. Works for frames with missing tokens. A frame without a budget (fewer tokens than frames) leaves
    no trace.
    """
    width = candidates.grid[2]
    target = torch.full_like(candidates.segments, -1)
    known: dict[tuple[bytes, int], list[np.ndarray]] = {}
    for segment, count in candidates.budgets.items():
        groups = by_frame(candidates, segment)
        for group, own in zip(groups, uniform([len(group) for group in groups], count), strict=True):
            patches = candidates.patches[group].numpy()
            cells = np.stack([patches // width, patches % width], axis=1)
            key = (cells.tobytes(), own)
            if own and key not in known:
                known[key] = blocks(cells, own)
            for block in known[key] if own else []:
                target[group[block]] = group[block[_middle(cells[block])]]
    indices = (target == torch.arange(len(target))).nonzero().squeeze(-1)
    return Selected(indices, target)


def blocks(cells: np.ndarray, count: int) -> list[np.ndarray]:
    """Split cells into rectangles of about equal size.

    Args:
        cells: ``(n, 2)`` int: row and column of each cell, all different.
        count: parts, from 1 to n.

    Returns:
        ``count`` int arrays, none empty: the positions in ``cells`` of each part.
    """
    return _split(cells, np.arange(len(cells)), count)


def _split(cells: np.ndarray, members: np.ndarray, count: int) -> list[np.ndarray]:
    if count == 1:
        return [members]
    own = cells[members]
    axis = int(np.argmax(own.max(0) - own.min(0)))
    lines, sizes = np.unique(own[:, axis], return_counts=True)
    before = np.cumsum(sizes)[:-1]
    cut = int(np.argmin(np.abs(before / len(members) - (count // 2) / count)))
    first = int(before[cut])
    share = int(first * count / len(members) + 0.5)
    share = min(max(share, 1, count - (len(members) - first)), first, count - 1)
    inside = own[:, axis] <= lines[cut]
    return _split(cells, members[inside], share) + _split(cells, members[~inside], count - share)


def _middle(cells: np.ndarray) -> int:
    """The cell nearest to the mean of all."""
    return int(np.argmin(((cells - cells.mean(0)) ** 2).sum(1)))
