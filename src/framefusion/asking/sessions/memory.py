"""What a session forgets so that what it holds stays within a limit."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from framefusion.asking.prompts import AskError
from framefusion.checks import is_whole
from framefusion.hf import Run
from framefusion.hf.prefix import Prefix
from framefusion.reduction.held import Held
from framefusion.reduction.selectors.candidates import Candidates
from framefusion.reduction.selectors.dpp import DPP

TOGETHER = 512
"""Tokens of a group that is thinned out as one; the time of a greedy grows with the square of it."""
_UNITS = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "kb": 10**3, "mb": 10**6, "gb": 10**9, "b": 1}


def limit_of(given: int | str) -> tuple[int, bool]:
    """A limit, and whether it is in bytes.

    Args:
        given: visual tokens, or bytes as a text: ``"2GiB"``, ``"500 MB"``.

    Raises:
        AskError: it is neither.
    """
    if isinstance(given, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", given.lower())
        if found and found[2] in _UNITS and float(found[1]) > 0:
            return int(float(found[1]) * _UNITS[found[2]]), True
    elif is_whole(given) and given > 0:
        return int(given), False
    raise AskError(f"memory must be a number of visual tokens, or bytes such as '2GiB', got {given!r}")


def within(run: Run, prefix: Prefix, limit: tuple[int, bool], begin: int) -> tuple[Prefix, int]:
    """A prefix within a limit: what is older than its latest part loses the tokens that add least to the others.

    Tokens that a stage between the layers has dropped already go first.

    Args:
        run: the reduction that is attached.
        prefix: what is held.
        limit: of :func:`limit_of`; of the visual tokens that any layer holds.
        begin: first column of the latest part, which stays.

    Returns:
        the prefix, and how many of the visual tokens that it ends with it has lost.

    Raises:
        AskError: the latest part alone takes more.
    """
    held, anywhere = prefix.held, run.held_anywhere(prefix)
    visual = anywhere[torch.isin(anywhere, held.layout.columns)]
    most, in_bytes = limit
    if in_bytes:
        each = prefix.nbytes / max(len(anywhere), 1)
        most = int(most // each) - (len(anywhere) - len(visual)) if each else len(visual)
    if len(visual) <= most:
        return prefix, 0
    old = visual[visual < begin]
    recent = len(visual) - len(old)
    if recent > most:
        given = f"{limit[0] / 2**20:.1f} MiB" if in_bytes else f"{limit[0]} visual tokens"
        raise AskError(
            f"memory={given} is less than what was just added takes ({recent} visual tokens; there is room for "
            f"{max(most, 0)}); allow more, or add fewer frames at once with a smaller chunk"
        )
    ending = old[torch.isin(old, held.columns)]
    passing = old[~torch.isin(old, held.columns)]
    if len(ending) <= most - recent:
        # Of those that a stage has dropped, the latest stay.
        gone = passing[: len(visual) - most]
        return run.forget(prefix, gone), 0
    lost = ending[~_kept(run, prefix, ending, most - recent)]
    return run.forget(prefix, torch.cat([passing, lost, _labels(held, lost)]).unique()), len(lost)


def _kept(run: Run, prefix: Prefix, columns: Tensor, count: int) -> Tensor:
    """``(n,)`` bool: which of some visual tokens stay: those that the selection keeps, wherever they add most."""
    stays = torch.zeros(len(columns), dtype=torch.bool)
    if not count:
        return stays
    layout = prefix.held.layout
    token = torch.searchsorted(layout.columns, columns)
    item, frame, patch = layout.item[token], layout.frame[token], layout.patch[token]
    features = run.features(prefix, columns)
    grid = layout.grids[int(item[0])]
    candidates = Candidates(features, None, _neighbours(item, frame), frame, patch, grid, {}, 0, None, 0)
    rule = prefix.settings.selector
    rule = rule if isinstance(rule, DPP) else DPP()
    stays[rule.greedy(candidates, count).cpu()] = True
    return stays


def _neighbours(item: Tensor, frame: Tensor) -> Tensor:
    """``(n,)`` int64: tokens that are compared with each other: whole frames of one item, as many as make
    :data:`TOGETHER` tokens. What a camera sees again in the next part is a copy, whatever segments the part had."""
    groups = torch.zeros(len(item), dtype=torch.long)
    number, begin = 0, 0
    edges = torch.cat([torch.tensor([0]), ((item.diff() != 0) | (frame.diff() != 0)).nonzero().flatten() + 1])
    for at in edges.tolist()[1:]:
        if at - begin >= TOGETHER or item[at] != item[begin]:
            number, begin = number + 1, at
        groups[at:] = number
    return groups


def _labels(held: Held, gone: Tensor) -> Tensor:
    """Columns of the words between frames of which nothing is left: those before the next token that is there."""
    layout = held.layout
    token = torch.searchsorted(layout.columns, held.columns[held.visual])
    visual = held.columns[held.visual]
    left = ~torch.isin(visual, gone)
    frames = torch.stack([layout.item[token], layout.frame[token]], 1)
    alive = {tuple(pair) for pair in frames[left].tolist()}
    empty = torch.tensor([tuple(pair) not in alive for pair in frames.tolist()], dtype=torch.bool)
    text = held.columns[~held.visual]
    # The visual token that comes next, and whether one of the same video comes before: what is ahead of a video stays.
    following = torch.searchsorted(visual, text)
    inside = (following > 0) & (following < len(visual))
    next_one = following.clamp_max(max(len(visual) - 1, 0))
    same = layout.item[token][next_one] == layout.item[token][(following - 1).clamp_min(0)]
    return text[inside & same & empty[next_one]]
