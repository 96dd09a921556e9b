"""Run compiled code in the threads that torch computes with.

Threads of OpenMP keep spinning for milliseconds after each parallel operation of torch, and threads beside them would
have to share the cores with that. So the work goes to the same threads, through the function that compilers call for
``#pragma omp parallel`` (GNU's and LLVM's libraries have it). Where that is not to be had (no OpenMP, or a process that
was forked, whose OpenMP is not usable) plain threads live for one call.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable, Set
from typing import Any

import torch

_Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def run(work: Callable[[], None], threads: int) -> None:
    """Call ``work`` in ``threads`` threads, of which this is one, and wait for all.

    Args:
        work: must release the GIL to run at the same time.
        threads: at least 1, at most ``torch.get_num_threads()``.

    Raises:
        Exception: the first that was raised in a thread.
    """
    if threads == 1:
        work()
        return
    calls, errors = [work] * threads, []

    def body(_: Any = None) -> None:
        # Those of the team that are too many have nothing to do.
        try:
            call = calls.pop()
        except IndexError:
            return
        try:
            call()
        except BaseException as error:
            errors.append(error)

    # The team is as large as torch's, so that OpenMP keeps its threads; too large a one is not worth its start.
    team = torch.get_num_threads()
    library = None if _forked or team > 4 * threads else _openmp()
    if library is not None:
        library.GOMP_parallel(_Body(body), None, team, 0)
    else:
        helpers = [threading.Thread(target=body) for _ in range(threads - 1)]
        for helper in helpers:
            helper.start()
        body()
        for helper in helpers:
            helper.join()
    # A team may be smaller than asked for.
    while calls:
        body()
    if errors:
        raise errors[0]


@functools.cache
def _openmp() -> Any:
    """torch's OpenMP library, if this process has it and it has what is needed."""
    if not sys.platform.startswith("linux") or not torch.backends.openmp.is_available():
        return None
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            loaded = {line.split(maxsplit=5)[5].strip() for line in maps if "libgomp" in line or "libiomp" in line}
        path = _of_torch(loaded, os.path.dirname(os.path.realpath(torch.__file__)))
        library = None if path is None else ctypes.CDLL(path)
    except OSError:
        return None
    return library if hasattr(library, "GOMP_parallel") else None


def _of_torch(loaded: Set[str], home: str) -> str | None:
    """Which of the loaded OpenMP libraries is torch's: the one in its own directory, since other packages (such as
    scikit-learn) bring copies of theirs; or the only one, since torch need not bring any."""
    own = {path for path in loaded if path.startswith(home + os.sep)} or loaded
    return next(iter(own)) if len(own) == 1 else None
