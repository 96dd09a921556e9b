"""Work side by side, each piece with one thread of torch's: what it computes does not depend on how many threads there
are, and where the machine is busy no product waits for its other half."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_here = threading.local()
"""``working`` is set in the threads of a pool: one that waited for others of its pool might wait for ever."""


def each(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """``function`` of every item, in their order, on as many threads as torch has; inside such a function that is
    one, its own. Items are begun in their order."""
    items, threads = list(items), torch.get_num_threads()
    if threads == 1 or getattr(_here, "working", False):
        return [function(item) for item in items]
    waiting, inference = iter(enumerate(items)), torch.is_inference_mode_enabled()
    results: dict[int, R] = {}

    def work() -> None:
        # Modes of torch belong to a thread. What is made here is the caller's.
        with torch.inference_mode(inference):
            for place, item in waiting:
                results[place] = function(item)

    pool = _pool(threads, os.getpid())
    for end in [pool.submit(work) for _ in range(min(threads, len(items)))]:
        end.result()
    return [results[place] for place in range(len(items))]


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads of this process, which a fork leaves behind."""
    pool, started = ThreadPoolExecutor(threads, "framefusion-selection"), threading.Barrier(threads + 1)

    def start() -> None:
        _here.working = True
        torch.get_num_threads()  # A thread's first question sets it to the number that was set last, anywhere.
        torch.set_num_threads(1)
        started.wait()

    for _ in range(threads):
        pool.submit(start)
    started.wait()
    # So that threads that come later do not begin with one.
    torch.set_num_threads(threads)
    return pool
