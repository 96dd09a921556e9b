"""Every family's tiny model, for tests that run on all of them."""

from __future__ import annotations

import pytest
import torch

from tests.hf import models


@pytest.fixture(params=list(models.BUILDERS))
def name(request: pytest.FixtureRequest) -> str:
    """The name of one family."""
    return request.param


@pytest.fixture
def case(name: str) -> models.Case:
    """One family's tiny model, float32, in eval mode."""
    return models.build(name)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
