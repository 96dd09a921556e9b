"""Checkpoints of every family with its own processor, made when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from framefusion.asking.frames import video_of_frames
from framefusion.asking.loading import LoadedModel, load
from framefusion.asking.video import Video
from tests import family_checkpoints


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LoadedModel]:
    @cache
    def loaded(name: str) -> LoadedModel:
        if name == "smolvlm":
            pytest.importorskip("num2words", reason="SmolVLM's processor spells out the number of frames with it")
        return load(family_checkpoints.save(name, tmp_path_factory.mktemp(name) / "model"), device="cpu")

    return loaded


@pytest.fixture(scope="session")
def bundled() -> LoadedModel:
    return load(device="cpu")


@pytest.fixture(scope="session")
def video() -> Video:
    """Eight frames, a second apart, every other one a copy of the one before."""
    frames = np.random.default_rng(0).integers(0, 255, (4, 32, 48, 3), dtype=np.uint8).repeat(2, axis=0)
    return video_of_frames(frames, np.arange(8.0))
