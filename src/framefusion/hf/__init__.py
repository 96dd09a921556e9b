"""Inside Hugging Face models: the only room that touches a model."""

from framefusion.hf.families import UnsupportedModelError
from framefusion.hf.run import Run, attach

__all__ = ["Run", "UnsupportedModelError", "attach"]
