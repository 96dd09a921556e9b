"""What the page can do, without a page: show a video, ask about it, ask on. One visitor at a time."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from framefusion.app.limits import Limits, VisitError
from framefusion.app.uploads import check_read, check_upload
from framefusion.app.visits import Visit, Visits
from framefusion.asking import ask as asking
from framefusion.asking.decoding.errors import VideoError
from framefusion.asking.decoding.source import shortened
from framefusion.asking.loading import LoadedModel
from framefusion.asking.media import Media, read_media
from framefusion.asking.report import ReportData, report_data
from framefusion.asking.sessions import Session
from framefusion.asking.video import Video
from framefusion.reduction.settings import FrameFusion

ALL_TOKENS = FrameFusion(keep=1.0, relevance="none")
"""Of the session beside the reduced one: nothing goes."""

Progress = Callable[[str], None]
"""Told the step under way."""


def _ending(path: str) -> str:
    """The ending of a file's name, by which some readers go, if it is a plain one."""
    return found[0] if (found := re.search(r"\.[A-Za-z0-9]{1,8}$", path)) else ""


def _link(path: str, own: Path) -> None:
    """A file at one more place."""
    try:
        os.link(path, own)
    except OSError:  # on another file system
        shutil.copy(path, own)


def _silent(step: str) -> None:
    pass


@dataclass(frozen=True)
class Shown:
    """A video or photograph that a visit is about.

    Attributes:
        path: the file.
        name: what its visitor calls it.
        bundled: whether it came with the package.
        seconds: playing time; None of a photograph.
        warning: what is wrong with it, see :attr:`framefusion.asking.video.Video.warning`.
        upload: where the server put it, which is the same place for all who upload the same file.
    """

    path: Path
    name: str
    bundled: bool
    seconds: float | None = None
    warning: str | None = None
    upload: Path | None = None

    def forget(self) -> None:
        """Delete it, unless it came with the package; its upload too, unless somebody uploaded the same file since."""
        if self.bundled:
            return
        if self.upload is not None:
            with suppress(OSError):
                if self.upload.samefile(self.path):
                    self.upload.unlink()
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Asked:
    """One question as it was asked.

    Attributes:
        shown: what it is about.
        question: the text.
        cost: mean share of visual tokens; None where the settings of the page say all.
        frames: shown of a video; None where its playing time decides.
        compare: whether it is answered with all tokens, too.
    """

    shown: Shown
    question: str
    cost: float | None
    frames: int | None
    compare: bool


@dataclass(frozen=True)
class Outcome:
    """An answer, what was kept for it, and the command line that repeats it (``data.command``)."""

    data: ReportData
    weight_bytes: int


@dataclass(frozen=True)
class Turn:
    """A question that followed.

    Attributes:
        question: the text.
        text: the answer on what was kept.
        full_text: that with all tokens; None where the first question was not compared.
        seconds: to the first token.
        full_seconds: likewise, with all tokens.
        prefilled: tokens of text that were read for it.
        held: visual tokens that the session holds.
        nbytes: that they take.
    """

    question: str
    text: str
    full_text: str | None
    seconds: float
    full_seconds: float | None
    prefilled: int
    held: int
    nbytes: int


class Desk:
    """One model for all visitors, who take turns.

    Args:
        loaded: the model.
        settings: from a cost to the settings of the reduction.
        command: the command line that asks the same.
        limits: what visitors may take.
        examples: files that come with the package, by the name under which they are offered.
        fps: frames to show per second of video, where no number of frames is asked for.
        max_new_tokens: longest answer.
        clock: of the visits.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        settings: Callable[[float | None], FrameFusion],
        command: Callable[[Asked], str],
        limits: Limits,
        examples: Mapping[str, Path],
        *,
        fps: float | None = None,
        max_new_tokens: int = asking.MAX_NEW_TOKENS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.loaded, self.limits, self.examples = loaded, limits, dict(examples)
        self._settings, self._command = settings, command
        self._fps, self._max_new_tokens = fps, max_new_tokens
        self.visits = Visits(limits, clock)
        self._turn = threading.Lock()
        self._weight_bytes = sum(weight.nbytes for weight in loaded.model.parameters())

    def show_example(self, name: str, example: str, frames: int | None) -> tuple[Shown, Media]:
        """Show one of the bundled files to a visit.

        Args:
            name: of the visit.
            example: of the file.
            frames: to show of a video.

        Raises:
            VisitError: there is no such file, or the page is full.
        """
        if example not in self.examples:
            raise VisitError(f"there is no bundled video {example!r}; there are {', '.join(self.examples)}")
        with self._at(name) as visit:
            return self._show(visit, self._bundled(example), frames)

    def show_upload(self, name: str, path: str, frames: int | None) -> tuple[Shown, Media]:
        """Take a file into the folder of a visit and show it; where that fails the visit stays as it was.

        Args:
            name: of the visit.
            path: where the upload lies; it goes when the visit ends or shows something else, or if this fails.
            frames: to show of a video.

        Raises:
            VisitError: it is too large or too long, or the page is full.
            VideoError: it is not a video or photograph that can be read.
        """
        with self._at(name) as visit:
            # Under a name of our own: FFmpeg takes some for patterns.
            own = visit.folder / f"{os.urandom(8).hex()}{_ending(path)}"
            given = Shown(own, shortened(os.path.basename(path)), bundled=False, upload=Path(path))
            try:
                _link(path, own)
                check_upload(str(own), given.name, self.limits, frames)
                return self._show(visit, given, frames)
            except BaseException:
                given.forget()
                raise

    def ask(
        self,
        name: str,
        question: str,
        cost: float | None,
        frames: int | None,
        *,
        compare: bool = True,
        example: str | None = None,
        progress: Progress = _silent,
    ) -> Outcome:
        """Answer a question afresh, with what is kept and, to compare, with all tokens.

        Args:
            name: of the visit.
            question: what to ask.
            cost: mean share of visual tokens to keep; None where the settings of the page say all.
            frames: to show of a video; None where its playing time decides.
            compare: whether to answer with all tokens, too.
            example: a bundled file to ask about where nothing was shown yet.
            progress: told each step.

        Raises:
            VisitError: nothing was shown, the question is empty or too long, or there were too many.
            FrameFusionError: as :func:`framefusion.asking.ask.ask`.
        """
        self._check_question(question)
        with self._at(name) as visit:
            if visit.shown is None and example in self.examples:
                self._show(visit, self._bundled(example), frames)
            shown = self._about(visit)
            asked = Asked(shown, question, cost, frames, compare)
            settings = self._settings(cost)
            progress("Decoding")
            begin = time.perf_counter()
            medium = self._read(shown, frames)
            answer = asking.ask(
                medium,
                question,
                model=self.loaded.model,
                processor=self.loaded.processor,
                settings=settings,
                max_new_tokens=self._max_new_tokens,
                compare=compare,
                decode_seconds=time.perf_counter() - begin,
                progress=progress,
            )
            data = report_data(answer, self._command(asked), names=[shown.name])
            self._check_open(visit)
            visit.questions += 1
            visit.asked, visit.talks, visit.turns = asked, {}, []
            return Outcome(data, self._weight_bytes)

    def follow(self, name: str, question: str, *, history: bool = False, progress: Progress = _silent) -> list[Turn]:
        """Ask on in a session, with the settings of the last question: what was kept is held, and only text is read.

        Args:
            name: of the visit.
            question: what to ask.
            history: whether it sees the earlier questions and their answers.
            progress: told each step.

        Returns:
            All questions that followed, this one the last.

        Raises:
            VisitError: nothing was asked before, or as :meth:`ask`.
            FrameFusionError: as :class:`framefusion.asking.sessions.Session`.
        """
        self._check_question(question)
        with self._at(name) as visit:
            asked = visit.asked
            if asked is None:
                raise VisitError("nothing was asked yet, so nothing can follow; ask a first question")
            self._check_count(visit)
            # Of their own, so that one that fails leaves those of the visit as they were.
            talks = {full: talk.fork() for full, talk in (visit.talks or self._talks(asked, progress)).items()}
            progress("Answering")
            replies = {full: talk.ask(question, history=history) for full, talk in talks.items()}
            held = talks[False].summary()
            full = replies.get(True)
            self._check_open(visit)
            visit.talks = talks
            visit.questions += 1
            visit.turns.append(
                Turn(
                    question,
                    replies[False].text,
                    None if full is None else full.text,
                    replies[False].seconds_to_first_token,
                    None if full is None else full.seconds_to_first_token,
                    replies[False].prefilled,
                    held.held,
                    held.nbytes,
                )
            )
            return list(visit.turns)

    def close(self) -> None:
        """Delete what visitors left."""
        self.visits.close()

    def _talks(self, asked: Asked, progress: Progress) -> dict[bool, Session]:
        """A session of what was asked about, and one that holds all tokens; the first question was asked in both."""
        progress("Showing the video to a session")
        medium = self._read(asked.shown, asked.frames)
        talks = {}
        for full in [False, True] if asked.compare else [False]:
            # In one part, so that an answer is that of asking afresh.
            talk = Session(
                self.loaded.model,
                self.loaded.processor,
                ALL_TOKENS if full else self._settings(asked.cost),
                chunk=max(1, len(medium)) if isinstance(medium, Video) else 1,
                max_new_tokens=self._max_new_tokens,
                warm=False,
            )
            talk.add(medium)
            talk.ask(asked.question)
            talks[full] = talk
        return talks

    def _bundled(self, example: str) -> Shown:
        return Shown(self.examples[example], example, bundled=True)

    def _show(self, visit: Visit, given: Shown, frames: int | None) -> tuple[Shown, Media]:
        """Read it, and let it take the place of what was shown before."""
        medium = self._read(given, frames)
        self._check_open(visit)
        before = visit.shown
        visit.shown = given
        if isinstance(medium, Video):
            visit.shown = replace(given, seconds=medium.duration, warning=medium.warning)
        visit.asked, visit.talks, visit.turns = None, {}, []
        if before is not None:
            before.forget()
        return visit.shown, medium

    def _read(self, shown: Shown, frames: int | None) -> Media:
        """The frames of a file, in whose messages its folder does not occur."""
        if frames is not None and not 1 <= frames <= self.limits.frames:
            raise VisitError(f"frames must be from 1 to {self.limits.frames}, got {frames}")
        try:
            medium = read_media(shown.path, frames=frames, fps=None if frames is not None else self._fps)
        except VideoError as error:
            raise VideoError(str(error).replace(str(shown.path), shown.name)) from error
        check_read(medium, shown.name, self.limits)
        return medium

    @contextmanager
    def _at(self, name: str) -> Iterator[Visit]:
        """The turn of a visit: nobody else uses the model meanwhile."""
        with self.visits.at(name) as visit, self._turn:
            yield visit

    def _about(self, visit: Visit) -> Shown:
        self._check_count(visit)
        if visit.shown is None:
            raise VisitError("there is no video, or it was deleted after a while without questions; choose one again")
        return visit.shown

    def _check_count(self, visit: Visit) -> None:
        if visit.questions >= self.limits.questions:
            raise VisitError(
                f"{self.limits.questions} questions were asked on this page, which is its limit; reload it to go on"
            )

    def _check_question(self, question: str) -> None:
        if not question.strip():
            raise VisitError("the question is empty; write one")
        if len(question) > self.limits.characters:
            raise VisitError(
                f"the question has {len(question):,} characters, more than the {self.limits.characters:,} allowed here"
            )

    @staticmethod
    def _check_open(visit: Visit) -> None:
        """An answer for a page that was closed meanwhile is dropped."""
        if visit.ended:
            raise VisitError("the page was closed meanwhile; reload it to begin anew")
