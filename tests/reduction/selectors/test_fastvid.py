from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.reduction.selectors import fastvid
from framefusion.reduction.selectors.candidates import Candidates
from tests.reduction.selectors.given import cosine, largest_remainder, meets, members, nasty, videos, with_relevance
from tests.reduction.selectors.test_clusters import textbook_scores


def by_the_paper(candidates: Candidates) -> tuple[set[int] | None, dict[int, int], dict[int, torch.Tensor]]:
    """The kept tokens, where the others go, and the new features; segment by segment, in float64.

    None where a frame keeps one of two tokens, which are equally dense but for rounding.
    """
    x, frames = candidates.features.double(), candidates.frames.tolist()
    kept: set[int] = set()
    tied = False
    goes: dict[int, int] = {}
    for segment, count in candidates.budgets.items():
        own = members(candidates, segment)
        if not count:
            goes |= dict.fromkeys(own, -1)
            continue
        groups = [[i for i in own if frames[i] == f] for f in sorted({frames[i] for i in own})]
        if candidates.relevance is not None:
            salient = count - int(0.4 * count)
            sizes = [len(group) for group in groups]
            for group, budget in zip(groups, largest_remainder([float(n) for n in sizes], salient, sizes), strict=True):
                top = sorted(group, key=lambda i: (-float(candidates.relevance[i]), i))[:budget]
                kept |= set(top)
                group[:] = [i for i in group if i not in top]
            count -= salient
        anchors: list[int] = []
        for stride in (4, 3, 2, 1):
            anchor_groups = groups[::-1][::stride][::-1]
            if stride == 1 or sum(map(len, anchor_groups)) >= 2 * count:
                break
        sizes = [len(group) for group in anchor_groups]
        for group, budget in zip(
            anchor_groups, largest_remainder([float(n) for n in sizes], count, sizes), strict=True
        ):
            tied |= budget == 1 < 2 == len(group)
            score = textbook_scores(x[group], 4)
            anchors += [group[j] for j in sorted(range(len(group)), key=lambda j: (-score[j], j))[:budget]]
        kept |= set(anchors)
        for i in [i for group in groups for i in group if i not in anchors]:
            goes[i] = max(anchors, key=lambda a: cosine(x[i], x[a])) if anchors else -1
    new = {}
    for i in kept:
        absorbed = [x[j] for j, to in goes.items() if to == i]
        new[i] = 0.6 * x[i] + 0.4 * sum(absorbed) / len(absorbed) if absorbed else x[i]
    return None if tied else kept, goes, new


@given(videos(), st.booleans(), st.integers(0, 99))
def test_as_the_paper_has_it(candidates: Candidates, relevance: bool, seed: int) -> None:
    if relevance:
        candidates = with_relevance(candidates, seed)
    selected = fastvid.select(candidates)
    assert meets(candidates, selected)
    assert selected.target is not None
    assert selected.features is not None
    kept, goes, new = by_the_paper(candidates)
    if kept is None:
        return
    assert set(selected.indices.tolist()) == kept
    assert {i: int(selected.target[i]) for i in goes} == goes
    for i, row in zip(selected.indices.tolist(), selected.features, strict=True):
        assert torch.allclose(row, new[i], atol=1e-9)


@given(videos(), st.integers(0, 99), st.booleans())
def test_zeros_and_twins(candidates: Candidates, seed: int, relevance: bool) -> None:
    candidates = nasty(candidates, seed)
    selected = fastvid.select(with_relevance(candidates, seed) if relevance else candidates)
    assert meets(candidates, selected)
    assert selected.features is not None
    assert selected.features.isfinite().all()


def test_anchors_lie_at_every_fourth_frame_from_the_end() -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.arange(9 * 10) // 10
    candidates = Candidates(
        torch.randn(90, 6, generator=generator), None, torch.zeros(90, dtype=torch.long), frames,
        torch.arange(90) % 10, (9, 2, 5), {0: 6},
    )  # fmt: skip
    kept = frames[fastvid.select(candidates).indices]
    assert torch.bincount(kept, minlength=9).tolist() == [2, 0, 0, 0, 2, 0, 0, 0, 2]
    # Thirty anchor tokens cannot hold twice 20.
    kept = frames[fastvid.select(candidates._replace(budgets={0: 20})).indices]
    assert torch.bincount(kept, minlength=9).tolist() == [4, 0, 4, 0, 4, 0, 4, 0, 4]
