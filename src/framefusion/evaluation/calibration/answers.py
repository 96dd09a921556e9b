"""What is asked for a calibration, and what was answered."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from framefusion.evaluation import Question
from framefusion.evaluation.calibration.bounds import Sample
from framefusion.evaluation.calibration.refusals import CalibrationError
from framefusion.evaluation.calibration.search import Found
from framefusion.evaluation.cells import FULL
from framefusion.evaluation.methods import Method
from framefusion.evaluation.probing import chosen
from framefusion.evaluation.scoring import exact_match
from framefusion.evaluation.store import Store
from framefusion.reduction.settings_file import Measure, Unit

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """The questions of a statement, and the unit that it is about."""

    questions: tuple[Question, ...]
    unit: Unit

    @property
    def units(self) -> list[Hashable]:
        """That of each question."""
        # A question that is asked twice about a video is no second sample.
        return [_unit_of(question, self.unit) for question in self.questions]

    @property
    def measure(self) -> Measure:
        labelled = sum(question.answer is not None for question in self.questions)
        return "agreement" if not labelled else "accuracy" if labelled == len(self.questions) else "mixed"

    @property
    def labelled(self) -> bool:
        return self.measure != "agreement"

    def sample(self, rows: Mapping[str, Row], full: Mapping[str, Row]) -> Sample:
        """What is right among answers, and among those with all tokens, by question."""
        kept, reference = ([_right(q, by[q.id], full[q.id]) for q in self.questions] for by in (rows, full))
        return Sample.of(kept, reference, self.units, labelled=self.labelled)

    def tokens(self, rows: Mapping[str, Row]) -> float:
        """Mean number of tokens over the questions."""
        return sum(rows[question.id]["tokens"] for question in self.questions) / len(self.questions)


def _unit_of(question: Question, unit: str) -> Hashable:
    return question.video if unit == "video" else (question.video, question.text)


def divided(questions: Sequence[Question], unit: Unit, prompts: int) -> tuple[list[Question], list[str], Asked]:
    """As many questions as ``prompts`` to probe the model with; all that are left out for it, by id; the others."""
    probing = chosen(questions, prompts) if prompts else []
    probed = {_unit_of(question, unit) for question in probing}
    left = tuple(question for question in questions if _unit_of(question, unit) not in probed)
    if not left and probing:
        raise CalibrationError(
            f"stages='auto' takes {len(probed)} {unit}s to probe the model, which are then left out, but there are no "
            "more; give more"
        )
    return probing, [q.id for q in questions if _unit_of(q, unit) in probed], Asked(left, unit)


@dataclass(frozen=True)
class Answers:
    """Rows by question: with all tokens, and by budget, with the settings of each; why other budgets have none."""

    full: Mapping[str, Row]
    rows: Mapping[float, Mapping[str, Row]]
    settings: Mapping[float, Any]
    reasons: Mapping[float, str]

    def found(self, asked: Asked) -> dict[float, Found | str]:
        """Of each budget what is right and the share of tokens, or why there is none."""
        tokens = asked.tokens(self.full)
        samples = {
            budget: (asked.sample(rows, self.full), asked.tokens(rows) / tokens) for budget, rows in self.rows.items()
        }
        return {**samples, **self.reasons}


def read_answers(store: Store, frames: int, method: Method, budgets: Sequence[float]) -> Answers:
    """Those of a method at budgets, and with all tokens."""
    by_cell: dict[str, dict[str, Row]] = {}
    for row in store.collect():
        by_cell.setdefault(row["cell"], {})[row["question"]] = row
    lines = [line for line in store.cells() if line["frames"] == frames]
    full = next(line["cell"] for line in lines if line["method"] == FULL)
    tried = [line for line in lines if line["method"] == method.name and line["budget"] in budgets]
    done = {line["budget"]: line for line in tried if "cell" in line}
    return Answers(
        by_cell[full],
        {budget: by_cell[line["cell"]] for budget, line in done.items()},
        {budget: line["settings"] for budget, line in done.items()},
        {line["budget"]: line["reason"] for line in tried if "cell" not in line},
    )


def _right(question: Question, row: Row, full: Row) -> float:
    """Whether an answer is right; without a label, whether it is that of all tokens."""
    return float(exact_match(row["prediction"], full["prediction"] if question.answer is None else question.answer))
