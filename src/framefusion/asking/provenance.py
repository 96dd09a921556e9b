"""What numbers depend on: versions of the packages, and which model it was."""

from __future__ import annotations

import platform
from typing import Any

import torch
import transformers

from framefusion._version import __version__
from framefusion.asking.loading import LoadedModel
from framefusion.hf.fingerprint import fingerprint
from framefusion.reduction.plain import to_plain
from framefusion.reduction.settings import FrameFusion


def versions() -> dict[str, str]:
    """The packages whose release may change an answer or a time, and Python."""
    return {
        "framefusion": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "Python": platform.python_version(),
    }


def describe(loaded: LoadedModel) -> str:
    """A model as results and settings files name it: name, class, dtype and a hash of its weights."""
    return f"{loaded.name} ({type(loaded.model).__name__}, {loaded.dtype}, weights {fingerprint(loaded.model)})"


def provenance(settings: FrameFusion, loaded: LoadedModel) -> dict[str, dict[str, Any]]:
    """Names and values that a reader needs to repeat an answer, in groups."""
    return {
        "model": {
            "model": loaded.name,
            "class": type(loaded.model).__name__,
            "dtype": loaded.dtype,
            "device": loaded.device,
            "attention": loaded.attention,
        },
        "settings": to_plain(settings),
        "versions": versions(),
    }
