"""An evaluation from beginning to end, or from where the last one was interrupted."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers

from framefusion._version import __version__
from framefusion.asking.loading import LoadedModel
from framefusion.evaluation import timing, workers
from framefusion.evaluation.answering import Chunk, EvaluationError, Generating, chunks
from framefusion.evaluation.cells import FULL, Cell, MethodError, Unreachable, choose, plan
from framefusion.evaluation.checkpoints import open_model
from framefusion.evaluation.data import Dataset, Question, WithFloor, WithScenes
from framefusion.evaluation.methods import Method
from framefusion.evaluation.statistics import LEVEL, RESAMPLES
from framefusion.evaluation.store import Store
from framefusion.evaluation.summary import measured, summarise
from framefusion.hf.fingerprint import fingerprint
from framefusion.selection import warm_up

BUDGETS = (0.5, 0.3, 0.2, 0.1, 0.05)
"""Layer-averaged shares of visual tokens that are compared unless said otherwise."""
SEED = 0
"""Of the bootstrap."""
METHODS = ("controls", "published", "ours")
"""Methods that are compared unless said otherwise."""


class Progress(Protocol):
    """Told what is under way."""

    def step(self, name: str, total: int | None = None) -> None:
        """A new step begins, of ``total`` parts if that is known."""

    def advance(self, parts: int) -> None:
        """So many parts of it are done."""


class Silent:
    """Nobody wants to know."""

    def step(self, name: str, total: int | None = None) -> None:
        pass

    def advance(self, parts: int) -> None:
        pass


@dataclass(frozen=True)
class Plan:
    """What to compare.

    Attributes:
        frames: frames of the videos.
        methods: names or groups of methods, see :func:`framefusion.evaluation.cells.choose`; all tokens always
            come along.
        budgets: mean shares of visual tokens over the decoder layers, each in (0, 1].
        seeds: how many seeds a random method gets.
        jobs: processes.
        timed: questions on which the time to the first token is measured in each cell; 0 for none.
        generating: how answers are generated.

    Raises:
        MethodError: a number is out of range.
    """

    frames: int = 16
    methods: Sequence[str] = METHODS
    budgets: Sequence[float] = BUDGETS
    seeds: int = 3
    jobs: int = 1
    timed: int = 5
    generating: Generating = field(default_factory=Generating)

    def __post_init__(self) -> None:
        for budget in self.budgets:
            if not 0 < budget <= 1:
                raise MethodError(f"a budget must be in (0, 1], got {budget:g}")
        if not self.budgets or not self.methods:
            raise MethodError(f"there are no {'methods' if self.budgets else 'budgets'} to compare; name at least one")
        least = {"frames": 1, "seeds": 1, "jobs": 1, "timed": 0}
        numbers = [(name, getattr(self, name), low) for name, low in least.items()]
        numbers += [("batch", self.generating.batch, 1), ("new_tokens", self.generating.new_tokens, 1)]
        for name, value, low in numbers:
            if value < low:
                raise MethodError(f"{name} must be at least {low}, got {value}")


def evaluate(
    data: Dataset,
    out: Path,
    what: Plan | None = None,
    *,
    model: Mapping[str, Any] | None = None,
    command: str = "framefusion.evaluation.evaluate",
    progress: Progress | None = None,
    prepare: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Answer every question in every cell, measure, and summarise.

    What is answered is written to ``out`` at once and never asked again, whenever the evaluation is interrupted.
    Further methods, budgets, frames and videos can be added to a directory by running it again with them.

    Args:
        data: the questions.
        out: directory for the results, see :class:`~framefusion.evaluation.store.Store`.
        what: methods, budgets and the rest; default ``Plan()``.
        model: arguments of :func:`framefusion.asking.loading.load`; default the bundled checkpoint.
        command: how to repeat it, for whoever reads the results.
        progress: told what is under way.
        prepare: called in every new process before it loads the model; a function of a module.

    Returns:
        The content of ``summary.json``: provenance, and under ``frames`` what
        :func:`framefusion.evaluation.summary.summarise` returns.

    Raises:
        MethodError: no such method.
        DataError: the questions or a video cannot be read.
        LogError: ``out`` holds something else, or is damaged.
        ModelError, UnsupportedModelError: the model cannot be used.
        EvaluationError: the model or a method failed.
    """
    what, progress = what or Plan(), progress or Silent()
    methods = _possible(choose(what.methods), what.methods, data)
    store = Store(out)
    progress.step("Reading the questions")
    questions = data.questions(what.frames)
    progress.step("Loading the model")
    loaded = open_model(model or {})
    identity = {
        "model": describe(loaded),
        "data": data.name,
        "new_tokens": what.generating.new_tokens,
    }
    manifest = store.open(identity, command, versions())
    cells, missing = plan(loaded.model, methods, what.budgets, what.frames, what.seeds)
    store.write_cells(_lines(store.cells(), cells, missing, methods))

    current = {question.id: question.fingerprint for question in questions}
    answered = (row for row in store.collect() if current.get(row["question"]) == row["fingerprint"])
    done = {(row["cell"], row["question"]) for row in answered}
    work = workers.Work(model or {}, data, what.frames, cells, done, what.generating, prepare)
    left_out: dict[str, float] = {}
    if isinstance(data, WithFloor):
        full = next(cell for cell in cells if cell.method == FULL)
        _answer(replace(work, cells=[full]), questions, loaded, store, what.jobs, progress)
        left_out = too_hard(full.key, questions, store.collect(), data.least)
        questions = [question for question in questions if question.kind not in left_out]
        if not questions:
            raise EvaluationError(_nothing_left(left_out, data.least))
        current = {question.id: question.fingerprint for question in questions}
        work = replace(work, done={*done, *((full.key, question) for question in current)})
    _answer(work, questions, loaded, store, what.jobs, progress)
    rows = store.collect()
    if what.timed:
        _measure(work, questions, loaded, store, what.timed, progress)

    progress.step("Summing up")
    lines = [measured(line, rows) for line in store.cells()]
    store.write_cells(lines)
    summary = {
        **manifest,
        "seed": SEED,
        "resamples": RESAMPLES,
        "level": LEVEL,
        "frames": summarise(lines, rows, {what.frames: list(current)}, seed=SEED, left_out={what.frames: left_out}),
    }
    store.write("summary.json", json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return summary


def too_hard(
    full: str, questions: Sequence[Question], rows: Sequence[Mapping[str, Any]], least: float
) -> dict[str, float]:
    """Kinds of questions that the model cannot answer with all tokens, and its accuracy in each.

    Args:
        full: key of the cell with all tokens.
        questions: those asked.
        rows: the answers, of any cell and question.
        least: the smallest accuracy that is enough.
    """
    asked = {question.id: question.kind for question in questions}
    correct: dict[str, list[bool]] = {kind: [] for kind in asked.values()}
    for row in rows:
        if row["cell"] == full and row["question"] in asked and row["correct"] is not None:
            correct[asked[row["question"]]].append(row["correct"])
    shares = {kind: sum(answers) / len(answers) for kind, answers in correct.items() if answers}
    return {kind: share for kind, share in shares.items() if share < least}


def _nothing_left(left_out: Mapping[str, float], least: float) -> str:
    told = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in left_out.items())
    return f"the model answers no kind of question in {100 * least:g} % with all tokens ({told}); take another model"


def _possible(methods: list[Method], named: Sequence[str], data: Dataset) -> list[Method]:
    """The methods that this data set can be asked with; refuses one that was named and is not."""
    if isinstance(data, WithScenes):
        return methods
    for method in methods:
        if method.scenes and method.name in named:
            raise MethodError(f"{method.name} needs data that knows its scenes, {data.name} does not; leave it out")
    return [method for method in methods if not method.scenes]


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    return {
        "framefusion": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "Python": platform.python_version(),
    }


def describe(loaded: LoadedModel) -> str:
    """A model as results and settings files name it: name, class, dtype and a hash of its weights."""
    return f"{loaded.name} ({type(loaded.model).__name__}, {loaded.dtype}, weights {fingerprint(loaded.model)})"


def _lines(
    known: Sequence[Mapping[str, Any]], cells: Sequence[Cell], missing: Sequence[Unreachable], methods: Sequence[Method]
) -> list[Mapping[str, Any]]:
    """The lines of ``cells.jsonl``: what is asked now in the place of what was known about it, times kept."""
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for line in known:
        groups.setdefault((line["method"], line["budget"], line["frames"]), []).append(line)
    measured_before = {line["cell"]: line for line in known if "cell" in line}
    about = {method.name: {"title": method.title, "kind": method.kind} for method in methods}
    now: dict[Any, list[Mapping[str, Any]]] = {}
    for cell in cells:
        line = {"cell": cell.key, "method": cell.method, **about[cell.method], "budget": cell.budget}
        line |= {"seed": cell.seed, "frames": cell.frames, "shown": cell.shown, "settings": asdict(cell.settings)}
        line = {**measured_before.get(cell.key, {}), **line}
        now.setdefault((cell.method, cell.budget, cell.frames), []).append(line)
    for lost in missing:
        now[lost.method, lost.budget, lost.frames] = [{**asdict(lost), **about[lost.method]}]
    return [line for lines in {**groups, **now}.values() for line in lines]


def _answer(
    work: workers.Work,
    questions: Sequence[Question],
    loaded: LoadedModel,
    store: Store,
    jobs: int,
    progress: Progress,
) -> None:
    def open_in(chunk: Sequence[Question]) -> int:
        return sum((cell.key, question.id) not in work.done for cell in work.cells for question in chunk)

    left = [chunk for chunk in chunks(questions, work.generating.batch) if open_in(chunk)]
    if not left:
        return
    progress.step("Answering", sum(map(open_in, left)))
    jobs = min(jobs, len(left))
    parts = store.parts(jobs)
    if jobs > 1:
        workers.run(work, left, parts, progress.advance)
        return
    for chunk in left:
        work.answer(loaded, chunk, parts[0], progress.advance)


def _measure(
    work: workers.Work, questions: Sequence[Question], loaded: LoadedModel, store: Store, timed: int, progress: Progress
) -> None:
    lines = store.cells()
    place = {line["cell"]: i for i, line in enumerate(lines) if "cell" in line}
    left = [cell for cell in work.cells if lines[place[cell.key]].get("timed") is None]
    if not left:
        return
    progress.step("Timing", len(left))
    if loaded.model.device.type == "cpu":
        warm_up(loaded.model.dtype)
    count = min(timed, len(questions))
    chosen = [questions[((2 * i + 1) * len(questions)) // (2 * count)] for i in range(count)]
    chunk = Chunk(loaded, work.data, work.frames, chosen, work.generating)
    full = next(cell for cell in work.cells if cell.method == FULL)
    for cell in left:
        times = timing.measure(loaded, chunk, full, cell, [question.id for question in chosen])
        lines[place[cell.key]] = {**lines[place[cell.key]], **times}
        store.write_cells(lines)
        progress.advance(1)
