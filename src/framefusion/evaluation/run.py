"""An evaluation from beginning to end, or from where the last one was interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from framefusion.asking.loading import LoadedModel
from framefusion.asking.provenance import describe, versions
from framefusion.evaluation import timing, workers
from framefusion.evaluation.answering import Chunk, EvaluationError, chunks
from framefusion.evaluation.cells import FULL, Cell, MethodError, Unreachable, choose, plan
from framefusion.evaluation.checkpoints import open_model
from framefusion.evaluation.data import Dataset, Question, WithFloor, WithScenes
from framefusion.evaluation.methods import Method
from framefusion.evaluation.plan import SEED, Plan
from framefusion.evaluation.statistics import LEVEL, RESAMPLES
from framefusion.evaluation.store import Store
from framefusion.evaluation.summary import measured, summarise
from framefusion.progress import Progress, Silent
from framefusion.reduction.plain import to_plain
from framefusion.selection import warm_up


def evaluate(
    data: Dataset,
    out: Path,
    what: Plan | None = None,
    *,
    model: Mapping[str, Any] | None = None,
    command: str = "framefusion.evaluation.evaluate",
    progress: Progress | None = None,
    prepare: Callable[[], None] | None = None,
    without: Collection[str] = (),
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
        without: ids of questions that are not asked.

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
    methods = _possible([*choose(what.methods), *what.unnamed], what.methods, data)
    store = Store(out)
    progress.step("Reading the questions")
    questions = [question for question in data.questions(what.frames) if question.id not in without]
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
        line |= {"seed": cell.seed, "frames": cell.frames, "shown": cell.shown, "settings": to_plain(cell.settings)}
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
    _warm(loaded, progress)
    progress.step("Answering", sum(map(open_in, left)))
    jobs = min(jobs, len(left))
    if jobs > 1:
        workers.run(work, left, jobs, store.part, progress.advance)
        return
    for chunk in left:
        work.answer(loaded, chunk, store.part(0), progress.advance)


def _measure(
    work: workers.Work, questions: Sequence[Question], loaded: LoadedModel, store: Store, timed: int, progress: Progress
) -> None:
    lines = store.cells()
    place = {line["cell"]: i for i, line in enumerate(lines) if "cell" in line}
    left = [cell for cell in work.cells if lines[place[cell.key]].get("timed") is None]
    if not left:
        return
    _warm(loaded, progress)
    progress.step("Timing", len(left))
    count = min(timed, len(questions))
    chosen = [questions[((2 * i + 1) * len(questions)) // (2 * count)] for i in range(count)]
    chunk = Chunk(loaded, work.data, work.frames, chosen, work.generating)
    full = next(cell for cell in work.cells if cell.method == FULL)
    for cell in left:
        times = timing.measure(loaded, chunk, full, cell, [question.id for question in chosen])
        lines[place[cell.key]] = {**lines[place[cell.key]], **times}
        store.write_cells(lines)
        progress.advance(1)


def _warm(loaded: LoadedModel, progress: Progress) -> None:
    """Compile once, for other processes too."""
    progress.step("Compiling the selection, unless that was done before")
    warm_up(loaded.model.dtype, loaded.model.device)
