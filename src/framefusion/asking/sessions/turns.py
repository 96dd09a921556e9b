"""Whose turn it is: sessions of one model take turns, in whatever threads they are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from framefusion.asking.sessions import spent
from framefusion.hf import Run, attach
from framefusion.hf.families import unwrapped
from framefusion.reduction.settings import FrameFusion

_locks: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_guard = threading.Lock()


def _lock_of(model: Any) -> threading.RLock:
    bare = unwrapped(model)
    if not isinstance(bare, nn.Module):
        return threading.RLock()  # attach() says what it is
    with _guard:
        return _locks.setdefault(bare, threading.RLock())


@contextmanager
def turn(model: Any, settings: FrameFusion, *, timed: bool = False) -> Iterator[Run]:
    """Attach a reduction for one call, when no other session runs on this model.

    Args:
        model: of the session.
        settings: of the reduction.
        timed: whether a clock runs with the model, for what the call takes.

    Raises:
        ValueError: the model cannot follow the settings.
        RuntimeError: a reduction is attached to it by somebody else.
    """
    with _lock_of(model), attach(model, settings, timed=timed) as run:
        yield run
        spent.current().inside(run.all_times)
