"""What framefusion needs of vLLM, by name: a version is admitted by these, not by its number. No engine is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Around = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Makes the replacement of a function, given the function."""


class Need(NamedTuple):
    """One name of vLLM."""

    where: str
    """Its module, or ``module.Class``."""
    name: str
    parameters: tuple[str, ...] | None = None
    """Those it must have, in their order; None for any, and for what is no function."""
    around: Around | None = None
    """What is put around it; None for what is only used."""

    @property
    def path(self) -> str:
        """Module, class and name."""
        return f"{self.where}.{self.name}"

    def complaint(self, there: bool, parameters: Sequence[str] | None) -> str | None:
        """What is wrong with what a vLLM has under this name, or None.

        Args:
            there: whether it has the name at all.
            parameters: of the function; None for what is no function.
        """
        if not there:
            return f"this vLLM has no {self.path}, which framefusion needs."
        if self.parameters is None or (parameters is not None and tuple(parameters) == self.parameters):
            return None
        taken = "is no function" if parameters is None else f"takes ({', '.join(parameters)})"
        return f"{self.path} of this vLLM {taken}; framefusion knows it with ({', '.join(self.parameters)})."


def fields(where: str, *names: str) -> list[Need]:
    """Attributes of a configuration."""
    return [Need(where, name) for name in names]


CONFIGURATION = [
    *fields(
        "vllm.config.vllm.VllmConfig",
        "__post_init__",
        "additional_config",
        "model_config",
        "speculative_config",
        "parallel_config",
        "lora_config",
    ),
    *fields("vllm.config.model.ModelConfig", "multimodal_config", "architecture", "uses_mrope"),
    *fields("vllm.config.multimodal.MultiModalConfig", "video_pruning_rate", "video_pruning_method"),
    *fields("vllm.config.parallel.ParallelConfig", "pipeline_parallel_size"),
    *fields("vllm.config.speculative.SpeculativeConfig", "draft_model_config"),
]
"""What is used of an engine's configuration, whatever its model."""
