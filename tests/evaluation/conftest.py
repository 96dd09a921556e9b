"""The checkpoints of the tests of ``asking``."""

from tests.asking.conftest import checkpoints, models

__all__ = ["checkpoints", "models"]
