"""MiniCPM-V 4.6: one run of tokens a frame or image, and one for each slice of it; nothing but markers between."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from framefusion.errors import ArgumentError
from framefusion.hf.families.base import Call, Family, layout_of
from framefusion.reduction.layout import Kind, Span, VisualItem, VisualLayout, runs

Size = tuple[int, int]
"""Rows and columns of tokens of a run."""

_MARKERS = 2
"""Tokens between the frames of a video: what closes one and what opens the next."""


class MiniCPMV46(Family):
    """A picture is a run for the whole view and, if the processor cut it, one for each slice, behind markers of their
    own. Pictures that are cut alike, with nothing but two markers between, are the frames of one video; so two videos
    of one size count as one where no other token stands between them.

    A cut frame counts as one row of all its tokens, the whole view first; so does every frame inside ``generate()``,
    which drops the sizes.
    """

    name = "MiniCPM-V 4.6"
    model_classes: tuple[str, ...] = ("MiniCPMV4_6ForConditionalGeneration", "MiniCPMV4_6Model")
    needs_names: frozenset[Kind] = frozenset({"video"})
    placeholder = "video or image token; one run per frame or image and one per slice, markers between"
    verified = "masked oracle on a random-weight model"
    no_tower = "its tower merges patches half-way, so that a patch has no place of its own behind"
    projector = ("merger",)

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        config = model.config
        assert call.input_ids is not None
        tokens: dict[Kind, int] = {"video": config.video_token_id, "image": config.image_token_id}
        views = {kind: _views(call, kind) for kind in tokens}
        layouts = []
        for b, row in enumerate(call.input_ids.cpu()):
            items: list[VisualItem] = []
            for kind, token in tokens.items():
                found = runs(row == token) if call.has(kind) else []
                sizes = [_size(run, next(views[kind], None), f"input_ids[{b}]", kind) for run in found]
                pictures = _pictures(row.tolist(), found)
                items += [_item(kind, group, sizes[found.index(group[0][0])]) for group in _videos(kind, pictures)]
            layouts.append(layout_of(items))
        return layouts


def _views(call: Call, kind: Kind) -> Iterator[tuple[int, int] | int]:
    """Patches ``(h, w)`` of each whole view and slice of the batch, in order, or its tokens if encoded ahead."""
    encoded = call.encoded_sizes(kind)
    if encoded is not None:
        return iter(encoded)
    sizes = call.arguments.get("target_sizes_videos" if kind == "video" else "target_sizes")
    return iter([] if sizes is None else [(h, w) for h, w in sizes.tolist()])


def _size(run: Span, view: tuple[int, int] | int | None, where: str, kind: Kind) -> Size:
    """The tokens of a run as rows and columns; a token stands for a square of patches, whatever the mode."""
    tokens = run[1] - run[0]
    if view == tokens:
        return 1, tokens
    if isinstance(view, tuple):
        square = max(math.isqrt(view[0] * view[1] // tokens), 1)
        h, w = view[0] // square, view[1] // square
        if h * w == tokens:
            return h, w
    expected = "none is left" if view is None else view
    raise ArgumentError(
        f"{where} has a run of {tokens} {kind} tokens, which does not match the next frame, image or slice "
        f"({expected}); pass the inputs as the processor makes them, the whole prompt at once."
    )


def _pictures(row: list[int], found: list[Span]) -> list[list[Span]]:
    """The runs of each picture: the whole view, then its slices."""
    pictures: list[list[Span]] = []
    for run in found:
        # A sample begins with a whole view, whose marker therefore tells the others.
        if row[run[0] - 1] == row[found[0][0] - 1]:
            pictures.append([run])
        else:
            pictures[-1].append(run)
    return pictures


def _videos(kind: Kind, pictures: list[list[Span]]) -> list[list[list[Span]]]:
    """The pictures that belong together."""
    groups: list[list[list[Span]]] = []
    for picture in pictures:
        before = groups[-1][-1] if groups else []
        follows = bool(before) and picture[0][0] - before[-1][1] == _MARKERS
        if kind == "video" and follows and [e - s for s, e in before] == [e - s for s, e in picture]:
            groups[-1].append(picture)
        else:
            groups.append([picture])
    return groups


def _item(kind: Kind, group: list[list[Span]], size: Size) -> VisualItem:
    columns = torch.cat([torch.arange(*run) for picture in group for run in picture])
    whole = size if len(group[0]) == 1 else (1, len(columns) // len(group))
    return VisualItem(kind, (len(group), *whole), columns)
