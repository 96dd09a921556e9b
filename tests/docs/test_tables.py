"""The tables of the docs are those of the registry and of the matrix."""

from __future__ import annotations

import json
from types import ModuleType

import pytest

from tests.hf import models
from tests.hf.ways import EXCLUDED, WAYS
from tests.scripts import load


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load("update_tables")


def test_the_tables_are_up_to_date(script: ModuleType) -> None:
    """Else: ``python scripts/update_tables.py``."""
    for path in script.FILES:
        assert script.updated(path) == path.read_text(encoding="utf-8"), path.name


def test_the_matrix_is_whole(script: ModuleType) -> None:
    """Else: ``make test-all``."""
    record = json.loads(script.MATRIX.read_text(encoding="utf-8"))
    expected = {family: {way for way in WAYS if (family, way) not in EXCLUDED} for family in models.BUILDERS}
    assert {family: set(own) for family, own in record.items()} == expected
    assert max(worst for own in record.values() for worst in own.values()) <= 2e-4
