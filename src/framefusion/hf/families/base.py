"""What a model family has to tell: where its visual tokens are. The hooks know no model beyond this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from framefusion.layout import VisualLayout


class UnsupportedModelError(ValueError):
    """The model is of no supported family, or configured in a way that reduction does not support."""


@dataclass(frozen=True)
class Call:
    """What the multimodal model was called with, for one forward pass.

    Attributes:
        input_ids: ``(B, N)`` int64, or None.
        position_ids: as the decoder gets them: ``(B, N)``, or ``(3 or 4, B, N)`` for M-RoPE, or None.
        arguments: all arguments of the call by name.
    """

    input_ids: Tensor | None
    position_ids: Tensor | None
    arguments: Mapping[str, Any]

    @property
    def has_video(self) -> bool:
        """Whether a video came with the call, as pixels or encoded; else placeholders are nothing but text."""
        return self.arguments.get("pixel_values_videos") is not None or self.encoded("video") is not None

    def encoded(self, modality: str) -> Any:
        """The encoder output that ``generate()`` computed ahead for ``"video"`` or ``"image"``, or None."""
        return (self.arguments.get("mm_encoder_outputs") or {}).get(modality)


class Family(ABC):
    """One model family: a stateless object in the registry."""

    name: str
    """As users know it."""
    model_classes: tuple[str, ...]
    """Class names of ``transformers`` that belong to the family, the one with the language-model head first."""
    placeholder: str
    """Which placeholder marks a visual token, and how the tokens lie."""
    verified: str
    """How the family was checked."""

    @abstractmethod
    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        """The visual tokens of each sample, on the CPU; empty layouts for samples without video.

        Args:
            model: the multimodal model (without the head).
            call: what it was called with; ``input_ids`` is present.

        Raises:
            ValueError: the placeholders do not match the video's size.
        """
