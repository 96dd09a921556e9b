"""A calibration: answers at every budget, tests, and the settings that they allow."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from framefusion._version import __version__
from framefusion.errors import ArgumentError, FrameFusionError
from framefusion.evaluation import Dataset, Generating, Plan, Progress, Question, evaluate
from framefusion.evaluation.calibration.bounds import Sample, smallest_sample
from framefusion.evaluation.calibration.search import Found, fixed_sequence, smallest
from framefusion.evaluation.cells import FULL
from framefusion.evaluation.checkpoints import open_model
from framefusion.evaluation.methods import METHODS, Method
from framefusion.evaluation.probing import PROMPTS, chosen, probe_data
from framefusion.evaluation.scoring import exact_match
from framefusion.evaluation.store import Store
from framefusion.progress import Silent
from framefusion.reduction.amounts import AUTO, Stages, stages_text
from framefusion.reduction.plain import from_plain
from framefusion.reduction.schedule import STAGES
from framefusion.reduction.settings import FrameFusion
from framefusion.reduction.settings_file import Calibration, Measure, StoredSettings, Unit

BUDGETS = (1.0, 0.7, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05)
"""Layer-averaged shares of visual tokens that are tried unless said otherwise."""
DEFAULT_METHOD = "segment-dpp-two-stage"
"""The method that ``FrameFusion(cost=budget)`` is."""

PROBED_COST = 0.3
"""The cost at which stages are probed."""

WORTHWHILE = 0.5
"""A floor below this is not offered."""

Row = Mapping[str, Any]


class CalibrationError(FrameFusionError, ValueError):
    """A calibration that cannot be done, or could not tell anything. The text is one sentence."""


def calibrate(
    data: Dataset,
    out: Path,
    floor: float = 0.98,
    *,
    confidence: float = 0.95,
    method: str = DEFAULT_METHOD,
    stages: Stages | Literal["auto"] | None = None,
    budgets: Sequence[float] = BUDGETS,
    frames: int = 16,
    unit: Unit = "video",
    jobs: int = 1,
    generating: Generating | None = None,
    model: Mapping[str, Any] | None = None,
    command: str = "framefusion.evaluation.calibration.calibrate",
    progress: Progress | None = None,
    prepare: Callable[[], None] | None = None,
) -> StoredSettings:
    """The smallest budget whose relative accuracy is above a floor, with confidence.

    With labels the floor is relative to the accuracy of all tokens, without it is the agreement with their answers.
    Every unit counts alike. The statement is about further units like those of the data, see ``docs/calibration.md``.

    Args:
        data: the questions; ``framefusion.evaluation.JsonLines`` for a file of your own.
        out: directory for the answers; what it holds already is not asked again.
        floor: in (0, 1). Default 0.98.
        confidence: in (0, 1). Default 0.95.
        method: whose budgets to try, a name in :data:`framefusion.evaluation.methods.METHODS` that is nothing but
            settings.
        stages: of every budget, with the default method, see :class:`framefusion.FrameFusion`; default its own.
            ``"auto"`` probes the model first, with :data:`~framefusion.evaluation.probing.PROMPTS` units that are then
            left out, so that the claim stays what it is, and keeps what it finds for ``FrameFusion(stages="auto")``.
        budgets: to try, each in (0, 1]; 1.0, which reduces nothing, always comes along.
        frames: of each video. Default 16.
        unit: ``"video"`` (default; questions about one video may depend on each other), or ``"question"`` for a
            statement about further questions about these very videos.
        jobs: processes.
        generating: how answers are generated; default ``Generating()``.
        model: arguments of :func:`framefusion.asking.loading.load`; default the bundled checkpoint.
        command: how to repeat it, for whoever reads the results.
        progress: told what is under way.
        prepare: called in every new process before it loads the model; a function of a module.

    Returns:
        The settings with their calibration; with ``keep=1.0`` if no smaller budget is proven. For
        :func:`framefusion.reduction.settings_file.save_settings`.

    Raises:
        CalibrationError: an argument is out of range, or there are too few units to prove the floor at all.
        DataError, MethodError, ModelError, UnsupportedModelError, LogError, EvaluationError: as
            :func:`framefusion.evaluation.evaluate`.
    """
    progress, generating = progress or Silent(), generating or Generating()
    tried, stages = _check(floor, confidence, method, budgets, unit), _stages(stages, method)
    # What makes no sense is refused before anything is read.
    what = Plan(frames, [method], tried, seeds=1, jobs=jobs, timed=0, generating=generating)
    progress.step("Reading the questions")
    questions = data.questions(frames)

    def unit_of(question: Question) -> Hashable:
        return question.video if unit == "video" else (question.video, question.text)

    asked = chosen(questions, PROMPTS) if stages == AUTO else []
    probed = set(map(unit_of, asked))
    without = [question.id for question in questions if unit_of(question) in probed]
    questions = [question for question in questions if unit_of(question) not in probed]
    if not questions and asked:
        raise CalibrationError(
            f"stages='auto' takes {len(probed)} {unit}s to probe the model, which are then left out, but there are no "
            "more; give more"
        )
    labelled = any(question.answer is not None for question in questions)
    # A question that is asked twice about a video is no second sample.
    units = list(map(unit_of, questions))
    _check_enough(units, floor, confidence, unit, labelled)
    if isinstance(stages, str):
        stages = _probed(data, frames, asked, model or {}, progress)
    trying = METHODS[method] if stages is None else with_stages(METHODS[method], stages)
    if stages:
        what = replace(what, methods=[FULL], unnamed=[trying])
    summary = evaluate(
        data, out, what, model=model, command=command, progress=progress, prepare=prepare, without=without
    )
    store = Store(out)
    lines = [line for line in store.cells() if line["frames"] == frames]
    answers: dict[str, dict[str, Row]] = {}
    for row in store.collect():
        answers.setdefault(row["cell"], {})[row["question"]] = row
    full = answers[next(line["cell"] for line in lines if line["method"] == FULL)]

    def sample(rows: Mapping[str, Row]) -> Sample:
        kept, reference = ([_right(q, by[q.id], full[q.id]) for q in questions] for by in (rows, full))
        return Sample.of(kept, reference, units, labelled=labelled)

    tokens = _tokens(full, questions)
    whole = sample(full)
    if not whole.reference.any():
        raise CalibrationError(
            "not one answer is right with all tokens, so there is no accuracy to keep; check the labels (answers are "
            "compared word by word) and the length of an answer, or leave the labels out to keep the agreement"
        )
    found: dict[float, Found | str] = {}
    plain: dict[float, Any] = {}
    for line in lines:
        if line["method"] == trying.name and line["budget"] in tried:
            if "cell" not in line:
                found[line["budget"]] = line["reason"]
                continue
            rows = answers[line["cell"]]
            found[line["budget"]] = sample(rows), _tokens(rows, questions) / tokens
            plain[line["budget"]] = line["settings"]
    tested = fixed_sequence(found, floor, confidence)
    budget = smallest(tested)
    if budget == 1:
        _check_accurate(whole, floor, confidence, unit)
    settings = METHODS[FULL].settings(1.0, 1) if budget == 1 else from_plain(plain[budget])
    return StoredSettings(
        settings,
        Calibration(
            floor=floor,
            confidence=confidence,
            budget=budget,
            method=method,
            measure=_measure(questions),
            unit=unit,
            units=len(set(units)),
            questions=len(questions),
            frames=frames,
            new_tokens=generating.new_tokens,
            full=float(whole.reference.mean()),
            model=summary["model"],
            data=data.name,
            version=__version__,
            budgets=tuple(tested),
        ),
    )


def with_stages(method: Method, stages: Stages) -> Method:
    """A method that is a cost in stages, with other ones."""

    def build(budget: float, layers: int) -> FrameFusion:
        return replace(method.build(budget, layers), stages=stages)

    return replace(method, name=f"{method.name}:{stages_text(stages)}", build=build)


def _probed(
    data: Dataset, frames: int, asked: Sequence[Question], model: Mapping[str, Any], progress: Progress
) -> Stages | None:
    """The stages that fit the model, kept for later; None for the default ones."""
    progress.step("Loading the model")
    found = probe_data(open_model(model), data, frames, asked, PROBED_COST, progress)
    found.save()
    return None if found.stages == STAGES else found.stages


def _stages(given: Any, method: str) -> Any:
    """Stages as :class:`FrameFusion` has them: checked, and None where they are the default ones."""
    if given is not None and method != DEFAULT_METHOD:
        raise CalibrationError(f"stages are those of the method {DEFAULT_METHOD!r}; leave them out with {method!r}")
    try:
        return FrameFusion(stages=given).stages
    except ArgumentError as error:
        raise CalibrationError(str(error)) from error


def _check(floor: float, confidence: float, method: str, budgets: Sequence[float], unit: str) -> list[float]:
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


def _check_enough(units: Sequence[Hashable], floor: float, confidence: float, unit: str, labelled: bool) -> None:
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


def _check_accurate(full: Sample, floor: float, confidence: float, unit: str) -> None:
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


def _right(question: Question, row: Row, full: Row) -> float:
    """Whether an answer is right; without a label, whether it is that of all tokens."""
    return float(exact_match(row["prediction"], full["prediction"] if question.answer is None else question.answer))


def _tokens(rows: Mapping[str, Row], questions: Sequence[Question]) -> float:
    return sum(rows[question.id]["tokens"] for question in questions) / len(questions)


def _measure(questions: Sequence[Question]) -> Measure:
    labelled = sum(question.answer is not None for question in questions)
    return "agreement" if not labelled else "accuracy" if labelled == len(questions) else "mixed"
