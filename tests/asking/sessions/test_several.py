"""Several videos in one session."""

from __future__ import annotations

import numpy as np
import pytest

from framefusion.asking.ask import ask
from framefusion.asking.frames import frames_of
from framefusion.asking.loading import LoadedModel
from framefusion.asking.sessions import Session
from framefusion.asking.video import Video
from framefusion.reduction.settings import FrameFusion
from tests.asking.media.corpus import picture

QUESTION = "which circle"


def video(count: int, first: int) -> Video:
    return frames_of(np.stack([picture(first + number, 96, 64) for number in range(count)]), None, 0.0)


@pytest.mark.parametrize("name", ["llava-onevision", "qwen2-vl", "qwen2.5-vl"])
@pytest.mark.parametrize("cost", [1.0, 0.5])
def test_answers_are_those_of_asking_afresh(name: str, cost: float, models: dict[str, LoadedModel]) -> None:
    loaded, settings = models[name], FrameFusion(cost=cost)
    media = [video(4, 0), video(4, 20), video(4, 40)]
    session = Session(loaded.model, loaded.processor, settings, max_new_tokens=8)
    for medium in media:
        session.add(medium)
    afresh = ask(media, QUESTION, model=loaded.model, processor=loaded.processor, settings=settings, max_new_tokens=8)
    assert session.ask(QUESTION).text == afresh.text


@pytest.mark.parametrize("name", ["llava-onevision", "qwen2.5-vl"])
def test_videos_of_different_lengths(name: str, models: dict[str, LoadedModel]) -> None:
    loaded = models[name]
    session = Session(loaded.model, loaded.processor, max_new_tokens=2)
    for medium in (video(6, 0), video(2, 20), video(8, 40)):
        session.add(medium)
    assert [count for _, count in session.summary().items] == [6, 2, 8]
    assert session.ask(QUESTION).new_tokens


def test_what_came_in_one_part_is_still_there(models: dict[str, LoadedModel]) -> None:
    loaded, first, second = models["llava-onevision"], video(4, 0), video(5, 20)
    session = Session(loaded.model, loaded.processor, chunk=4)
    session.add(first)
    session.add(second)
    assert session.media == (first, None)
    session.add(video(2, 40).frames, new=True)
    assert [medium is None for medium in session.media] == [False, True, False]
    session.add(video(2, 42).frames)
    assert [medium is None for medium in session.media] == [False, True, True]
