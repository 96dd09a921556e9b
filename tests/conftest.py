"""Settings for the whole suite."""

# ruff: noqa: E402 (what stands between the imports is meant for those that follow)
from __future__ import annotations

import gc
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

# What imports and collection make lives as long as the process. Looking for garbage among it, while it comes and again
# and again later, took a fifth of the time; see pytest_collection().
gc.disable()

# Read when Triton is first imported: its kernels then run on CPU tensors.
os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
import torch
from hypothesis import settings

from tests.covering import covering

# Timing never decides a test; the same examples are tried on every machine.
settings.register_profile("framefusion", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("whole", settings.get_profile("framefusion"), max_examples=100)
settings.load_profile("framefusion")

_RECORD = pytest.StashKey[dict[str, dict[str, float]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--matrix",
        metavar="FILE",
        default=None,
        help="run every combination of parameters, and write the largest differences of every family, in every way and "
        "with every plan, from the oracle to FILE (JSON)",
    )
    parser.addoption(
        "--whole-interpreter",
        action="store_true",
        help="give the interpreted Triton kernels the same inputs as the other backends, instead of small ones",
    )
    parser.addoption(
        "--device",
        metavar="DEVICE",
        default=None,
        help="run of tests/selection what takes a backend, with features on DEVICE; for cuda set TRITON_INTERPRET=0",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RECORD] = {}
    config.addinivalue_line(
        "markers",
        "covering(strength): of the combinations of its parameters run some in which every so many values that stand "
        "together in one stand together, see tests/covering.py; all of them with --matrix",
    )
    config.addinivalue_line("markers", "whole: run with --matrix alone, where what differs is tested without it")
    if config.getoption("--matrix") is not None:
        settings.load_profile("whole")
    if hasattr(config, "workerinput"):
        # Several workers with a thread for each core would only wait for each other.
        torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Tests look for garbage among what they make themselves."""
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what ``make test-all`` adds to ``make test``; nothing on a device or of the whole interpreter."""
    if any(config.getoption(option) for option in ("--matrix", "--device", "--whole-interpreter")):
        return
    left_out = {item for item in items if item.get_closest_marker("whole") is not None}
    functions: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item not in left_out and item.get_closest_marker("covering") is not None:
            functions.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for same in functions.values():
        (strength,) = same[0].get_closest_marker("covering").args  # type: ignore[union-attr]
        # Combinations hold the very objects that parametrize() was given, which need not be hashable.
        rows = [tuple(map(id, item.callspec.params.values())) for item in same]  # type: ignore[attr-defined]
        chosen = covering(rows, strength)
        left_out |= {*same} - {same[index] for index in chosen}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def matrix_record(pytestconfig: pytest.Config) -> dict[str, dict[str, float]]:
    """Per family and way the largest difference from the oracle that was seen."""
    return pytestconfig.stash[_RECORD]


def pytest_testnodedown(node: Any, error: Any) -> None:
    """A worker of pytest-xdist hands over what it recorded."""
    for family, ways in getattr(node, "workeroutput", {}).get("matrix", {}).items():
        own = node.config.stash[_RECORD].setdefault(family, {})
        for way, worst in ways.items():
            own[way] = max(own.get(way, 0.0), worst)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["matrix"] = session.config.stash[_RECORD]
        return
    from tests.hf.models import BUILDERS
    from tests.hf.ways import WAYS

    target, record = session.config.getoption("--matrix"), session.config.stash[_RECORD]
    if target and record and exitstatus == 0:
        ordered = {
            family: {way: own[way] for way in WAYS if way in own}
            for family in BUILDERS
            if (own := record.get(family)) is not None
        }
        Path(target).write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
