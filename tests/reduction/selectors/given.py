"""Candidates as hypothesis draws them: whole videos, videos with holes, and features with twins and zeros."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from framefusion.reduction.selectors.candidates import Candidates, Selected


@st.composite
def videos(
    draw: st.DrawFn, *, segments: int = 3, whole: bool = False, dtype: torch.dtype = torch.float64
) -> Candidates:
    """Candidates of one video without relevance; up to ``segments`` segments of consecutive frames.

    Frames resemble each other a little, so that thresholds on similarity are met on both sides.
    """
    t, h, w = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    width = draw(st.integers(2, 9))
    scene = torch.randn(1, h * w, width, generator=generator, dtype=dtype)
    change = draw(st.sampled_from([0.2, 0.7, 3.0]))
    features = (scene + change * torch.randn(t, h * w, width, generator=generator, dtype=dtype)).flatten(0, 1)
    present = torch.ones(len(features), dtype=torch.bool)
    if not whole:
        present = torch.rand(len(features), generator=generator) < draw(st.sampled_from([0.5, 0.9, 1.0]))
        present[draw(st.integers(0, len(features) - 1))] = True
    cells = present.nonzero().squeeze(-1)
    frames, patches = cells // (h * w), cells % (h * w)
    cuts = torch.tensor(sorted(draw(st.lists(st.integers(0, t), max_size=segments - 1))), dtype=torch.long)
    of_token = torch.searchsorted(cuts, frames, right=True)
    ids, lengths = of_token.unique(return_counts=True)
    budgets = {i: draw(st.integers(0, n)) for i, n in zip(ids.tolist(), lengths.tolist(), strict=True)}
    return Candidates(features[cells], None, of_token, frames, patches, (t, h, w), budgets)


def nasty(candidates: Candidates, seed: int) -> Candidates:
    """The same tokens, some of them zero, some of them equal, at a scale that float32 squares still hold."""
    generator = torch.Generator().manual_seed(seed)
    features, count = candidates.features.clone(), len(candidates.features)
    twins = torch.randint(count, (count // 2 + 1,), generator=generator)
    features[twins] = features[twins[0]].clone()
    features[torch.randint(count, (1,), generator=generator)] = 0
    return candidates._replace(features=(features * 1e6).float())


def stilled(candidates: Candidates, change: float) -> Candidates:
    """The same tokens, changing less over time: ``change`` times what each differs from the mean of its patch."""
    features = candidates.features.clone()
    for patch in candidates.patches.unique():
        own = candidates.patches == patch
        mean = features[own].mean(0)
        features[own] = mean + change * (features[own] - mean)
    return candidates._replace(features=features)


def with_relevance(candidates: Candidates, seed: int) -> Candidates:
    """The same tokens with random relevance."""
    generator = torch.Generator().manual_seed(seed)
    return candidates._replace(relevance=torch.rand(len(candidates.segments), generator=generator))


def members(candidates: Candidates, segment: int) -> list[int]:
    """The tokens of one segment."""
    return [i for i, s in enumerate(candidates.segments.tolist()) if s == segment]


def cosine(a: Tensor, b: Tensor) -> float:
    """Of two float64 vectors; 0 with a zero vector."""
    norms = float(a.norm() * b.norm())
    return float(a @ b) / norms if norms else 0.0


def frames_of(candidates: Candidates, segment: int) -> list[list[int]]:
    """The tokens of one segment, frame by frame."""
    own, frames = members(candidates, segment), candidates.frames.tolist()
    return [[i for i in own if frames[i] == f] for f in sorted({frames[i] for i in own})]


def largest_remainder(weights: list[float], total: int, capacities: list[int]) -> list[int]:
    """The library's split; ``tests/reduction/test_budgets.py`` is where it is held to its word."""
    from framefusion.reduction.budgets import apportion

    return apportion(weights, total, capacities)


def meets(candidates: Candidates, answer: Tensor | Selected) -> bool:
    """Whether the answer keeps exactly each segment's budget, all different."""
    indices = answer.indices if isinstance(answer, Selected) else answer
    kept = candidates.segments[indices].tolist()
    counts = {segment: kept.count(segment) for segment in candidates.budgets}
    return len(set(indices.tolist())) == len(indices) == candidates.total and counts == dict(candidates.budgets)


def agree(
    candidates: Candidates, answer: Tensor | Selected, expected: tuple[dict[int, int], dict[int, Tensor]] | None
) -> None:
    """Hold an answer with targets and features to the paper's: where each token goes, and what those that stay become.

    Args:
        candidates: what was asked.
        answer: of the rule.
        expected: ``{token: target}`` of all tokens and ``{token: (D,) float64}`` of those that stay; None where the
            paper leaves the choice open, so that only the budgets are held.
    """
    assert isinstance(answer, Selected)
    assert meets(candidates, answer)
    assert answer.target is not None
    assert answer.features is not None
    if expected is None:
        return
    goes, new = expected
    assert dict(enumerate(answer.target.tolist())) == goes
    for i, row in zip(answer.indices.tolist(), answer.features, strict=True):
        assert torch.allclose(row, new[i], atol=1e-9)


def stays_finite(candidates: Candidates, answer: Tensor | Selected) -> None:
    """Hold an answer about zeros and twins to the budgets and to finite features."""
    assert isinstance(answer, Selected)
    assert meets(candidates, answer)
    assert answer.features is not None
    assert answer.features.isfinite().all()
