"""Options that several commands share are declared once: a command takes a group of them as one argument.

A group is a frozen dataclass whose fields have the annotations and defaults that Typer reads.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, get_type_hints

from framefusion.cli.verbosity import VerboseOption


def command_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function as Typer takes it: the fields of its groups in their place, and ``--verbose`` behind all."""
    hints = _hints(function)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for own in inspect.signature(function).parameters.values():
        if own.name in groups:
            parameters += _parameters(groups[own.name])
        else:
            parameters.append(_keyword(own.name, hints[own.name], own.default))
    parameters.append(_keyword("verbose", VerboseOption, False))

    @functools.wraps(function)
    def run(*, verbose: bool = False, **given: Any) -> Any:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
        return function(**given)

    run.__annotations__ = {one.name: one.annotation for one in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def spelled(*groups: Any) -> list[str]:
    """The words of a command line that say how some groups differ from their defaults; flags last."""
    words: list[str] = []
    flags: list[str] = []
    for group in groups:
        for field in dataclasses.fields(group):
            value = getattr(group, field.name)
            if value == field.default:
                continue
            option = option_of(type(group), field.name)
            if value is True:
                flags.append(option)
            else:
                words += [option, str(value)]
    return words + flags


def option_of(group: type, field: str) -> str:
    """How a field of a group is written on the command line: ``"--max-new-tokens"``."""
    declared = get_type_hints(group, include_extras=True)[field].__metadata__[0]
    # In an annotation, Typer finds the first name where a default would be.
    return str((declared.default, *declared.param_decls)[0])


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function, as they are written: Python 3.10 adds None to those whose default it is."""
    bare = SimpleNamespace(__annotations__=function.__annotations__)
    return get_type_hints(bare, globalns=function.__globals__, include_extras=True)


def _parameters(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [_keyword(field.name, hints[field.name], field.default) for field in dataclasses.fields(group)]


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    # By keyword alone, so that one with a default may stand before one without.
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
