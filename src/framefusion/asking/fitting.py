"""Frames at the size that a model's processor makes of them, as they are read: its own pixels, in less memory.

A processor resizes every frame of a video before it does anything else. What it would make of each is made here as soon
as the frame is decoded, so that no frame of a larger size stays in memory; the processor then finds nothing to resize.
"""

from __future__ import annotations

import copy
import inspect
import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from framefusion.asking.decoding.pictures import Resize, is_large
from framefusion.asking.prompts import content_of, metadata_of, prompt_inputs, temporal_patch
from framefusion.asking.video import Video
from framefusion.hf.families import Family, find, unwrapped
from framefusion.hf.shapes import Shapes

logger = logging.getLogger(__name__)

_SHOWN = (90, 160), (901, 1601)
"""Height and width of the frames that show how a processor resizes: small ones, and larger ones, which have values only
where it leaves small ones as they are."""


class Fitting:
    """What a processor makes of the size of frames.

    It is asked with shapes alone. Before that, once for its settings, a few small frames are processed as they are and
    fitted: a processor of which the results are not the same bits is never followed. A video that was fitted has a
    ``read_size``.

    Several threads may ask; the processor itself is not touched.

    Args:
        processor: of a model.
        family: of the model.
    """

    def __init__(self, processor: Any, family: Family | None = None) -> None:
        self._processor, self._family = processor, family
        self._resizer: _Resizer | None = None
        self._looked: tuple[Any, str] | None = None
        self._known: dict[tuple[int, int, int], tuple[int, int] | None] = {}
        self._asking = threading.Lock()

    @classmethod
    def of(cls, model: Any, processor: Any) -> Fitting:
        """That of a supported model and its processor."""
        return cls(processor, find(unwrapped(model)))

    def __call__(self, count: int, height: int, width: int) -> Resize | None:
        """What makes of a frame the one that the processor would make.

        Args:
            count: frames that the processor is given at once.
            height: of the frames, in pixels.
            width: likewise.

        Returns:
            A function from uint8 ``(height, width, 3)`` to the same of another size, or None where frames have to stay
            as they are: the processor does not resize them, or does more to them.
        """
        with self._asking:
            resizer = self._of_processor()
            size = None if resizer is None else self._size(resizer, count, height, width)
        return None if resizer is None or size is None else partial(resizer.resized, size=size)

    def to(self, height: int, width: int) -> Resize | None:
        """The same for a size that the processor has made."""
        with self._asking:
            resizer = self._of_processor()
        return None if resizer is None else partial(resizer.resized, size=(height, width))

    def _of_processor(self) -> _Resizer | None:
        own = getattr(self._processor, "video_processor", None)
        settings = repr(getattr(own, "__dict__", None))
        if self._looked is None or self._looked[0] is not own or self._looked[1] != settings:
            self._looked, self._resizer, self._known = (own, settings), None, {}
            try:
                self._resizer = self._checked()
            except Exception as error:
                # Whatever it is, the processor will say so when it is given the whole video.
                logger.debug("what %s resizes cannot be told: %s", type(self._processor).__name__, error)
        return self._resizer

    def _checked(self) -> _Resizer | None:
        """What resizes, if frames that it has fitted become what they would have become."""
        processor, family = self._processor, self._family
        own = getattr(processor, "video_processor", None)
        if own is None or (family is not None and family.frames_as_images and not family.mixes):
            # Frames may go in as images, of which other sizes are made.
            return None
        resizer = _Resizer(own)
        looking = copy.copy(processor)
        looking.video_processor = resizer

        def processed(video: Video) -> list[Any]:
            resizer.noted = []
            return tree_leaves(dict(prompt_inputs(content_of([video], ""), [video], [], looking, family=family)))

        for height, width in _SHOWN:
            shape = 2 * temporal_patch(processor), height, width, 3
            whole = _blank(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
            made, size = processed(whole), resizer.made_of(height, width)
            if size != (height, width):
                break
        else:
            return None
        if size is None:
            return None
        resizer.learn()
        if any(self._found(resizer, 2 * temporal_patch(processor), *shown) is None for shown in _SHOWN):
            # One that cuts large frames up is told of all videos of a prompt that it need not resize, or of none.
            return None
        return resizer if _alike(made, processed(resized(whole, partial(resizer.resized, size=size)))) else None

    def _size(self, resizer: _Resizer, count: int, height: int, width: int) -> tuple[int, int] | None:
        """What the processor makes of so many frames."""
        key = count, height, width
        if key not in self._known:
            try:
                self._known[key] = self._found(resizer, *key)
            except Exception as error:
                logger.debug("the size of %d frames of %d×%d cannot be told: %s", count, width, height, error)
                self._known[key] = None
        return self._known[key]

    def _found(self, resizer: _Resizer, count: int, height: int, width: int) -> tuple[int, int] | None:
        ticks = Family.ticks if self._family is None else self._family.ticks
        count = max(count, temporal_patch(self._processor))
        frames = torch.empty((count, 3, height, width), dtype=torch.uint8, device="meta")
        metadata = {**metadata_of(_blank(frames), ticks), "height": height, "width": width}
        resizer.noted = []
        with Shapes():
            resizer.again(frames, metadata)
        return resizer.made_of(height, width)


def resized(video: Video, resize: Resize) -> Video:
    """A video of which every frame is resized, as it would have been as it was read."""
    frames = np.stack([resize(frame) for frame in video.frames])
    return replace(video, frames=frames, read_size=video.own_size)


class Sized:
    """Gives all parts of a video the size that the processor makes of the first one.

    Args:
        fitting: of the processor.
    """

    def __init__(self, fitting: Fitting) -> None:
        self._fitting, self._asked = fitting, False
        self._resize: Resize | None = None

    def when_large(self, count: int, height: int, width: int) -> Resize | None:
        """For a reader: leaves frames as they are, for pictures of them, unless they are large."""
        return self._of(count, height, width) if is_large(count, height, width) else None

    def of(self, part: Video) -> Video:
        """A part that the processor is given at once."""
        resize = None if part.read_size is not None else self._of(len(part), part.height, part.width)
        return part if resize is None else resized(part, resize)

    def _of(self, count: int, height: int, width: int) -> Resize | None:
        if not self._asked:
            self._asked, self._resize = True, self._fitting(count, height, width)
        return self._resize


class _Resized(NamedTuple):
    before: tuple[int, int]
    after: tuple[int, int]


class _Resizer:
    """A video processor that notes what it resizes, in the place of the one that it is a copy of."""

    def __init__(self, own: Any) -> None:
        self._own = copy.copy(own)
        self._own.resize = self._resize
        self._plain = next(vars(kind)["resize"] for kind in reversed(type(own).__mro__) if "resize" in vars(kind))
        self._signature = inspect.signature(type(own).resize)
        self._given: dict[str, Any] = {}
        self._options: dict[str, Any] = {}
        self._latest: dict[str, Any] = {}
        self._kind: Any = None
        self.noted: list[_Resized] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def __call__(self, videos: Any, **options: Any) -> Any:
        self._latest = options
        return self._own(videos, **options)

    def learn(self) -> None:
        """Take the options of the latest call for those of all videos."""
        self._given = self._latest

    def again(self, frames: Tensor, metadata: dict[str, Any]) -> Any:
        """What the processor makes of other frames."""
        return self._own([[frames]], **{**self._given, "video_metadata": [[metadata]]})

    def made_of(self, height: int, width: int) -> tuple[int, int] | None:
        """The size that frames of a size were given, if nothing else was resized."""
        before = [one.before for one in self.noted]
        return self.noted[0].after if before == [(height, width)] else None

    def resized(self, frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """A frame uint8 ``(H, W, 3)`` at a size."""
        if frame.shape[:2] == size:
            return frame
        # A view: torch is quicker with the channels of a pixel side by side, and gives the same.
        pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
        made = self._plain(self._own, pixels, self._kind(height=size[0], width=size[1]), **self._options)
        return made[0].permute(1, 2, 0).numpy()

    def _resize(self, *given: Any, **options: Any) -> Any:
        made = type(self._own).resize(self._own, *given, **options)
        bound = self._signature.bind(self._own, *given, **options).arguments
        frames = list(bound.values())[1]
        self._kind = type(bound["size"])
        self._options = {"resample": bound["resample"]} if "resample" in bound else {}
        self.noted.append(_Resized(tuple(frames.shape[-2:]), tuple(made.shape[-2:])))
        return made


def _blank(frames: Any) -> Video:
    """Frames, with values or without, as a video of one a second."""
    indices = np.arange(len(frames))
    return Video(frames, indices.astype(float), indices, float(len(frames)), 1.0, len(frames), Path("blank"))


def _alike(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether a processor made the same."""
    return len(some) == len(others) and all(map(_same, some, others))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and bool(np.all(one == other))
