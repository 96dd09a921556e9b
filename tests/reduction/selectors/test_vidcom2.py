from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.reduction.selectors import vidcom2
from framefusion.reduction.selectors.candidates import Candidates
from tests.reduction.selectors.given import largest_remainder, meets, members, nasty, videos


def by_the_paper(candidates: Candidates) -> tuple[set[int], list[float]]:
    """The tokens that stay, and how much each one of all resembles frame and video; token by token, in float64."""
    x, frames = candidates.features.double(), candidates.frames.tolist()
    n, width = x.shape
    variances = [float(((x[:, c] - x[:, c].mean()) ** 2).mean()) for c in range(width)]
    channels = sorted(range(width), key=lambda c: variances[c])[: max(1, width // 2)]
    x = x[:, channels]
    x = torch.stack([row / row.norm() if row.norm() else row for row in x])

    def resemblance(token: torch.Tensor, centre: torch.Tensor) -> float:
        squared = float(((token - centre) ** 2).sum())
        return sum(math.exp(-squared / (2 * 2.0**k)) for k in range(-3, 2))

    video = [resemblance(row, x.mean(0)) for row in x]
    in_frame = {f: [i for i in range(n) if frames[i] == f] for f in sorted(set(frames))}
    frame = [resemblance(x[i], x[in_frame[frames[i]]].mean(0)) for i in range(n)]
    uniqueness = {f: -sum(video[i] for i in own) / len(own) for f, own in in_frame.items()}
    top = max(uniqueness.values())
    raised = {f: math.exp((u - top) / 0.01) for f, u in uniqueness.items()}
    share = {f: value / sum(raised.values()) for f, value in raised.items()}
    scale = {f: 1 + share[f] - 1 / len(share) for f in share}
    chosen: set[int] = set()
    for segment, count in candidates.budgets.items():
        own = members(candidates, segment)
        groups = [[i for i in own if frames[i] == f] for f in sorted({frames[i] for i in own})]
        counts = largest_remainder(
            [scale[frames[group[0]]] * len(group) for group in groups], count, [len(group) for group in groups]
        )
        for group, budget in zip(groups, counts, strict=True):
            chosen |= set(sorted(group, key=lambda i: (video[i] + frame[i], i))[:budget])
    return chosen, [a + b for a, b in zip(video, frame, strict=True)]


def agree(candidates: Candidates) -> None:
    chosen = vidcom2.select(candidates)
    assert meets(candidates, chosen)
    expected, score = by_the_paper(candidates)
    # Tokens that resemble their frame and video equally may change places; two alone always do.
    assert torch.equal(candidates.frames[chosen].sort().values, candidates.frames[sorted(expected)])
    got = sorted(score[i] for i in chosen.tolist())
    assert got == pytest.approx(sorted(score[i] for i in expected), abs=1e-9)


@given(videos())
def test_as_the_paper_has_it(candidates: Candidates) -> None:
    # Over a single channel all tokens are ±1: nothing but ties.
    if candidates.features.shape[1] >= 4:
        agree(candidates)
    else:
        assert meets(candidates, vidcom2.select(candidates))


@pytest.mark.parametrize("seed", range(10))
def test_a_whole_video_as_the_paper_has_it(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scene = torch.randn(1, 24, 12, generator=generator, dtype=torch.float64)
    features = (1 + scene + 0.8 * torch.randn(6, 24, 12, generator=generator, dtype=torch.float64)).flatten(0, 1)
    everyone = torch.arange(144)
    agree(
        Candidates(
            features, None, torch.zeros(144, dtype=torch.long), everyone // 24, everyone % 24, (6, 4, 6), {0: 60}
        )
    )


@given(videos(), st.integers(0, 99))
def test_zeros_and_twins(candidates: Candidates, seed: int) -> None:
    assert meets(candidates, vidcom2.select(nasty(candidates, seed)))


def test_the_odd_frame_out_gets_more() -> None:
    generator = torch.Generator().manual_seed(0)
    features = 1 + 0.1 * torch.randn(4 * 16, 8, generator=generator)
    features[32:48] = torch.randn(16, 8, generator=generator)
    frames = torch.arange(64) // 16
    candidates = Candidates(
        features, None, torch.zeros(64, dtype=torch.long), frames, torch.arange(64) % 16, (4, 4, 4), {0: 16}
    )
    kept = torch.bincount(frames[vidcom2.select(candidates)], minlength=4).tolist()
    assert kept[2] == 7
    assert kept == [3, 3, 7, 3]
