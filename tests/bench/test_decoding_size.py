"""Decoding at the size that a processor makes of frames, as it is measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import decoding_size
from benchmarks.decoding_size import FILTERS, Processor
from framefusion.asking.video import read_video
from framefusion.assets import REAL_VIDEO

COUNT = 2


@pytest.fixture(params=decoding_size.processors(), ids=lambda processor: processor.name)
def processor(request: pytest.FixtureRequest) -> Processor:
    return request.param


def test_what_is_decoded_has_the_size_that_the_processor_makes(processor: Processor) -> None:
    whole = decoding_size.read(REAL_VIDEO, COUNT)
    size = processor.size(whole)
    small = decoding_size.read(REAL_VIDEO, COUNT, size)
    assert (small.height, small.width) == size
    assert processor(small, do_resize=False).shape == processor(whole).shape
    assert (small.indices == whole.indices).all()


def test_a_processor_that_does_not_scale_only_normalises(processor: Processor) -> None:
    small = decoding_size.read(REAL_VIDEO, COUNT, processor.size(decoding_size.read(REAL_VIDEO, COUNT)))
    made = processor(small, do_resize=False, do_rescale=False, do_normalize=False)
    assert torch.equal(made.flatten().sort().values, torch.from_numpy(small.frames).flatten().sort().values)


def test_some_processors_scale_what_they_scaled_once_more() -> None:
    """So that the size alone is not enough: such a one has to be told not to scale."""
    (qwen,) = (processor for processor in decoding_size.processors() if processor.name == "bundled-qwen")
    small = decoding_size.read(REAL_VIDEO, COUNT, (60, 144))
    assert qwen.size(decoding_size.read(REAL_VIDEO, COUNT, (272, 640))) == (60, 144)
    assert qwen.size(small) != (60, 144)


def test_what_the_package_reads_becomes_the_same(processor: Processor) -> None:
    """As every turn that is timed asserts."""
    size = processor.size(decoding_size.read(REAL_VIDEO, COUNT))
    taken = decoding_size.turn(REAL_VIDEO, COUNT, size, processor)
    assert all(seconds > 0 for seconds in taken.values())
    resize = processor.fitting(COUNT, 144, 176)
    assert resize is not None
    assert resize(np.zeros((144, 176, 3), np.uint8)).shape == (*size, 3)


def test_a_clip_plays_several_times_over(tmp_path: Path) -> None:
    once = read_video(REAL_VIDEO, frames=10_000)
    decoding_size.looped(REAL_VIDEO, 2, tmp_path / "twice.mp4")
    twice = read_video(tmp_path / "twice.mp4", frames=10_000)
    assert np.array_equal(twice.frames, np.concatenate([once.frames, once.frames]))
    assert twice.duration == pytest.approx(2 * once.duration)


def test_the_reader_is_itself_again_afterwards() -> None:
    usual = read_video(REAL_VIDEO, frames=COUNT).frames
    decoding_size.read(REAL_VIDEO, COUNT, (24, 48), FILTERS["area"])
    assert np.array_equal(decoding_size.read(REAL_VIDEO, COUNT).frames, usual)


@pytest.mark.usefixtures("capsys")
def test_drawing_is_measured_upright_and_turned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding_size, "DRAWN", {"640×272": (640, 272)})
    monkeypatch.setattr(decoding_size, "scaled_up", lambda folder, size, count: REAL_VIDEO)
    rows = decoding_size.drawing(tmp_path, 1, COUNT)
    assert [row["turned"] for row in rows] == [False, True]
    for row in rows:
        assert set(row["seconds (CPU, wall)"]) == {"nothing", "drawn", "drawn anew"}
        assert all(seconds > 0 for pair in row["seconds (CPU, wall)"].values() for seconds in pair)


def test_a_filter_is_the_only_difference() -> None:
    by = {title: decoding_size.read(REAL_VIDEO, COUNT, (48, 64), flags).frames for title, flags in FILTERS.items()}
    assert np.array_equal(by.pop("as the reader's"), decoding_size.read(REAL_VIDEO, COUNT, (48, 64)).frames)
    usual = decoding_size.read(REAL_VIDEO, COUNT, (48, 64)).frames.astype(int)
    for frames in by.values():
        assert 0 < np.abs(frames - usual).mean() < 8
