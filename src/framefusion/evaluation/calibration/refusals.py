"""What a calibration refuses: arguments, too few units, answers that tell nothing."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import get_args

from framefusion.errors import FrameFusionError
from framefusion.evaluation.calibration.bounds import Sample, smallest_sample
from framefusion.evaluation.methods import METHODS
from framefusion.reduction.settings_file import Unit

WORTHWHILE = 0.5
"""A floor below this is not offered."""


class CalibrationError(FrameFusionError, ValueError):
    """A calibration that cannot be done, or could not tell anything. The text is one sentence."""


def check_arguments(floor: float, confidence: float, method: str, budgets: Sequence[float], unit: str) -> list[float]:
    """The budgets below 1, largest first."""
    for name, value in (("floor", floor), ("confidence", confidence)):
        if not 0 < value < 1:
            raise CalibrationError(f"{name} must be above 0 and below 1, got {value:g}")
    if unit not in get_args(Unit):
        raise CalibrationError(f"unit must be one of {', '.join(map(repr, get_args(Unit)))}, got {unit!r}")
    fit = [name for name, known in METHODS.items() if known.budgeted and known.frames is None]
    if method not in fit:
        why = "is more or less than settings with a budget" if method in METHODS else "does not exist"
        raise CalibrationError(f"method {method!r} {why}; choose one of {', '.join(fit)}")
    for budget in budgets:
        if not 0 < budget <= 1:
            raise CalibrationError(f"a budget must be in (0, 1], got {budget:g}")
    tried = sorted({float(budget) for budget in budgets if budget < 1}, reverse=True)
    if not tried:
        raise CalibrationError("there is no budget below 1 to try; name at least one")
    return tried


def check_enough(units: Sequence[Hashable], unit: Unit, labelled: bool, floor: float, confidence: float) -> None:
    """Refuse what could not tell anything, before the slow work rather than after it."""
    there = len(set(units))
    binary = not labelled and there == len(units)
    least = smallest_sample(floor, confidence, binary=binary)
    if there >= least:
        return
    highest = _rounded_down(Sample.perfect(there, binary=binary).lower(confidence))
    other = f", or ask for a floor of at most {highest:g}" if highest >= WORTHWHILE else ""
    if unit == "video" and len(units) > there:
        other += "; if only further questions about these very videos matter, take the unit question"
    raise CalibrationError(
        f"a floor of {floor:g} with {100 * confidence:g} % confidence takes at least {least} {unit}s, even if no "
        f"answer changes, but there {'is' if there == 1 else 'are'} {there}; give more{other}"
    )


def check_some_right(full: Sample) -> None:
    """Refuse answers of which none is right with all tokens."""
    if not full.reference.any():
        raise CalibrationError(
            "not one answer is right with all tokens, so there is no accuracy to keep; check the labels (answers are "
            "compared word by word) and the length of an answer, or leave the labels out to keep the agreement"
        )


def check_accurate(full: Sample, floor: float, confidence: float, unit: Unit) -> None:
    """Refuse answers that could not prove the floor if none changed."""
    if full.lower(confidence) >= floor:
        return
    needed = full.needed(floor, confidence)
    number = "many more" if needed is None else f"about {needed}"
    raise CalibrationError(
        f"a floor of {floor:g} with {100 * confidence:g} % confidence takes {number} {unit}s like these, even if no "
        f"answer changes, but there are {len(full.kept)}, and {100 * full.reference.mean():.1f} % of the answers are "
        "right with all tokens; give more, or ask for a lower floor"
    )


def _rounded_down(value: float) -> float:
    return int(value * 1000) / 1000
