"""UniComp: what is rare stays, in time, among frames and inside them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from framefusion.reduction.budgets import apportion
from framefusion.reduction.merging import merge_into
from framefusion.reduction.selectors.candidates import Candidates, Selected
from framefusion.reduction.selectors.groups import by_frame

FRAME = 0.005
"""Largest ``1 - cos`` between the mean tokens of frames that fuse, ``U_f``."""

TOKEN = 0.2
"""``1 - cos`` below which a token of a frame is absorbed by a rarer one, ``U_c``."""


def select(candidates: Candidates) -> Selected:
    """Frame group fusion, token allocation and spatial dynamic compression in each segment (UniComp,
    arXiv 2512.03575).

    1. Consecutive frames whose mean token differs from that of the first of their group by ``1 - cos <= 0.005`` fuse:
       each patch becomes the mean of its tokens, in the first frame of the group.
    2. The uniqueness of a fused frame is how much less its mean token resembles those of all frames than they do on
       average: ``u_t = mean(s) - s_t`` with ``s_t`` the mean cosine. Its share of the budget is
       ``softmax(√T · u)``, at most twice the mean, as in the published code.
    3. In each frame, from the rarest token (the smallest mean cosine with the frame) to the commonest, each that is
       left absorbs all that differ from it by ``1 - cos < 0.2``, and becomes the mean of itself and of the mean of
       those, itself among them. The rarest of the frame stay up to its budget; ties go to the lower index. What a
       frame cannot use goes to the others.

    For an exact total, a group has at most as many frames as the budget allows (in the published code about the inverse
    of the keep ratio), and where all that is left after step 3 is less than the budget, the rarest of the absorbed stay
    apart.
    """
    everyone = torch.arange(len(candidates.segments))
    features = candidates.features
    wide = features.to(torch.promote_types(features.dtype, torch.float32)).clone()
    target = torch.full_like(everyone, -1)
    for segment, count in candidates.budgets.items():
        frames = by_frame(candidates, segment)
        if not count:
            continue
        fused = _fuse(wide, frames, candidates.patches, count)
        merged = merge_into(wide, torch.where(fused < 0, everyone, fused).to(wide.device))
        wide[merged.kept] = merged.features
        groups = [left for frame in frames if len(left := frame[fused[frame] == frame])]
        absorbed = _compress(wide, groups, count)
        inside = (fused >= 0).nonzero().squeeze(-1)
        target[inside] = absorbed[fused[inside]]
    indices = (target == everyone).nonzero().squeeze(-1)
    return Selected(indices, target, wide[indices.to(wide.device)].to(features.dtype))


def _fuse(features: Tensor, frames: list[Tensor], patches: Tensor, count: int) -> Tensor:
    """The token that each token of some frames fuses into, itself for the first of a patch; -1 for all others."""
    means = F.normalize(torch.stack([features[frame.to(features.device)].mean(0) for frame in frames]), dim=-1)
    alike = (1 - means @ means.T <= FRAME).tolist()
    longest = sum(map(len, frames)) // count
    while True:
        target, left = torch.full_like(patches, -1), 0
        start, first_of = 0, torch.full((int(patches.max()) + 1,), -1)
        for t, frame in enumerate(frames):
            if t == 0 or not alike[start][t] or t - start >= longest:
                start = t
                first_of.fill_(-1)
            new = frame[first_of[patches[frame]] < 0]
            first_of[patches[new]] = new
            target[frame] = first_of[patches[frame]]
            left += len(new)
        if left >= count:
            return target
        longest -= 1


def _compress(features: Tensor, frames: list[Tensor], count: int) -> Tensor:
    """Steps 2 and 3 on fused frames: writes what the tokens become, and returns the kept token that each goes into, -1
    for none."""
    rows = [frame.to(features.device) for frame in frames]
    means = F.normalize(torch.stack([features[row].mean(0) for row in rows]), dim=-1)
    resemblance = (means @ means.T).mean(1)
    weights = torch.softmax(len(frames) ** 0.5 * (resemblance.mean() - resemblance), dim=0).tolist()
    parts = [_absorb(features[row]) for row in rows]
    target = torch.full((len(features),), -1)
    for frame, row, part, own in zip(frames, rows, parts, _allocate(weights, parts, count), strict=True):
        kept = part.ranking[:own]
        # What absorbs nothing, because the budget keeps all that absorb and more, stays as it is.
        changed = kept[: part.absorbing]
        features[row[changed.to(row.device)]] = part.features[changed.to(row.device)]
        owner = torch.full_like(frame, -1)
        owner[kept] = frame[kept]
        target[frame] = owner[part.owner]
        target[frame[kept]] = frame[kept]
    return target


def _allocate(weights: list[float], parts: list[_Frame], count: int) -> list[int]:
    """Tokens that each frame keeps."""
    absorbing, sizes = [part.absorbing for part in parts], [len(part.owner) for part in parts]
    missing = count - sum(absorbing)
    if missing > 0:
        more = apportion(weights, missing, [size - own for size, own in zip(sizes, absorbing, strict=True)])
        return [own + extra for own, extra in zip(absorbing, more, strict=True)]
    limit = max(1, 2 * (count // len(parts)))
    capped = [min(own, limit) for own in absorbing]
    return apportion(weights, count, capped if sum(capped) >= count else absorbing)


class _Frame(NamedTuple):
    """What happens to the ``n`` tokens of one frame."""

    owner: Tensor
    """``(n,)`` int64: the token that absorbs each one, itself for one that absorbs."""
    ranking: Tensor
    """``(n,)`` int64: those that absorb, then the others; the rarest of either first."""
    absorbing: int
    features: Tensor
    """``(n, D)``: what each one becomes if it absorbs."""


def _absorb(features: Tensor) -> _Frame:
    unit = F.normalize(features, dim=-1)
    similarity = unit @ unit.T
    near = 1 - similarity < TOKEN
    near.fill_diagonal_(True)
    order = torch.argsort(similarity.mean(1), stable=True).cpu()
    owner, on_cpu = torch.full((len(unit),), -1), near.cpu()
    absorbing = []
    for token in order.tolist():
        if owner[token] < 0:
            owner[on_cpu[token] & (owner < 0)] = token
            absorbing.append(token)
    is_absorbed = owner[order] != order
    ranking = torch.cat([order[~is_absorbed], order[is_absorbed]])
    means = (near.to(features.dtype) @ features) / near.sum(1, keepdim=True)
    return _Frame(owner, ranking, len(absorbing), (features + means) / 2)
