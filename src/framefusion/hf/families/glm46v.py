"""GLM-4.6V: lies in the sequence as GLM-4.1V does; its timestamps are longer."""

from __future__ import annotations

from framefusion.hf.families.glm4v import Glm4v


class Glm46V(Glm4v):
    name = "GLM-4.6V"
    model_classes = ("Glm46VForConditionalGeneration", "Glm46VModel")
