"""Tiny random-weight models of every family, and batches for them without any processor."""

from __future__ import annotations

import pytest
import torch

from tests.hf import models


@pytest.fixture(params=list(models.BUILDERS))
def case(request: pytest.FixtureRequest) -> models.Case:
    """One family's tiny model, float32, in eval mode."""
    return models.build(request.param)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
