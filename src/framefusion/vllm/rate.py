"""A pruning rate that knows how to select: how the settings of one engine reach its processes."""

from __future__ import annotations

from framefusion.vllm.settings import ServingSettings


class Rate(float):
    """``video_pruning_rate`` of an engine that selects by framefusion, in its own configuration.

    The engine hands its rate to every place that prunes. A number that carries the settings needs no state of the
    process, so several engines may differ. A process that receives it gets the hooks, plugin or not
    (:func:`framefusion.vllm.hooks.receive`).

    Attributes:
        settings: how to select.
        architecture: of the engine's model, which says what has to be hooked.
    """

    settings: ServingSettings
    architecture: str

    def __new__(cls, rate: float, settings: ServingSettings, architecture: str) -> Rate:
        made = super().__new__(cls, rate)
        made.settings = settings
        made.architecture = architecture
        return made
