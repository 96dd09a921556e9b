"""What is held with something more behind it: videos in parts, more frames of one, photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from framefusion.asking.failures import failures
from framefusion.asking.fitting import Fitting, Sized
from framefusion.asking.frames import SPACING, frames_of
from framefusion.asking.media import Media
from framefusion.asking.prompts import AskError, is_out_of_memory
from framefusion.asking.sessions import prompting
from framefusion.asking.sessions.memory import within
from framefusion.asking.sessions.shown import Item, cut, joined
from framefusion.asking.sessions.state import Held
from framefusion.asking.sessions.turns import turn
from framefusion.asking.video import Video
from framefusion.hf.prefix import Prefix
from framefusion.reduction.settings import FrameFusion


@dataclass(frozen=True)
class Adding:
    """How a session adds. Every method returns what is held then, and leaves what was.

    Attributes:
        model: the model.
        processor: its processor.
        settings: of the reduction.
        chunk: frames at once, whole temporal patches.
        patch: frames of a temporal patch.
        fitting: of the processor.
        limit: of :func:`framefusion.asking.sessions.memory.limit_of`; None without.
        timed: whether a clock runs with the model.
    """

    model: Any
    processor: Any
    settings: FrameFusion
    chunk: int
    patch: int
    fitting: Fitting
    limit: tuple[int, bool] | None
    timed: bool = False

    def _with_photograph(self, held: Held, picture: Media, name: str) -> Held:
        with failures(self.model, "showing the photograph"), turn(self.model, self.settings, timed=self.timed) as run:
            prefix, items = self.up_to_now(run, held)
            prefix = prompting.begun(run, prefix, items, picture, self.model, self.processor)
            return self._grown(run, held, prefix, (*items, Item(name, picture, whole=picture)))

    def frames(self, held: Held, video: Video, *, goes_on: bool, progress: Callable[[int], None] | None) -> Held:
        """What is held with frames behind it: more of the last video, or another one."""
        if not goes_on:
            sized = Sized(self.fitting)
            return self.parts(held, self.cut(video), "frames", None, sized, complete=False, progress=progress)
        *before, item = held.items
        waiting = 0 if item.pending is None else len(item.pending)
        video = joined(item.pending, video)
        item = replace(item, pending=None, whole=None, frames=item.frames - waiting)
        held = replace(held, items=tuple(before))
        return self.parts(held, self.cut(video), item.name, item, None, complete=False, progress=progress)

    def parts(
        self,
        held: Held,
        parts: Iterable[Media],
        name: str,
        item: Item | None,
        sized: Sized | None,
        *,
        complete: bool,
        progress: Callable[[int], None] | None,
    ) -> Held:
        """What is held with something behind it.

        Args:
            held: what was; without ``item``.
            parts: of a video, or a photograph.
            name: of a new item.
            item: the video that goes on; None begins one.
            sized: gives the parts their size; None where they have it.
            complete: whether no frames follow: the last one is shown again to fill a temporal patch, as processors do.
            progress: told the frames so far.
        """
        for part in parts:
            if not isinstance(part, Video):
                return self._with_photograph(held, part, name)
            held, item = self._with_part(held, item, part, name, sized, complete=complete)
            if progress is not None:
                progress(item.frames)
        assert item is not None
        return replace(held, items=(*held.items, item))

    def cut(self, video: Video) -> Iterator[Video]:
        """A video in parts of so many frames as are added at once."""
        for first in range(0, len(video), self.chunk):
            yield cut(video, first, min(first + self.chunk, len(video))) if len(video) > self.chunk else video

    def _with_part(
        self, held: Held, item: Item | None, part: Video, name: str, sized: Sized | None, *, complete: bool
    ) -> tuple[Held, Item]:
        """What is held with a part of a video behind it, and the item that the video has become."""
        whole = len(part) - len(part) % self.patch
        if complete or (item is None and not whole):
            whole = len(part)
        given = part
        if sized is not None:
            with failures(self.model, "showing the video"):
                part = sized.of(part)
        rest = cut(part, whole, len(part)) if whole < len(part) else None
        new = cut(part, 0, whole) if rest is not None else part
        if item is not None and not whole:
            return held, replace(item, pending=part, frames=item.frames + len(part), last=float(part.timestamps[-1]))
        with failures(self.model, "showing the video"), turn(self.model, self.settings, timed=self.timed) as run:
            if item is None:
                prefix, items = self.up_to_now(run, held)
                held = replace(held, items=items)
                prefix = self._fitting(
                    lambda video: prompting.begun(run, prefix, items, video, self.model, self.processor), new
                )
                found = Item(name, new, 0, float(part.timestamps[0]), whole=given)
            else:
                before, found = held.prefix, item
                assert before is not None
                prefix = self._fitting(
                    lambda video: prompting.continued(run, before, found, video, self.model, self.processor), new
                )
            grown = self._grown(run, held, prefix, held.items)
        found = replace(
            found,
            stand_in=cut(new, max(len(new) - self.patch, 0), len(new)),
            frames=found.frames + len(part),
            last=float(part.timestamps[-1]),
            pending=rest,
            whole=found.whole if item is None else None,
        )
        return grown, found

    def _fitting(self, extend: Callable[[Video], Prefix], video: Video) -> Prefix:
        """The prefix with a part; where memory is short, an error that says how many frames would fit."""
        try:
            return extend(video)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            # Its frames hold all that the attempt has made, which smaller ones want the room of.
            ran_out = error.with_traceback(None)
        count = len(video) // 2
        while count >= self.patch:
            whole = count - count % self.patch
            if _fits(extend, cut(video, 0, whole)):
                raise AskError(
                    f"there is not enough memory for {len(video)} frames at once, but for {whole}; open the session "
                    "with that chunk"
                ) from ran_out
            count //= 2
        raise ran_out

    def up_to_now(self, run: Any, held: Held) -> tuple[Prefix | None, tuple[Item, ...]]:
        """The prefix with frames that fill no temporal patch yet, the last one shown again, as a processor does."""
        if not held.items or held.items[-1].pending is None:
            return held.prefix, held.items
        *before, item = held.items
        assert held.prefix is not None
        pending = item.pending
        assert pending is not None
        lacking = self.patch - len(pending)
        filled = joined(pending, frames_of([pending.frames[-1]] * lacking, None, item.last + SPACING))
        prefix = prompting.continued(run, held.prefix, item, filled, self.model, self.processor)
        return prefix, (*before, replace(item, stand_in=filled, pending=None))

    def _grown(self, run: Any, held: Held, prefix: Prefix, items: tuple[Item, ...]) -> Held:
        before = held.prefix
        new = len(prefix.held.layout) - (0 if before is None else len(before.held.layout))
        lost = 0
        if self.limit is not None:
            prefix, lost = within(run, prefix, self.limit, 0 if before is None else before.length)
        return replace(
            held,
            prefix=prefix,
            items=items,
            visual_tokens=held.visual_tokens + new,
            forgotten=held.forgotten + lost,
            units=held.units + run.encoded.units,
            encoded=held.encoded + run.encoded.encoded,
        )


def _fits(extend: Callable[[Video], Prefix], video: Video) -> bool:
    """Whether there is memory for a part."""
    try:
        extend(video)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True
