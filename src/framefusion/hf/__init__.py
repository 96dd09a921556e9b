"""Inside Hugging Face models: the only room that touches a model."""

from framefusion.hf.attach import Run, attach
from framefusion.hf.families import UnsupportedModelError

__all__ = ["Run", "UnsupportedModelError", "attach"]
