"""Several processes that answer chunks of questions, each with one thread and a file of results of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

import torch

from framefusion import log
from framefusion.asking.loading import LoadedModel
from framefusion.evaluation.answering import Chunk, EvaluationError, Generating
from framefusion.evaluation.cells import Cell
from framefusion.evaluation.checkpoints import open_model
from framefusion.evaluation.data import Dataset, Question

Told = Callable[[int], None]
"""Called with the number of questions that were just answered."""


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


def run(work: Work, chunks: Sequence[Sequence[Question]], parts: Sequence[Path], told: Told) -> None:
    """Answer chunks in as many processes as there are ``parts``, files for their results.

    Raises:
        EvaluationError: a process failed or died. The others are ended; what was answered stays.
    """
    context = multiprocessing.get_context("spawn")
    tasks, news = context.Queue(), context.Queue()
    for chunk in chunks:
        tasks.put(chunk)
    for _ in parts:
        tasks.put(None)
    processes = [context.Process(target=_worker, args=(work, part, tasks, news), daemon=True) for part in parts]
    for process in processes:
        process.start()
    try:
        _follow(processes, news, told)
    finally:
        for process in processes:
            process.terminate()
            process.join()
        # What nobody fetched any more must not keep this process from ending.
        tasks.cancel_join_thread()


def _follow(processes: Sequence[Any], news: Any, told: Told) -> None:
    finished = 0
    while finished < len(processes):
        dead = [process.exitcode for process in processes if process.exitcode not in (None, 0)]
        if dead:
            raise EvaluationError(
                f"a process ended with code {dead[0]}, perhaps for lack of memory; what was answered stays, run the "
                "command again with fewer jobs or a smaller batch"
            )
        try:
            kind, what = news.get(timeout=1)
        except Empty:
            continue
        if kind == "rows":
            told(what)
        elif kind == "finished":
            finished += 1
        else:
            sentence, trace = what
            raise EvaluationError(sentence) from RuntimeError(trace)


def _next(tasks: Any) -> Any:
    while True:
        try:
            return tasks.get(timeout=1)
        except Empty:
            _end_with_parent()


def _end_with_parent() -> None:
    """Nobody ends the processes of one that was killed: they have to see it themselves."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        # Without waiting for queues that nobody reads any more.
        os._exit(1)


def _worker(work: Work, part: Path, tasks: Any, news: Any) -> None:
    # Ctrl-C reaches every process of a terminal; only the first one answers to it, by ending the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)

    def told(rows: int) -> None:
        _end_with_parent()
        news.put(("rows", rows))

    try:
        if work.prepare is not None:
            work.prepare()
        loaded = open_model(work.model)
        while (chunk := _next(tasks)) is not None:
            work.answer(loaded, chunk, part, told)
        news.put(("finished", None))
    except Exception as error:
        news.put(("error", (f"{error}" or type(error).__name__, traceback.format_exc())))
