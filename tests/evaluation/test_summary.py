"""From answers to numbers, on lines whose numbers are known."""

import numpy as np
import pytest

from framefusion.evaluation.statistics import Bootstrap
from framefusion.evaluation.summary import measured, summarise
from tests.evaluation import made


@pytest.fixture(scope="module")
def given_lines():
    return made.lines()


@pytest.fixture(scope="module")
def part(given_lines):
    (found,) = summarise(*given_lines, resamples=500)
    return found


def correct(rows, method, budget, seed=0):
    mine = [row for row in rows if row["cell"] == f"{method}@{budget}/16f/seed{seed}"]
    return np.array([row["correct"] for row in mine], float), mine


def entry(part, method, budget):
    (found,) = [e for e in part["methods"] if (e["method"], e["budget"]) == (method, budget)]
    return found


def test_what_was_asked(part):
    assert (part["frames"], part["questions"], part["videos"], part["labelled"]) == (16, 80, 20, 80)
    assert part["kinds"] == {"large": 40, "order": 40}
    assert part["tags"] == {"static": 40, "fast": 40}
    assert part["tokens"] == 1000
    assert len(part["methods"]) == len(made.ACCURACY) + len(made.LOST)


@pytest.mark.parametrize(("method", "budget"), [("segment-dpp", 0.2), ("fastv", 0.2), ("evs", 0.1), ("full", None)])
def test_accuracies_and_intervals(part, given_lines, method, budget):
    _, rows = given_lines
    mine, own = correct(rows, method, budget)
    full, _ = correct(rows, "full", None)
    bootstrap = Bootstrap([row["video"] for row in own], resamples=500)
    found = entry(part, method, budget)
    for name, estimate in (
        ("accuracy", bootstrap.accuracy(mine)),
        ("difference", bootstrap.difference(mine, full)),
        ("ratio", bootstrap.ratio(mine, full)),
    ):
        told = found["accuracy"] if name == "accuracy" else found["vs_full"][name]
        assert (told["value"], told["low"], told["high"]) == pytest.approx(
            (estimate.value, estimate.low, estimate.high), abs=1e-6
        )
    for kind in made.KINDS:
        where = np.array([row["kind"] == kind for row in own])
        assert found["by_kind"][kind]["accuracy"]["value"] == pytest.approx(mine[where].mean(), abs=1e-6)
        assert found["by_kind"][kind]["difference"]["value"] == pytest.approx((mine - full)[where].mean(), abs=1e-6)
    for tag in ("static", "fast"):
        where = np.array([tag in row["tags"] for row in own])
        assert found["by_tag"][tag]["questions"] == where.sum()
        assert found["by_tag"][tag]["accuracy"]["value"] == pytest.approx(mine[where].mean(), abs=1e-6)


def test_seeds_are_averaged(part, given_lines):
    _, rows = given_lines
    seeds = [correct(rows, "random", 0.2, seed)[0].mean() for seed in range(3)]
    found = entry(part, "random", 0.2)
    assert found["seeds"] == pytest.approx(seeds)
    assert len(set(seeds)) > 1
    assert found["accuracy"]["value"] == pytest.approx(np.mean(seeds), abs=1e-6)


def test_the_rival_is_the_best_other_published_rule(part):
    rivals = {
        (e["method"], e["budget"]): None if e["vs_rival"] is None else e["vs_rival"]["method"]
        for e in part["methods"]
        if e["reached"]
    }
    assert rivals["segment-dpp", 0.2] == rivals["fastv", 0.2] == rivals["random", 0.2] == "evs"
    assert rivals["evs", 0.2] == "fastv"
    assert rivals["evs", 0.1] is None  # it is alone there
    assert rivals["segment-dpp-input", 0.1] == "evs"
    assert rivals["full", None] is None
    ahead = entry(part, "segment-dpp", 0.2)["vs_rival"]["difference"]
    expected = entry(part, "segment-dpp", 0.2)["accuracy"]["value"] - entry(part, "evs", 0.2)["accuracy"]["value"]
    assert ahead["value"] == pytest.approx(expected, abs=1e-6)
    assert 0 < ahead["low"] < ahead["value"] < ahead["high"]


def test_what_was_measured(part):
    found = entry(part, "segment-dpp", 0.2)
    assert (found["share"], found["kv_ratio"], found["on_budget"]) == pytest.approx((0.2, 0.2, True))
    assert (found["first_token_ratio"], found["selection_milliseconds"]) == pytest.approx((0.2, 2.0))
    off = entry(part, "evs", 0.2)
    assert (off["share"], off["on_budget"]) == pytest.approx((0.26, False))
    assert "first_token_ratio" not in off
    assert entry(part, "full", None)["on_budget"]


@pytest.mark.parametrize(
    ("tokens", "fits"), [(200, True), (204.9, True), (205.1, False), (195.1, True), (194.9, False)]
)
def test_a_budget_is_kept_to_two_percent_and_one_token(given_lines, tokens, fits):
    cells, rows = given_lines
    changed = [{**row, "tokens": tokens} if row["cell"].startswith("segment-dpp@0.2") else row for row in rows]
    (part,) = summarise(cells, changed, resamples=10)
    assert entry(part, "segment-dpp", 0.2)["on_budget"] is fits


def test_what_cannot_be_reached_says_why(part):
    assert entry(part, "fastv", 0.1) == {
        "method": "fastv",
        "title": "FastV",
        "kind": "published",
        "budget": 0.1,
        "reached": False,
        "reason": "a budget of 0.1 cannot be reached",
    }


def test_without_labels_agreement_with_all_tokens_is_scored(given_lines):
    cells, rows = given_lines
    unlabelled = [{**row, "correct": None} if row["kind"] == "order" else row for row in rows]
    (part,) = summarise(cells, unlabelled, resamples=10)
    assert part["labelled"] == 40
    assert entry(part, "full", None)["by_kind"]["order"]["accuracy"]["value"] == 1
    full, own = correct(rows, "full", None)
    mine, _ = correct(rows, "segment-dpp", 0.2)
    where = np.array([row["kind"] == "order" for row in own])
    told = entry(part, "segment-dpp", 0.2)["by_kind"]["order"]["accuracy"]["value"]
    assert told == pytest.approx((mine == full)[where].mean(), abs=1e-6)


def test_unfinished_cells_are_left_out(given_lines, caplog):
    cells, rows = given_lines
    fewer = [row for row in rows if (row["cell"], row["question"]) != ("evs@0.2/16f/seed0", "3/12")]
    (part,) = summarise(cells, fewer, resamples=10)
    assert not [e for e in part["methods"] if (e["method"], e["budget"]) == ("evs", 0.2)]
    assert "evs at 0.2 was not asked all questions" in caplog.text
    asked = [f"{i // made.EACH}/{i}" for i in range(8)]
    (part,) = summarise(cells, fewer, {16: asked}, resamples=10)
    assert (part["questions"], part["videos"]) == (8, 2)
    assert entry(part, "evs", 0.2)["reached"]


def test_without_all_tokens_there_is_nothing_to_compare(given_lines, caplog):
    cells, rows = given_lines
    assert summarise(cells[1:], rows) == []
    assert "no answers with all tokens" in caplog.text


def test_a_line_of_a_cell(given_lines):
    cells, rows = given_lines
    line = measured(cells[0], rows)
    assert (line["questions"], line["tokens"], line["kv_bytes"]) == (80, 1000, 1e6)
    assert line["accuracy"] == pytest.approx(correct(rows, "full", None)[0].mean())
    assert measured(cells[-1], rows) == cells[-1]
    assert measured(cells[0], [{**row, "correct": None} for row in rows])["accuracy"] is None
