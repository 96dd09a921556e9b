"""The tables of times from the file to the first token, and of ways at equal accuracy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import alternatives, asked, end_to_end, llava
from benchmarks.asked import Alternative
from benchmarks.end_to_end import Turn, Way
from benchmarks.footage import NOISE, StillNeedle
from framefusion import FrameFusion, ToMe
from framefusion.evaluation.videoneedle import VideoNeedle
from framefusion.hf.timing import Times

DATA = Path(__file__).resolve().parents[2] / "docs" / "data"


def turn(prefill: float, around: float) -> Turn:
    return Turn(Times(prefill=prefill, other=around, first_token=prefill + around), 100, 1.0, {})


def test_factors_are_medians_of_two_times_of_the_same_round() -> None:
    ways = (Way("all tokens"), Way("half"))
    turns = [[turn(8, 2), turn(16, 4), turn(9, 1)], [turn(4, 1), turn(2, 2), turn(3, 1)]]
    full, half = end_to_end.rows_of(ways, turns)
    assert (full["end_to_end_factor"], full["decoder_factor"]) == (1, 1)
    assert (half["end_to_end_factor"], half["decoder_factor"]) == (10 / 4, 9 / 3)
    assert half["seconds"]["first_token"] == 4
    assert half["seconds"]["tower"] is None
    lines = end_to_end.table([full, half], 32).splitlines()
    assert all(line.count("|") == end_to_end.HEADING.splitlines()[0].count("|") for line in lines)
    assert "not measured" in lines[1]
    assert lines[1].endswith("| **2.50×** | 3.00× |")


def record(*told: tuple[str, float, float], full: float = 0.9) -> dict[str, Any]:
    return {"full": full, "accuracy": [{"way": way, "budget": b, "accuracy": value} for way, b, value in told]}


def test_a_way_gets_the_cheapest_budget_that_keeps_the_accuracy() -> None:
    evs = "EVS's rule at the input"
    told = {(evs, 0.5): 0.9, (evs, 0.3): 0.89, (evs, 0.2): 0.883, (evs, 0.15): 0.88, (evs, 0.1): 0.5}
    told |= {("fewer frames", 0.875): 0.8, ("fewer frames", 0.75): 0.7, ("lower resolution", 84): 0.91}
    # One that costs less than the budget before it and keeps more is taken.
    told |= {("ours, in the decoder", 0.2): 0.88, ("ours, in the decoder", 0.1): 0.9}
    told |= {("ours, a tower that merges patches", 0.75): 0.88}
    both = "ours, in the decoder, and a tower that "
    told |= {(both + "encodes what changed", 0.1): 0.9, (both + "merges patches to 75%", 0.3): 0.5}
    told |= {(both + "merges patches to 85%", 0.12): 0.882}
    known = record(*((way, budget, value) for (way, budget), value in told.items()))
    found = alternatives.chosen(known, asked.alternatives(asked.QWEN, asked.MOVING), 14)
    assert [(way.name, value) for way, value in found] == [
        ("all tokens", 0.9),
        (evs + ", 20% of the tokens", 0.883),
        ("fewer frames, 28 of 32", 0.8),  # none keeps 98 %: the best
        ("lower resolution, 77% of the pixels", 0.91),
        ("ours, in the decoder, 10% of the tokens", 0.9),
        # Towers that merge too much are left out.
        (both + "encodes what changed, 10% of the tokens", 0.9),
        (both + "merges patches to 85%, 12% of the tokens", 0.882),
    ]
    assert found[3][0].pixels == pytest.approx((84 / 96) ** 2)
    assert [way.settings.tower for way, _ in found[-2:] if way.settings] == [asked.CHANGED, ToMe(0.85)]


@pytest.mark.parametrize("model", [asked.LLAVA, asked.QWEN])
@pytest.mark.parametrize("footage", asked.FOOTAGE)
def test_ways_are_told_apart_and_ask_for_what_they_are_timed_with(model: str, footage: str) -> None:
    ways = asked.alternatives(model, footage)
    names = [one.way(budget, 12).name for one in ways for budget in one.budgets]
    assert len(set(names)) == len(names)
    assert len({one.name for one in ways}) == len(ways)

    class Noted(asked.Asker):
        layers = 12
        settings: FrameFusion | None = None

        def in_sessions(self, settings: FrameFusion) -> asked.Told:
            self.settings = settings
            return {"accuracy": 1.0}

    asker = Noted(model, footage, Path("unused"))
    for one in ways:
        assert list(one.budgets) == sorted(one.budgets, reverse=True), one.name
        if not one.together:
            one.ask(asker, one.budgets[-1:])
            assert asker.settings == one.way(one.budgets[-1], 12).settings
            assert asker.settings is not None
            assert asker.settings.tower is not None


def test_cheaper_budgets_are_not_asked_behind_two_that_lose_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {0.5: 0.9, 0.4: 0.88, 0.3: 0.89, 0.2: 0.88, 0.1: 0.87, 0.05: 0.9}
    calls: list[tuple[float, ...]] = []

    def ask(asker: asked.Asker, wanted: tuple[float, ...]) -> dict[float | None, asked.Told]:
        calls.append(wanted)
        return {None: {"accuracy": 0.9}, **{budget: {"accuracy": answers[budget]} for budget in wanted}}

    one = Alternative("one", tuple(answers), lambda budget, layers: Way("one"), ask, together=False)
    both = replace(one, name="both", together=True)
    monkeypatch.setattr(alternatives, "alternatives", lambda model, footage: [one, both])
    asker = asked.Asker(asked.LLAVA, asked.MOVING, Path("unused"))
    known: dict[str, Any] = {"accuracy": []}
    alternatives.accuracy(asker, known, lambda: None)
    assert known["full"] == 0.9
    assert calls == [(0.5,), (0.4,), (0.3,), (0.2,), (0.1,), tuple(answers)]
    assert list(alternatives.known_of(known, both)) == list(answers)
    calls.clear()
    alternatives.accuracy(asker, known, lambda: None)
    assert calls == []


def test_a_record_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    asker = asked.Asker(asked.LLAVA, asked.MOVING, tmp_path)
    path.write_text(json.dumps(alternatives.opened(None, asker) | {"full": 0.5}))
    assert alternatives.opened(path, asker)["full"] == 0.5
    with pytest.raises(ValueError, match="model='bundled'"):
        alternatives.opened(path, asked.Asker(asked.QWEN, asked.MOVING, tmp_path))


@pytest.mark.parametrize("path", sorted(DATA.glob("alternatives*.json")), ids=lambda path: path.stem)
def test_published_rows_are_the_cheapest_that_keep_the_accuracy(path: Path) -> None:
    known = json.loads(path.read_text(encoding="utf-8"))
    assert [one["proportions"] for one in known["times"]] == list(alternatives.MODELS[known["model"]])
    for one in known["times"]:
        told = alternatives.chosen(known, asked.alternatives(known["model"], known["footage"]), 12)
        rows = [(row["plan"], row["accuracy"], row["keeps"]) for row in one["rows"]]
        assert rows == [(way.name, value, value >= 0.98 * known["full"]) for way, value in told]


def test_still_footage_has_as_many_videos_whose_scenes_stand_still_but_for_noise() -> None:
    data = StillNeedle(videos=2, seed=3)
    moving = VideoNeedle(videos=4, seed=3)
    assert data != moving
    names = list(dict.fromkeys(question.video for question in data.questions(16)))
    assert len(names) == 2
    for name in names:
        # The same things at the same times, over other footage.
        mine, other = (one.video(name, 16, 16).frames.astype(float) for one in (data, moving))
        still, runs_on = (np.median(np.abs(np.diff(frames, axis=0))) for frames in (mine, other))
        # Half of the differences of two such noises are below 0.95 of their deviation; a few are of things that move.
        assert 0.75 * NOISE <= still <= 1.75 * NOISE
        assert runs_on >= 2 * still


def test_mid_size_llavas_have_the_proportions_of_published_ones() -> None:
    for name in llava.REAL:
        published, mid = (llava.counted(sizes[name]) for sizes in (llava.REAL, llava.MID))
        assert mid["decoder_over_tower"] == pytest.approx(published["decoder_over_tower"], rel=0.05)
        rows = json.loads((DATA / "llava-proportions.json").read_text(encoding="utf-8"))["rows"]
        assert [row for row in rows if row["proportions"] == name] == [
            {"proportions": name, "model": "published", **published},
            {"proportions": name, "model": "mid-size", **mid},
        ]
