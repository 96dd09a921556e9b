"""Work side by side, each piece with one thread of torch's: what it computes does not depend on how many threads there
are, and where the machine is busy no product waits for its other half."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_here = threading.local()
"""``working`` is set where :func:`each` asks nobody else: inside :func:`here`, and in the threads of a pool, one of
which might wait for ever for the others."""


def each(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """``function`` of every item, in their order, on as many threads as torch has; inside such a function that is
    one, its own. Items are begun in their order."""
    items, threads = list(items), torch.get_num_threads()
    pool = None if threads == 1 or getattr(_here, "working", False) else _pool(threads, os.getpid())
    if pool is None:
        return [function(item) for item in items]
    waiting, inference = iter(enumerate(items)), torch.is_inference_mode_enabled()
    results: dict[int, R] = {}

    def work() -> None:
        # Modes of torch belong to a thread. What is made here is the caller's.
        with torch.inference_mode(inference):
            for place, item in waiting:
                results[place] = function(item)

    for end in [pool.submit(work) for _ in range(min(threads, len(items)))]:
        end.result()
    return [results[place] for place in range(len(items))]


@contextmanager
def here() -> Iterator[None]:
    """Inside, :func:`each` is a loop, and torch's own threads share every product."""
    before = getattr(_here, "working", False)
    _here.working = True
    try:
        yield
    finally:
        _here.working = before


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor | None:
    """Threads of this process, which a fork leaves behind; None where torch does not let them have one of its own each,
    as vLLM's CPU workers do not: they take ``set_num_threads`` away."""
    pool, started = ThreadPoolExecutor(threads, "framefusion-selection"), threading.Barrier(threads + 1)

    def start() -> bool:
        _here.working = True
        torch.get_num_threads()  # A thread's first question sets it to the number that was set last, anywhere.
        torch.set_num_threads(1)
        started.wait()
        return torch.get_num_threads() == 1

    alone = [pool.submit(start) for _ in range(threads)]
    started.wait()
    # So that threads that come later do not begin with one.
    torch.set_num_threads(threads)
    return pool if all(one.result() for one in alone) else None
