"""Settings for the whole suite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import settings

# Timing never decides a test; the same examples are tried on every machine.
settings.register_profile("framefusion", deadline=None, derandomize=True)
settings.load_profile("framefusion")

_RECORD = pytest.StashKey[dict[str, dict[str, float]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--matrix",
        metavar="FILE",
        default=None,
        help="run every family in every way with every plan, and write the largest differences to FILE (JSON)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RECORD] = {}


@pytest.fixture(scope="session")
def matrix_record(pytestconfig: pytest.Config) -> dict[str, dict[str, float]]:
    """Per family and way the largest difference from the oracle that was seen."""
    return pytestconfig.stash[_RECORD]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    target, record = session.config.getoption("--matrix"), session.config.stash[_RECORD]
    if target and record and exitstatus == 0:
        Path(target).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
