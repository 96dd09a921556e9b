"""What ``chat`` talks about: a session, the media that it was shown, and how it was made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from framefusion.asking import ask as asking
from framefusion.asking.loading import LoadedModel
from framefusion.asking.media import Media
from framefusion.asking.sessions import Reply, Session
from framefusion.cli.ask import write_report
from framefusion.cli.common import check_writable
from framefusion.cli.errors import OptionError, named
from framefusion.cli.reduction import stored_settings
from framefusion.cli.request import AskOptions, Request

Progress = Callable[[str], Any]
"""Told the step under way."""


class Conversation:
    """One model, some media, and questions about all of them.

    Args:
        request: the options that were given, without media.
        loaded: the model.
        frames: to show of each video; None if that depends on the video.
        options: of new sessions, beside the settings and the longest answer.
        restored: a session that goes on; what it was shown can neither be reported nor shown again.
    """

    def __init__(
        self,
        request: Request,
        loaded: LoadedModel,
        frames: int | None,
        options: Mapping[str, Any],
        restored: Session | None = None,
    ) -> None:
        self.request, self.loaded, self.frames, self.options = request, loaded, frames, options
        self.sources: list[str] = []
        self.last: Reply | None = None
        self.is_restored = restored is not None
        self.session = self._begun(request) if restored is None else restored

    def add(self, source: str, progress: Progress) -> None:
        """Show another video or photograph."""
        self._show(self.session, source, progress)
        self.sources.append(source)

    def ask(self, question: str, say: Callable[[str], None] | None = None) -> Reply:
        """Answer about all that was shown."""
        self.last = self.session.ask(question, say=say)
        return self.last

    def spend(self, cost: float, progress: Progress) -> None:
        """Begin again with the same media at another mean share of visual tokens; if that fails all stays as it was.

        Raises:
            OptionError: a file says all about the reduction, or the media are not known.
        """
        if self.request.reduction.settings is not None:
            raise OptionError(f"the reduction is that of {self.request.reduction.settings}; start again without it")
        if self.is_restored:
            raise OptionError("what a loaded session was shown cannot be shown again; start again with the files")
        reduction = dataclasses.replace(self.request.reduction, cost=cost, keep=None)
        request = dataclasses.replace(self.request, reduction=reduction)
        session = self._begun(request)
        session.history = self.session.history
        for source in self.sources:
            self._show(session, source, progress)
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
        tokens = self.session.max_new_tokens
        answer = asking.ask(
            self._media(),
            reply.question,
            model=self.loaded,
            settings=self.session.settings,
            max_new_tokens=tokens,
            decode_seconds=self.session.summary().times_adding.decode,
            progress=progress,
        )
        progress("Writing the report")
        own = AskOptions(report=path, max_new_tokens=tokens)
        request = dataclasses.replace(self.request, media=self.sources, question=reply.question, own=own)
        write_report(request, answer)
        return None if answer.text == reply.text else answer.text

    def _begun(self, request: Request) -> Session:
        settings = stored_settings(request.reduction).settings
        model, processor = self.loaded.model, self.loaded.processor
        tokens = request.own.max_new_tokens
        return Session(model, processor, settings, max_new_tokens=tokens, timed=True, **self.options)

    def _show(self, session: Session, source: str, progress: Progress) -> None:
        step = f"Showing {named(source)}"
        progress(step)
        session.add(
            source,
            frames=self.frames,
            fps=self.request.shown.fps,
            progress=lambda count: progress(f"{step}, {count} frames"),
        )

    def _media(self) -> list[Media]:
        """All that was shown.

        Raises:
            OptionError: it is no longer held, or no longer what the model sees.
        """
        if self.is_restored:
            raise OptionError("of what a loaded session was shown the frames are no longer held, which a report shows")
        if forgotten := self.session.summary().forgotten:
            raise OptionError(
                f"{forgotten} visual tokens were forgotten to stay within --memory, so a report of all that was shown "
                "would be of another answer"
            )
        media = []
        for source, medium in zip(self.sources, self.session.media, strict=True):
            if medium is None:
                raise OptionError(
                    f"{named(source)} was shown in parts of {self.session.chunk} frames, of which the frames are no "
                    "longer held; a report needs a --chunk of as many frames as the video has"
                )
            media.append(medium)
        return media
