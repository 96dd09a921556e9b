from __future__ import annotations

from unittest import mock

import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.reduction.selectors import sttm
from framefusion.reduction.selectors.candidates import Candidates
from tests.reduction.selectors.given import agree, cosine, frames_of, nasty, stays_finite, stilled, videos


@st.composite
def large_frames(draw: st.DrawFn) -> Candidates:
    """Frames of up to three levels, some of them with holes, in one or two segments."""
    t, h, w = draw(st.integers(1, 3)), draw(st.integers(3, 7)), draw(st.integers(3, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    things = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    scene = things[(torch.arange(h * w) % w >= w // 2).long()][None]
    noise = draw(st.sampled_from([0.1, 0.3, 1.0]))
    features = (scene + noise * torch.randn(t, h * w, 4, generator=generator, dtype=torch.float64)).flatten(0, 1)
    cells = (torch.rand(t * h * w, generator=generator) < draw(st.sampled_from([0.7, 1.0, 1.0]))).nonzero().squeeze(-1)
    frames = cells // (h * w)
    of_token = (frames >= draw(st.integers(0, t))).long()
    ids, lengths = of_token.unique(return_counts=True)
    budgets = {i: draw(st.integers(0, n)) for i, n in zip(ids.tolist(), lengths.tolist(), strict=True)}
    return Candidates(features[cells], None, of_token, frames, cells % (h * w), (t, h, w), budgets)


def sides(length: int) -> list[list[set[int]]]:
    """The rows (or columns) that belong together, level by level from single ones on."""
    levels = [[{i} for i in range(length)]]
    while len(levels[-1]) > 2:
        last = levels[-1]
        odd = len(last) % 2
        levels.append([*last[:odd], *(last[i] | last[i + 1] for i in range(odd, len(last), 2))])
    return levels


def quadtree(
    x: torch.Tensor, of_place: dict[tuple[int, int], int], grid: tuple[int, int, int], root: int, threshold: float
) -> list[tuple[list[int], torch.Tensor]]:
    """The nodes of one frame that stay whole: their tokens and their features."""
    _, height, width = grid
    rows, columns = sides(height), sides(width)
    top = max(0, min(len(rows), len(columns)) - 1 - root)
    found: list[tuple[list[int], torch.Tensor]] = []

    def children(level: int, own: set[int], others: set[int]) -> list[tuple[set[int], set[int]]]:
        return [
            (r, c) for r in rows[level - 1] for c in columns[level - 1]
            if r <= own and c <= others and any((i, j) in of_place for i in r for j in c)
        ]  # fmt: skip

    def feature(level: int, own: set[int], others: set[int]) -> torch.Tensor:
        if level == 0:
            return x[of_place[min(own), min(others)]]
        return torch.stack([feature(level - 1, r, c) for r, c in children(level, own, others)]).mean(0)

    def visit(level: int, own: set[int], others: set[int]) -> None:
        tokens = [of_place[i, j] for i in sorted(own) for j in sorted(others) if (i, j) in of_place]
        if not tokens:
            return
        value = feature(level, own, others)
        parts = children(level, own, others) if level else []
        if all(cosine(value, feature(level - 1, r, c)) >= threshold for r, c in parts):
            found.append((tokens, value))
        else:
            for r, c in parts:
                visit(level - 1, r, c)

    for r in rows[top]:
        for c in columns[top]:
            visit(top, r, c)
    return found


def joined(pairs: list[tuple[float, int, int]], total: int, least: int) -> list[set[int]]:
    """What hangs together when pairs join, the most similar first, down to so many groups."""
    groups = [{i} for i in range(total)]
    for _, a, b in sorted(pairs, reverse=True):
        one, other = next(g for g in groups if a in g), next(g for g in groups if b in g)
        if one is not other and len(groups) > least:
            groups = [g for g in groups if g is not one and g is not other] + [one | other]
    return groups


def by_the_paper(candidates: Candidates, root: int) -> tuple[dict[int, int], dict[int, torch.Tensor]]:
    """Where every token goes, -1 for nowhere, and what the kept ones become; in float64."""
    x, frames = candidates.features.double(), candidates.frames.tolist()
    width = candidates.grid[2]
    places = [(p // width, p % width) for p in candidates.patches.tolist()]
    goes: dict[int, int] = {}
    new: dict[int, torch.Tensor] = {}

    def of_threshold(groups: list[list[int]], threshold: float) -> list[tuple[list[int], torch.Tensor]]:
        return [
            node
            for group in groups
            for node in quadtree(x, {places[i]: i for i in group}, candidates.grid, root, threshold)
        ]

    def neighbours(nodes: list[tuple[list[int], torch.Tensor]]) -> list[tuple[float, int, int]]:
        return [
            (cosine(a[1], b[1]), m, n)
            for m, a in enumerate(nodes)
            for n, b in enumerate(nodes)
            if frames[b[0][0]] == frames[a[0][0]] + 1 and {places[i] for i in a[0]} & {places[i] for i in b[0]}
        ]

    for segment, count in candidates.budgets.items():
        groups = frames_of(candidates, segment)
        goes |= {i: -1 for group in groups for i in group}
        if not count:
            continue
        low, high, nodes = 0, 128, [([i], x[i]) for group in groups for i in group]
        while high - low > 1:
            middle = (low + high) // 2
            whole = of_threshold(groups, middle / 128)
            pairs = [pair for pair in neighbours(whole) if pair[0] >= middle / 128 - 0.25]
            enough = len(joined(pairs, len(whole), 0)) >= count
            low, high, nodes = (low, middle, whole) if enough else (middle, high, nodes)
        merged = joined(neighbours(nodes), len(nodes), count)
        tokens = [sorted(i for n in group for i in nodes[n][0]) for group in merged]
        order = sorted(range(len(merged)), key=lambda g: (-len(tokens[g]), tokens[g]))
        for g in order[:count]:
            goes |= dict.fromkeys(tokens[g], tokens[g][0])
            new[tokens[g][0]] = torch.stack([nodes[n][1] for n in merged[g]]).mean(0)
    return goes, new


@given(large_frames(), st.integers(0, 1))
def test_as_the_paper_has_it(candidates: Candidates, root: int) -> None:
    with mock.patch.object(sttm, "ROOT", root):
        agree(candidates, sttm.select(candidates), by_the_paper(candidates, root))


@given(videos(), st.sampled_from([1.0, 0.1]), st.integers(0, 1))
def test_small_frames(candidates: Candidates, change: float, root: int) -> None:
    candidates = stilled(candidates, change)
    with mock.patch.object(sttm, "ROOT", root):
        agree(candidates, sttm.select(candidates), by_the_paper(candidates, root))


@given(videos(), st.integers(0, 99))
def test_zeros_and_twins(candidates: Candidates, seed: int) -> None:
    candidates = nasty(candidates, seed)
    stays_finite(candidates, sttm.select(candidates))


def test_a_node_over_time_is_one_token() -> None:
    """Two halves of a frame of 8 x 8, still for three frames: the roots are 4 x 4, and those of a half are alike."""
    half = torch.eye(2, dtype=torch.float64)[(torch.arange(64) % 8 >= 4).long()]
    candidates = Candidates(
        half.repeat(3, 1), None, torch.zeros(192, dtype=torch.long), torch.arange(192) // 64, torch.arange(192) % 64,
        (3, 8, 8), {0: 16},
    )  # fmt: skip
    assert sttm.select(candidates).indices.tolist() == [
        8 * row + column for row in (0, 2, 4, 6) for column in (0, 2, 4, 6)
    ]
