"""The cells of an evaluation: one method at one budget with one seed, and which of them can be reached."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from framefusion.errors import ArgumentError, FrameFusionError
from framefusion.evaluation.methods import METHODS, BudgetError, Method
from framefusion.evaluation.methods.placed import SCHEDULES, placed
from framefusion.hf import attach
from framefusion.reduction.plain import to_plain
from framefusion.reduction.settings import FrameFusion

logger = logging.getLogger(__name__)

FULL = "full"
"""The method that everything is compared with: all tokens."""
GROUPS = {"controls": "control", "published": "published", "ours": "ours", "ablations": "ablation"}
"""Names of several methods at once, and the kind that each stands for; ``"all"`` is all of them."""


class MethodError(FrameFusionError, ValueError):
    """Methods or budgets that do not exist. The text is one sentence."""


@dataclass(frozen=True)
class Cell:
    """What a question is answered with.

    Attributes:
        method: its name in ``framefusion.evaluation.methods``.
        budget: mean share of visual tokens over the decoder layers; None for a method that knows no budget.
        seed: of a random method; 0 for others.
        frames: frames of the videos that the questions were made for.
        shown: frames that the model gets, fewer only with the control that shows fewer.
        blank: whether the model gets grey frames instead of the video.
        scenes: whether it gets the middle frame of every scene, in the place of ``shown`` frames.
        settings: of the reduction.
    """

    method: str
    budget: float | None
    seed: int
    frames: int
    shown: int
    blank: bool
    settings: FrameFusion
    scenes: bool = False

    @property
    def key(self) -> str:
        """Tells cells apart, changes in the settings included."""
        shown: list[Any] = [self.shown, self.blank, *(["scenes"] if self.scenes else [])]
        plain = to_plain(self.settings)
        if plain["tower"] is None:
            # Settings had no such field once: answers of then are found again.
            del plain["tower"]
        what = json.dumps([*shown, plain], sort_keys=True)
        digest = hashlib.sha256(what.encode()).hexdigest()[:8]
        budget = "all" if self.budget is None else f"{self.budget:g}"
        return f"{self.method}@{budget}/{self.frames}f/seed{self.seed}/{digest}"


@dataclass(frozen=True)
class Unreachable:
    """A method that cannot keep to a budget on this model.

    Attributes:
        method, budget, frames: as of :class:`Cell`.
        reason: one sentence, with the smallest budget that can be reached where the method knows it.
    """

    method: str
    budget: float | None
    frames: int
    reason: str


def choose(names: Sequence[str]) -> list[Method]:
    """The methods of some names or :data:`GROUPS`, each once, :data:`FULL` always and first.

    A name or group with ``@`` and one of :data:`framefusion.evaluation.methods.placed.SCHEDULES` behind it puts
    the rules of these methods into the same stages.

    Raises:
        MethodError: there is no such method; lists those there are.
    """
    chosen = {FULL: METHODS[FULL]}
    for name in names:
        base, at, schedule = name.partition("@")
        if at and schedule not in SCHEDULES:
            raise MethodError(f"there are no stages {schedule!r}; behind @ comes {', '.join(SCHEDULES)}")
        found = [m for m in METHODS.values() if base in ("all", m.name) or m.kind == GROUPS.get(base)]
        if at and found:
            found = [placed(m, schedule) for m in found if m.rule is not None]
        if not found:
            raise MethodError(f"there is no method {name!r}; there are {_known(name)}")
        chosen.update((method.name, method) for method in found)
    return list(chosen.values())


def _known(name: str) -> str:
    """The methods and groups there are; of the many ablations, those of the base that was named."""
    base = name.partition(":")[0]
    near = [m.name for m in METHODS.values() if m.kind != "ablation" or (":" in name and m.name.startswith(f"{base}:"))]
    return f"{', '.join(near)}, and the groups all, {', '.join(GROUPS)}"


def plan(
    model: Any, methods: Sequence[Method], budgets: Sequence[float], frames: int, seeds: int
) -> tuple[list[Cell], list[Unreachable]]:
    """The cells of some methods at some budgets on a model, and those that cannot be reached.

    Args:
        model: of a supported family.
        methods: from ``framefusion.evaluation.methods``.
        budgets: each in (0, 1].
        frames: frames of the videos.
        seeds: how many seeds a random method gets.
    """
    layers = model.config.get_text_config().num_hidden_layers
    cells: list[Cell] = []
    missing: list[Unreachable] = []
    for method in methods:
        for budget in budgets if method.budgeted else [None]:
            try:
                cell = _cell(method, budget, layers, frames)
            except (BudgetError, ArgumentError) as error:
                assert budget is not None
                missing.append(Unreachable(method.name, budget, frames, str(error)))
                continue
            try:
                # What this model cannot do is found out now, not in the middle of the questions.
                attach(model, cell.settings).detach()
            except ValueError as error:
                logger.warning("%s does not run on this model: %s", cell.key, error)
                missing.append(Unreachable(method.name, budget, frames, str(error)))
                continue
            cells.append(cell)
            others = range(1, seeds if method.random else 1)
            cells += [replace(cell, seed=seed, settings=replace(cell.settings, seed=seed)) for seed in others]
    return cells, missing


def _cell(method: Method, budget: float | None, layers: int, frames: int) -> Cell:
    spent = 1.0 if budget is None else budget
    settings = method.settings(spent, layers)
    shown = frames if method.frames is None else method.frames(spent, frames)
    return Cell(method.name, budget, 0, frames, shown, method.blank, settings, method.scenes)
