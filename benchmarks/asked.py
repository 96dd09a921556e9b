"""Ways to a sooner first token, and how many questions a small model answers right each way.

Rules as methods at budgets, and fewer frames, are asked by what ``framefusion eval`` calls; a lower resolution as a
copy of the checkpoint whose processor makes smaller pictures. A tower that does less is asked in sessions, because an
evaluation encodes every video whole: each video is shown once, and all its questions are asked there, with the answers
of asking afresh.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.end_to_end import Way
from benchmarks.footage import StillNeedle
from framefusion import Changed, FrameFusion, ToMe, session
from framefusion.asking.loading import LoadedModel, load
from framefusion.assets import BUNDLED, usual_frames
from framefusion.evaluation import Plan, evaluate
from framefusion.evaluation.methods import METHODS
from framefusion.evaluation.scoring import exact_match
from framefusion.evaluation.videoneedle import VideoNeedle

LLAVA, QWEN = BUNDLED
MOVING, STILL = "moving", "still"
FOOTAGE: dict[str, type[VideoNeedle]] = {MOVING: VideoNeedle, STILL: StillNeedle}
VIDEOS, SEED = 60, 0
SIDE = 96
"""Pixels across and down a frame."""
STD = (0.5, 0.5, 0.5)
"""What the processors of both models divide pixels by."""

Told = dict[str, Any]
"""``accuracy``, and where the tower does less ``tower_share``, of its work."""


class Asker:
    """A bundled checkpoint and the questions that it is asked.

    Args:
        model: of :data:`framefusion.assets.BUNDLED`.
        footage: of :data:`FOOTAGE`.
        out: directory for the answers of evaluations.
    """

    def __init__(self, model: str, footage: str, out: Path) -> None:
        self.model, self.footage, self.out = model, footage, out / f"{model}-{footage}"
        self.frames, self.data = usual_frames(model), FOOTAGE[footage](VIDEOS, SEED)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model."""
        return load(self.model, device="cpu")

    @property
    def layers(self) -> int:
        """Of its decoder."""
        return int(self.loaded.model.config.get_text_config().num_hidden_layers)

    def evaluated(
        self, method: str, budgets: tuple[float, ...], model: str | None = None, out: str = "answers"
    ) -> dict[float | None, Told]:
        """A method at some budgets; all tokens under None."""
        what = Plan(frames=self.frames, methods=(method,), budgets=budgets, timed=0)
        arguments = {"model": model or self.model, "device": "cpu"}
        (part,) = evaluate(self.data, self.out / out, what, model=arguments)["frames"]
        rows = [row for row in part["methods"] if row["method"] in ("full", method) and row["reached"]]
        return {row["budget"]: {"accuracy": row["accuracy"]["value"]} for row in rows}

    def smaller(self, sides: tuple[float, ...]) -> dict[float | None, Told]:
        """By a checkpoint whose processor makes smaller pictures, of so many pixels across and down."""
        told: dict[float | None, Told] = {}
        for side in map(round, sides):
            copy = self.out / f"side-{side}"
            shutil.copytree(BUNDLED[self.model], copy, dirs_exist_ok=True)
            config = json.loads((copy / "processor_config.json").read_text())
            for kind in ("image_processor", "video_processor"):
                config[kind]["size"] = {"longest_edge": side**2, "shortest_edge": side**2}
            (copy / "processor_config.json").write_text(json.dumps(config))
            told[side] = self.evaluated("full", (1.0,), str(copy), f"answers-{side}")[None]
        return told

    def in_sessions(self, settings: FrameFusion) -> Told:
        """With a tower that does less."""
        by_video = defaultdict(list)
        for question in self.data.questions(self.frames):
            by_video[question.video].append(question)
        right: list[bool] = []
        shares: list[float] = []
        loaded = self.loaded
        for name, asked in by_video.items():
            with session(loaded.model, loaded.processor, settings, chunk=self.frames, max_new_tokens=16) as talk:
                talk.add(self.data.video(name, self.frames, self.frames))
                replies = talk.ask_all([question.text for question in asked])
                share = talk.summary().tower_share
                shares += [] if share is None else [share]
            right += [exact_match(r.text, q.answer or "") for r, q in zip(replies, asked, strict=True)]
        return {"accuracy": round(mean(right), 6), "tower_share": round(mean(shares), 4) if shares else None}


@dataclass(frozen=True)
class Alternative:
    """A way to a sooner first token, at several budgets.

    Attributes:
        name: in tables.
        budgets: what it is given, dearest first: shares of the tokens, the frames or the tower's work, or pixels across
            a frame.
        way: of a budget and a number of decoder layers.
        ask: what an asker tells of some budgets.
        together: whether all budgets are asked at once, or one after the other, as long as they keep the accuracy.
        optional: whether it is left out of the times where no budget keeps the accuracy.
    """

    name: str
    budgets: tuple[float, ...]
    way: Callable[[float, int], Way]
    ask: Callable[[Asker, tuple[float, ...]], dict[float | None, Told]]
    together: bool = True
    optional: bool = False


def alternatives(model: str, footage: str) -> list[Alternative]:
    """The ways of a model and the footage it is shown; an evaluation first, which tells the accuracy of all tokens."""
    evs, ours = EVS, OURS
    if footage == STILL:
        evs, ours = (replace(rule, budgets=STILL_BUDGETS[model]) for rule in (EVS, OURS))
    ways = [_decoder(evs), _fewer_frames(usual_frames(model))]
    if model == QWEN:
        # The LLaVA-OneVision's processor makes frames of one size, which its tower's positions are for.
        ways.append(_lower_resolution())
    ways.append(_decoder(ours))
    if footage == STILL:
        ways.append(_tower("encodes what changed", lambda _: CHANGED, (1.0,)))
        changed = [_both(rule, "encodes what changed", CHANGED) for rule in (ours, evs)]
        return [*ways, changed[0], replace(changed[1], optional=True)]
    # The tower of the Qwen2.5-VL, of three blocks that see two frames at once, bears less merging.
    works = (0.85, 0.75) if model == QWEN else (0.75, 2 / 3)
    merging = _tower("merges patches", ToMe, works)
    both = [_merging(OURS, work) for work in works]
    if model == QWEN:
        both.insert(0, _both(OURS, "encodes what changed", CHANGED))
        return ways + [replace(one, optional=True) for one in (merging, *both)]
    # Nothing of EVS, but its rule can have our tower too.
    return [*ways, merging, *both, *(replace(_merging(EVS, work), optional=True) for work in works)]


@dataclass(frozen=True)
class Rule:
    """A rule of the decoder: its name in tables, as a method, and the shares of the tokens that are tried of it."""

    name: str
    method: str
    budgets: tuple[float, ...]

    def settings(self, budget: float, layers: int, tower: Any = None) -> FrameFusion:
        """Of a budget and a number of decoder layers."""
        return replace(METHODS[self.method].settings(budget, layers), tower=tower)


EVS = Rule("EVS's rule at the input", "evs", (0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1))
OURS = Rule("ours, in the decoder", "segment-dpp-two-stage", (0.3, 0.2, 0.15, 0.12, 0.1))
STILL_BUDGETS = {LLAVA: (0.7, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1), QWEN: (0.4, 0.3, 0.2, 0.1)}
"""Of both over footage that stands still."""
CHANGED = Changed(4.0, full_blocks=0, std=STD)
"""Of the three blocks of these towers at least two would run over everything."""


def _decoder(rule: Rule) -> Alternative:
    def way(budget: float, layers: int) -> Way:
        return Way(f"{rule.name}, {budget:.0%} of the tokens", rule.settings(budget, layers))

    return Alternative(rule.name, rule.budgets, way, lambda asker, wanted: asker.evaluated(rule.method, wanted))


def _fewer_frames(frames: int) -> Alternative:
    def way(budget: float, layers: int) -> Way:
        return Way(f"fewer frames, {round(frames * budget)} of {frames}", frames=budget)

    return Alternative(
        "fewer frames", (0.875, 0.75, 0.5), way, lambda asker, wanted: asker.evaluated("fewer-frames", wanted)
    )


def _lower_resolution() -> Alternative:
    def way(side: float, layers: int) -> Way:
        return Way(f"lower resolution, {(side / SIDE) ** 2:.0%} of the pixels", pixels=(side / SIDE) ** 2)

    return Alternative("lower resolution", (84, 72), way, lambda asker, wanted: asker.smaller(wanted))


def _tower(does: str, rule: Callable[[float], Any], works: tuple[float, ...]) -> Alternative:
    """A tower that does less, and a decoder that sees all tokens."""

    def settings(work: float) -> FrameFusion:
        return FrameFusion(keep=1.0, tower=rule(work))

    def way(work: float, layers: int) -> Way:
        return Way(f"ours, a tower that {does}" + (f" to {work:.0%}" if work < 1 else ""), settings(work))

    def ask(asker: Asker, wanted: tuple[float, ...]) -> dict[float | None, Told]:
        return {work: asker.in_sessions(settings(work)) for work in wanted}

    return Alternative(f"ours, a tower that {does}", works, way, ask, together=False)


def _merging(rule: Rule, work: float) -> Alternative:
    return _both(rule, f"merges patches to {work:.0%}", ToMe(work))


def _both(rule: Rule, does: str, tower: Any) -> Alternative:
    """A tower that does less, before a decoder that sees less."""
    name = f"{rule.name}, and a tower that {does}"

    def way(budget: float, layers: int) -> Way:
        return Way(f"{name}, {budget:.0%} of the tokens", rule.settings(budget, layers, tower))

    def ask(asker: Asker, wanted: tuple[float, ...]) -> dict[float | None, Told]:
        return {budget: asker.in_sessions(rule.settings(budget, asker.layers, tower)) for budget in wanted}

    return Alternative(name, rule.budgets, way, ask, together=False)
