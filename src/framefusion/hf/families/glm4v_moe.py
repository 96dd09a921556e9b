"""GLM-4.5V: lies in the sequence as GLM-4.1V does; its MLPs are mixtures of experts."""

from __future__ import annotations

from framefusion.hf.families.glm4v import Glm4v


class Glm4vMoe(Glm4v):
    name = "GLM-4.5V"
    model_classes = ("Glm4vMoeForConditionalGeneration", "Glm4vMoeModel")
