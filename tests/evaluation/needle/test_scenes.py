from __future__ import annotations

import numpy as np
import pytest

from framefusion.evaluation.needle.footage import Clip, bundled_clips, excerpt
from framefusion.evaluation.needle.scenes import Video, render_scene, sample_video, scene_lengths


def clip(name: str, frames: int = 12, level: int = 0) -> Clip:
    """A film whose frame ``i`` has the grey level ``level + 10 i``."""
    grey = (level + 10 * np.arange(frames))[:, None, None, None]
    return Clip(name, np.broadcast_to(grey, (frames, 40, 60, 3)).astype(np.uint8), 8.0)


def drawn(seed: int, frames: int = 16) -> Video:
    return sample_video(np.random.default_rng(seed), frames=frames, footage="static", split="test")


def test_footage_runs_on_unless_it_is_cut() -> None:
    rng = np.random.default_rng(0)
    levels = excerpt(rng, [clip("a")], 6, cut=0.0, seconds=1 / 8).mean(axis=(1, 2, 3)) / 8
    steps = np.abs(np.diff(np.round(levels)))
    assert set(steps.tolist()) <= {0.0, 1.0}
    # past its end it runs back
    there_and_back = excerpt(rng, [clip("a")], 40, cut=0.0, seconds=1 / 8).mean(axis=(1, 2, 3)) / 8
    assert set(np.round(there_and_back).tolist()) == set(range(12))
    cuts = excerpt(rng, [clip("a"), clip("b", level=100)], 40, cut=1.0, seconds=1 / 8).mean(axis=(1, 2, 3)) / 8
    assert np.abs(np.diff(cuts)).max() > 5


def test_the_bundled_footage_is_there_and_real() -> None:
    clips = bundled_clips()
    assert {clip.name for clip in clips} == {"bunny", "city-1", "city-2", "concert"}
    for item in clips:
        assert item.frames.shape[1] >= 96
        assert item.frames.std() > 20


@pytest.mark.parametrize("frames", [8, 16, 33, 64])
def test_lengths_add_up_and_no_scene_is_shorter_than_two_frames(frames: int) -> None:
    for seed in range(30):
        lengths = scene_lengths(np.random.default_rng(seed), 4, frames, jitter=0.5)
        assert sum(lengths) == frames
        assert min(lengths) >= 2
    with pytest.raises(ValueError, match=r"frames must be at least twice the number of scenes \(4\), got 7"):
        scene_lengths(np.random.default_rng(0), 4, 7, jitter=0.0)


def test_the_number_of_frames_does_not_change_what_is_shown() -> None:
    for seed in range(20):
        assert drawn(seed, 8).scenes == drawn(seed, 64).scenes


def test_things_of_a_video_have_different_names_and_do_not_overlap() -> None:
    for seed in range(20):
        video = drawn(seed)
        names = [thing.name for _, thing in video.things]
        assert len(set(names)) == len(names)
        rendered = render_scene(video.scenes[0], 5, [clip("a")])
        assert rendered.frames.shape == (5, 96, 96, 3)
        assert rendered.coverage.sum(axis=0).max() <= 1.01
        assert [thing.role for thing in video.scenes[0].things].count("large") == 1


def test_a_needle_covers_tokens_of_one_frame_and_a_small_thing_few() -> None:
    seen = {"needle": 0, "small": 0}
    for seed in range(30):
        for scene in drawn(seed).scenes:
            coverage = render_scene(scene, 4, [clip("a")]).coverage
            for thing, cells in zip(scene.things, coverage, strict=True):
                if thing.role in seen:
                    seen[thing.role] += 1
                frames = (cells.max(axis=(1, 2)) > 0.15).sum()
                if thing.role == "needle":
                    assert frames == 1
                if thing.role == "small":
                    assert frames == 4
                    assert (cells[0] > 0.15).sum() <= 4
    assert min(seen.values()) > 10


@pytest.mark.parametrize("footage", ["static", "fast"])
def test_a_smooth_film_holds_the_frames_in_its_middles(footage: str) -> None:
    video = sample_video(np.random.default_rng(5), frames=8, footage=footage, split="test")  # type: ignore[arg-type]
    for scene in video.scenes:
        still = [Clip("grey", np.full((1, 40, 60, 3), 90, dtype=np.uint8), 8.0)]
        frames = render_scene(scene, 3, still).frames
        film = render_scene(scene, 3, still, repeat=5).frames
        assert film.shape == (15, 96, 96, 3)
        assert np.array_equal(film[2::5], frames)
        assert render_scene(scene, 2, still, size=192).frames.shape == (2, 192, 192, 3)
