"""Model arguments of lmms-eval (``name=value,name=value``) as settings of a reduction and of a generation."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from framefusion.asking.ask import MAX_NEW_TOKENS
from framefusion.checks import is_whole
from framefusion.errors import ArgumentError
from framefusion.reduction.amounts import parse_keep, parse_stages
from framefusion.reduction.flat import FLAT, SWITCHES
from framefusion.reduction.settings import FrameFusion
from framefusion.reduction.settings_file import load_settings

logger = logging.getLogger(__name__)

SETTINGS = (*(field.name for field in fields(FrameFusion)), *FLAT, *SWITCHES)
"""Arguments that are settings of the reduction, those of rules by their flat names."""

_WITHOUT_EFFECT = {"top_p", "top_k", "image_aspect_ratio"}
"""Of a generation: the first two choose among samples, the last prepares pictures as one model family wants them."""


def settings_from(arguments: Mapping[str, Any], known: Iterable[str] = ()) -> FrameFusion:
    """The settings of a reduction.

    Args:
        arguments: fields and flat names of :class:`~framefusion.reduction.settings.FrameFusion` as lmms-eval parses
            them: texts, numbers and booleans. Stages are a text such as ``"2:0.5+14:0.1"`` for ``keep`` and
            ``"0:1+0.67:0.25"`` for ``stages``, as commas separate arguments. Or ``settings`` alone, a file that
            ``framefusion calibrate`` or ``framefusion.save_settings`` wrote.
        known: other arguments there are, for the error.

    Raises:
        ValueError: an argument is unknown, has a value that the settings refuse, or is given beside ``settings``.
    """
    names = (*known, "settings", *SETTINGS)
    for name in arguments:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ArgumentError(f"unknown model argument {name!r}.{hint} There are {', '.join(names)}.")
    given = dict(arguments)
    if (path := given.pop("settings", None)) is not None:
        if given:
            raise ArgumentError(
                f"settings={path} says everything about the reduction; leave out {', '.join(sorted(given))}, or give "
                "all of it as arguments."
            )
        return load_settings(str(path))
    for name, value in given.items():
        if name == "keep" and isinstance(value, str):
            try:
                given[name] = parse_keep(value)
            except ValueError as error:
                raise ArgumentError(f"keep {error}") from None
        elif name == "stages" and isinstance(value, str):
            given[name] = parse_stages(value)
        elif isinstance(value, float) and value.is_integer():
            # lmms-eval reads "-1" as a floating-point number
            given[name] = int(value)
    return FrameFusion(**given)


@dataclass(frozen=True)
class Generation:
    """How one answer is generated, always greedily.

    Attributes:
        new_tokens: longest answer, in tokens. Default 64.
        until: texts that end an answer; they are no part of it.
    """

    new_tokens: int = MAX_NEW_TOKENS
    until: tuple[str, ...] = ()

    @classmethod
    def of(cls, kwargs: Mapping[str, Any]) -> Generation:
        """From the ``generation_kwargs`` of a task.

        Raises:
            ValueError: it asks for samples or beams, for something unknown, or has a value out of range; names it.
        """
        given = dict(kwargs)
        until = given.pop("until", None) or ()
        until = (until,) if isinstance(until, str) else tuple(until)
        if not all(isinstance(text, str) and text for text in until):
            raise ArgumentError(f"until must be texts that are not empty, got {list(until)!r}.")
        new_tokens = given.pop("max_new_tokens", MAX_NEW_TOKENS)
        if not is_whole(new_tokens) or new_tokens < 1:
            raise ArgumentError(f"max_new_tokens must be a whole number, at least 1, got {new_tokens!r}.")
        beams = given.pop("num_beams", 1)
        temperature = given.pop("temperature", None) or 0
        samples = given.pop("do_sample", None)
        if (samples is None or samples) and temperature > 0:
            raise ArgumentError(
                f"temperature={temperature} asks for samples, and answers are greedy here; add --gen_kwargs "
                "temperature=0,do_sample=False if that is what you want."
            )
        if beams not in (1, None):
            raise ArgumentError(
                f"num_beams={beams} is not supported, answers are greedy; add --gen_kwargs num_beams=1 if that is what "
                "you want."
            )
        for name in sorted(given):
            if name not in _WITHOUT_EFFECT:
                raise ArgumentError(
                    f"the task asks for {name}={given[name]!r}, which is not supported; there are until, "
                    "max_new_tokens, temperature, do_sample and num_beams."
                )
            if name == "image_aspect_ratio":
                logger.warning("%s=%s has no effect: the processor prepares the pictures", name, given[name])
        return cls(new_tokens, until)

    def cut(self, text: str) -> str:
        """The answer before the first text of ``until``."""
        return text[: min((at for stop in self.until if (at := text.find(stop)) >= 0), default=len(text))]
