"""The tables of times from the file to the first token, and of ways at equal accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import alternatives, end_to_end
from benchmarks.end_to_end import Turn, Way
from framefusion.hf.timing import Times


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


def test_a_way_gets_the_cheapest_budget_that_keeps_the_accuracy(tmp_path: Path) -> None:
    told = {
        "EVS's rule at the input": {
            None: 0.9,
            0.5: 0.9,
            0.4: 0.9,
            0.3: 0.89,
            0.25: 0.89,
            0.2: 0.883,
            0.15: 0.88,
            0.1: 0.5,
        },
        "fewer frames": {0.875: 0.8, 0.75: 0.7, 0.5: 0.6},
        "lower resolution": {84: 0.91, 72: 0.9},
    }
    for one in alternatives._alternatives():
        own = told.get(one.name, dict.fromkeys(one.budgets, 0.9))
        directory = one.directory(tmp_path)
        directory.mkdir()
        methods = [{"budget": budget, "accuracy": {"value": value}} for budget, value in own.items()]
        (directory / "summary.json").write_text(json.dumps({"frames": [{"methods": methods}]}))
    ways, every = alternatives.chosen(tmp_path)
    assert [way.name.rpartition(", ")[2] for way, _ in ways] == [
        "all tokens",
        "20% of the tokens",
        "28 of 32",  # none keeps 98 %: the best
        "56% of the pixels",
        "10% of the tokens",
        "cost=0.1",
    ]
    assert [value for _, value in ways] == [0.9, 0.883, 0.8, 0.9, 0.9, 0.9]
    assert len(every) == sum(len(one.budgets) for one in alternatives._alternatives())
    assert ways[3][0].pixels == pytest.approx((72 / 96) ** 2)
    assert ways[5][0].settings is not None
    assert ways[5][0].settings.tower is not None
