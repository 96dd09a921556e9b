from __future__ import annotations

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.reduction import segmentation


def _grid(frames: int, patches: int) -> tuple[torch.Tensor, torch.Tensor]:
    order = torch.arange(frames * patches)
    return order // patches, order % patches


def test_scores_are_the_share_of_similar_patches() -> None:
    frame, patch = _grid(4, 4)
    base = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    second = base.clone()
    second[0] = -base[0]
    features = torch.cat([base, second, second, -second])
    scores = segmentation.frame_scores(features, frame, patch, 0.6)
    torch.testing.assert_close(scores, torch.tensor([0.0, 0.75, 1.0, 0.0]))


def test_scores_follow_the_formula_in_any_token_order() -> None:
    generator = torch.Generator().manual_seed(1)
    frame, patch = _grid(5, 6)
    features = torch.randn(30, 3, generator=generator)
    expected = torch.zeros(5)
    for f in range(1, 5):
        similar = [
            torch.cosine_similarity(features[f * 6 + p], features[(f - 1) * 6 + p], dim=0) > 0.3 for p in range(6)
        ]
        expected[f] = torch.stack(similar).float().mean()
    order = torch.randperm(30, generator=generator)
    torch.testing.assert_close(segmentation.frame_scores(features, frame, patch, 0.3), expected)
    torch.testing.assert_close(segmentation.frame_scores(features[order], frame[order], patch[order], 0.3), expected)


def test_a_missing_frame_breaks_the_chain() -> None:
    frame, patch = torch.tensor([0, 2]), torch.tensor([0, 0])
    assert segmentation.frame_scores(torch.ones(2, 4), frame, patch, 0.6).tolist() == [0.0, 0.0, 0.0]


def test_a_low_score_starts_a_segment() -> None:
    scores = torch.tensor([0.0, 0.9, 0.39, 0.4, 0.1])
    assert segmentation.by_frame_similarity(scores, 0.4).tolist() == [0, 0, 1, 1, 2]


@given(st.data())
def test_the_weakest_transitions_and_all_below_the_threshold_cut(data: st.DataObject) -> None:
    count, minimum = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 10))
    values = data.draw(
        st.lists(st.sampled_from([-1.0, 0.3, 0.5, 0.89, 0.9, 0.95, 1.0]), min_size=count, max_size=count)
    )
    threshold = data.draw(st.sampled_from([0.0, 0.5, 0.9]))
    by_weakness = sorted(range(1, count), key=lambda f: (values[f], f))
    starts = set(by_weakness[: minimum - 1]) | {f for f in range(1, count) if torch.tensor(values)[f] < threshold}
    got = segmentation.by_transitions(torch.tensor(values), minimum, threshold)
    assert got.tolist() == [sum(s <= f for s in starts) for f in range(count)]
    assert int(got[-1]) + 1 >= min(minimum, count)


def test_dyseg_by_hand() -> None:
    similarity = torch.tensor([1.0, 0.99, 0.5, 0.97, 0.98, 0.85])
    assert segmentation.by_transitions(similarity, 1).tolist() == [0, 0, 1, 1, 1, 2]
    assert segmentation.by_transitions(similarity, 4).tolist() == [0, 0, 1, 2, 2, 3]
    assert segmentation.by_transitions(similarity).tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="minimum must be at least 1 segment, got 0"):
        segmentation.by_transitions(similarity, 0)


def test_transitions_are_cosines_of_mean_tokens() -> None:
    generator = torch.Generator().manual_seed(2)
    frame, _ = _grid(4, 6)
    features = torch.randn(24, 5, generator=generator)
    keep = torch.rand(24, generator=generator) < 0.8
    means = [features[keep & (frame == f)].mean(0) for f in range(4)]
    expected = [1.0] + [float(torch.cosine_similarity(means[f], means[f - 1], dim=0)) for f in range(1, 4)]
    torch.testing.assert_close(segmentation.transitions(features[keep], frame[keep]), torch.tensor(expected))
    # Frame 1 has no tokens.
    assert segmentation.transitions(torch.ones(2, 3), torch.tensor([0, 2])).tolist() == [1.0, 0.0, 0.0]


def merged_inside(similar: torch.Tensor, first: int, last: int) -> int:
    """Tokens that merge in a segment, counted position by position."""
    positions = similar.shape[1]
    redundant = [p for p in range(positions) if all(similar[f, p] for f in range(first + 1, last + 1))]
    return len(redundant) * (last - first)


@given(st.data())
def test_dynamic_programming_finds_the_best_of_all_cuts(data: st.DataObject) -> None:
    frames, positions = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 4))
    similar = torch.rand(frames, positions, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 500))))
    similar = similar < data.draw(st.sampled_from([0.2, 0.6, 0.9]))
    # Tokens that turn by a right angle where they are to differ.
    turns = (~similar).long().cumsum(0) % 2
    features = torch.stack([1.0 - turns.float(), turns.float()], dim=-1).reshape(-1, 2)
    frame, patch = _grid(frames, positions)
    order = torch.randperm(len(frame), generator=torch.Generator().manual_seed(1))
    got = segmentation.by_redundancy(features[order], frame[order], patch[order], 0.8).tolist()

    def value(cuts: tuple[int, ...]) -> int:
        bounds = [0, *cuts, frames]
        return sum(merged_inside(similar, a, b - 1) for a, b in pairwise(bounds))

    every = [cuts for n in range(frames) for cuts in combinations(range(1, frames), n)]
    mine = tuple(f for f in range(1, frames) if got[f] != got[f - 1])
    assert got == [sum(c <= f for c in mine) for f in range(frames)]
    assert value(mine) == max(map(value, every))
    # Nothing that merges nowhere holds frames together.
    for a, b in pairwise([0, *mine, frames]):
        assert b - a == 1 or merged_inside(similar, a, b - 1) > 0


def test_redundancy_needs_the_whole_segment() -> None:
    """Joining two still scenes of other halves of the picture would lose more than it gains."""
    still, moving = torch.ones(4, 1), torch.arange(4)[:, None] % 2
    picture = torch.cat([torch.cat([still, moving], 1), torch.cat([moving, still], 1)]).repeat_interleave(3, 1)
    features = torch.stack([picture, 1 - picture], dim=-1).reshape(-1, 2)
    frame, patch = _grid(8, 6)
    assert segmentation.by_redundancy(features, frame, patch).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert segmentation.by_redundancy(torch.ones(48, 2), frame, patch).tolist() == [0] * 8
    assert segmentation.by_redundancy(torch.eye(48), frame, patch).tolist() == list(range(8))
    present = (frame != 3) | (patch != 0)
    one_missing = segmentation.by_redundancy(torch.ones(47, 2), frame[present], patch[present])
    assert one_missing.tolist() == [0] * 8


def scenes_over(background: int, lengths: list[int]) -> segmentation.Clip:
    """Still scenes of three patches each, over a background that all share."""
    frames = sum(lengths)
    scene = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    shown = torch.cat([torch.zeros(frames, background, dtype=torch.long), 1 + scene[:, None].expand(-1, 3)], 1)
    frame, patch = _grid(frames, background + 3)
    return segmentation.Clip(torch.eye(len(lengths) + 1)[shown.flatten()], frame, patch, frames)


def test_short_scenes_over_one_background_are_cut() -> None:
    clip = scenes_over(13, [2, 3, 2, 4])
    expected = [0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3]
    assert segmentation.DynamicProgramming()(clip).tolist() == expected
    # One segment merges more: ten times the thirteen patches of the background.
    assert segmentation.DynamicProgramming(sudden=None)(clip).tolist() == [0] * 11
    # What is less than a twentieth of the picture is no other scene.
    assert segmentation.DynamicProgramming()(scenes_over(56, [4, 4])).tolist() == [0] * 4 + [1] * 4
    assert segmentation.DynamicProgramming()(scenes_over(58, [4, 4])).tolist() == [0] * 8


def test_what_moves_all_the_time_is_no_sudden_change() -> None:
    frame, patch = _grid(8, 16)
    moving = patch == frame % 16
    features = torch.stack([1.0 - moving.float(), moving.float()], dim=-1)
    clip = segmentation.Clip(features, frame, patch, 8)
    assert torch.equal(segmentation.DynamicProgramming()(clip), segmentation.DynamicProgramming(sudden=None)(clip))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(9, 40)), max_size=9), st.sampled_from([1.0, 2.5, 4.0]))
def test_sudden_changes_one_by_one(patches: list[tuple[int, int]], factor: float) -> None:
    changed, tokens = torch.tensor(patches, dtype=torch.long).reshape(-1, 2).T
    got = segmentation.at_sudden_changes(changed, tokens, factor).tolist()
    for f, (now, all_of_it) in enumerate(patches):
        beside = [changed[f - 1], changed[f + 1]] if 2 <= f < len(patches) - 1 else None
        least = 0.05 * torch.tensor(all_of_it)
        assert got[f] == (beside is not None and now > 0 and now >= least and all(now >= factor * b for b in beside))


@given(st.integers(0, 2**16))
def test_sudden_changes_only_add_cuts(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    frame, patch = _grid(9, 5)
    changes = (torch.rand(9, 5, generator=generator) < torch.rand(9, 1, generator=generator)).long().cumsum(0) % 2
    clip = segmentation.Clip(torch.eye(2)[changes.flatten()], frame, patch, 9)
    alone = segmentation.DynamicProgramming(sudden=None)(clip)
    assert torch.equal(alone, segmentation.by_redundancy(*clip[:3]))
    starts = segmentation.DynamicProgramming()(clip).diff()
    assert bool((starts[alone.diff() > 0] == 1).all())
    assert bool(((starts == 0) | (starts == 1)).all())


def test_windows_and_one_segment() -> None:
    assert segmentation.each_frame(3).tolist() == [0, 1, 2]
    assert segmentation.fixed_windows(5, 2).tolist() == [0, 0, 1, 1, 2]
    assert segmentation.one_segment(3).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="window must be at least 1 frame, got 0"):
        segmentation.fixed_windows(5, 0)


def test_no_tokens() -> None:
    empty = torch.zeros(0, dtype=torch.long)
    assert segmentation.frame_scores(torch.zeros(0, 4), empty, empty, 0.6).shape == (0,)
    assert segmentation.by_frame_similarity(torch.zeros(0)).shape == (0,)
    assert segmentation.transitions(torch.zeros(0, 4), empty).shape == (0,)
    assert segmentation.by_transitions(torch.zeros(0)).shape == (0,)
    assert segmentation.by_redundancy(torch.zeros(0, 4), empty, empty).shape == (0,)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), max_size=8), st.integers(1, 60))
def test_long_segments_are_cut_evenly(runs: list[tuple[int, int]], limit: int) -> None:
    segments = torch.tensor([s for s, (frames, _) in enumerate(runs) for _ in range(frames)], dtype=torch.long)
    tokens = torch.tensor([size for frames, size in runs for _ in range(frames)], dtype=torch.long)
    cut = segmentation.no_longer_than(segments, tokens, limit)
    assert cut.tolist() == sorted(cut.tolist())
    assert cut.unique().tolist() == list(range(len(cut.unique())))
    for s, (frames, size) in enumerate(runs):
        lengths = cut[segments == s].unique(return_counts=True)[1]
        most = max(1, limit // max(size, 1))
        assert len(lengths) == -(-frames // most)
        assert int(lengths.max() - lengths.min()) <= 1
        assert int(lengths.max()) == 1 or int(lengths.max()) * size <= limit
    for frame in range(1, len(segments)):
        assert segments[frame] == segments[frame - 1] or cut[frame] != cut[frame - 1]
