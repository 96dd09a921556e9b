"""What a session forgets so that what it holds stays within a limit."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from framefusion.asking.prompts import AskError
from framefusion.checks import is_whole
from framefusion.hf import Run
from framefusion.hf.prefix import Prefix
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
    takes = run.bytes_by_column(prefix) if in_bytes else torch.zeros(prefix.length, dtype=torch.long)
    if not in_bytes:
        takes[visual] = 1
    over = (prefix.nbytes if in_bytes else len(visual)) - most
    if over <= 0:
        return prefix, 0
    old = visual[visual < begin]
    ending = old[torch.isin(old, held.columns)]
    passing = old[~torch.isin(old, held.columns)]
    free = int(takes[old].sum()) + int(takes[_labels(prefix, ending)].sum())
    if free < over:
        raise _too_little(limit, takes[visual[visual >= begin]], over - free)
    # Of those that a stage has dropped, the latest stay.
    freed = takes[passing].cumsum(0)
    if len(freed) and int(freed[-1]) >= over:
        return run.forget(prefix, passing[: int((freed < over).sum()) + 1]), 0
    over -= int(freed[-1]) if len(freed) else 0
    # In layers with windows older tokens take less, or nothing: as many go as are enough whichever they are.
    ending = ending[takes[ending] > 0]
    count = max(len(ending) - -(-over // int(takes[ending].min())), 0) if len(ending) else 0
    lost = ending[~_kept(run, prefix, ending, count)]
    return run.forget(prefix, torch.cat([passing, lost, _labels(prefix, lost)]).unique()), len(lost)


def _too_little(limit: tuple[int, bool], recent: Tensor, lacking: int) -> AskError:
    """What to raise where the latest part alone takes more than a limit, by ``lacking`` of what ``recent`` takes."""
    given = f"{limit[0] / 2**20:.1f} MiB" if limit[1] else f"{limit[0]} visual tokens"
    room = len(recent) - -(-lacking * len(recent) // max(int(recent.sum()), 1))
    return AskError(
        f"memory={given} is less than what was just added takes ({len(recent)} visual tokens; there is room for "
        f"{max(room, 0)}); allow more, or add fewer frames at once with a smaller chunk"
    )


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


def _labels(prefix: Prefix, gone: Tensor) -> Tensor:
    """Columns of the words between frames of which nothing is left: those before the next token that is there.

    What is ahead of a video stays, the words before its first frame with it. Behind those there is a gap in the
    positions once that frame is forgotten, by which the words before later frames are told from them.
    """
    held, layout = prefix.held, prefix.held.layout
    token = torch.searchsorted(layout.columns, held.columns[held.visual])
    visual = held.columns[held.visual]
    if not len(visual):
        return visual
    item, frame = layout.item[token], layout.frame[token]
    frames = torch.stack([item, frame], 1)
    alive = {tuple(pair) for pair in frames[~torch.isin(visual, gone)].tolist()}
    empty = torch.tensor([tuple(pair) not in alive for pair in frames.tolist()], dtype=torch.bool)
    text = held.columns[~held.visual]
    # The visual token that comes next, and whether one of the same video comes before.
    following = torch.searchsorted(visual, text)
    next_one = following.clamp_max(len(visual) - 1)
    same = (following > 0) & (item[next_one] == item[(following - 1).clamp_min(0)])
    behind, left = _gaps(prefix)
    # Ahead of a later video there may be words of earlier ones, with gaps of their own.
    later = (frame[next_one] > 0) & (behind > 0) & ((item[next_one] == 0) | (left == 0))
    return text[(following < len(visual)) & (same | later) & empty[next_one]]


def _gaps(prefix: Prefix) -> tuple[Tensor, Tensor]:
    """``(t,)`` int64 each, for the words that are held: between how many gaps in the positions they stand, in those
    words that follow each other without a visual token."""
    held = prefix.held
    positions, visual = prefix.positions[0].cpu()[held.columns], held.visual
    words = ~visual
    gap = torch.zeros_like(positions)
    gap[1:] = (positions.diff() > 1) & words[1:] & words[:-1]
    so_far, place = gap.cumsum(0), torch.arange(len(words))
    begin = torch.where(visual, place + 1, 0).cummax(0).values
    end = len(words) - 1 - torch.where(visual, place.flip(0) + 1, 0).flip(0).cummax(0).values.flip(0)
    return (so_far - so_far[begin.clamp_max(len(words) - 1)])[words], (so_far[end] - so_far)[words]
