"""The training scripts are run from their own directory; make their modules importable."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "training"))


@pytest.fixture(scope="session")
def clips():
    """Grey noise that moves; the training films are not fetched for tests."""
    from framefusion.evaluation.needle.footage import Clip

    frames = np.random.default_rng(0).integers(60, 120, size=(12, 60, 80, 3)).astype(np.uint8)
    return [Clip("noise", frames, 8.0)]


@pytest.fixture(scope="session", params=["llava", "qwen"])
def family(request):
    from families import FAMILIES

    return FAMILIES[request.param]


@pytest.fixture(scope="session")
def model(family, texts):
    torch.manual_seed(0)
    return family.build(texts.tokenizer).eval()


@pytest.fixture(scope="session")
def bank(clips, family):
    """A bank whose features only say which frame they belong to."""
    from bank import Bank

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        slots = pixels.unflatten(0, (-1, family.frames_per_slot))
        return slots.mean(dim=(1, 2, 3, 4))[:, None, None].expand(-1, 64, 128)

    return Bank(encode, clips, size=60, seed=0, multiple=family.frames_per_slot)


@pytest.fixture(scope="session")
def texts(family):
    from batches import Texts

    return Texts(family.tokenizer())
