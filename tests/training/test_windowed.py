"""The DINOv2 with windows, held to the official blocks under a mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model
from windowed import window_rows, windowed

GRID, PATCH = 4, 14


@pytest.fixture
def tower() -> Any:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=24,
        num_attention_heads=2,
        num_hidden_layers=3,
        image_size=GRID * PATCH,
        patch_size=PATCH,
        use_mask_token=False,
        layerscale_value=1.0,
        initializer_range=0.2,
    )
    return Dinov2Model(config).eval()


def copied(side: int) -> list[int]:
    """The rows of a frame, window by window, each behind a copy of the class token, row 0."""
    rows = []
    for top in range(0, GRID, side):
        for left in range(0, GRID, side):
            inside = [(y, x) for y in range(top, top + side) for x in range(left, left + side)]
            rows += [0, *(1 + y * GRID + x for y, x in inside)]
    return rows


@torch.no_grad()
@pytest.mark.parametrize(("side", "full"), [(2, (1,)), (2, ()), (1, (0, 2)), (4, (2,))])
def test_blocks_attend_within_windows(tower: Any, side: int, full: tuple[int, ...]) -> None:
    pixels, rows = torch.randn(3, 3, GRID * PATCH, GRID * PATCH), copied(side)
    number = torch.arange(len(rows)) // (1 + side * side)
    mask = torch.where(number[:, None] == number, 0.0, -torch.inf).expand(3, 1, -1, -1)
    hidden: Tensor = tower.embeddings(pixels)[:, rows]
    for index, layer in enumerate(tower.encoder.layer):
        hidden = layer(hidden, None if index in full else mask)
    places = [[at for at, row in enumerate(rows) if row == own] for own in range(1 + GRID * GRID)]
    hidden = torch.stack([hidden[:, own].mean(1) for own in places], 1)
    plain = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-1]
    got = windowed(tower, side, full)(pixel_values=pixels, output_hidden_states=True)
    torch.testing.assert_close(got.hidden_states[-1], hidden, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.last_hidden_state, tower.layernorm(hidden), atol=1e-5, rtol=1e-5)
    assert side == GRID or (plain - hidden).abs().max() > 1e-2


@torch.no_grad()
def test_one_window_is_the_tower_itself(tower: Any) -> None:
    pixels = torch.randn(2, 3, GRID * PATCH, GRID * PATCH)
    plain = tower(pixel_values=pixels).last_hidden_state
    got = windowed(tower, GRID, (1,))(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(got, plain)


def test_the_rows_are_window_by_window() -> None:
    assert window_rows(4, 2).tolist() == [
        [0, 1, 2, 5, 6],
        [0, 3, 4, 7, 8],
        [0, 9, 10, 13, 14],
        [0, 11, 12, 15, 16],
    ]


def test_windows_that_do_not_fill_a_frame_are_refused(tower: Any) -> None:
    with pytest.raises(ValueError, match="windows of 3 × 3 patches do not fill frames of 4 × 4"):
        windowed(tower, 3)
