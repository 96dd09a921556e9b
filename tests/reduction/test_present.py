"""Slots, columns, tokens and items: against lists of what is where."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framefusion.reduction.layout import VisualItem, VisualLayout
from framefusion.reduction.present import Present


@st.composite
def batches(draw):
    """Layouts of a batch and which columns are no padding, on the left or on the right."""
    rows = draw(
        st.lists(
            st.lists(
                st.tuples(st.integers(0, 3), st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 2))),
                max_size=3,
            ),
            min_size=1,
            max_size=3,
        )
    )
    lengths = [1 + sum(gap + t * h * w for gap, (t, h, w) in items) for items in rows]
    length = max(lengths)
    valid, layouts = torch.zeros(len(rows), length, dtype=torch.bool), []
    for b, (items, own) in enumerate(zip(rows, lengths, strict=True)):
        at = first = draw(st.sampled_from([0, length - own]))
        valid[b, first : first + own] = True
        found = []
        for gap, grid in items:
            found.append(VisualItem.run("video", grid, at + gap))
            at = int(found[-1].columns[-1]) + 1
        layouts.append(VisualLayout.of(found))
    return layouts, valid


@settings(deadline=None)
@given(batches(), st.data())
def test_every_way_between_the_spaces(batch, data):
    layouts, valid = batch
    present = Present.whole(layouts, valid)
    there = [row.nonzero().squeeze(-1).tolist() for row in valid]
    held = [[c if own else -1 for c, own in enumerate(row)] for row in valid.tolist()]
    for _ in range(3):
        assert present.columns.tolist() == held
        assert present.padded == any(-1 in row for row in held)
        assert present.lengths == [len(row) for row in there]
        for b, layout in enumerate(layouts):
            columns, items = layout.columns.tolist(), layout.item.tolist()
            visual = present.visual(b)
            wanted = [(held[b].index(c), c, t, items[t]) for t, c in enumerate(columns) if c in there[b]]
            assert list(zip(*(part.tolist() for part in visual), strict=True)) == wanted
            assert present.counts[b] == [sum(w[3] == i for w in wanted) for i in range(len(layout.grids))]
            assert torch.equal(present.slots_of(b, visual.columns), visual.slots)
        stays = valid & torch.tensor([[data.draw(st.booleans()) for _ in row] for row in valid.tolist()])
        before = [list(row) for row in held]
        present, origin = present.only(stays)
        there = [[c for c in row if stays[b, c]] for b, row in enumerate(there)]
        longest = max(map(len, there))
        held = [[-1] * (longest - len(row)) + row for row in there]
        for b, row in enumerate(held):
            assert [before[b][slot] for c, slot in zip(row, origin[b].tolist(), strict=True) if c >= 0] == there[b]
