"""Settings for the whole suite."""

from __future__ import annotations

from hypothesis import settings

# Timing never decides a test; the same examples are tried on every machine.
settings.register_profile("framefusion", deadline=None, derandomize=True)
settings.load_profile("framefusion")
