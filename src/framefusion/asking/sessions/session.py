"""A session: show once, ask often, go on showing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from framefusion.ahead import Ahead
from framefusion.asking.ask import MAX_NEW_TOKENS, generate_timed
from framefusion.asking.decoding.stills import upright_rgb
from framefusion.asking.failures import failures
from framefusion.asking.fitting import Fitting, Sized, resized
from framefusion.asking.frames import SPACING, frames_of, is_frames
from framefusion.asking.media import Media, media_parts
from framefusion.asking.prompts import AskError, temporal_patch
from framefusion.asking.sessions import prompting
from framefusion.asking.sessions.adding import Adding
from framefusion.asking.sessions.memory import limit_of
from framefusion.asking.sessions.saving import save
from framefusion.asking.sessions.spent import Spent, measured
from framefusion.asking.sessions.state import Held, Reply, SessionSummary
from framefusion.asking.sessions.turns import turn
from framefusion.asking.together import behind, takes_caches
from framefusion.asking.video import Video
from framefusion.assets import usual_frames
from framefusion.checks import is_whole
from framefusion.hf import UnsupportedModelError
from framefusion.hf.prefix import takes_padding
from framefusion.hf.timing import Times
from framefusion.reduction.settings import FrameFusion
from framefusion.selection import warm_up

CHUNK = 32
"""Frames that are encoded and prefilled at once, unless said otherwise."""


class Session:
    """Talk about videos and photographs: they are shown once, and every question prefills its own text alone.

    An answer is that of asking afresh about all that was shown, with the same settings::

        with framefusion.session(model, processor, FrameFusion(cost=0.3)) as s:
            s.add("street.mp4")
            print(s.ask("What came after the red circle?").text)
            print(s.ask("Which way did it move?").text)
            s.add(frames, timestamps=times)  # the video goes on
            print(s.ask("And now?").text)

    Args:
        model: a supported Hugging Face model; unchanged, and free for others between the calls of the session.
        processor: its processor.
        settings: what to keep; default ``FrameFusion()``, a cost of 0.3.
        history: whether a question sees the earlier ones and their answers, unless it says otherwise. Default False.
        chunk: frames that are encoded and prefilled at once, at least 1. A longer video is reduced in parts of so many.
            Default 32.
        memory: the most that may be held: visual tokens, or bytes as a text (``"2GiB"``). Beyond it, what is older
            loses the tokens that add least, see :meth:`Session.summary`. Default None, no limit.
        max_new_tokens: longest answer, in tokens. Default 64.
        warm: whether to compile the selection at once, which takes seconds the first time on a machine; for a single
            question it may not pay, see :func:`framefusion.selection.warm_up`. Default True.
        timed: whether a clock runs with the model, so that vision tower, projector and decoder are told apart in
            ``times_…`` of :meth:`summary` and in :attr:`Reply.times`; it waits for the device between them. Default
            False; may be set later.

    Several may use one model, in turns or in threads. One may be shown more in a thread while others ask: an answer is
    about what was shown when it was asked.

    Raises:
        AskError: a number is out of range; the settings go by the question before layer 0, so that nothing could be
            held; or this model cannot follow them.
        UnsupportedModelError: the model is of no supported family.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        settings: FrameFusion | None = None,
        *,
        history: bool = False,
        chunk: int = CHUNK,
        memory: int | str | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        warm: bool = True,
        timed: bool = False,
    ) -> None:
        if not is_whole(chunk) or chunk < 1:
            raise AskError(f"chunk must be a whole number of frames, at least 1, got {chunk!r}")
        _check_tokens(max_new_tokens)
        self.model, self.processor = model, processor
        self.history, self.max_new_tokens = bool(history), int(max_new_tokens)
        patch = temporal_patch(processor)
        self.chunk = -(-int(chunk) // patch) * patch
        self.memory = int(memory) if is_whole(memory) else memory
        limit = None if memory is None else limit_of(memory)
        try:
            with turn(model, settings or FrameFusion()) as run:
                self.settings = run.settings
                fork = run.fork()
        except UnsupportedModelError:
            raise
        except ValueError as error:
            raise AskError(str(error)) from error
        if not takes_caches(model):
            raise AskError(
                f"the model's generation_config makes every cache of the kind "
                f"{model.generation_config.cache_implementation!r}, but a session goes on from what it holds, which "
                "only a DynamicCache can; set generation_config.cache_implementation = None"
            )
        if not fork:
            raise AskError(
                f"relevance={self.settings.relevance.source!r} goes by the question before layer 0 or by every token's "
                "attention, so a session could hold nothing; use relevance='late-text', 'last', 'text' or 'none'"
            )
        self._held = Held()
        fitting = Fitting.of(model, processor)
        self._adding = Adding(model, processor, self.settings, self.chunk, patch, fitting, limit, bool(timed))
        self._unshared()
        if warm:
            warm_up(model.dtype, model.device)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def timed(self) -> bool:
        """Whether a clock runs with the model."""
        return self._adding.timed

    @timed.setter
    def timed(self, given: bool) -> None:
        self._adding = replace(self._adding, timed=bool(given))

    def _unshared(self) -> None:
        """Locks of its own: one thing is shown after the other, and what was asked meanwhile is noted with it."""
        self._showing, self._noting = threading.RLock(), threading.RLock()

    def close(self) -> None:
        """Let go of all that is held; what is shown next begins anew."""
        with self._noting:
            self._held = Held()

    def fork(self) -> Session:
        """A session that goes its own way from here; both share what is held so far."""
        made = object.__new__(Session)
        made.__dict__.update(self.__dict__)
        made._unshared()
        return made

    def add(
        self,
        media: Any,
        *,
        timestamps: Sequence[float] | None = None,
        frames: int | None = None,
        fps: float | None = None,
        new: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Show something.

        Args:
            media: a file, a :class:`~framefusion.asking.video.Video` or a PIL image, each a new item; or frames,
                ``(T, H, W, 3)`` uint8 or a list of arrays or PIL images of one size, with which the last video goes on
                if its frames have that size.
            timestamps: of frames, seconds that ascend and come after those that the video has. Default one second
                apart.
            frames: of a file, as for :func:`framefusion.ask`. Default 16 with the small bundled model, 32 with others.
                A long one is read in parts, two of which are in memory: one is decoded while the other is shown.
            fps: likewise.
            new: whether frames begin another video.
            progress: called after each part with the frames of this video or photograph that are shown by now.

        Raises:
            AskError: it cannot be shown, or memory runs out; what was held before stays.
            VideoError: a file cannot be read.
        """
        with self._showing:
            with measured() as spent:
                held = self._with(media, timestamps, frames, fps, new, progress, spent)
            taken = held.times_adding.plus(spent.told())
            held = replace(held, adding=held.adding + spent.seconds, times_adding=taken)
            with self._noting:
                now = self._held
                self._held = replace(
                    held, turns=now.turns, questions=now.questions, asking=now.asking, times_asking=now.times_asking
                )

    def _with(
        self,
        media: Any,
        timestamps: Sequence[float] | None,
        frames: int | None,
        fps: float | None,
        new: bool,
        progress: Callable[[int], None] | None,
        spent: Spent,
    ) -> Held:
        """What is held with something behind it; arguments as of :meth:`add`."""
        is_file = isinstance(media, (str, os.PathLike))
        if not is_file and (frames is not None or fps is not None):
            raise AskError("frames and fps are for files that are read here; what is given has its frames already")
        if is_frames(media):
            last = self._held.items[-1] if self._held.items else None
            goes_on = last is not None and last.is_video and not new
            follows = last.last + SPACING if goes_on and last is not None else 0.0
            video = frames_of(media, timestamps, follows)
            grown = None if last is None or not goes_on else self._as_last(last.stand_in, video)
            goes_on, video = grown is not None, video if grown is None else grown
            if goes_on and last is not None and video.timestamps[0] <= last.last:
                raise AskError(
                    f"timestamps begin at {video.timestamps[0]:g} s, but the video has gone on to {last.last:g} s; "
                    "give later ones, or begin another video with new=True"
                )
            return self._adding.frames(self._held, video, goes_on=goes_on, progress=progress)
        if timestamps is not None or new:
            raise AskError("timestamps and new are for frames; a file or photograph has its own and is always new")
        sized = Sized(self._adding.fitting)
        name, parts = self._source(media, frames, fps, sized)
        # The next part of a file is decoded while this one is shown.
        with Ahead(parts, depth=int(is_file)) as ready:
            shown = spent.each(ready) if is_file else ready
            return self._adding.parts(self._held, shown, name, None, sized, complete=True, progress=progress)

    def ask(
        self,
        question: str,
        *,
        history: bool | None = None,
        max_new_tokens: int | None = None,
        say: Callable[[str], None] | None = None,
    ) -> Reply:
        """Answer a question about all that was shown, with greedy decoding.

        Args:
            question: what to ask.
            history: whether it sees the earlier ones and their answers; default as the session says.
            max_new_tokens: longest answer; default as the session says.
            say: called with each piece of the answer as it comes.

        Raises:
            AskError: nothing was shown, an empty question, or an argument that is out of range.
        """
        held = self._shown()
        following = self._following(held, question, history)
        reply = self._reply(held, question, following, self._limit_of(max_new_tokens), say)
        self._note(1, reply.seconds_total, reply.times, ((question, reply.text),))
        return reply

    def ask_all(self, questions: Iterable[str], *, max_new_tokens: int | None = None) -> list[Reply]:
        """Answer several questions at once, none of which sees another or is seen later; as one batch where the model
        allows it.

        Decoders with sliding windows or recurrent states take questions of several lengths one after the other. Times
        are those of the whole batch.

        Raises:
            AskError: as :meth:`ask`.
        """
        questions = questions if isinstance(questions, str) else list(questions)
        if isinstance(questions, str) or not questions:
            raise AskError("questions must be a list of texts that is not empty")
        held, limit = self._shown(), self._limit_of(max_new_tokens)
        alone = [self._following(held, question, False) for question in questions]
        if not takes_padding(self.model) or len(questions) == 1:
            replies = [self._reply(held, asked[0], asked, limit, None) for asked in alone]
            self._note(len(replies), sum(reply.seconds_total for reply in replies), replies[-1].times)
            return replies
        model, processor, timed = self.model, self.processor, self.timed
        with (
            measured() as spent,
            failures(model, "answering"),
            turn(model, self.settings, timed=timed) as run,
            torch.no_grad(),
        ):
            prefix, items = self._adding.up_to_now(run, held)
            assert prefix is not None
            tails = prompting.asked_all(run, prefix, items, questions, model, processor)
            inputs = behind(model, tails[0].prefix, [tail.text for tail in tails], self._pad)
            output = model.generate(
                **inputs, max_new_tokens=limit, do_sample=False, num_beams=1, pad_token_id=self._pad
            )
            summary = replace(run.summary(), tower_share=held.tower_share)
        new = output[:, inputs["input_ids"].shape[1] :]
        seconds, times = spent.seconds, spent.told()
        replies = [
            Reply(
                processor.tokenizer.decode(row, skip_special_tokens=True).strip(),
                question,
                seconds,
                seconds,
                int((row != self._pad).sum()),
                tail.text.length,
                summary,
                times,
            )
            for row, question, tail in zip(new, questions, tails, strict=True)
        ]
        self._note(len(replies), seconds, times)
        return replies

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that is held into a directory, for :func:`framefusion.restore_session`.

        Raises:
            SessionFileError: see :func:`framefusion.asking.sessions.saving.save`.
        """
        options = {
            "history": self.history,
            "chunk": self.chunk,
            "memory": self.memory,
            "max_new_tokens": self.max_new_tokens,
        }
        save(path, self._held, self.model, self.settings, options)

    def summary(self) -> SessionSummary:
        """What is held, and what it took."""
        held = self._held
        return SessionSummary(
            tuple((item.name, item.frames) for item in held.items),
            sum(item.frames for item in held.items if item.is_video),
            held.visual_tokens,
            0 if held.prefix is None else int(held.prefix.held.visual.sum()),
            held.forgotten,
            0 if held.prefix is None else held.prefix.nbytes,
            held.questions,
            held.adding,
            held.asking,
            held.tower_share,
            held.times_adding,
            held.times_asking,
        )

    @property
    def media(self) -> tuple[Media | None, ...]:
        """What was shown; None for a video that came in several parts, or before the session was saved: of those the
        frames are no longer held."""
        return tuple(item.whole for item in self._held.items)

    @property
    def turns(self) -> tuple[tuple[str, str], ...]:
        """The questions of :meth:`ask` so far, and their answers."""
        return self._held.turns

    @property
    def _pad(self) -> int:
        tokenizer = self.processor.tokenizer
        return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)

    def _shown(self) -> Held:
        if not self._held.items:
            raise AskError("nothing was shown yet; add() a video or a photograph first")
        return self._held

    def _following(self, held: Held, question: str, history: bool | None) -> tuple[str, list[tuple[str, str]]]:
        """The first question of a prompt, and the answers and questions behind it."""
        if not isinstance(question, str) or not question.strip():
            raise AskError("question must be a text that is not empty")
        if not (self.history if history is None else history) or not held.turns:
            return question, []
        questions = [asked for asked, _ in held.turns]
        answers = [said for _, said in held.turns]
        return questions[0], list(zip(answers, [*questions[1:], question], strict=True))

    def _reply(
        self,
        held: Held,
        question: str,
        following: tuple[str, list[tuple[str, str]]],
        limit: int,
        say: Callable[[str], None] | None,
    ) -> Reply:
        """The answer to one question; ``following`` is of :meth:`_following`."""
        with (
            measured() as spent,
            failures(self.model, "answering"),
            turn(self.model, self.settings, timed=self.timed) as run,
            torch.no_grad(),
        ):
            prefix, items = self._adding.up_to_now(run, held)
            assert prefix is not None
            tail = prompting.asked(run, prefix, items, following[0], self.model, self.processor, following[1])
            made = generate_timed(
                self.model, self.processor, behind(self.model, tail.prefix, [tail.text], self._pad), limit, say
            )
            summary = replace(run.summary(), tower_share=held.tower_share)
        total = spent.seconds
        first = total - made.seconds_total + made.seconds_to_first_token
        times = spent.told(first, made.seconds_per_token)
        return Reply(made.text, question, first, total, made.new_tokens, tail.text.length, summary, times)

    def _limit_of(self, max_new_tokens: int | None) -> int:
        return self.max_new_tokens if max_new_tokens is None else _check_tokens(max_new_tokens)

    def _note(self, count: int, seconds: float, times: Times, turns: tuple[tuple[str, str], ...] = ()) -> None:
        """Note that so many questions were asked; ``times`` are of the last one."""
        with self._noting:
            held = self._held
            self._held = replace(
                held,
                turns=held.turns + turns,
                questions=held.questions + count,
                asking=held.asking + seconds,
                times_asking=times,
            )

    def _source(self, media: Any, frames: int | None, fps: float | None, sized: Sized) -> tuple[str, Iterable[Media]]:
        """The name of what is shown, and its parts."""
        if isinstance(media, (str, os.PathLike)):
            path = os.fspath(media)
            if frames is None and fps is None:
                frames = usual_frames(getattr(self.model, "name_or_path", None) or "")
            return os.path.basename(path) or "video", media_parts(path, frames, fps, self.chunk, sized.when_large)
        if isinstance(media, Video):
            return media.path.name, self._adding.cut(media)
        if isinstance(media, Image.Image):
            return "photograph", [upright_rgb(media)]
        raise AskError(f"media must be a path, a Video, a PIL image or frames, got {type(media).__name__}")

    def _as_last(self, last: Media, video: Video) -> Video | None:
        """Frames with which the last video goes on, at the size that its frames have; None where they have another.

        Raises:
            AskError: this processor makes frames of no such size, or memory runs out.
        """
        if not isinstance(last, Video) or last.own_size != video.own_size:
            return None
        if last.read_size is None:
            return video
        resize = self._adding.fitting.to(last.height, last.width)
        if resize is None:
            raise AskError(
                f"the video has frames of {last.width}×{last.height}, and {type(self.processor).__name__} resizes none "
                "to that; restore the session with the processor that it was made with, or begin another video with "
                "new=True"
            )
        with failures(self.model, "showing the video"):
            return resized(video, resize)


def _check_tokens(count: Any) -> int:
    if not is_whole(count) or count < 1:
        raise AskError(f"max_new_tokens must be a whole number, at least 1, got {count!r}")
    return int(count)
