"""Settings in a file: what :func:`framefusion.attach`, the command line and servers can share."""

from __future__ import annotations

import json
import math
import os
import types
from dataclasses import asdict, dataclass, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from framefusion.errors import ArgumentError, FrameFusionError
from framefusion.reduction.plain import check_names, from_flat, from_plain, to_plain
from framefusion.reduction.settings import FrameFusion

SCHEMA = 2
"""Of the files that are written; later ones are refused. Those of schema 1 have a flat name for each parameter."""

Outcome = Literal["holds", "unclear", "falls", "untested", "unreachable"]
Measure = Literal["accuracy", "agreement", "mixed"]
Unit = Literal["video", "question"]


class SettingsFileError(FrameFusionError, ValueError):
    """A settings file that cannot be used. The text is one sentence that names the file and the field."""


@dataclass(frozen=True)
class Trial:
    """What a calibration found about one budget.

    Attributes:
        budget: layer-averaged share of visual tokens that was asked for.
        outcome: ``"holds"`` (the floor, with the confidence), ``"unclear"`` (the estimate is above the floor, the bound
            is not), ``"falls"`` (below the floor), ``"untested"`` (behind the first that does not hold) or
            ``"unreachable"``.
        share: layer-averaged share that was really there, of all visual tokens.
        estimate: accuracy relative to all tokens, or agreement with their answers.
        lower: one-sided lower confidence bound of it; None where nothing was tested.
        needed: how many units like these would tell, for ``"unclear"``; None if far too many.
        reason: why a budget is out of reach.
    """

    budget: float
    outcome: Outcome
    share: float | None = None
    estimate: float | None = None
    lower: float | None = None
    needed: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Calibration:
    """Where calibrated settings come from, and what is claimed for them.

    Attributes:
        floor: smallest accuracy relative to all tokens, or agreement with their answers, that is accepted.
        confidence: that the settings are above it.
        budget: the smallest layer-averaged share of visual tokens for which that is shown.
        method: name in :data:`framefusion.evaluation.methods.METHODS` whose budgets were tried.
        measure: ``"accuracy"`` with labels, ``"agreement"`` without, ``"mixed"`` where only some questions have one.
        unit: what counts as one independent sample.
        units: how many there were.
        questions: how many were asked.
        frames: of each video.
        new_tokens: longest answer, in tokens.
        full: share that is right with all tokens, every unit counting alike; 1.0 for agreement.
        model: name, class, dtype and a hash of the weights.
        data: name of the data set.
        version: of framefusion.
        budgets: what was tried, largest first.
    """

    floor: float
    confidence: float
    budget: float
    method: str
    measure: Measure
    unit: Unit
    units: int
    questions: int
    frames: int
    new_tokens: int
    full: float
    model: str
    data: str
    version: str
    budgets: tuple[Trial, ...]


@dataclass(frozen=True)
class StoredSettings:
    """Content of a settings file.

    Attributes:
        settings: of the reduction.
        calibration: how they were found; None if nobody calibrated them.
    """

    settings: FrameFusion
    calibration: Calibration | None = None


def load_settings(path: str | os.PathLike[str]) -> FrameFusion:
    """The settings in a file.

    Raises:
        SettingsFileError: see :func:`read`.
    """
    return read(path).settings


def save_settings(path: str | os.PathLike[str], settings: FrameFusion, calibration: Calibration | None = None) -> None:
    """Write settings as JSON, whole or not at all. An existing file is replaced.

    Every field is written, those with default values too: the file means the same when a default changes.

    Args:
        path: the file.
        settings: what to write.
        calibration: how they were found.

    Raises:
        SettingsFileError: it cannot be written.
    """
    content: dict[str, Any] = {"schema": SCHEMA, "settings": to_plain(settings)}
    if calibration is not None:
        content["calibration"] = asdict(calibration)
    target = Path(path)
    draft = target.with_name(target.name + ".new")
    try:
        draft.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(draft, target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise SettingsFileError(f"cannot write {target}: {error.strerror}") from error


def read(path: str | os.PathLike[str]) -> StoredSettings:
    """The content of a settings file. ``settings`` may leave out fields, which then have their default values.

    Raises:
        SettingsFileError: there is no such file, it is no JSON, of a later schema, or has a field that is unknown,
            missing or of the wrong type or value; names the file and the field.
    """
    target = Path(path)
    try:
        content = json.loads(
            target.read_text(encoding="utf-8-sig"), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant
        )
    except OSError as error:
        raise SettingsFileError(f"cannot read {target}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise SettingsFileError(f"{target} line {error.lineno} is no JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise SettingsFileError(f"{target} is no UTF-8 text: {error.reason}") from error
    except RecursionError as error:
        raise SettingsFileError(f"{target} is no JSON of settings: it is nested too deeply") from error
    except ValueError as error:
        raise SettingsFileError(f"{target} is no JSON of settings: {error}") from error
    try:
        if not isinstance(content, dict) or "schema" not in content:
            raise ArgumentError('it is no settings file, which is an object with "schema" and "settings"')
        schema = content["schema"]
        if isinstance(schema, int) and schema > SCHEMA:
            raise ArgumentError(f"schema {schema} is of a later framefusion, this one reads {SCHEMA}; upgrade it")
        if schema is True or schema not in (1, SCHEMA):
            raise ArgumentError(f"schema must be 1 or {SCHEMA}, got {schema!r}")
        check_names(content, {"schema", "settings", "calibration"}, {"settings"}, "the file")
        calibration = content.get("calibration")
        return StoredSettings(
            (from_flat if schema == 1 else from_plain)(content["settings"]),
            None if calibration is None else _dataclass(Calibration, calibration, "calibration"),
        )
    except ValueError as error:
        raise SettingsFileError(f"{target}: {error}") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ArgumentError(f"{name!r} is there twice")
        found[name] = value
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ArgumentError(f"{name} is no number")


def _dataclass(kind: Any, given: Any, where: str) -> Any:
    """A record from JSON values, all fields there and of the annotated types."""
    hints = get_type_hints(kind)
    check_names(given, set(hints), set(hints), where)
    return kind(**{name: _value(hint, given[name], f"{where}.{name}") for name, hint in hints.items()})


def _value(hint: Any, given: Any, where: str) -> Any:
    if is_dataclass(hint):
        return _dataclass(hint, given, where)
    if get_origin(hint) is tuple:
        if not isinstance(given, list):
            raise ArgumentError(f"{where} must be a list, got {given!r}")
        return tuple(_value(get_args(hint)[0], item, f"{where}[{i}]") for i, item in enumerate(given))
    if get_origin(hint) in (types.UnionType, Union):
        return None if given is None else _value(get_args(hint)[0], given, where)
    if get_origin(hint) is Literal:
        if given not in get_args(hint):
            raise ArgumentError(f"{where} must be one of {', '.join(map(repr, get_args(hint)))}, got {given!r}")
        return given
    wanted, name = {float: (Real, "a number"), int: (Integral, "a whole number"), str: (str, "a text")}[hint]
    if isinstance(given, bool) or not isinstance(given, wanted):
        raise ArgumentError(f"{where} must be {name}, got {given!r}")
    if isinstance(given, float) and not math.isfinite(given):
        raise ArgumentError(f"{where} must be finite, got {given!r}")
    return given
