"""framefusion: training-free visual-token reduction for video LLMs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from framefusion._version import __version__

if TYPE_CHECKING:
    from framefusion.hf import Run, UnsupportedModelError, attach
    from framefusion.selection import select_tokens
    from framefusion.settings import FrameFusion

__all__ = ["FrameFusion", "Run", "UnsupportedModelError", "__version__", "attach", "select_tokens"]

_HOME = {
    "FrameFusion": "framefusion.settings",
    "Run": "framefusion.hf",
    "UnsupportedModelError": "framefusion.hf",
    "attach": "framefusion.hf",
    "select_tokens": "framefusion.selection",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: `framefusion --help` must not wait for torch and transformers.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
