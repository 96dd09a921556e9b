"""From answers to numbers: accuracy, intervals, what was measured. Pure functions of the lines of the results."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from framefusion.evaluation.cells import FULL
from framefusion.evaluation.methods.placed import schedule_of
from framefusion.evaluation.scoring import exact_match
from framefusion.evaluation.statistics import RESAMPLES, Bootstrap, Estimate

logger = logging.getLogger(__name__)

TOLERANCE = 0.02
"""Relative deviation from a budget that is not remarked on; one token is always granted."""

Line = Mapping[str, Any]


def summarise(
    cells: Iterable[Line],
    rows: Iterable[Line],
    asked: Mapping[int, Sequence[str]] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    left_out: Mapping[int, Mapping[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """One entry for each number of frames.

    Args:
        cells: lines of ``cells.jsonl``.
        rows: lines of ``questions.jsonl``.
        asked: per number of frames, the ids of the questions that count. Default: those answered with all tokens.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        left_out: per number of frames, the kinds that do not count because the model cannot answer them, with its
            accuracy in each.

    Returns:
        ``{"frames", "questions", "videos", "labelled", "left_out", "methods": […]}`` each. A method's entry has
        ``reached`` False and a ``reason``, or ``accuracy``, ``vs_full`` and ``vs_rival`` (with intervals), ``by_kind``,
        ``by_tag``, ``seeds`` (the accuracy of each), ``share`` and ``on_budget``, ``kv_bytes`` and, where they were
        measured, times. Methods that were not asked all the questions are left out.
    """
    answers: dict[str, dict[str, Line]] = {}
    for row in rows:
        answers.setdefault(row["cell"], {})[row["question"]] = row
    by_frames: dict[int, list[Line]] = {}
    for cell in cells:
        by_frames.setdefault(cell["frames"], []).append(cell)
    summaries = []
    for frames, lines in sorted(by_frames.items()):
        full = [answers.get(line["cell"], {}) for line in lines if line["method"] == FULL and "cell" in line]
        ids = list((asked or {}).get(frames, full[0] if full else ()))
        if not full or not ids or any(i not in full[0] for i in ids):
            logger.warning("the questions at %d frames have no answers with all tokens; they are left out", frames)
            continue
        table = _Table(frames, lines, answers, full[0], ids, resamples, seed)
        summaries.append({**table.summary(), "left_out": dict((left_out or {}).get(frames, {}))})
    return summaries


def measured(line: Line, rows: Sequence[Line]) -> dict[str, Any]:
    """A line of ``cells.jsonl`` with what the answers of the cell say: ``questions``, ``accuracy`` (None without
    labels), visual ``tokens`` per layer and ``kv_bytes``, both means over the questions."""
    mine = [row for row in rows if row["cell"] == line.get("cell")]
    if not mine:
        return dict(line)
    scored = [row["correct"] for row in mine if row["correct"] is not None]
    return {
        **line,
        "questions": len(mine),
        "accuracy": float(np.mean(scored)) if scored else None,
        "tokens": float(np.mean([row["tokens"] for row in mine])),
        "kv_bytes": float(np.mean([row["kv_bytes"] for row in mine])),
    }


class _Table:
    """The cells at one number of frames."""

    def __init__(
        self,
        frames: int,
        lines: Sequence[Line],
        answers: Mapping[str, Mapping[str, Line]],
        full: Mapping[str, Line],
        ids: Sequence[str],
        resamples: int,
        seed: int,
    ) -> None:
        self.frames, self.lines, self.answers = frames, lines, answers
        self.full, self.ids = full, ids
        self.bootstrap = Bootstrap([full[i]["video"] for i in ids], resamples=resamples, seed=seed)
        self.tokens = float(np.mean([full[i]["tokens"] for i in ids]))
        self.kv_bytes = float(np.mean([full[i]["kv_bytes"] for i in ids]))
        self.reference = self._correct(full)
        kinds = dict.fromkeys(full[i]["kind"] for i in ids)
        tags = dict.fromkeys(tag for i in ids for tag in full[i]["tags"])
        self.kinds = {kind: np.array([full[i]["kind"] == kind for i in ids]) for kind in kinds}
        self.tags = {tag: np.array([tag in full[i]["tags"] for i in ids]) for tag in tags}

    def summary(self) -> dict[str, Any]:
        groups: dict[tuple[str, float | None], list[Line]] = {}
        for line in self.lines:
            groups.setdefault((line["method"], line["budget"]), []).append(line)
        correct = {}
        for key, lines in groups.items():
            seeds = [self.answers.get(line["cell"], {}) for line in lines if "cell" in line]
            if seeds and all(i in seed for seed in seeds for i in self.ids):
                correct[key] = np.mean([self._correct(seed) for seed in seeds], axis=0)
            elif seeds:
                logger.warning("%s at %s was not asked all questions; it is left out", *key)
        return {
            "frames": self.frames,
            "questions": len(self.ids),
            "videos": len({self.full[i]["video"] for i in self.ids}),
            "labelled": sum(self.full[i]["correct"] is not None for i in self.ids),
            "kinds": {kind: int(where.sum()) for kind, where in self.kinds.items()},
            "tags": {tag: int(where.sum()) for tag, where in self.tags.items()},
            "tokens": self.tokens,
            "methods": [
                self._entry(lines, correct, key)
                for key, lines in groups.items()
                if key in correct or "cell" not in lines[0]
            ],
        }

    def _correct(self, answered: Mapping[str, Line]) -> np.ndarray:
        """``(Q,)``: 1 where right; without a label, where the answer is that with all tokens."""
        return np.array(
            [
                exact_match(answered[i]["prediction"], self.full[i]["prediction"])
                if answered[i]["correct"] is None
                else answered[i]["correct"]
                for i in self.ids
            ],
            dtype=float,
        )

    def _entry(self, lines: Sequence[Line], correct: Mapping[Any, np.ndarray], key: Any) -> dict[str, Any]:
        line = lines[0]
        entry: dict[str, Any] = {name: line[name] for name in ("method", "title", "kind", "budget")}
        if "cell" not in line:
            return {**entry, "reached": False, "reason": line["reason"]}
        mine = correct[key]
        answered = [self.answers[cell["cell"]][i] for cell in lines for i in self.ids]
        share = float(np.mean([row["tokens"] for row in answered])) / self.tokens
        entry |= {
            "reached": True,
            "accuracy": _plain(self.bootstrap.accuracy(mine)),
            "vs_full": {
                "difference": _plain(self.bootstrap.difference(mine, self.reference)),
                "ratio": _plain(self.bootstrap.ratio(mine, self.reference)),
            },
            "vs_rival": self._rival(mine, correct, key),
            "by_kind": {kind: self._split(mine, where) for kind, where in self.kinds.items()},
            "by_tag": {tag: self._split(mine, where) for tag, where in self.tags.items()},
            "seeds": [float(self._correct(self.answers[cell["cell"]]).mean()) for cell in lines],
            "share": share,
            "on_budget": line["budget"] is None
            or abs(share - line["budget"]) <= TOLERANCE * line["budget"] + 1 / self.tokens,
            "kv_bytes": float(np.mean([row["kv_bytes"] for row in answered])),
        }
        entry["kv_ratio"] = entry["kv_bytes"] / self.kv_bytes
        timed = [cell for cell in lines if cell.get("timed")]
        if timed:
            medians = {
                name: float(np.median([cell[name] for cell in timed]))
                for name in ("selection_milliseconds", "first_token_seconds", "full_first_token_seconds")
            }
            entry |= medians
            entry["first_token_ratio"] = medians["first_token_seconds"] / medians["full_first_token_seconds"]
        return entry

    def _rival(self, mine: np.ndarray, correct: Mapping[Any, np.ndarray], key: Any) -> dict[str, Any] | None:
        """The best other published rule at the same budget, in the same stages or each in its own, and the paired
        difference to it."""
        method, budget = key
        published = {
            line["method"]
            for line in self.lines
            if line["kind"] == "published" and schedule_of(line["method"]) == schedule_of(method)
        } - {method}
        rivals = {name: correct[name, budget] for name in published if (name, budget) in correct}
        if budget is None or not rivals:
            return None
        best = max(sorted(rivals), key=lambda name: rivals[name].mean())
        return {"method": best, "difference": _plain(self.bootstrap.difference(mine, rivals[best]))}

    def _split(self, mine: np.ndarray, where: np.ndarray) -> dict[str, Any]:
        return {
            "questions": int(where.sum()),
            "accuracy": _plain(self.bootstrap.accuracy(mine, where)),
            "difference": _plain(self.bootstrap.difference(mine, self.reference, where)),
        }


def _plain(estimate: Estimate | None) -> dict[str, float | None] | None:
    if estimate is None:
        return None
    return {name: None if value is None else round(value, 6) for name, value in asdict(estimate).items()}
