"""Files that ship with the package: the bundled checkpoint and videos."""

from pathlib import Path

_HERE = Path(__file__).parent

BUNDLED = {"bundled": _HERE / "tiny", "bundled-qwen": _HERE / "tiny-qwen"}
"""Directories of the bundled checkpoints by the name of ``--model``, the default one first: a LLaVA-OneVision and a
Qwen2.5-VL (``training/README.md``; origins in ``ATTRIBUTION.md`` beside this file)."""

DEFAULT_MODEL = next(iter(BUNDLED))
"""What is loaded when no model is named."""

DEMO_VIDEO = _HERE / "videos" / "scenes.mp4"
"""Generated demo video: scenes with moving coloured things over real footage."""

DEMO_QUESTIONS = _HERE / "videos" / "scenes.json"
"""What can be asked about it: a list of ``{"question", "answer", "kind"}``."""

REAL_VIDEO = _HERE / "videos" / "concert.mp4"
"""A real clip (licence and origin in ``ATTRIBUTION.md``)."""

BUNDLED_FRAMES = 16
"""Frames shown to the default checkpoint unless said otherwise."""

OTHER_FRAMES = 32
"""Frames shown to any other model unless said otherwise."""


def usual_frames(model: str | None) -> int:
    """How many frames a model is shown unless said otherwise.

    Args:
        model: its name or directory; None for the default one.
    """
    return BUNDLED_FRAMES if model in (None, DEFAULT_MODEL, str(BUNDLED[DEFAULT_MODEL])) else OTHER_FRAMES
