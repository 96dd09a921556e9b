"""What ``chat`` talks about: a session, the media that it was shown, and how it was made."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framefusion.asking import ask as asking
from framefusion.asking.loading import LoadedModel
from framefusion.asking.media import Media, read_media
from framefusion.asking.sessions import Reply, Session
from framefusion.asking.video import Video
from framefusion.cli.ask import AskOptions, Request, provenance_of, write_report
from framefusion.cli.common import check_writable
from framefusion.cli.errors import OptionError, named, printable
from framefusion.cli.reduction import stored_settings

Progress = Callable[[str], Any]
"""Told the step under way."""


@dataclass(frozen=True)
class Shown:
    """A file that was shown.

    Attributes:
        source: where it was read.
        warning: what is wrong with it; None if nothing is.
        whole: its frames or picture; None where it took several chunks, of which no frames are held.
    """

    source: str
    warning: str | None
    whole: Media | None


class Conversation:
    """One model, some media, and questions about all of them.

    Args:
        request: the options that were given; its media are those that were shown so far.
        loaded: the model.
        frames: to show of each video; None if that depends on the video.
        history: whether a question sees the earlier ones and their answers.
        options: further ones of the session.
    """

    def __init__(
        self, request: Request, loaded: LoadedModel, frames: int | None, history: bool, options: dict[str, Any]
    ) -> None:
        self.request, self.loaded, self.frames, self.options = request, loaded, frames, options
        self.shown: list[Shown] = []
        self.last: Reply | None = None
        self.session = self._begun(request, history)

    def add(self, source: str, progress: Progress) -> None:
        """Show another video or photograph."""
        medium = self._read(source, progress)
        progress(f"Showing {named(source)}")
        self.session.add(medium)
        self.shown.append(self._shown(source, medium))

    def ask(self, question: str, say: Callable[[str], None] | None = None) -> Reply:
        """Answer about all that was shown."""
        self.last = self.session.ask(question, say=say)
        return self.last

    def spend(self, cost: float, progress: Progress) -> None:
        """Begin again with the same media at another mean share of visual tokens; if that fails all stays as it was.

        Raises:
            OptionError: a file says all about the reduction.
        """
        if self.request.reduction.settings is not None:
            raise OptionError(f"the reduction is that of {self.request.reduction.settings}; start again without it")
        reduction = dataclasses.replace(self.request.reduction, cost=cost, keep=None)
        request = dataclasses.replace(self.request, reduction=reduction)
        session = self._begun(request, self.session.history)
        for shown in self.shown:
            medium = self._read(shown.source, progress) if shown.whole is None else shown.whole
            progress(f"Showing {named(shown.source)}")
            session.add(medium)
        self.session, self.request, self.last = session, request, None

    def report(self, path: Path, progress: Progress) -> str | None:
        """Write what ``ask --report`` writes of the last question.

        Returns:
            the answer to the question by itself, if that is another one.

        Raises:
            OptionError: there is no question yet, the file cannot be written, or the frames are no longer held.
        """
        check_writable(path)
        reply = self.last
        if reply is None:
            raise OptionError("nothing was asked yet, so there is nothing to report")
        answer = asking.ask(
            self._held_media(),
            reply.question,
            model=self.loaded.model,
            processor=self.loaded.processor,
            settings=self.session.settings,
            max_new_tokens=self.session.max_new_tokens,
            progress=progress,
        )
        progress("Writing the report")
        request = dataclasses.replace(
            self.request,
            media=[shown.source for shown in self.shown],
            question=reply.question,
            own=AskOptions(report=path, max_new_tokens=self.session.max_new_tokens),
        )
        write_report(request, answer, provenance_of(answer.settings, self.loaded))
        return None if answer.text == reply.text else answer.text

    def summary(self) -> str:
        """What the session holds, in words."""
        found = self.session.summary()
        names = [printable(os.path.basename(shown.source) or shown.source) for shown in self.shown]
        items = tuple((name, count) for name, (_, count) in zip(names, found.items, strict=True))
        return str(dataclasses.replace(found, items=items))

    @property
    def warning(self) -> str | None:
        """What is wrong with what was shown; None if nothing is."""
        said = [f"{named(shown.source)}: {shown.warning}" for shown in self.shown if shown.warning is not None]
        return "; ".join(said) or None

    def _begun(self, request: Request, history: bool) -> Session:
        settings = stored_settings(request.reduction).settings
        tokens = request.own.max_new_tokens
        model, processor = self.loaded.model, self.loaded.processor
        return Session(model, processor, settings, history=history, max_new_tokens=tokens, **self.options)

    def _read(self, source: str, progress: Progress) -> Media:
        progress(f"Decoding {named(source)}")
        return read_media(source, frames=self.frames, fps=self.request.shown.fps)

    def _shown(self, source: str, medium: Media) -> Shown:
        if not isinstance(medium, Video):
            return Shown(source, None, medium)
        return Shown(source, medium.warning, medium if len(medium) <= self.session.chunk else None)

    def _held_media(self) -> list[Media]:
        """All that was shown.

        Raises:
            OptionError: it is no longer held, or no longer what the model sees.
        """
        media: list[Media] = []
        for shown in self.shown:
            if shown.whole is None:
                raise OptionError(
                    f"{named(shown.source)} was shown in parts of {self.session.chunk} frames, of which the tokens are "
                    "held and the frames are not; a report needs a --chunk of as many frames as the video has"
                )
            media.append(shown.whole)
        if forgotten := self.session.summary().forgotten:
            raise OptionError(
                f"{forgotten} visual tokens were forgotten to stay within --memory, so a report of all that was shown "
                "would be of another answer"
            )
        return media
