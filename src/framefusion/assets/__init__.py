"""Files that ship with the package: the bundled checkpoint and videos."""

from pathlib import Path

_HERE = Path(__file__).parent

TINY_MODEL = _HERE / "tiny"
"""Directory of the bundled checkpoint (see ``ATTRIBUTION.md`` beside it)."""

DEMO_VIDEO = _HERE / "videos" / "scenes.mp4"
"""Generated demo video: scenes with moving coloured things over real footage."""

DEMO_QUESTIONS = _HERE / "videos" / "scenes.json"
"""What can be asked about it: a list of ``{"question", "answer", "kind"}``."""

REAL_VIDEO = _HERE / "videos" / "concert.mp4"
"""A real clip (licence and origin in ``ATTRIBUTION.md``)."""

BUNDLED_FRAMES = 16
"""Frames shown to the bundled checkpoint unless said otherwise."""

OTHER_FRAMES = 32
"""Frames shown to any other model unless said otherwise."""
