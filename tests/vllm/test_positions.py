from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.vllm.positions import CHANNELS, Item, Places, before_features, decode, encode, place

VISUAL = 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_channels_are_exact_in_every_dtype(dtype: torch.dtype) -> None:
    numbers = torch.tensor([0, 1, 255, 256, 257, 65535, 65536, (1 << 24) - 1])
    places = Places(numbers, torch.stack([numbers, numbers.flip(0), numbers // 3]), 17, 70000, 1 << 20)
    channels = encode(places, dtype)
    assert channels.shape == (8, CHANNELS)
    assert channels.dtype == dtype
    again = decode(channels)
    assert torch.equal(again.offsets, places.offsets)
    assert torch.equal(again.positions, places.positions)
    assert again[2:] == (17, 70000, 1 << 20)
    assert len(decode(channels[:0]).offsets) == 0


def test_what_cannot_be_carried_is_refused() -> None:
    with pytest.raises(ValueError, match="a number outside 0 … 16777215"):
        encode(Places(torch.tensor([0]), torch.tensor([[1 << 24], [0], [0]]), 0, 1, 1), torch.float32)


@st.composite
def prompts(draw: st.DrawFn) -> tuple[list[tuple[int, Places, int]], int]:
    """Runs of text and items: text before each, its places and its span; and the text at the end."""
    items = []
    for _ in range(draw(st.integers(0, 3))):
        lead, count = draw(st.integers(0, 3)), draw(st.integers(1, 6))
        steps = draw(st.lists(st.integers(0, 300), min_size=3 * count, max_size=3 * count))
        positions = torch.tensor(steps).reshape(3, count)
        front = torch.arange(lead).expand(3, -1)
        placed = torch.cat([front, positions + lead], 1)
        # What was pruned may have had the largest position.
        span = int(placed.max()) + 1 + draw(st.integers(0, 3))
        places = Places(torch.arange(lead + count), placed, lead, count, span)
        items.append((draw(st.integers(1 if items else 0, 4)), places, span))
    return items, draw(st.integers(0, 4))


@given(prompts(), st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_windows_of_any_size_place_everything(
    prompt: tuple[list[tuple[int, Places, int]], int], windows: list[int]
) -> None:
    """Against positions written down token by token, however the prefill is cut."""
    laid_out, end = prompt
    expected, kinds, items, at = [], [], [], 0
    for text, places, span in laid_out:
        expected += [[at + i] * 3 for i in range(text)]
        kinds += [0] * text
        items.append(Item(len(kinds), len(places.offsets), span))
        at += text
        expected += (places.positions.T + at).tolist()
        kinds += [0] * places.lead + [VISUAL] * (len(places.offsets) - places.lead)
        at += span
    expected += [[at + i] * 3 for i in range(end)]
    kinds += [0] * end
    wanted = torch.tensor(expected).reshape(-1, 3).T
    positions = before_features(len(kinds), items)
    in_items = torch.zeros(len(kinds), dtype=torch.bool)
    for item in items:
        in_items[item.offset : item.offset + item.length] = True
    assert torch.equal(positions[:, ~in_items], wanted[:, ~in_items])
    assert positions.shape == (3, len(kinds))
    after = at + end
    if kinds:
        assert int(positions.max()) + 1 == after
    visual, computed, turn = torch.tensor(kinds, dtype=torch.bool), 0, 0
    while computed < len(kinds):
        size = windows[turn % len(windows)]
        chunks = []
        for item, (_, places, _) in zip(items, laid_out, strict=True):
            first, past = max(computed - item.offset, 0), min(computed + size - item.offset, item.length)
            if first < past:
                part = encode(places, torch.bfloat16)[first:past]
                chunks.append(decode(part))
        positions, following = place(visual, chunks, positions, computed)
        computed, turn = computed + size, turn + 1
    assert torch.equal(positions, wanted)
    if kinds:
        assert following == after


def test_items_without_text_between_follow_each_other() -> None:
    items = [Item(0, 2, 7), Item(2, 1, 4)]
    first = Places(torch.arange(2), torch.tensor([[0, 3], [0, 0], [0, 1]]), 0, 2, 7)
    second = Places(torch.arange(1), torch.tensor([[0], [1], [0]]), 0, 1, 4)
    placed, after = place(torch.ones(3, dtype=torch.bool), [first, second], before_features(3, items), 0)
    assert placed.tolist() == [[0, 3, 7], [0, 0, 8], [0, 1, 7]]
    assert after == 11


def test_placeholders_in_the_text_are_text() -> None:
    """A user may write any token; only a run of the right length is a video."""
    places = Places(torch.arange(3), torch.tensor([[0, 1, 2], [0, 0, 0], [0, 0, 0]]), 0, 3, 3)
    visual = torch.tensor([0, 1, 0, 1, 1, 0, 1, 1, 1, 0]).bool()
    positions = before_features(10, [Item(6, 3, 3)])
    placed, after = place(visual, [places], positions, 0)
    assert placed[0].tolist() == list(range(10))
    assert placed[1].tolist() == [0, 1, 2, 3, 4, 5, 6, 6, 6, 9]
    assert after == 10
    with pytest.raises(ValueError, match="the prompt has no 3 placeholders in a row from column 7 on"):
        place(visual, [places], positions, 7)
