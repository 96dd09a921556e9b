"""Which units of a video changed, held to a slow version that reads like the definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from framefusion import FrameFusion
from framefusion.errors import ArgumentError
from framefusion.reduction.changes import Changed, changed_units, latest_version

WHOLE = torch.zeros(9, dtype=torch.int64)
"""Units of one part."""


def textbook(units: Tensor, parts: list[int], scale: Tensor, levels: float, whole: float) -> list[list[bool]]:
    """Frame by frame, unit by unit, part by part; each place remembers the pixels that were encoded there last."""
    mask: list[list[bool]] = []
    remembered: dict[int, list[float]] = {}
    for t, frame in enumerate(units.tolist()):
        moved = []
        for place, pixels in enumerate(frame):
            if t == 0:
                moved.append(True)
                continue
            squares = [
                ((new - old) * step) ** 2
                for new, old, step in zip(pixels, remembered[place], scale.tolist(), strict=True)
            ]
            own = [[square for square, of in zip(squares, parts, strict=True) if of == part] for part in set(parts)]
            moved.append(any(math.sqrt(sum(part) / len(part)) > levels for part in own))
        if sum(moved) > whole * len(moved):
            moved = [True] * len(moved)
        remembered |= {place: pixels for place, pixels in enumerate(frame) if moved[place]}
        mask.append(moved)
    return mask


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4)),
    levels=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    whole=st.sampled_from([0.2, 0.5, 0.99, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_equals_the_textbook(shape: tuple[int, int, int], levels: float, whole: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Whole numbers: sums are exact, and differences are equal to thresholds now and then.
    units = torch.randint(0, 3, shape, generator=generator).float()
    scale = torch.randint(1, 4, (shape[2],), generator=generator).float()
    # As many parts as come up, of whatever sizes, in any order.
    parts = torch.randint(0, 3, (shape[2],), generator=generator).unique(return_inverse=True)[1]
    got = changed_units(units, parts, scale, levels, whole).tolist()
    assert got == textbook(units, parts.tolist(), scale, levels, whole)


@given(frames=st.integers(1, 8), units=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_the_latest_version_is_the_last_frame_that_was_encoded(frames: int, units: int, seed: int) -> None:
    mask = torch.rand(frames, units, generator=torch.Generator().manual_seed(seed)) < 0.4
    mask[0] = True
    wanted = [[max(b for b in range(t + 1) if mask[b, u]) for u in range(units)] for t in range(frames)]
    assert latest_version(mask).tolist() == wanted


def test_slow_drift_adds_up() -> None:
    """One level a frame is never more than four from the frame before, but five from what was encoded."""
    units = torch.arange(12.0)[:, None, None].expand(12, 2, 3).clone()
    units[:, 1] = 0
    mask = changed_units(units, WHOLE[:3], torch.ones(1), 4.0)
    assert mask[:, 0].nonzero().flatten().tolist() == [0, 5, 10]
    assert mask[:, 1].tolist() == [True] + [False] * 11


def test_a_frame_of_which_more_than_half_changed_is_encoded_whole() -> None:
    units = torch.zeros(3, 4, 1)
    units[1, :2] = 9
    units[2] = units[1]
    units[2, :3] = 30
    assert changed_units(units, WHOLE[:1], torch.ones(1), 4.0).sum(1).tolist() == [4, 2, 4]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_compared_in_float32(dtype: torch.dtype) -> None:
    units = torch.tensor([0.0, 2.0, 2.0], dtype=dtype).view(3, 1, 1).expand(3, 2, 5)
    assert changed_units(units, WHOLE[:5], torch.tensor([255.0]), 4.0).all(1).tolist() == [True, True, False]


def test_a_change_of_one_patch_is_not_lost_in_its_unit() -> None:
    """A quarter of the unit by six levels: three over all of it."""
    units = torch.zeros(2, 3, 8)
    units[1, 0, 2:4] = 6
    parts = torch.arange(4).repeat_interleave(2)
    assert changed_units(units, parts, torch.ones(1), 4.0)[1].tolist() == [True, False, False]
    assert changed_units(units, torch.zeros_like(parts), torch.ones(1), 4.0)[1].tolist() == [False] * 3


@pytest.mark.parametrize(
    ("share", "blocks", "full"), [(0.0, 12, 0), (0.25, 12, 3), (0.25, 27, 7), (0.01, 40, 2), (0.25, 3, 2), (1.0, 9, 9)]
)
def test_the_blocks_that_run_over_all_units(share: float, blocks: int, full: int) -> None:
    assert Changed(full_blocks=share).full(blocks) == full
    assert Changed(full_blocks=share).full(1) <= 1


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, None),
        ("changed", Changed()),
        ("changed:4", Changed(4.0)),
        ("changed:0", Changed(0.0)),
        (Changed(2.5, whole=1.0, std=[0.5]), Changed(2.5, 1.0, std=(0.5,))),
    ],
)
def test_the_setting_means(given: Any, meant: Changed | None) -> None:
    assert FrameFusion(tower=given).tower == meant


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("change", "tower must be None .*got 'change'"),
        ("changed:", "tower='changed:': the levels must be a number"),
        ("changed:x", "the levels must be a number"),
        ("changed:300", r"Changed.levels must be in \[0, 255\], got 300"),
        (True, "tower must be None"),
        (4.0, "tower must be None"),
    ],
)
def test_other_settings_are_refused(given: Any, says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        FrameFusion(tower=given)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"levels": -1}, "Changed.levels must be in"),
        ({"levels": math.nan}, "Changed.levels must be in"),
        ({"whole": 0}, "Changed.whole must be more than 0"),
        ({"whole": 1.5}, "Changed.whole must be in"),
        ({"full_blocks": -0.1}, "Changed.full_blocks must be in"),
        ({"full_blocks": 1.1}, "Changed.full_blocks must be in"),
        ({"std": 0.5}, "Changed.std must be a sequence"),
        ({"std": "0.5"}, "Changed.std must be a sequence"),
        ({"std": []}, "Changed.std must be a sequence"),
        ({"std": [0.0]}, "Changed.std must be more than 0"),
    ],
)
def test_parameters_are_checked(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        Changed(**arguments)


@pytest.mark.parametrize("relevance", ["encoder", "encoder-last"])
def test_the_attention_of_the_encoder_needs_all_of_it(relevance: str) -> None:
    with pytest.raises(ArgumentError, match=f"tower and relevance='{relevance}' exclude each other"):
        FrameFusion(tower="changed", relevance=relevance)
