"""Sessions whose vision tower encodes only what changed: each part begins with a frame that is encoded whole."""

from __future__ import annotations

import numpy as np
import pytest

from framefusion import Changed, FrameFusion, restore_session, session
from framefusion.asking.ask import ask
from tests.asking.sessions.test_session import FAMILIES, QUESTIONS
from tests.hf.towers.test_towers import FOLLOWED

TOWER = FrameFusion(tower=Changed(0.1, full_blocks=0))


@pytest.mark.parametrize("name", [name for name in FOLLOWED if name in FAMILIES])
def test_copies_of_frames_lose_nothing(family, video, name):
    """Every other frame is a copy of the one before: shown at once, and in parts, the answer is that of all."""
    loaded = family(name)
    plain = ask(video, QUESTIONS[0], model=loaded.model, processor=loaded.processor, max_new_tokens=6)
    with session(loaded.model, loaded.processor, TOWER, max_new_tokens=6) as talk:
        talk.add(video)
        reply = talk.ask(QUESTIONS[0])
    assert reply.text == plain.text
    assert reply.summary.tokens_per_layer == plain.summary.tokens_per_layer
    temporal = getattr(loaded.model.config.vision_config, "temporal_patch_size", None) or 1
    # A temporal patch is a frame and its copy: then everything changed.
    assert reply.summary.tower_share == pytest.approx(1.0 if temporal > 1 else 0.5, abs=0.07)


def test_a_part_compares_with_the_frame_shown_again(bundled, video):
    """A still video in three parts: of each the first frame, which for later parts is the last one before."""
    frames = video.frames[:1].repeat(6, axis=0)
    with session(bundled.model, bundled.processor, TOWER, max_new_tokens=4) as talk:
        talk.add(frames[:2])
        assert talk.summary().tower_share == 1 / 2
        talk.add(frames[2:4])
        assert talk.summary().tower_share == (1 + 1) / (2 + 3)
        talk.add(frames[4:6])
        assert talk.summary().tower_share == 3 / 8
        assert "the tower did 38% of its work" in str(talk.summary())
        reply = talk.ask(QUESTIONS[0])
        assert reply.summary.tower_share == 3 / 8
    with session(bundled.model, bundled.processor, max_new_tokens=4) as talk:
        talk.add(frames)
        assert talk.ask(QUESTIONS[0]).text == reply.text
        assert talk.summary().tower_share is None


def test_the_share_is_saved(bundled, video, tmp_path):
    with session(bundled.model, bundled.processor, TOWER, max_new_tokens=4) as talk:
        talk.add(video)
        share = talk.summary().tower_share
        talk.save(tmp_path / "held")
    again = restore_session(tmp_path / "held", bundled.model, bundled.processor)
    assert again.summary().tower_share == share
    assert again.settings == TOWER
    assert np.isclose(share, 0.5, atol=0.07)
