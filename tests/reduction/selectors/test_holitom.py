from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.reduction.selectors import holitom
from framefusion.reduction.selectors.candidates import Candidates
from tests.reduction.selectors.given import cosine, largest_remainder, meets, members, nasty, videos, with_relevance
from tests.reduction.selectors.test_clusters import textbook_scores


def removed(similar: np.ndarray, cut: list[tuple[int, int]]) -> int:
    return sum(
        (last - first) * sum(all(similar[f, p] for f in range(first + 1, last + 1)) for p in range(similar.shape[1]))
        for first, last in cut
    )


def every_cut(frames: int, first: int = 0) -> Iterator[list[tuple[int, int]]]:
    if first == frames:
        yield []
    for last in range(first, frames):
        for rest in every_cut(frames, last + 1):
            yield [(first, last), *rest]


def best_cut(similar: np.ndarray) -> list[tuple[int, int]]:
    """Of all cuts the one that removes most; of equal ones that with the shortest last window, and so on backwards."""
    return max(
        every_cut(len(similar)),
        key=lambda cut: (removed(similar, cut), [first - last for first, last in reversed(cut)]),
    )


def by_the_paper(candidates: Candidates, tau: float = 0.8) -> tuple[list[int] | None, dict[int, torch.Tensor]]:
    """Where each token goes and the new features of the kept; one segment after the other, in float64.

    None where a clustered group keeps two tokens: the density is then that of the only neighbour, and two tokens which
    are each other's are equally dense but for rounding.
    """
    x, frames, patches = candidates.features.double(), candidates.frames.tolist(), candidates.patches.tolist()
    goes = [-1] * len(x)
    new, tied = {}, False
    for segment, count in candidates.budgets.items():
        own = members(candidates, segment)
        ids = sorted({frames[i] for i in own})
        at = {(frames[i], patches[i]): i for i in own}
        similarity = {(f, p): cosine(x[i], x[at[f - 1, p]]) for (f, p), i in at.items() if (f - 1, p) in at}
        area = max(patches) + 1
        similar = np.array([[similarity.get((f, p), -2) > tau for p in range(area)] for f in ids]).reshape(-1, area)
        cut = best_cut(similar)
        runs = []
        for w, (first, last) in enumerate(cut):
            for p in range(area if last > first else 0):
                if similar[first + 1 : last + 1, p].all():
                    least = min(similarity[f, p] for f in ids[first + 1 : last + 1])
                    runs.append((least, w, [at[f, p] for f in ids[first : last + 1]]))
        left, merged = len(own), {}
        static: dict[int, list[int]] = {}
        for _, w, run in sorted(runs, key=lambda r: -r[0]):
            if left - (len(run) - 1) >= count:
                left -= len(run) - 1
                merged |= dict.fromkeys(run, run[0])
                static.setdefault(w, []).append(run[0])
        value = {
            i: torch.stack([x[j] for j in own if merged.get(j, j) == i]).mean(0) for i in own if merged.get(i, i) == i
        }
        groups = [sorted(static[w]) for w in sorted(static)]
        clustered = len(groups)
        groups += [g for f in ids if (g := [i for i in own if frames[i] == f and i not in merged])]
        sizes = [len(group) for group in groups]
        budgets = largest_remainder([float(n) for n in sizes], count, sizes)
        for number, (group, budget) in enumerate(zip(groups, budgets, strict=True)):
            if not budget:
                continue
            if number >= clustered and candidates.relevance is not None:
                for i in sorted(group, key=lambda i: (-float(candidates.relevance[i]), i))[:budget]:
                    goes[i], new[i] = i, value[i]
                continue
            tied |= budget == 2 < len(group)
            rows = torch.stack([value[i] for i in group])
            score = textbook_scores(rows, min(7, budget))
            centres = [group[j] for j in sorted(range(len(group)), key=lambda j: (-score[j], j))[:budget]]
            takes: dict[int, list[torch.Tensor]] = {c: [] for c in centres}
            for i in group:
                nearest = i if i in centres else min(centres, key=lambda c: float((value[i] - value[c]).norm()))
                goes[i] = nearest
                if i not in centres:
                    takes[nearest].append(value[i])
            for c in centres:
                new[c] = 0.6 * value[c] + 0.4 * sum(takes[c]) / len(takes[c]) if takes[c] else value[c]
        for i, to in merged.items():
            goes[i] = goes[to]
    return None if tied else goes, new


def agree(candidates: Candidates, tau: float = 0.8) -> None:
    selected = holitom.select(candidates) if tau == 0.8 else holitom.select_loose(candidates)
    assert meets(candidates, selected)
    assert selected.target is not None
    assert selected.features is not None
    goes, new = by_the_paper(candidates, tau)
    if goes is None:
        return
    assert selected.target.tolist() == goes
    assert set(selected.indices.tolist()) == set(new)
    for i, row in zip(selected.indices.tolist(), selected.features, strict=True):
        assert torch.allclose(row, new[i], atol=1e-9)


@given(videos(), st.sampled_from([0.8, 0.65]), st.booleans(), st.integers(0, 99))
def test_before_the_decoder_as_the_paper_has_it(candidates: Candidates, tau: float, ranked: bool, seed: int) -> None:
    """With and without the encoder's attention, at both thresholds of the scripts."""
    agree(with_relevance(candidates, seed) if ranked else candidates, tau)


@pytest.mark.parametrize("tau", [0.8, 0.65])
@pytest.mark.parametrize("ranked", [False, True])
@pytest.mark.parametrize("seed", [0, 2, 3, 4, 5])
def test_a_whole_video_as_the_paper_has_it(seed: int, ranked: bool, tau: float) -> None:
    """Budgets of three and more in every group, so that no two tokens are equally dense."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 30, 8, generator=generator, dtype=torch.float64) + 0.4 * torch.randn(
        6, 30, 8, generator=generator, dtype=torch.float64
    )
    everyone = torch.arange(180)
    candidates = Candidates(
        x.flatten(0, 1), None, torch.zeros(180, dtype=torch.long), everyone // 30, everyone % 30, (6, 5, 6), {0: 60}
    )
    candidates = with_relevance(candidates, seed) if ranked else candidates
    assert by_the_paper(candidates, tau)[0] is not None
    agree(candidates, tau)


def test_the_loose_threshold_merges_more() -> None:
    """Two frames whose patches resemble each other by 0.7."""
    x = torch.eye(8, dtype=torch.float64)[:4]
    later = 0.7 * x + 0.51**0.5 * torch.eye(8, dtype=torch.float64)[4:]
    zeros = torch.zeros(8, dtype=torch.long)
    candidates = Candidates(
        torch.cat([x, later]), None, zeros, torch.arange(8) // 4, torch.arange(8) % 4, (2, 2, 2), {0: 4}
    )
    selected = holitom.select_loose(candidates)
    assert selected.indices.tolist() == [0, 1, 2, 3]
    assert selected.features is not None
    assert torch.allclose(selected.features, (x + later) / 2)
    assert len(set((holitom.select(candidates).indices // 4).tolist())) == 2


@given(videos(), st.integers(0, 99))
def test_inside_the_decoder_the_dropped_merge_one_after_the_other(candidates: Candidates, seed: int) -> None:
    candidates = with_relevance(candidates, seed)._replace(layer=18)
    assert candidates.relevance is not None
    selected = holitom.select(candidates)
    assert meets(candidates, selected)
    assert selected.target is not None
    assert selected.features is not None
    x, relevance = candidates.features, candidates.relevance.tolist()
    value = x.clone()
    for segment, count in candidates.budgets.items():
        own = members(candidates, segment)
        kept = sorted(sorted(own, key=lambda i: (-relevance[i], i))[:count])
        for i in own:
            nearest = max(kept, key=lambda c: cosine(x[i], x[c])) if kept else -1
            assert int(selected.target[i]) == (i if i in kept else nearest)
            if i not in kept and kept:
                value[nearest] = (value[nearest] + x[i]) / 2
    torch.testing.assert_close(selected.features, value[selected.indices])


@given(videos(), st.integers(0, 99), st.booleans())
def test_zeros_and_twins(candidates: Candidates, seed: int, relevance: bool) -> None:
    candidates = nasty(candidates, seed)._replace(layer=seed % 2)
    selected = holitom.select(with_relevance(candidates, seed) if relevance else candidates)
    assert meets(candidates, selected)
    if selected.features is not None:
        assert selected.features.isfinite().all()


def still(frames: int, budget: int) -> Candidates:
    """A still background of six patches, and two patches that change from frame to frame."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(8, 12, generator=generator).repeat(frames, 1, 1)
    x[:, 6:] = torch.randn(frames, 2, 12, generator=generator)
    zeros = torch.zeros(frames * 8, dtype=torch.long)
    everyone = torch.arange(frames * 8)
    return Candidates(x.flatten(0, 1), None, zeros, everyone // 8, everyone % 8, (frames, 2, 4), {0: budget})


def test_what_stands_still_merges_into_the_first_frame() -> None:
    candidates = still(4, 14)
    selected = holitom.select(candidates)
    assert selected.indices.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 14, 15, 22, 23, 30, 31]
    assert selected.target is not None
    assert selected.target[8:14].tolist() == [0, 1, 2, 3, 4, 5]
    assert selected.features is not None
    assert torch.allclose(selected.features, candidates.features[selected.indices])


def test_a_large_budget_keeps_some_of_what_stands_still_apart() -> None:
    selected = holitom.select(still(4, 20))
    assert len(selected.indices) == 20
    assert selected.target is not None
    # Four of the six still patches can merge without going below the budget.
    assert len(set(selected.target[8:14].tolist()) & set(range(6))) == 4
