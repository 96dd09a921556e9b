import numpy as np
import pytest
from scenes import (
    BACKGROUNDS,
    render,
    render_background,
    render_crowd,
    sample_object,
    sample_video,
    scene_lengths,
)

from framefusion.needle.objects import COLORS, DIGITS, SHAPES, digit_samples


def _rng(seed=0):
    return np.random.default_rng(seed)


def test_same_seed_gives_same_video_and_another_seed_another():
    first, again, other = (render(sample_video(_rng(seed))) for seed in (1, 1, 2))
    assert first.spec == again.spec
    assert np.array_equal(first.frames, again.frames)
    assert not np.array_equal(first.frames, other.frames)


def test_shapes_and_dtypes():
    video = render(sample_video(_rng(), frames=6, scenes=3), size=128)
    assert video.frames.shape == (6, 128, 128, 3)
    assert video.frames.dtype == np.uint8
    assert video.coverage.shape == (6, 8, 8)
    assert video.scene_of_frame.tolist() == sorted(video.scene_of_frame.tolist())
    assert set(video.scene_of_frame.tolist()) == {0, 1, 2}


def test_objects_of_a_video_differ_in_color_or_kind():
    for seed in range(200):
        names = [scene.obj.name for scene in sample_video(_rng(seed), scenes=4).scenes]
        assert len(set(names)) == 4


def test_frames_are_split_over_scenes_with_at_least_one_each():
    for seed in range(200):
        lengths = scene_lengths(_rng(seed), 4, 8, jitter=0.5)
        assert sum(lengths) == 8
        assert min(lengths) >= 1
    assert scene_lengths(_rng(), 4, 8, jitter=0.0) == [2, 2, 2, 2]
    with pytest.raises(ValueError, match="frames must be at least the number of scenes"):
        scene_lengths(_rng(), 4, 3, jitter=0.0)


def test_videos_use_only_digits_of_their_split():
    for split in ("train", "test"):
        allowed = {int(i) for samples in digit_samples(split) for i in samples}
        used = {
            scene.obj.digit
            for seed in range(40)
            for scene in sample_video(_rng(seed), split=split, digit_share=1.0).scenes
        }
        assert used <= allowed


@pytest.mark.parametrize("kind", SHAPES + DIGITS)
def test_object_is_drawn_in_its_color_where_coverage_says(kind):
    spec = sample_video(_rng(3), frames=4, scenes=4)
    for color in ("red", "blue"):
        obj = sample_object(_rng(5), color, kind, "train")
        scene = spec.scenes[0].__class__(obj, "gradient", 7, 4)
        video = render(spec.__class__((scene,)), size=128)
        inside = np.repeat(np.repeat(video.coverage > 0.9, 16, axis=1), 16, axis=2)
        outside = np.repeat(np.repeat(video.coverage == 0, 16, axis=1), 16, axis=2)
        strongest = COLORS[color].index(max(COLORS[color]))
        if inside.any():
            assert (video.frames[inside].argmax(-1) == strongest).mean() > 0.9
        background = render_background("gradient", 7, 128).round().astype(np.uint8)
        assert np.array_equal(video.frames[outside], np.broadcast_to(background, video.frames.shape)[outside])
        assert 1.0 < video.coverage.sum(axis=(1, 2)).mean() < 9.0


def test_any_resolution_shows_the_same_picture():
    for seed in range(5):
        spec = sample_video(_rng(seed), digit_share=0.4)
        small, large = render(spec, 64), render(spec, 256)
        reduced = large.frames.reshape(-1, 64, 4, 64, 4, 3).astype(float).mean(axis=(2, 4))
        assert np.abs(reduced - small.frames).mean() < 4
        assert np.abs(large.coverage - small.coverage).max() < 0.1


def test_backgrounds_are_muted_so_that_objects_stand_out():
    for kind in BACKGROUNDS:
        for seed in range(20):
            picture = render_background(kind, seed, 64)
            assert picture.min() >= 0
            assert picture.max() <= 0.7 * 255 + 1
            assert (picture.max(axis=-1) - picture.min(axis=-1)).max() < 0.4 * 255


def test_crowded_frames_do_not_pile_objects_up():
    counts = []
    for seed in range(20):
        frame, objects, coverage = render_crowd(_rng(seed), 8)
        assert frame.shape == (64, 64, 3)
        assert len(objects) == len(coverage)
        assert len({obj.name for obj in objects}) == len(objects)
        assert np.sort(coverage, axis=0)[:-1].max() < 0.6
        counts.append(len(objects))
    assert np.mean(counts) > 3
    assert len(render_crowd(_rng(), 1)[1]) == 1


def test_objects_of_crowded_frames_stand_anywhere():
    """On a fixed grid the tower learns the places instead of the shapes."""
    places = np.asarray([obj.start for seed in range(100) for obj in render_crowd(_rng(seed), 8)[1]])
    counts, _, _ = np.histogram2d(places[:, 0], places[:, 1], bins=6, range=[[0.2, 0.8], [0.2, 0.8]])
    assert counts.min() > 0


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="size must be a multiple of 8"):
        render(sample_video(_rng()), size=60)
    with pytest.raises(ValueError, match="background"):
        render_background("sea", 0, 64)
