"""Ways to a sooner first token at equal accuracy: end to end, the cheapest budget of each that keeps the answers.

    python -m benchmarks.alternatives accuracy --out out/alternatives
    python -m benchmarks.alternatives times --out out/alternatives --json docs/data/alternatives.json

``accuracy`` asks the bundled Qwen2.5-VL about VideoNeedle by ``framefusion eval``: rules as methods at budgets, fewer
frames, and a lower resolution as a copy of the checkpoint whose processor makes smaller pictures. A tower that encodes
what changed is asked in sessions, because ``eval`` encodes every video whole. ``times`` takes of each way the cheapest
budget that keeps 98 % of the accuracy of all tokens, and measures it as :mod:`benchmarks.end_to_end` does, on videos of
the same set, one a round, scaled to the size of its clip.

EVS is its rule as vLLM ships it, before the first decoder layer, in this library: not that engine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.end_to_end import ALL_TOKENS, PIXELS, Bench, Turn, Way, machine, rows_of
from framefusion import Changed, FrameFusion, session
from framefusion.asking.loading import load
from framefusion.assets import BUNDLED
from framefusion.evaluation.methods import METHODS
from framefusion.evaluation.scoring import exact_match
from framefusion.evaluation.videoneedle import SECONDS, VideoNeedle
from training.video_files import write_mp4

MODEL, SIDE = "bundled-qwen", 96
FRAMES, VIDEOS, SEED = 32, 60, 0
STD = (0.5, 0.5, 0.5)
"""What the processors of both models divide pixels by."""
LAYERS = 14
"""Of the mid-size model."""
KEPT = 0.98
"""Share of the accuracy of all tokens that a way has to keep."""


@dataclass(frozen=True)
class Alternative:
    """A way to a sooner first token, at several budgets.

    Attributes:
        name: in tables.
        budgets: what it is given, dearest first: shares of the tokens, or pixels of the side of a frame.
        way: of a budget.
        ask: answers all questions at all budgets, and leaves the accuracies in a directory.
    """

    name: str
    budgets: tuple[float, ...]
    way: Callable[[float], Way]
    ask: Callable[[Path, Alternative], None]

    def directory(self, out: Path) -> Path:
        """Where its answers are."""
        return out / self.name.replace(" ", "-")


def _alternatives() -> list[Alternative]:
    return [
        _rule("EVS's rule at the input", "evs", (0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1)),
        Alternative(
            "fewer frames",
            (0.875, 0.75, 0.5),
            lambda budget: Way(f"fewer frames, {round(FRAMES * budget)} of {FRAMES}", frames=budget),
            partial(_evaluated, "fewer-frames"),
        ),
        Alternative(
            "lower resolution",
            (84, 72),
            lambda side: Way(f"lower resolution, {(side / SIDE) ** 2:.0%} of the pixels", pixels=(side / SIDE) ** 2),
            _asked_smaller,
        ),
        _rule("ours, in the decoder", "segment-dpp-two-stage", (0.3, 0.2, 0.15, 0.12, 0.1)),
        Alternative(
            "ours, tower and decoder",
            (0.3, 0.2, 0.15, 0.12, 0.1),
            lambda budget: Way(f"ours, the tower encodes what changed, cost={budget:g}", _changed(budget)),
            _asked_in_sessions,
        ),
    ]


def _rule(name: str, method: str, budgets: tuple[float, ...]) -> Alternative:
    def way(budget: float) -> Way:
        return Way(f"{name}, {budget:.0%} of the tokens", METHODS[method].settings(budget, LAYERS))

    return Alternative(name, budgets, way, partial(_evaluated, method))


def _changed(budget: float) -> FrameFusion:
    return FrameFusion(cost=budget, tower=Changed(std=STD))


def accuracy(out: Path) -> None:
    """Ask all questions each way; goes on where it was interrupted."""
    for one in _alternatives():
        one.ask(out, one)


def _evaluated(method: str, out: Path, one: Alternative) -> None:
    _evaluate(one.directory(out), MODEL, method, one.budgets)


def _asked_smaller(out: Path, one: Alternative) -> None:
    """By checkpoints whose processors make smaller pictures."""
    told = {}
    for side in map(round, one.budgets):
        copy = out / f"{MODEL}-{side}"
        shutil.copytree(BUNDLED[MODEL], copy, dirs_exist_ok=True)
        config = json.loads((copy / "processor_config.json").read_text())
        for kind in ("image_processor", "video_processor"):
            config[kind]["size"] = {"longest_edge": side**2, "shortest_edge": side**2}
        (copy / "processor_config.json").write_text(json.dumps(config))
        _evaluate(out / f"side-{side}", str(copy), "full", (1.0,))
        told[side] = _told(out / f"side-{side}")[None]
    _write(one.directory(out), told)


def _asked_in_sessions(out: Path, one: Alternative) -> None:
    """Each video is shown once to a session, and all its questions are asked there: the answers of asking afresh."""
    loaded, data, told = load(MODEL, device="cpu"), VideoNeedle(VIDEOS, SEED), {}
    by_video = defaultdict(list)
    for question in data.questions(FRAMES):
        by_video[question.video].append(question)
    for budget in one.budgets:
        right = []
        for name, asked in by_video.items():
            with session(loaded.model, loaded.processor, _changed(budget), chunk=FRAMES, max_new_tokens=16) as talk:
                talk.add(data.video(name, FRAMES, FRAMES))
                replies = talk.ask_all([question.text for question in asked])
            right += [exact_match(r.text, q.answer or "") for r, q in zip(replies, asked, strict=True)]
        told[budget] = sum(right) / len(right)
    _write(one.directory(out), told)


def _evaluate(out: Path, model: str, method: str, budgets: tuple[float, ...]) -> None:
    options = ["--frames", FRAMES, "--videos", VIDEOS, "--seed", SEED, "--timed", 0, "--no-plots", "--out", out]
    options += ["--model", model, "--methods", method, "--budgets", ",".join(map(str, budgets))]
    subprocess.run([sys.executable, "-m", "framefusion", "eval", *map(str, options)], check=True)


def _write(directory: Path, told: Mapping[float, float]) -> None:
    """Accuracies as an evaluation leaves them."""
    directory.mkdir(parents=True, exist_ok=True)
    methods = [{"budget": budget, "accuracy": {"value": value}} for budget, value in told.items()]
    (directory / "summary.json").write_text(json.dumps({"frames": [{"methods": methods}]}))


def _told(directory: Path) -> dict[float | None, float]:
    """Accuracy by budget of an evaluation; that of all tokens under None."""
    (found,) = json.loads((directory / "summary.json").read_text())["frames"]
    return {row["budget"]: row["accuracy"]["value"] for row in found["methods"] if row["accuracy"] is not None}


def chosen(out: Path) -> tuple[list[tuple[Way, float]], list[dict[str, Any]]]:
    """The cheapest budget of each way that keeps the accuracy, else its best; and all that was measured."""
    full = _told(_alternatives()[0].directory(out))[None]
    every: list[dict[str, Any]] = []
    ways = [(Way(ALL_TOKENS), full)]
    for one in _alternatives():
        told = _told(one.directory(out))
        own = {budget: told[budget] for budget in one.budgets}
        every += [{"way": one.name, "budget": budget, "accuracy": value} for budget, value in own.items()]
        keeping = [budget for budget, value in own.items() if value >= KEPT * full]
        budget = min(keeping) if keeping else max(own, key=lambda budget: own[budget])
        ways.append((one.way(budget), own[budget]))
    return ways, every


def times(out: Path, rounds: int) -> dict[str, Any]:
    """Every way at its budget, in turns, a video a round."""
    ways, every = chosen(out)
    bench, data = Bench(), VideoNeedle(VIDEOS, SEED)
    names = list(dict.fromkeys(question.video for question in data.questions(FRAMES)))
    bench.rounds(tuple(way for way, _ in ways), 4, 1)
    turns: list[list[Turn]] = [[] for _ in ways]
    for number, name in enumerate(names[:rounds]):
        clip, frames = out / f"{number}.mp4", data.video(name, FRAMES, FRAMES).frames
        write_mp4(clip, frames, round(len(frames) / SECONDS), crf=18)
        for (way, _), mine in zip(ways, turns, strict=True):
            mine.append(bench.turn(way, FRAMES, clip))
            sys.stderr.write(f"video {number}, {way.name}: {mine[-1].times.first_token:.1f} s\n")
    rows = rows_of(tuple(way for way, _ in ways), turns)
    for row, (_, value) in zip(rows, ways, strict=True):
        row["accuracy"], row["keeps"] = value, value >= KEPT * ways[0][1]
    about = {"questions": len(data.questions(FRAMES)), "videos": VIDEOS, "frames": FRAMES, "pixels": PIXELS}
    return {**machine(), **about, "kept": KEPT, "rounds": rounds, "rows": rows, "accuracy": every}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| way | accuracy | tower | decoder | first token | end to end | decoder alone |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        seconds = row["seconds"]
        parts = " | ".join(f"{seconds[name]:.2f} s" for name in ("tower", "prefill", "first_token"))
        kept = f"{100 * row['accuracy']:.1f} %" + ("" if row["keeps"] else " †")
        factors = f"**{row['end_to_end_factor']:.2f}×** | {row['decoder_factor']:.2f}×"
        lines.append(f"| {row['plan']} | {kept} | {parts} | {factors} |")
    return "\n".join(lines)


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measure", choices=["accuracy", "times"])
    parser.add_argument("--out", type=Path, default=Path("out/alternatives"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.measure == "accuracy":
        given.out.mkdir(parents=True, exist_ok=True)
        accuracy(given.out)
        return
    found = times(given.out, given.rounds)
    sys.stdout.write(table(found["rows"]) + "\n")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
