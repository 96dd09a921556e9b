"""A calibration: answers at every budget, tests, and the settings that they allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from framefusion._version import __version__
from framefusion.errors import ArgumentError
from framefusion.evaluation import Dataset, Generating, Plan, Progress, Question, evaluate
from framefusion.evaluation.calibration.answers import divided, read_answers
from framefusion.evaluation.calibration.refusals import (
    CalibrationError,
    check_accurate,
    check_arguments,
    check_enough,
    check_some_right,
)
from framefusion.evaluation.calibration.search import fixed_sequence, smallest
from framefusion.evaluation.cells import FULL
from framefusion.evaluation.checkpoints import open_model
from framefusion.evaluation.methods import METHODS, Method
from framefusion.evaluation.probing import PROMPTS, probe_data
from framefusion.evaluation.store import Store
from framefusion.progress import Silent
from framefusion.reduction.amounts import AUTO, Stages, stages_text
from framefusion.reduction.plain import from_plain
from framefusion.reduction.schedule import STAGES
from framefusion.reduction.settings import FrameFusion
from framefusion.reduction.settings_file import Calibration, StoredSettings, Unit

BUDGETS = (1.0, 0.7, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05)
"""Layer-averaged shares of visual tokens that are tried unless said otherwise."""
DEFAULT_METHOD = "segment-dpp-two-stage"
"""The method that ``FrameFusion(cost=budget)`` is."""

PROBED_COST = 0.3
"""The cost at which stages are probed."""


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
    Every unit counts alike. It is said of further units like those of the data (``docs/guides/calibration.md``).

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
    tried, stages = check_arguments(floor, confidence, method, budgets, unit), _stages(stages, method)
    # What makes no sense is refused before anything is read.
    what = Plan(frames, [method], tried, seeds=1, jobs=jobs, timed=0, generating=generating)
    progress.step("Reading the questions")
    probing, without, asked = divided(data.questions(frames), unit, PROMPTS if stages == AUTO else 0)
    check_enough(asked.units, unit, asked.labelled, floor, confidence)
    if isinstance(stages, str):
        stages = _probed(data, frames, probing, model or {}, progress)
    trying = METHODS[method] if stages is None else with_stages(METHODS[method], stages)
    if stages:
        what = replace(what, methods=[FULL], unnamed=[trying])
    summary = evaluate(
        data, out, what, model=model, command=command, progress=progress, prepare=prepare, without=without
    )
    answers = read_answers(Store(out), frames, trying, tried)
    whole = asked.sample(answers.full, answers.full)
    check_some_right(whole)
    tested = fixed_sequence(answers.found(asked), floor, confidence)
    budget = smallest(tested)
    if budget == 1:
        check_accurate(whole, floor, confidence, unit)
    settings = METHODS[FULL].settings(1.0, 1) if budget == 1 else from_plain(answers.settings[budget])
    return StoredSettings(
        settings,
        Calibration(
            floor=floor,
            confidence=confidence,
            budget=budget,
            method=method,
            measure=asked.measure,
            unit=unit,
            units=len(set(asked.units)),
            questions=len(asked.questions),
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
