"""VideoNeedle with photographs (:mod:`framefusion.evaluation.needle.photo_set`) as a data set, and the model that
answers it.

The pictures and the encoder are fetched when an evaluation needs them (:mod:`framefusion.evaluation.parts`). What was
trained here, the projector and the decoder, is bundled; ``training/README.md`` says how.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from framefusion.assets import PHOTOS
from framefusion.evaluation import parts
from framefusion.evaluation.data import DataError
from framefusion.evaluation.dinov2 import load_dinov2
from framefusion.evaluation.needle.photo_questions import PHOTO_KINDS
from framefusion.evaluation.videoneedle import VideoNeedle

STAMPS = "tuxpaint-stamps-default"
"""Debian's package of the pictures (GPL-2+)."""
WEIGHTS = "model.safetensors"
"""What was trained, without the encoder, in half precision."""
ASKED = tuple(kind for kind in PHOTO_KINDS if kind != "small")
"""Kinds that are asked unless said otherwise. The model names small things right in less than 60 %, even with all
tokens (``training/README.md``)."""


def stamps(cache: Path | None = None) -> Path:
    """The folder of the pictures, fetched at the first call.

    Raises:
        DataError: the package cannot be fetched.
    """
    return parts.fetch_deb(STAMPS, cache=cache) / "usr/share/tuxpaint/stamps"


@dataclass(frozen=True)
class Photos(VideoNeedle):
    """Captioned photographs over real footage; ``kinds`` None asks :data:`ASKED`."""

    title: ClassVar[str] = "VideoNeedle with photographs"
    usual_videos: ClassVar[int] = 60
    known_kinds: ClassVar[tuple[str, ...]] = PHOTO_KINDS
    usual_model: ClassVar[str | None] = "photos"

    def drawn(self, frames: int) -> Sequence[Any]:
        from framefusion.evaluation.needle.photo_set import load_photos

        kinds = ASKED if self.kinds is None else self.kinds
        return load_photos(stamps(), frames, self.videos, self.seed, kinds=kinds)


def resized(encoder: Any, size: int) -> Any:
    """A DINOv2 for square frames of ``size`` pixels: its table of positions interpolated once, as the class does it.

    Args:
        encoder: a ``Dinov2Model``; left alone.
        size: a multiple of its patch size.
    """
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(**{**encoder.config.to_dict(), "image_size": size, "use_mask_token": False})
    state = {name: value for name, value in encoder.state_dict().items() if not name.endswith("mask_token")}
    patches = (size // encoder.config.patch_size) ** 2
    grid = torch.zeros(1, patches + 1, config.hidden_size)
    state["embeddings.position_embeddings"] = encoder.embeddings.interpolate_pos_encoding(grid, size, size).clone()
    small = Dinov2Model(config)
    small.load_state_dict(state)
    return small.eval().requires_grad_(False)


def put_together(trained: Path, encoder: Any, into: Path) -> None:
    """Write the whole checkpoint: an unmodified ``LlavaOnevisionForConditionalGeneration`` in float32.

    Args:
        trained: a checkpoint without the weights of its encoder.
        encoder: a ``Dinov2Model``.
        into: folder to write to.

    Raises:
        DataError: the encoder is not the one that the checkpoint was trained with, or other weights are missing.
    """
    from transformers import AutoProcessor, LlavaOnevisionForConditionalGeneration

    loaded: Any = LlavaOnevisionForConditionalGeneration.from_pretrained(
        trained, dtype=torch.float32, output_loading_info=True
    )
    model, found = loaded
    lost = [name for name in found["missing_keys"] if not name.startswith("model.vision_tower.")]
    if lost:
        raise DataError(f"{trained} lacks the weights {', '.join(sorted(lost)[:3])}; install framefusion again")
    try:
        model.model.vision_tower.load_state_dict(resized(encoder, model.config.vision_config.image_size).state_dict())
    except RuntimeError as error:
        raise DataError(
            "the encoder that was fetched is not the one that the decoder of photographs was trained with; empty the "
            "cache of parts"
        ) from error
    model.save_pretrained(into)
    AutoProcessor.from_pretrained(trained).save_pretrained(into)


def photos_checkpoint(cache: Path | None = None) -> Path:
    """The directory of the model that sees photographs, put together at the first call.

    Args:
        cache: folder for what is fetched; default that of :mod:`framefusion.evaluation.parts`.

    Raises:
        DataError: the encoder cannot be fetched.
        MissingDependencyError: ``onnx``, with which its weights are read, is not installed.
    """

    def make(_: Path, into: Path) -> None:
        put_together(PHOTOS, load_dinov2(cache), into)

    digest = hashlib.sha256((PHOTOS / WEIGHTS).read_bytes()).hexdigest()
    return parts.kept(f"photos-{digest[:12]}", "the model that sees photographs", make, cache)
