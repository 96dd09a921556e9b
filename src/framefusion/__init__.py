"""framefusion: training-free visual-token reduction for video LLMs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from framefusion._version import __version__

if TYPE_CHECKING:
    from framefusion.hf import Run, UnsupportedModelError, attach
    from framefusion.hf.families import Call, Family, register_family
    from framefusion.layout import VisualItem, VisualLayout
    from framefusion.selection import select_tokens
    from framefusion.selectors import register_selector
    from framefusion.settings import FrameFusion

__all__ = [
    "Call",
    "Family",
    "FrameFusion",
    "Run",
    "UnsupportedModelError",
    "VisualItem",
    "VisualLayout",
    "__version__",
    "attach",
    "register_family",
    "register_selector",
    "select_tokens",
]

_HOME = {
    "Call": "framefusion.hf.families",
    "Family": "framefusion.hf.families",
    "FrameFusion": "framefusion.settings",
    "Run": "framefusion.hf",
    "UnsupportedModelError": "framefusion.hf",
    "VisualItem": "framefusion.layout",
    "VisualLayout": "framefusion.layout",
    "attach": "framefusion.hf",
    "register_family": "framefusion.hf.families",
    "register_selector": "framefusion.selectors",
    "select_tokens": "framefusion.selection",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: `framefusion --help` must not wait for torch and transformers.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
