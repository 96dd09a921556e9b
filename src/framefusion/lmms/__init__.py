"""framefusion as a model of lmms-eval, the field's evaluation harness (arXiv 2407.12772).

With the extra ``lmms``, ``lmms-eval --model framefusion`` finds it through an entry point.
:mod:`framefusion.lmms.model` alone imports lmms-eval.
"""

from __future__ import annotations

from typing import Any

MODEL_ID = "framefusion"
"""What ``--model`` calls it."""


def manifest() -> Any:
    """What the entry point group ``lmms_eval.models`` is asked for: which class answers to which name."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=MODEL_ID, simple_class_path="framefusion.lmms.model.FrameFusionModel")
