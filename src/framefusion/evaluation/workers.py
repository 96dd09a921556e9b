"""Several processes that answer chunks of questions, each with one thread and a file of results of its own."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from framefusion import log
from framefusion.asking.loading import LoadedModel
from framefusion.evaluation.answering import Chunk, EvaluationError, Generating
from framefusion.evaluation.cells import Cell
from framefusion.evaluation.checkpoints import open_model
from framefusion.evaluation.data import Dataset, Question
from framefusion.selection import warm_up
from framefusion.supervision import Processes, WorkerError, results

Told = Callable[[int], None]
"""Called with the number of questions that were just answered; a negative one is to be answered again."""


@dataclass(frozen=True)
class Work:
    """What all processes share; picklable.

    Attributes:
        model: arguments of :func:`framefusion.evaluation.checkpoints.open_model`.
        data: the data set.
        frames: frames of its videos.
        cells: what to answer with.
        done: ``(cell key, question id)`` of what is answered already.
        generating: how to answer.
        prepare: called in a new process before it loads the model; a function of a module.
    """

    model: Mapping[str, Any]
    data: Dataset
    frames: int
    cells: Sequence[Cell]
    done: Set[tuple[str, str]]
    generating: Generating
    prepare: Callable[[], None] | None = None

    def answer(self, loaded: LoadedModel, questions: Sequence[Question], part: Path, told: Told) -> None:
        """Answer a chunk; every batch is written as soon as it is there."""
        for rows in Chunk(loaded, self.data, self.frames, questions, self.generating).answer(self.cells, self.done):
            log.append(part, rows)
            told(len(rows))


@dataclass(frozen=True)
class Failure:
    """Why a chunk could not be answered; ``trace`` says where."""

    sentence: str
    trace: str = ""


def run(
    work: Work, chunks: Sequence[Sequence[Question]], jobs: int, part_of: Callable[[int], Path], told: Told
) -> None:
    """Answer chunks in several processes. One that dies is replaced, and its chunk answered again.

    Args:
        work: what all processes share.
        chunks: the questions.
        jobs: how many processes.
        part_of: the file for the results of a process, given its number; a method of a picklable object.
        told: called as answers come.

    Raises:
        EvaluationError: a process failed, or several died over one chunk. The others are ended; what was answered
            stays.
    """
    with Processes(partial(_Answering, work, part_of)) as processes:
        try:
            for _, failure in results(processes, jobs, chunks, Failure, told=told, ordered=False):
                if failure is not None:
                    raise _error(failure)
        except WorkerError as error:
            if error.__cause__ is None:
                raise _died(str(error)) from error
            raise EvaluationError(str(error)) from error.__cause__


def _error(failure: Failure) -> EvaluationError:
    if failure.trace:
        error = EvaluationError(failure.sentence)
        error.__cause__ = RuntimeError(failure.trace)
        return error
    return _died(failure.sentence)


def _died(sentence: str) -> EvaluationError:
    return EvaluationError(
        f"some questions cannot be answered ({sentence}), perhaps for lack of memory; what was answered stays, run the "
        "command again with fewer jobs or a smaller batch"
    )


class _Answering:
    """A :class:`framefusion.supervision.processes.Worker`."""

    def __init__(self, work: Work, part_of: Callable[[int], Path], number: int) -> None:
        torch.set_num_threads(1)
        if work.prepare is not None:
            work.prepare()
        self.work, self.part = work, part_of(number)
        self.loaded = open_model(work.model)
        warm_up(self.loaded.model.dtype, self.loaded.model.device)
        self.description = self.loaded.name

    def answer(self, chunk: Sequence[Question], told: Told) -> Failure | None:
        try:
            self.work.answer(self.loaded, chunk, self.part, told)
        except Exception as error:
            # A further process would fail in the same way.
            return Failure(f"{error}" or type(error).__name__, traceback.format_exc())
        return None
