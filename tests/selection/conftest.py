"""Every backend under one fixture; Gram–Schmidt is reached by lowering the length at which it takes over."""

from __future__ import annotations

import pytest

from framefusion.selection import api

FAST = ["numba", "torch", "gram-schmidt"]


@pytest.fixture(params=FAST)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend name for select_tokens."""
    if request.param == "gram-schmidt":
        monkeypatch.setattr(api, "LONG_SEGMENT", 0)
        return "auto"
    return str(request.param)
