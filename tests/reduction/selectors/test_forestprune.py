from __future__ import annotations

import math
from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.reduction.selectors import forestprune
from framefusion.reduction.selectors.candidates import Candidates
from tests.reduction.selectors.given import cosine, frames_of, meets, nasty, stilled, videos


def g_prune(x: torch.Tensor, group: list[int]) -> list[float]:
    """The scores of the tokens of a frame: the graph's matrix, its fifth power, the norms moved along it."""
    near = [[j for j, b in enumerate(group) if b == a or cosine(x[a], x[b]) >= 0.5] for a in group]
    matrix = torch.zeros(len(group), len(group), dtype=torch.float64)
    for i, neighbours in enumerate(near):
        weights = {j: math.exp((1.0 if i == j else cosine(x[group[i]], x[group[j]])) / 0.03 - 35) for j in neighbours}
        for j, weight in weights.items():
            matrix[i, j] = weight / sum(weights.values())
    moved = torch.stack([x[i].norm() for i in group]) @ torch.linalg.matrix_power(matrix, 5)
    return [float(m) / len(neighbours) for m, neighbours in zip(moved, near, strict=True)]


def by_the_paper(candidates: Candidates) -> set[int] | None:
    """Tree by tree, in float64; None where a frame's tokens score the same but for rounding."""
    x, patches = candidates.features.double(), candidates.patches.tolist()
    _, height, width = candidates.grid
    chosen: set[int] = set()

    def distance(a: int, b: int) -> float:
        rows = abs(patches[a] // width - patches[b] // width) / max(height - 1, 1)
        columns = abs(patches[a] % width - patches[b] % width) / max(width - 1, 1)
        return max(rows, columns)

    for segment, count in candidates.budgets.items():
        groups = frames_of(candidates, segment)
        share = max(0.5, count / max(1, sum(map(len, groups))))
        frames = []
        for group in groups:
            score = g_prune(x, group)
            if any(b - a < 1e-9 * b for a, b in pairwise(sorted(score))):
                return None
            best = sorted(range(len(group)), key=lambda j: -score[j])[: math.ceil(share * len(group))]
            frames.append(sorted(group[j] for j in best))
        trees: list[list[int]] = []
        depth: dict[int, int] = {}
        for frame in frames:
            joins = {}
            for i in frame:
                feasible = [
                    (-cosine(x[i], x[j]), distance(i, j), number)
                    for number, tree in enumerate(trees)
                    for j in tree
                    if cosine(x[i], x[j]) >= 0.9 and distance(i, j) <= 0.2 + 1e-9
                ]
                if feasible:
                    joins[i] = min(feasible)[2]
            below = {number: depth[tree[-1]] + 1 for number, tree in enumerate(trees)}
            for i in frame:
                if i in joins:
                    trees[joins[i]].append(i)
                    depth[i] = below[joins[i]]
                else:
                    trees.append([i])
                    depth[i] = 0
        roots = [i for frame in frames for i in frame if depth[i] == 0]
        if len(roots) > count:
            while len(roots) > count:
                pairs = [(-cosine(x[a], x[b]), m, n) for m, a in enumerate(roots) for n, b in enumerate(roots) if m < n]
                if pairs:
                    del roots[min(pairs)[2]]
                else:
                    roots = []
            chosen |= set(roots)
        else:
            everyone = [i for frame in frames for i in frame]
            chosen |= set(sorted(everyone, key=lambda i: depth[i])[:count])
    return chosen


@given(videos(), st.sampled_from([1.0, 0.3, 0.1]))
def test_as_the_paper_has_it(candidates: Candidates, change: float) -> None:
    candidates = stilled(candidates, change)
    chosen = forestprune.select(candidates)
    assert meets(candidates, chosen)
    expected = by_the_paper(candidates)
    assert expected is None or set(chosen.tolist()) == expected


@given(videos(), st.integers(0, 99))
def test_zeros_and_twins(candidates: Candidates, seed: int) -> None:
    assert meets(candidates, forestprune.select(nasty(candidates, seed)))


def test_roots_stay_then_the_shallow_and_early() -> None:
    """Ten patches that stand still for five frames, but for one that is new in the third."""
    features = torch.eye(11, dtype=torch.float64)[:10].repeat(5, 1) * torch.arange(10, 0, -1).repeat(5)[:, None]
    features[29] = 0.01 * torch.eye(11, dtype=torch.float64)[10]
    candidates = Candidates(
        features, None, torch.zeros(50, dtype=torch.long), torch.arange(50) // 10, torch.arange(50) % 10, (5, 1, 10),
        {0: 25},
    )  # fmt: skip
    # The five largest norms of each frame are what the selection inside it leaves.
    assert forestprune.select(candidates).tolist() == [10 * t + i for t in range(5) for i in range(5)]
    roomy = candidates._replace(budgets={0: 50})
    assert forestprune.select(roomy).tolist()[:11] == [*range(10), 29]


def test_a_token_far_away_is_no_part_of_the_tree() -> None:
    features = torch.ones(2, 1, dtype=torch.float64)
    near = Candidates(
        features, None, torch.zeros(2, dtype=torch.long), torch.tensor([0, 1]), torch.tensor([0, 2]), (2, 1, 11), {0: 2}
    )
    places = forestprune._places(near, torch.arange(2))
    assert forestprune._depths(features, [1, 1], places).tolist() == [0, 1]
    assert forestprune._depths(features, [1, 1], 1.01 * places).tolist() == [0, 0]


def test_trees_grow_deeper_frame_by_frame() -> None:
    """A cosine of 0.9 and more joins; the third frame is 0.92 from the second, the fourth 0.88 from all before."""
    angles = torch.tensor([0.0, 0.0, 0.92, 0.0, 0.88], dtype=torch.float64)
    turns = torch.where(angles > 0, angles.arccos(), 0.0) * torch.tensor([1, 1, 1, 1, -1])
    unit = torch.stack([turns.cos(), turns.sin()], dim=1)
    places = torch.zeros(5, 2, dtype=torch.float64)
    assert forestprune._depths(unit, [1] * 5, places).tolist() == [0, 1, 2, 3, 0]


def test_scores_move_five_times() -> None:
    turns = torch.tensor([0.0, 0.2, 0.35, 0.6, 2.5], dtype=torch.float64)
    x = torch.stack([turns.cos(), turns.sin()], dim=1) * torch.tensor([1.0, 5.0, 2.0, 9.0, 3.0])[:, None]
    expected = torch.tensor(g_prune(x, [0, 1, 2, 3, 4]), dtype=torch.float64)
    assert torch.allclose(forestprune._scores(x), expected, atol=1e-12)
