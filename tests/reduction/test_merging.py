from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from framefusion.reduction import merging
from framefusion.selection import nearest


def reference_merge(
    features: torch.Tensor, frames: list[int], patches: list[int], merges: list[bool]
) -> tuple[dict[int, torch.Tensor], list[int]]:
    """Runs collected one token at a time: ``{first token: mean}`` and the token each one lives in."""
    order = sorted(range(len(frames)), key=lambda i: (patches[i], frames[i]))
    target = list(range(len(frames)))
    members: dict[int, list[int]] = {}
    for before, i in zip([-1, *order], order, strict=False):
        joins = merges[i] and before >= 0 and patches[before] == patches[i]
        target[i] = target[before] if joins else i
        members.setdefault(target[i], []).append(i)
    return {first: features[rows].double().mean(0) for first, rows in members.items()}, target


@given(st.data())
def test_merging_equals_the_reference(data: st.DataObject) -> None:
    frames, patches = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    cells = [(f, p) for f in range(frames) for p in range(patches)]
    present = data.draw(st.lists(st.sampled_from(cells), unique=True, min_size=1))
    present.sort()
    frame, patch = [f for f, _ in present], [p for _, p in present]
    features = torch.randn(len(present), 5, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    previous = merging.previous_at_same_patch(torch.tensor(frame), torch.tensor(patch))
    merges = [data.draw(st.booleans()) and p >= 0 for p in previous.tolist()]
    means, target = reference_merge(features, frame, patch, merges)
    merged = merging.merge_runs(features, previous, torch.tensor(merges))
    assert merged.target.tolist() == target
    assert merged.kept.tolist() == sorted(means)
    expected = torch.stack([means[i] for i in sorted(means)]).float()
    torch.testing.assert_close(merged.features, expected)


def test_predecessors_skip_frames_that_have_merged_away() -> None:
    frames, patches = torch.tensor([0, 0, 1, 3]), torch.tensor([0, 1, 1, 0])
    assert merging.previous_at_same_patch(frames, patches).tolist() == [-1, -1, 1, 0]


def test_similarity_is_the_cosine_with_the_predecessor() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    similarity = merging.previous_similarity(features, torch.tensor([-1, 0, 1]))
    torch.testing.assert_close(similarity, torch.tensor([float("-inf"), 0.0, 0.5**0.5]))


def test_all_similar_tokens_merge_below_the_limit_and_the_most_similar_at_it() -> None:
    similarity = torch.tensor([float("-inf"), 0.7, 0.9, 0.5, 0.7])
    assert merging.choose_merges(similarity, 0.6, 5).tolist() == [False, True, True, False, True]
    assert merging.choose_merges(similarity, 0.6, 2).tolist() == [False, True, True, False, False]
    assert merging.choose_merges(similarity, 0.6, 0).tolist() == [False] * 5


def test_a_token_alone_keeps_its_bits() -> None:
    features = torch.randn(4, 8).to(torch.bfloat16)
    previous = torch.tensor([-1, -1, 0, 1])
    merged = merging.merge_runs(features, previous, torch.tensor([False, False, True, False]))
    assert torch.equal(merged.features[1:], features[[1, 3]])
    assert merged.features.dtype == torch.bfloat16


def test_merging_without_a_predecessor_is_refused() -> None:
    with pytest.raises(ValueError, match=r"merges\[1\] is set, but token 1 has no predecessor"):
        merging.merge_runs(torch.ones(2, 2), torch.tensor([-1, -1]), torch.tensor([False, True]))


@given(st.data())
def test_the_most_similar_kept_token_of_the_segment(data: st.DataObject) -> None:
    count, segments = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 500)))
    features = torch.randn(count, 3, generator=generator)
    if data.draw(st.booleans()):
        features = features[torch.randint(count, (count,), generator=generator)]
    features[torch.rand(count, generator=generator) < 0.1] = 0
    ids = torch.randint(segments, (count,), generator=generator)
    kept = torch.rand(count, generator=generator) < 0.4
    bound = data.draw(st.sampled_from([-1.0, 0.0, 0.6, 1.1]))
    nearest.SIMILARITY_ENTRIES, entries = data.draw(st.sampled_from([1, 20, 1 << 22])), nearest.SIMILARITY_ENTRIES
    try:
        target = merging.most_similar_kept(features, ids, kept, bound)
    finally:
        nearest.SIMILARITY_ENTRIES = entries
    for i in range(count):
        if kept[i]:
            assert target[i] == i
            continue
        cosines = {
            j: float(torch.cosine_similarity(features[i].double(), features[j].double(), dim=0))
            for j in range(count)
            if kept[j] and ids[j] == ids[i]
        }
        best = max(cosines.values(), default=-2.0)
        if abs(best - bound) > 1e-5:
            assert (int(target[i]) >= 0) == (best > bound)
        if int(target[i]) >= 0:
            assert cosines[int(target[i])] >= best - 1e-5


def test_ties_between_kept_tokens_go_to_the_lowest_index() -> None:
    features, ids = torch.ones(5, 2), torch.zeros(5, dtype=torch.long)
    kept = torch.tensor([False, True, False, True, False])
    assert merging.most_similar_kept(features, ids, kept, 0.6).tolist() == [1, 1, 1, 3, 1]


def test_no_matrix_of_all_pairs_is_made() -> None:
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.numel = max(self.numel, out.numel())
            return out

    count = 3000
    features, kept = torch.randn(count, 8), torch.arange(count) % 2 == 0
    with Largest() as seen:
        nearest.SIMILARITY_ENTRIES, entries = 1 << 16, nearest.SIMILARITY_ENTRIES
        try:
            merging.most_similar_kept(features, torch.zeros(count, dtype=torch.long), kept, 0.0)
        finally:
            nearest.SIMILARITY_ENTRIES = entries
    assert seen.numel <= 1 << 16


def test_merging_into_kept_tokens_averages_their_groups() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 4.0], [3.0, 0.0], [float("inf"), 1.0], [5.0, 2.0]])
    target = torch.tensor([0, 1, 0, -1, 0])
    merged = merging.merge_into(features, target)
    assert merged.kept.tolist() == [0, 1]
    torch.testing.assert_close(merged.features, torch.tensor([[3.0, 2.0 / 3.0], [0.0, 4.0]]))
    assert merged.target is target


def test_tokens_that_point_at_one_that_leaves_leave_too() -> None:
    features = torch.arange(12.0).view(6, 2)
    merged = merging.merge_into(features, torch.tensor([0, 0, 1, 3, -1, 4]))
    assert merged.kept.tolist() == [0, 3]
    assert merged.features.tolist() == [[1.0, 2.0], [6.0, 7.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_means_are_those_of_groups_alone(dtype: torch.dtype) -> None:
    features = torch.arange(14.0).view(7, 2).to(dtype)
    groups, means = merging.group_means(features, torch.tensor([0, 6, 0, -1, 4, 5, 6]))
    assert groups.tolist() == [0, 6]
    assert means.dtype == dtype
    assert means.tolist() == [[2.0, 3.0], [7.0, 8.0]]
    for target in (torch.arange(7), torch.full((7,), -1), torch.tensor([0, 1, 2, 3, 4, 3, -1]).roll(1) - 1):
        everyone = torch.arange(7)
        expected = [i for i in everyone.tolist() if target[i] == i and ((target == i) & (everyone != i)).any()]
        groups, means = merging.group_means(features, target)
        assert groups.tolist() == expected
        assert means.shape == (len(expected), 2)


def test_squares_beyond_float32_are_not_similar() -> None:
    similarity = merging.previous_similarity(torch.full((4, 8), 1e20), torch.tensor([-1, 0, 1, 2]))
    assert similarity.tolist() == [float("-inf"), 0.0, 0.0, 0.0]
