"""Ways to a sooner first token at equal accuracy: end to end, the cheapest budget of each that keeps the answers.

    python -m benchmarks.alternatives accuracy --json docs/data/alternatives.json
    python -m benchmarks.alternatives times --json docs/data/alternatives.json

``accuracy`` asks a bundled checkpoint (``--model``) about VideoNeedle, over footage that moves or stands still
(``--footage``), in the ways of :mod:`benchmarks.asked`; what the file tells already is not asked again. ``times`` takes
of each way the cheapest budget that keeps 98 % of the accuracy of all tokens, and measures it as
:mod:`benchmarks.end_to_end` does, with mid-size models of the same family, on videos of the same set, one a round.

EVS is its rule as vLLM ships it, before the first decoder layer, in this library: not that engine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import llava
from benchmarks.asked import FOOTAGE, LLAVA, MOVING, QWEN, VIDEOS, Alternative, Asker, alternatives
from benchmarks.end_to_end import ALL_TOKENS, PIXELS, Bench, Turn, Way, machine, rows_of
from benchmarks.sessions import mid_size
from framefusion.evaluation.videoneedle import SECONDS
from training.video_files import write_mp4

KEPT = 0.98
"""Share of the accuracy of all tokens that a way has to keep."""
MISSES = 2
"""So many budgets in a row lose more, and no cheaper one is asked."""
MODELS: dict[str, dict[str, tuple[Callable[[], tuple[Any, Any]], int | None]]] = {
    QWEN: {"7B": (mid_size, PIXELS)},
    LLAVA: {name: (partial(llava.mid_size, name), None) for name in llava.MID},
}
"""The mid-size models of the family of a checkpoint by the real one whose proportions they have, and how many pixels
the processor leaves of a frame."""

Record = dict[str, Any]
"""What is known of a checkpoint and a kind of footage, as in ``docs/data``."""


def accuracy(asker: Asker, record: Record, save: Callable[[], None]) -> None:
    """Ask all questions each way that is not in the record yet, and save whenever it grew."""
    for one in alternatives(asker.model, asker.footage):
        known, misses = known_of(record, one), 0
        for budget in one.budgets:
            if budget not in known:
                wanted = tuple(b for b in one.budgets if b not in known) if one.together else (budget,)
                told = one.ask(asker, wanted)
                if None in told:
                    record.setdefault("full", told[None]["accuracy"])
                record["accuracy"] += [{"way": one.name, "budget": b, **told[b]} for b in wanted if b in told]
                known = known_of(record, one)
                save()
            if budget in known:
                misses = misses + 1 if known[budget] < KEPT * record["full"] else 0
            if misses == MISSES:
                break


def known_of(record: Mapping[str, Any], one: Alternative) -> dict[float, float]:
    """Accuracy of a way by budget, dearest first."""
    told = {row["budget"]: row["accuracy"] for row in record["accuracy"] if row["way"] == one.name}
    return {budget: told[budget] for budget in one.budgets if budget in told}


def chosen(record: Mapping[str, Any], ways: Sequence[Alternative], layers: int) -> list[tuple[Way, float]]:
    """The cheapest budget of each way that keeps the accuracy, else its best; all tokens first."""
    full = record["full"]
    found = [(Way(ALL_TOKENS), full)]
    for one in ways:
        own = known_of(record, one)
        keeping = [budget for budget, value in own.items() if value >= KEPT * full]
        if keeping or not one.optional:
            budget = min(keeping) if keeping else max(own, key=lambda budget: own[budget])
            found.append((one.way(budget, layers), own[budget]))
    return found


def times(asker: Asker, record: Record, name: str, rounds: int) -> dict[str, Any]:
    """Every way at its budget, in turns, a video a round, with a mid-size model of the family."""
    make, pixels = MODELS[asker.model][name]
    bench = Bench(*make(), pixels=pixels)
    layers = bench.model.config.get_text_config().num_hidden_layers
    told = chosen(record, alternatives(asker.model, asker.footage), layers)
    ways = tuple(way for way, _ in told)
    bench.rounds(ways, 4, 1)
    turns: list[list[Turn]] = [[] for _ in ways]
    videos = list(dict.fromkeys(question.video for question in asker.data.questions(asker.frames)))
    asker.out.mkdir(parents=True, exist_ok=True)
    for number, video in enumerate(videos[:rounds]):
        clip, frames = asker.out / f"{number}.mp4", asker.data.video(video, asker.frames, asker.frames).frames
        write_mp4(clip, frames, round(len(frames) / SECONDS), crf=18)
        for way, mine in zip(ways, turns, strict=True):
            mine.append(bench.turn(way, asker.frames, clip))
            sys.stderr.write(f"video {number}, {way.name}: {mine[-1].times.first_token:.1f} s\n")
    rows = rows_of(ways, turns)
    for row, (_, value) in zip(rows, told, strict=True):
        row["accuracy"], row["keeps"] = value, value >= KEPT * record["full"]
    return {**machine(), "proportions": name, "rounds": rounds, "rows": rows}


def opened(path: Path | None, asker: Asker) -> Record:
    """The record in a file, or an empty one.

    Raises:
        ValueError: the file is of another checkpoint or other footage.
    """
    about = {"model": asker.model, "footage": asker.footage, "videos": VIDEOS, "frames": asker.frames, "kept": KEPT}
    if path is None or not path.is_file():
        count = len(asker.data.questions(asker.frames))
        return {**about, "questions": count, "accuracy": [], "times": []}
    record = json.loads(path.read_text(encoding="utf-8"))
    for key, value in about.items():
        if record[key] != value:
            raise ValueError(f"{path} has {key}={record[key]!r}, not {value!r}; name another file.")
    return record


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measure", choices=["accuracy", "times"])
    parser.add_argument("--model", choices=list(MODELS), default=QWEN)
    parser.add_argument("--footage", choices=list(FOOTAGE), default=MOVING)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("out/alternatives"), help="for videos and single answers")
    parser.add_argument("--json", type=Path, required=True, help="what is known already, and where the rest goes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    asker = Asker(given.model, given.footage, given.out)
    record = opened(given.json, asker)

    def save() -> None:
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    if given.measure == "accuracy":
        record["asked"] = machine()
        accuracy(asker, record, save)
        save()
        return
    for name in MODELS[given.model]:
        measured = times(asker, record, name, given.rounds)
        record["times"] = [one for one in record["times"] if one["proportions"] != name] + [measured]
        save()


if __name__ == "__main__":
    main()
