"""Questions of your own: a file with one JSON object a line."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from framefusion.entries import KEYS, parse_entry
from framefusion.evaluation.data import DataError, Question
from framefusion.evaluation.scoring import normalise
from framefusion.video import Video, VideoError, check_file, read_video


@dataclass(frozen=True)
class JsonLines:
    """Questions from a file of JSON lines: ``{"video": "a.mp4", "question": "…", "answer": "…", "kind": "…"}``.

    ``video`` is relative to the file. ``answer`` (without it, agreement with the full-token answer is scored),
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

    def video(self, video: str, frames: int, shown: int) -> Video:
        try:
            return read_video(self.path.parent / video, frames=shown)
        except VideoError as error:
            raise DataError(f"{self.path}: {error}") from error

    def _lines(self) -> list[str]:
        try:
            return check_file(self.path).read_text(encoding="utf-8-sig").split("\n")
        except VideoError as error:
            # its words are about a video
            reason = f"no such file: {self.path}" if not self.path.exists() else f"{self.path} is no file with lines"
            raise DataError(reason) from error
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path} cannot be read as UTF-8 text: {error}") from error

    def _question(self, number: int, line: str) -> Question:
        where = f"{self.path} line {number}"
        try:
            entry = parse_entry(line, where, KEYS)
        except ValueError as error:
            raise DataError(str(error)) from error
        video, text = entry.get("video"), entry.get("question")
        if video is None or text is None:
            raise DataError(f"{where} has no {'video' if video is None else 'question'}")
        answer = entry.get("answer")
        if answer is not None and not normalise(answer):
            raise DataError(f"{where}: answer {answer!r} is nothing but punctuation, which is not scored")
        try:
            check_file(self.path.parent / video)
        except VideoError as error:
            raise DataError(f"{where}: {error}") from error
        # Two spellings of one path are one video, not two independent samples.
        return Question(
            f"line {number}",
            os.path.normpath(video),
            text,
            answer,
            entry.get("kind") or "question",
            tuple(entry.get("tags") or ()),
        )
