"""What numbers depend on: versions of the packages, and which model it was."""

from __future__ import annotations

import platform

import torch
import transformers

from framefusion._version import __version__
from framefusion.asking.loading import LoadedModel
from framefusion.hf.fingerprint import fingerprint


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
