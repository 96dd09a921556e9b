"""What a model or our checks of its input raise, as errors of a question."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from framefusion.asking.prompts import LESS, AskError, is_out_of_memory, sentence
from framefusion.errors import FrameFusionError
from framefusion.hf import UnsupportedModelError


@contextmanager
def failures(model: Any, doing: str) -> Iterator[None]:
    """What the model or our checks of the input raise becomes an :class:`AskError`; our defects stay what they are."""
    try:
        yield
    except (AskError, UnsupportedModelError):
        raise
    except FrameFusionError as error:
        raise AskError(str(error)) from error
    except Exception as error:
        if is_out_of_memory(error):
            raise AskError(f"there is not enough memory for {doing}; {LESS}") from error
        if _is_ours(error.__traceback__):
            raise
        raise AskError(f"{type(model).__name__} failed while {doing}: {sentence(error)}") from error


def _is_ours(trace: TracebackType | None) -> bool:
    """Whether an error was raised by code of this package, rather than by a model that it called."""
    ours = False
    while trace is not None:
        room = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if room in ("framefusion", "transformers"):
            ours = room == "framefusion"
        trace = trace.tb_next
    return ours
