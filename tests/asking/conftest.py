"""Tiny random-weight checkpoints, as users have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from framefusion.asking.loading import LoadedModel, load
from tests import tiny_checkpoints


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: save(root / name) for name, save in tiny_checkpoints.SAVE.items()}


@pytest.fixture(scope="session")
def models(checkpoints: dict[str, Path]) -> dict[str, LoadedModel]:
    return {name: load(path, device="cpu") for name, path in checkpoints.items()}
