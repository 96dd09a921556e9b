"""framefusion: training-free visual-token reduction for video LLMs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from framefusion._version import __version__

if TYPE_CHECKING:
    from framefusion.asking.answers import Answer
    from framefusion.asking.ask import ask
    from framefusion.asking.loading import LoadedModel, load
    from framefusion.asking.probe import probe
    from framefusion.asking.report import report
    from framefusion.asking.sessions import Session, session
    from framefusion.asking.sessions.restoring import restore_session
    from framefusion.asking.sizing import plan
    from framefusion.errors import FrameFusionError
    from framefusion.evaluation.calibration import calibrate
    from framefusion.hf import Run, UnsupportedModelError, attach
    from framefusion.hf.families import Call, Family, register_family
    from framefusion.reduction.budgets import Novelty
    from framefusion.reduction.changes import Changed
    from framefusion.reduction.layout import VisualItem, VisualLayout
    from framefusion.reduction.merging import Absorb, Merging
    from framefusion.reduction.segmentation import DynamicProgramming, DySeg, FrameSimilarity, Windows
    from framefusion.reduction.selectors import Candidates, Selected, register_selector
    from framefusion.reduction.selectors.dpp import DPP
    from framefusion.reduction.settings import FrameFusion
    from framefusion.reduction.settings_file import load_settings, save_settings
    from framefusion.reduction.sources import Relevance
    from framefusion.reduction.tome import ToMe
    from framefusion.selection import select_tokens

__all__ = [
    "DPP",
    "Absorb",
    "Answer",
    "Call",
    "Candidates",
    "Changed",
    "DySeg",
    "DynamicProgramming",
    "Family",
    "FrameFusion",
    "FrameFusionError",
    "FrameSimilarity",
    "LoadedModel",
    "Merging",
    "Novelty",
    "Relevance",
    "Run",
    "Selected",
    "Session",
    "ToMe",
    "UnsupportedModelError",
    "VisualItem",
    "VisualLayout",
    "Windows",
    "__version__",
    "ask",
    "attach",
    "calibrate",
    "load",
    "load_settings",
    "plan",
    "probe",
    "register_family",
    "register_selector",
    "report",
    "restore_session",
    "save_settings",
    "select_tokens",
    "session",
]

_HOME = {
    "Absorb": "framefusion.reduction.merging",
    "Answer": "framefusion.asking.answers",
    "Call": "framefusion.hf.families",
    "Candidates": "framefusion.reduction.selectors",
    "Changed": "framefusion.reduction.changes",
    "DPP": "framefusion.reduction.selectors.dpp",
    "DySeg": "framefusion.reduction.segmentation",
    "DynamicProgramming": "framefusion.reduction.segmentation",
    "Family": "framefusion.hf.families",
    "FrameFusion": "framefusion.reduction.settings",
    "FrameFusionError": "framefusion.errors",
    "FrameSimilarity": "framefusion.reduction.segmentation",
    "LoadedModel": "framefusion.asking.loading",
    "Merging": "framefusion.reduction.merging",
    "Novelty": "framefusion.reduction.budgets",
    "Relevance": "framefusion.reduction.sources",
    "Run": "framefusion.hf",
    "Selected": "framefusion.reduction.selectors",
    "Session": "framefusion.asking.sessions",
    "ToMe": "framefusion.reduction.tome",
    "UnsupportedModelError": "framefusion.hf",
    "VisualItem": "framefusion.reduction.layout",
    "VisualLayout": "framefusion.reduction.layout",
    "Windows": "framefusion.reduction.segmentation",
    "ask": "framefusion.asking.ask",
    "attach": "framefusion.hf",
    "calibrate": "framefusion.evaluation.calibration",
    "load": "framefusion.asking.loading",
    "load_settings": "framefusion.reduction.settings_file",
    "plan": "framefusion.asking.sizing",
    "probe": "framefusion.asking.probe",
    "register_family": "framefusion.hf.families",
    "register_selector": "framefusion.reduction.selectors",
    "report": "framefusion.asking.report",
    "restore_session": "framefusion.asking.sessions.restoring",
    "save_settings": "framefusion.reduction.settings_file",
    "select_tokens": "framefusion.selection",
    "session": "framefusion.asking.sessions",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: `framefusion --help` must not wait for torch and transformers.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
