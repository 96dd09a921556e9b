"""framefusion: training-free visual-token reduction for video LLMs."""

from framefusion._version import __version__

__all__ = ["__version__"]
