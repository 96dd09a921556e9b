"""Questions of your own: a file with one JSON object a line."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from framefusion.asking.entries import KEYS, located, media_of, parse_entry
from framefusion.asking.media import Media, check_source, read_media
from framefusion.asking.video import FitFrames, VideoError
from framefusion.evaluation.data import DataError, Question
from framefusion.evaluation.scoring import normalise


@dataclass(frozen=True)
class JsonLines:
    """Questions from a file of JSON lines: ``{"video": "a.mp4", "question": "…", "answer": "…", "kind": "…"}``.

    ``video``, or ``image``, is one path relative to the file, or an address.
    ``answer`` (without it, agreement with the full-token answer is scored),
    ``kind`` and ``tags`` (a list of texts) may be missing.

    Attributes:
        path: the file.
        videos: how many different videos to ask about, the first ones of the file; None for all.
    """

    path: Path
    videos: int | None = None

    @property
    def name(self) -> str:
        return self.path.name

    def questions(self, frames: int) -> list[Question]:
        found: dict[str, list[Question]] = {}
        for number, line in enumerate(self._lines(), start=1):
            if line.strip():
                question = self._question(number, line)
                if question.video in found or self.videos is None or len(found) < self.videos:
                    found.setdefault(question.video, []).append(question)
        if not found:
            raise DataError(f"{self.path} holds no questions")
        return [question for group in found.values() for question in group]

    def video(self, video: str, frames: int, shown: int) -> Media:
        return self._read(video, shown, None)

    def fitted(self, video: str, shown: int, fit: FitFrames) -> Media:
        return self._read(video, shown, fit)

    def _read(self, video: str, shown: int, fit: FitFrames | None) -> Media:
        try:
            return read_media(located(video, self.path.parent), frames=shown, fit=fit)
        except VideoError as error:
            raise DataError(f"{self.path}: {error}") from error

    def _lines(self) -> list[str]:
        try:
            return self.path.read_text(encoding="utf-8-sig").split("\n")
        except FileNotFoundError as error:
            raise DataError(f"no such file: {self.path}") from error
        except IsADirectoryError as error:
            raise DataError(f"{self.path} is no file with lines") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{self.path} cannot be read as UTF-8 text: {reason}") from error

    def _question(self, number: int, line: str) -> Question:
        where = f"{self.path} line {number}"
        try:
            entry = parse_entry(line, where, KEYS)
        except ValueError as error:
            raise DataError(str(error)) from error
        media, text = media_of(entry), entry.get("question")
        if not media or text is None:
            raise DataError(f"{where} has no {'question' if media else 'video'}")
        if len(media) > 1:
            raise DataError(f"{where} has {len(media)} videos or photographs; an evaluation asks about one at a time")
        (video,) = media
        answer = entry.get("answer")
        if answer is not None and not normalise(answer):
            raise DataError(f"{where}: answer {answer!r} is nothing but punctuation, which is not scored")
        try:
            check_source(located(video, self.path.parent))
        except VideoError as error:
            raise DataError(f"{where}: {error}") from error
        # Two spellings of one path are one video, not two independent samples.
        return Question(
            f"line {number}",
            video if "://" in video else os.path.normpath(video),
            text,
            answer,
            entry.get("kind") or "question",
            tuple(entry.get("tags") or ()),
        )
