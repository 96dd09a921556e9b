"""framefusion: training-free visual-token reduction for video LLMs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from framefusion._version import __version__

if TYPE_CHECKING:
    from framefusion.calibration import calibrate
    from framefusion.errors import FrameFusionError
    from framefusion.hf import Run, UnsupportedModelError, attach
    from framefusion.hf.families import Call, Family, register_family
    from framefusion.layout import VisualItem, VisualLayout
    from framefusion.selection import select_tokens
    from framefusion.selectors import Candidates, Selected, register_selector
    from framefusion.settings import FrameFusion
    from framefusion.settings_file import load_settings, save_settings
    from framefusion.sizing import plan

__all__ = [
    "Call",
    "Candidates",
    "Family",
    "FrameFusion",
    "FrameFusionError",
    "Run",
    "Selected",
    "UnsupportedModelError",
    "VisualItem",
    "VisualLayout",
    "__version__",
    "attach",
    "calibrate",
    "load_settings",
    "plan",
    "register_family",
    "register_selector",
    "save_settings",
    "select_tokens",
]

_HOME = {
    "Call": "framefusion.hf.families",
    "Candidates": "framefusion.selectors",
    "Family": "framefusion.hf.families",
    "FrameFusion": "framefusion.settings",
    "FrameFusionError": "framefusion.errors",
    "Run": "framefusion.hf",
    "Selected": "framefusion.selectors",
    "UnsupportedModelError": "framefusion.hf",
    "VisualItem": "framefusion.layout",
    "VisualLayout": "framefusion.layout",
    "attach": "framefusion.hf",
    "calibrate": "framefusion.calibration",
    "load_settings": "framefusion.settings_file",
    "plan": "framefusion.sizing",
    "register_family": "framefusion.hf.families",
    "register_selector": "framefusion.selectors",
    "save_settings": "framefusion.settings_file",
    "select_tokens": "framefusion.selection",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: `framefusion --help` must not wait for torch and transformers.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
