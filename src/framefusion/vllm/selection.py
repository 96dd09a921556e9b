"""How many tokens of a video stay, known before its features are, and which ones. Pure tensors, no engine."""

from __future__ import annotations

import torch
from torch import Tensor

from framefusion.errors import ArgumentError
from framefusion.reduction.budgets import total_kept
from framefusion.reduction.layout import VisualItem, VisualLayout
from framefusion.reduction.reducer import Reduction
from framefusion.reduction.relevance import dissimilarity
from framefusion.vllm.settings import ServingSettings


def retained_count(tokens_per_frame: int, frames: int, rate: float, settings: ServingSettings) -> int:
    """Tokens of a video that stay: the share ``1 - rate``, and never less than the settings promise to each frame.

    Args:
        tokens_per_frame: of the encoder's output.
        frames: temporal patches of the encoder.
        rate: share of the tokens to drop, in [0, 1).
        settings: what every frame keeps.
    """
    total = tokens_per_frame * frames
    if not total:
        return 0
    minimum = min(settings.minimum_per_frame, tokens_per_frame)
    promised = minimum * frames + (tokens_per_frame - minimum if settings.keep_first_frame else 0)
    # 1 - 0.9 is a little less than 0.1, which matters where the share of the tokens ends in a half.
    return max(total_kept(round(1 - rate, 12), total), promised)


def retention_mask(features: Tensor, grid: tuple[int, int, int], rate: float, settings: ServingSettings) -> Tensor:
    """Which tokens of a video stay.

    Args:
        features: ``(T * H * W, D)``, any float dtype, in raster order: the encoder's output as the decoder gets it.
        grid: ``(T, H, W)`` in tokens.
        rate: share of the tokens to drop, in [0, 1).
        settings: the rule.

    Returns:
        ``(T * H * W,)`` bool on the features' device, with exactly :func:`retained_count` True.

    Raises:
        ValueError: the features do not match the grid.
    """
    frames, height, width = grid
    area = height * width
    if len(features) != frames * area:
        raise ArgumentError(
            f"features has {len(features)} rows, but the grid {frames}×{height}×{width} has {frames * area}."
        )
    wanted = retained_count(area, frames, rate, settings)
    # One token that overflowed in the encoder must spoil one answer, not end the server.
    features = features.masked_fill(~features.isfinite().all(1, keepdim=True), 0)
    kept = torch.zeros(frames, area, dtype=torch.bool)
    if settings.keep_first_frame and wanted:
        kept[0] = True
        kept[1:] = _selected(features[area:], (frames - 1, height, width), wanted - area, settings)
    else:
        kept[:] = _selected(features, grid, wanted, settings)
    return kept.flatten().to(features.device)


def _selected(features: Tensor, grid: tuple[int, int, int], wanted: int, settings: ServingSettings) -> Tensor:
    """``(T, H * W)`` bool with ``wanted`` True, at least the minimum in every frame."""
    frames, area = grid[0], grid[1] * grid[2]
    kept = _by_rule(features, grid, wanted, settings)
    minimum = min(settings.minimum_per_frame, area)
    missing = int((minimum - kept.sum(1)).clamp_min(0).sum())
    if not missing:
        return kept
    # Room for what the poorest frames lack; a rule that is asked for less may leave a few more of them poor.
    kept = _by_rule(features, grid, max(wanted - missing, 0), settings)
    place = torch.arange(frames * area)
    change = dissimilarity(features, place // area, place % area).cpu().reshape(frames, area)
    for frame in (kept.sum(1) < minimum).nonzero().squeeze(-1).tolist():
        newest = change[frame].masked_fill(kept[frame], -1.0).argsort(descending=True, stable=True)
        kept[frame, newest[: minimum - int(kept[frame].sum())]] = True
    order, surplus = change.flatten().argsort(stable=True).tolist(), int(kept.sum()) - wanted
    for token in order:
        frame, patch = divmod(token, area)
        if surplus > 0 and kept[frame, patch] and int(kept[frame].sum()) > minimum:
            kept[frame, patch] = False
            surplus -= 1
    for token in reversed(order):
        frame, patch = divmod(token, area)
        if surplus < 0 and not kept[frame, patch]:
            kept[frame, patch] = True
            surplus += 1
    return kept


def _by_rule(features: Tensor, grid: tuple[int, int, int], wanted: int, settings: ServingSettings) -> Tensor:
    """``(T, H * W)`` bool: what the rule itself keeps, ``wanted`` tokens."""
    frames, height, width = grid
    total = frames * height * width
    kept = torch.zeros(total, dtype=torch.bool)
    if wanted == total:
        kept[:] = True
    elif wanted:
        layout = VisualLayout.of([VisualItem.run("video", grid, 0)])
        reduction = Reduction(
            settings.reduction(wanted / total), [layout], torch.ones(1, total, dtype=torch.bool), layers=1
        )
        reduction.before_layer(0, features[None])
        kept[reduction.stages[0].kept[0]] = True
    return kept.reshape(frames, height * width)
