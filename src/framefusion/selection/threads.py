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
