"""Answerers that know no model, and questions for them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framefusion.batch import BatchError

MODEL = "fake (Nothing, float32, weights 00000000)"


@dataclass(frozen=True)
class Fake:
    """Makes itself: repeats the question. Some questions end badly.

    Attributes:
        directory: where to count what was asked; None for nowhere.
        description: of the model.
    """

    directory: Path | None = None
    description: str = MODEL

    def __call__(self) -> Fake:
        return self

    def prepare(self, media: Sequence[str]) -> None:
        """There is nothing to read."""

    def answer(self, media: Sequence[str], question: str, prepared: Any = None) -> dict[str, Any]:
        if self.directory is not None:
            with open(self.directory / "asked", "a") as file:
                file.write(f"{os.getpid()} {question}\n")
        if question == "fail":
            raise RuntimeError("a tensor\nof the wrong size")
        if question == "stop":
            raise BatchError("no more")
        if question == "release":
            self._first("released")
        while question == "until released" and not self._is_there("released"):
            time.sleep(0.01)
        if question == "die" or (question == "die once" and self._first("died")):
            os.kill(os.getpid(), 9)
        return {"answer": question, "process": os.getpid(), "visible": os.environ.get("CUDA_VISIBLE_DEVICES")}

    def _is_there(self, name: str) -> bool:
        assert self.directory is not None
        return (self.directory / name).exists()

    def _first(self, name: str) -> bool:
        assert self.directory is not None
        try:
            (self.directory / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


@dataclass(frozen=True)
class Broken:
    """An answerer that cannot be made."""

    def __call__(self) -> Fake:
        raise BatchError("there is no such model")


@dataclass(frozen=True)
class Stillborn:
    """An answerer whose process dies while it is made."""

    def __call__(self) -> Fake:
        os.kill(os.getpid(), 9)
        raise AssertionError


def write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def questions(path: Path, texts: Iterable[str]) -> Path:
    """A file of questions about videos that nobody opens."""
    return write(path, ({"video": "a.mp4", "question": text, "id": f"q{i}"} for i, text in enumerate(texts, 1)))


def results(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n") or not text
    return [json.loads(line) for line in text.splitlines()]
