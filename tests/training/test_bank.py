import numpy as np
import pytest
import torch
from bank import LENGTHS, NOBODY, UNCLEAR, owners

from framefusion.evaluation.needle.scenes import render_scene, sample_video


def test_a_bank_has_scenes_of_every_length(bank, family):
    assert {length // family.frames_per_slot for length in bank.by_length} == set(LENGTHS)
    for frames, scenes in bank.by_length.items():
        assert len(scenes) >= 40
        for item in scenes[:3]:
            assert item.features.shape == (frames // family.frames_per_slot, 64, 128)
            assert item.owner.shape == (frames // family.frames_per_slot, 64)


def test_owners_are_the_things_that_cover_a_token(clips):
    scene = sample_video(np.random.default_rng(0), frames=8, footage="fast", split="train").scenes[0]
    rendered = render_scene(scene, 4, clips)
    owner = owners(rendered, 4)
    coverage = rendered.coverage.reshape(len(scene.things), 4, 64)
    for frame in range(4):
        for token in range(64):
            most = coverage[:, frame, token].max()
            expected = int(coverage[:, frame, token].argmax()) if most >= 0.15 else UNCLEAR if most >= 0.03 else NOBODY
            assert owner[frame, token] == expected
    pairs = owners(rendered, 2)
    for slot in range(2):
        both = coverage[:, 2 * slot : 2 * slot + 2].max(axis=1)
        assert (pairs[slot][both.max(axis=0) >= 0.15] == both.argmax(axis=0)[both.max(axis=0) >= 0.15]).all()


@pytest.mark.parametrize("slots", [8, 16, 32])
def test_composed_videos_have_the_frames_that_were_asked_for(bank, family, slots):
    for seed in range(20):
        video, scenes = bank.compose(np.random.default_rng(seed), slots * family.frames_per_slot)
        assert video.num_frames == slots * family.frames_per_slot
        assert sum(len(item.owner) for item in scenes) == slots
        assert [item.scene for item in scenes] == list(video.scenes)


def test_refreshing_replaces_so_many_scenes(bank):
    before = {id(item) for scenes in bank.by_length.values() for item in scenes}
    bank.refresh(5)
    after = [id(item) for scenes in bank.by_length.values() for item in scenes]
    assert 1 <= sum(item not in before for item in after) <= 5
    assert len(after) == len(before)
    assert all(torch.isfinite(item.features).all() for scenes in bank.by_length.values() for item in scenes)
