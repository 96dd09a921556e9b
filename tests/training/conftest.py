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
    from framefusion.needle.footage import Clip

    frames = np.random.default_rng(0).integers(60, 120, size=(12, 60, 80, 3)).astype(np.uint8)
    return [Clip("noise", frames, 8.0)]


@pytest.fixture(scope="session")
def bank(clips):
    """A bank whose features only say which frame they belong to."""
    from bank import Bank

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean(dim=(1, 2, 3))[:, None, None].expand(-1, 64, 128)

    return Bank(encode, clips, size=60, seed=0)


@pytest.fixture(scope="session")
def texts():
    from lessons import Texts
    from model import build_tokenizer

    return Texts(build_tokenizer())
