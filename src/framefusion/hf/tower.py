"""The vision tower of an attached model, while it encodes only what changed: which calls, and what of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.image_processing_base import ImageProcessingMixin

from framefusion.errors import ArgumentError, StateError
from framefusion.hf import methods, state
from framefusion.hf.families import FAMILIES, Call, Family, UnsupportedModelError
from framefusion.hf.frame_groups import BOTH, is_grouping
from framefusion.hf.towers import packed
from framefusion.hf.towers.base import Clip, Tower, rows_of
from framefusion.hf.towers.tally import Encoded, Tally
from framefusion.reduction.changes import Changed, changed_units
from framefusion.reduction.layout import Kind, VisualLayout

SKIP_WHOLE = True
"""Whether a call of which everything is encoded runs as it is."""

_ids: ContextVar[Tensor | None] = ContextVar("framefusion_prompt", default=None)
"""The prompt whose videos are encoded outside of the model's own calls."""


@contextmanager
def prompt(ids: Tensor) -> Iterator[None]:
    """Inside the block ``get_image_features()`` encodes what this prompt shows, ``(B, N)`` int64."""
    token = _ids.set(ids)
    try:
        yield
    finally:
        _ids.reset(token)


def install(model: Any, family: Family, changed: Changed, tally: Tally) -> Iterator[Callable[[], None]]:
    """Let the vision tower of a model encode only what changed; gives the functions that undo it.

    Args:
        model: the multimodal model, without the head.
        family: of the model.
        changed: when a unit counts as changed.
        tally: is told what was encoded.

    Raises:
        UnsupportedModelError: the family's tower cannot; says why.
        ValueError: what the processor divides pixels by is not known.
    """
    kind = _checked(model, family)
    if is_grouping(model):
        raise UnsupportedModelError(BOTH)
    levels = grey_levels(model, changed)
    packed.attached.add(model)
    yield partial(packed.attached.discard, model)
    yield from packed.hooks(kind, kind.module(model))
    features = partial(_encoding, _Encoder(model, family, kind, changed, levels, tally))
    yield methods.replace(model, f"get_{kind.features}_features", features)


def _checked(model: Any, family: Family) -> Tower:
    kind = family.tower
    reason = family.no_tower if kind is None else kind.reason(kind.module(model))
    if kind is None or reason is not None:
        known = ", ".join(other.name for other in FAMILIES if other.tower is not None)
        raise UnsupportedModelError(
            f"tower='changed' cannot be followed by {family.name} ({type(model).__name__}): {reason}. Known: {known}. "
            "Attach without tower."
        )
    return kind


class _Encoder(NamedTuple):
    """All that a call of ``get_<kind>_features()`` needs to know."""

    model: Any
    family: Family
    kind: Tower
    changed: Changed
    levels: Tensor
    tally: Tally

    def run(self, arguments: Mapping[str, Any]) -> packed.Run | None:
        """The packed run of a call; None where everything is encoded."""
        tower = self.kind.module(self.model)
        counts = self._counts(arguments) if self.kind.by_layout else None
        if self.kind.by_layout and not any(own == "video" for own, _ in counts or ()):
            return None
        clips = self.kind.clips(arguments, counts, tower)
        masks = [self._mask(clip) for clip in clips]
        shown = [mask for clip, mask in zip(clips, masks, strict=True) if clip.kind == "video"]
        units, encoded = sum(mask.numel() for mask in shown), sum(int(mask.sum()) for mask in shown)
        self.tally.note(Encoded(units, encoded))
        if units == encoded and SKIP_WHOLE:
            return None
        rows = rows_of(masks, self.kind.rows_of_unit(tower), _extra(tower), self.kind.order(tower, arguments))
        return packed.Run(rows, tower.config._attn_implementation)

    def _mask(self, clip: Clip) -> Tensor:
        scale = self.levels[clip.channels if len(self.levels) > 1 else clip.channels * 0]
        return changed_units(clip.units, scale, self.changed.levels, self.changed.whole)

    def _counts(self, arguments: Mapping[str, Any]) -> list[tuple[Kind, int]]:
        """The frames of each video and the views of each image, in the order of the prompt."""
        layouts = self._layouts(arguments)
        found = [
            (kind, count, grid)
            for layout in layouts
            for kind, count, grid in zip(layout.kinds, layout.counts, layout.grids, strict=True)
        ]
        # All frames and views have as many tokens as a frame of a video.
        view = next((h * w for kind, _, (_, h, w) in found if kind == "video"), 1)
        return [(kind, count // view) for kind, count, _ in found]

    def _layouts(self, arguments: Mapping[str, Any]) -> list[VisualLayout]:
        current = state.current()
        ids = _ids.get()
        if ids is None and current.forward is not None:
            ids = current.forward.arguments.get("input_ids")
        if ids is None and current.generation is not None:
            ids = current.generation.ids
        if ids is None:
            raise StateError(
                f"get_image_features() alone does not say which images of {self.family.name} are frames of one video, "
                "which tower='changed' has to know; call the model or generate() with input_ids."
            )
        return self.family.layouts(self.model, Call(ids, None, dict(arguments)))


def _extra(tower: Any) -> int:
    """Rows before the patches of each view: a class token and registers."""
    config, embeddings = tower.config, getattr(tower, "embeddings", None)
    classes = any(hasattr(embeddings, name) for name in ("cls_token", "class_embedding"))
    return int(classes) + (int(getattr(config, "num_register_tokens", 0) or 0) if classes else 0)


def _encoding(encoder: _Encoder, encode: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(encode)

    @torch.compiler.disable
    def features(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind_partial(*args, **kwargs).arguments
        with packed.running(encoder.run(bound)):
            return encode(*args, **kwargs)

    return features


def grey_levels(model: Any, changed: Changed) -> Tensor:
    """``(C,)`` or ``(1,)`` float32: grey levels per step of the processor's pixel values.

    Raises:
        ValueError: neither the settings nor the files beside the checkpoint say it, or not for each channel.
    """
    if changed.std is not None:
        return torch.tensor(changed.std) * 255
    name = getattr(model.config, "_name_or_path", "")
    try:
        known, _ = ImageProcessingMixin.get_image_processor_dict(name, local_files_only=True) if name else ({}, None)
    except (OSError, ValueError):
        known = {}
    if "image_std" not in known:
        raise ArgumentError(
            "tower='changed' compares pixels in grey levels, and what the processor divides them by is not known: no "
            f"preprocessor_config.json lies beside {name or 'this model'}. Say it: "
            "tower=Changed(std=processor.image_processor.image_std)."
        )
    std = known["image_std"] if known.get("do_normalize", True) else [1.0]
    factor = known.get("rescale_factor", 1 / 255) if known.get("do_rescale", True) else 1.0
    return torch.tensor(std if isinstance(std, Sequence) else [std], dtype=torch.float32) / factor
