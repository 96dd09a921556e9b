"""The vision tower of an attached model, while it leaves something out: which calls, and what of them."""

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
from framefusion.hf.towers import packed, running, tome
from framefusion.hf.towers.base import Clip, Tower, rows_of
from framefusion.hf.towers.tally import Encoded, Tally
from framefusion.reduction.changes import Changed, changed_units
from framefusion.reduction.layout import Kind, VisualLayout
from framefusion.reduction.tome import ToMe
from framefusion.reduction.towers import tower_name

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


def install(model: Any, family: Family, rule: Changed | ToMe, tally: Tally) -> Iterator[Callable[[], None]]:
    """Let the vision tower of a model leave out what a rule says; gives the functions that undo it.

    Args:
        model: the multimodal model, without the head.
        family: of the model.
        rule: what it leaves out of videos.
        tally: is told what was encoded.

    Raises:
        UnsupportedModelError: the family's tower cannot; says why.
        ValueError: what the processor divides pixels by is not known; or the tower cannot be left so little work.
    """
    kind = _checked(model, family, rule)
    if is_grouping(model):
        raise UnsupportedModelError(BOTH)
    if isinstance(rule, ToMe):
        rule.check(len(kind.blocks(kind.module(model))))
    levels = grey_levels(model, rule) if isinstance(rule, Changed) else None
    running.attached.add(model)
    yield partial(running.attached.discard, model)
    yield from running.hooks(kind, kind.module(model))
    features = partial(_encoding, _Encoder(model, family, kind, rule, levels, tally))
    yield methods.replace(model, f"get_{kind.features}_features", features)


def _checked(model: Any, family: Family, rule: Changed | ToMe) -> Tower:
    kind = family.tower
    reason = family.no_tower if kind is None else kind.reason(kind.module(model))
    if kind is None or reason is not None:
        known = ", ".join(other.name for other in FAMILIES if other.tower is not None)
        raise UnsupportedModelError(
            f"tower={tower_name(rule)!r} cannot be followed by {family.name} ({type(model).__name__}): {reason}. "
            f"Known: {known}. Attach without tower."
        )
    return kind


class _Encoder(NamedTuple):
    """All that a call of ``get_<kind>_features()`` needs to know."""

    model: Any
    family: Family
    kind: Tower
    rule: Changed | ToMe
    levels: Tensor | None
    tally: Tally

    def run(self, arguments: Mapping[str, Any]) -> running.Run | None:
        """The run of a call; None where everything is encoded."""
        tower = self.kind.module(self.model)
        counts = self._counts(arguments) if self.kind.by_layout else None
        if self.kind.by_layout and not any(own == "video" for own, _ in counts or ()):
            return None
        clips = self.kind.clips(arguments, counts, tower)
        own = self._of_changes if isinstance(self.rule, Changed) else self._of_merging
        return own(tower, clips, arguments)

    def _of_changes(self, tower: Any, clips: Sequence[Clip], arguments: Mapping[str, Any]) -> running.Run | None:
        assert isinstance(self.rule, Changed)
        masks = [self._mask(clip) for clip in clips]
        shown = [mask for clip, mask in zip(clips, masks, strict=True) if clip.kind == "video"]
        units, encoded = sum(mask.numel() for mask in shown), sum(int(mask.sum()) for mask in shown)
        blocks = len(self.kind.blocks(tower))
        partial = blocks - self.rule.full(blocks)
        self.tally.note(Encoded(units * blocks, encoded * partial + units * (blocks - partial)))
        if units == encoded or partial == 0:
            return None
        rows = rows_of(masks, self.kind.rows_of_unit(tower), self.kind.extra(tower), self.kind.order(tower, arguments))
        return packed.Run(rows, tower.config._attn_implementation, partial)

    def _of_merging(self, tower: Any, clips: Sequence[Clip], arguments: Mapping[str, Any]) -> running.Run:
        assert isinstance(self.rule, ToMe)
        counts, encoded = _merging(self.kind, tower, self.rule, clips)
        self.tally.note(encoded)
        return tome.Run(counts, self.kind.extra(tower), tower.config._attn_implementation)

    def _mask(self, clip: Clip) -> Tensor:
        assert isinstance(self.rule, Changed)
        assert self.levels is not None
        scale = self.levels[clip.channels if len(self.levels) > 1 else clip.channels * 0]
        return changed_units(clip.units, clip.parts, scale, self.rule.levels, self.rule.whole)

    def _counts(self, arguments: Mapping[str, Any]) -> list[tuple[Kind, int]]:
        """The frames of each video and the views of each image, in the order of the prompt."""
        return _views(self._layouts(arguments))

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
                "which the tower has to know; call the model or generate() with input_ids."
            )
        return self.family.layouts(self.model, Call(ids, None, dict(arguments)))


def _views(layouts: Sequence[VisualLayout]) -> list[tuple[Kind, int]]:
    """The frames of each video and the views of each image."""
    found = [
        (kind, count, grid)
        for layout in layouts
        for kind, count, grid in zip(layout.kinds, layout.counts, layout.grids, strict=True)
    ]
    # All frames and views have as many tokens as a frame of a video.
    view = next((h * w for kind, _, (_, h, w) in found if kind == "video"), 1)
    return [(kind, count // view) for kind, count, _ in found]


def _merging(kind: Tower, tower: Any, rule: ToMe, clips: Sequence[Clip]) -> tuple[list[list[int]], Encoded]:
    """Per frame its rows in each block, and how many those of videos are over all blocks."""
    blocks, extra = len(kind.blocks(tower)), kind.extra(tower)
    counts, units, encoded = [], 0, 0
    for own, rows in kind.chunks(clips, tower):
        counts.append(rule.counts(rows, blocks, extra) if own == "video" else [rows] * blocks)
        if own == "video":
            units, encoded = units + rows * blocks, encoded + sum(counts[-1])
    return counts, Encoded(units, encoded)


def planned_share(
    model: Any, family: Family, rule: Changed | ToMe, arguments: Mapping[str, Any], layouts: Sequence[VisualLayout]
) -> float:
    """Share of a tower's work that a rule leaves, as far as shapes tell: what merges is known, what changed is not, and
    counts as all.

    Args:
        model: the multimodal model, without the head; may be on the meta device.
        family: of the model.
        rule: what it leaves out of videos.
        arguments: of a prompt with a video, as the processor makes them; pixels may be on the meta device.
        layouts: of the prompt.

    Raises:
        UnsupportedModelError: the family's tower cannot; says why.
        ValueError: the tower cannot be left so little work.
    """
    kind = _checked(model, family, rule)
    if isinstance(rule, Changed):
        return 1.0
    tower = kind.module(model)
    rule.check(len(kind.blocks(tower)))
    clips = kind.clips(arguments, _views(layouts) if kind.by_layout else None, tower)
    _, (units, encoded) = _merging(kind, tower, rule, clips)
    return encoded / units


def _encoding(encoder: _Encoder, encode: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(encode)

    @torch.compiler.disable
    def features(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind_partial(*args, **kwargs).arguments
        with running.running(encoder.run(bound)):
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
