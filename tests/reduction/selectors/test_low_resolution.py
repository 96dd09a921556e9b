from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.reduction.selectors import low_resolution
from framefusion.reduction.selectors.candidates import Candidates
from tests.reduction.selectors.given import largest_remainder, meets, members, videos


@given(videos())
def test_every_frame_is_tiled_by_rectangles(candidates: Candidates) -> None:
    selected = low_resolution.select(candidates)
    assert meets(candidates, selected)
    assert selected.target is not None
    target, frames = selected.target.tolist(), candidates.frames.tolist()
    width = candidates.grid[2]
    for segment, count in candidates.budgets.items():
        own = members(candidates, segment)
        groups = [[i for i in own if frames[i] == f] for f in sorted({frames[i] for i in own})]
        sizes = [len(group) for group in groups]
        for group, budget in zip(groups, largest_remainder([float(n) for n in sizes], count, sizes), strict=True):
            assert len({target[i] for i in group} - {-1}) == budget
            assert all((target[i] == -1) == (budget == 0) for i in group)
            boxes = []
            for kept in {target[i] for i in group} - {-1}:
                cells = [divmod(int(candidates.patches[i]), width) for i in group if target[i] == kept]
                boxes.append([(min(side), max(side)) for side in zip(*cells, strict=True)])
            # Rectangles that do not overlap: apart along at least one side.
            for a in range(len(boxes)):
                for b in range(a):
                    assert any(p[1] < q[0] or q[1] < p[0] for p, q in zip(boxes[a], boxes[b], strict=True))


@pytest.mark.parametrize(("count", "sizes"), [(4, [16] * 4), (16, [4] * 16), (64, [1] * 64), (3, [20, 20, 24])])
def test_equal_blocks_where_the_budget_allows(count: int, sizes: list[int]) -> None:
    cells = np.stack(np.divmod(np.arange(64), 8), axis=1)
    parts = low_resolution.blocks(cells, count)
    assert sorted(len(part) for part in parts) == sizes
    assert sorted(np.concatenate(parts).tolist()) == list(range(64))


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_parts_differ_by_little(height: int, width: int, data: st.DataObject) -> None:
    cells = np.stack(np.divmod(np.arange(height * width), width), axis=1)
    count = data.draw(st.integers(1, len(cells)))
    parts = low_resolution.blocks(cells, count)
    assert len(parts) == count
    sizes = [len(part) for part in parts]
    assert min(sizes) >= 1
    assert max(sizes) <= max(4 * len(cells) / count, 2)


def test_a_cross_has_no_even_cut() -> None:
    cross = np.array([[0, 1], [1, 0], [1, 1], [1, 2], [2, 1]])
    assert sorted(len(part) for part in low_resolution.blocks(cross, 2)) == [1, 4]


def test_a_block_lives_in_its_middle() -> None:
    candidates = Candidates(
        torch.arange(9.0)[:, None], None, torch.zeros(9, dtype=torch.long), torch.zeros(9, dtype=torch.long),
        torch.arange(9), (1, 3, 3), {0: 1},
    )  # fmt: skip
    selected = low_resolution.select(candidates)
    assert selected.indices.tolist() == [4]
    assert selected.features is None
