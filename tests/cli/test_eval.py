"""``framefusion eval``: tables, results that are added to, and what makes no sense."""

import json
import re
import sys

import pytest

from framefusion import assets
from tests.cli.said import QUESTION, parse, refuse


@pytest.fixture
def questions(tmp_path, clip):
    """Two videos, one question without an answer."""
    rows = [
        {"video": str(clip), "question": QUESTION, "answer": "red", "kind": "colour"},
        {"video": str(clip), "question": "is it a circle", "answer": "is", "kind": "shape"},
        {"video": str(assets.REAL_VIDEO), "question": "describe the video"},
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path / "mine.jsonl"


@pytest.fixture
def evaluated(run, questions, model):
    words = ("eval", "--data", questions, "--model", model, "--frames", 4, "--methods", "random,segment-dpp")
    return lambda *more: run(*words, "--budgets", "0.5,0.1", "--seeds", 2, "--timed", 1, "--max-new-tokens", 3, *more)


def test_eval_prints_a_table_and_writes_the_results(evaluated, tmp_path):
    result = evaluated("--out", "made/here")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("4 frames, 3 questions about 2 videos, exact match on 2, else agreement")
    assert re.search(r"Random +[\d.]+ +[\d.]+", result.stdout)
    assert re.search(r"Segment DPP +[\d.]+ +—", result.stdout)
    assert "the budget cannot be reached" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("Results in made/here: leaderboard.md")
    names = {path.name for path in (tmp_path / "made/here").iterdir()}
    results = {"cells.jsonl", "questions.jsonl", "run.json", "summary.json", "leaderboard.md"}
    assert names == results | {"accuracy-4.png", "kinds-4.png"}
    page = (tmp_path / "made/here/leaderboard.md").read_text(encoding="utf-8")
    assert "![Accuracy over budget, a line for each method](./accuracy-4.png)" in page


def test_eval_goes_on_and_prints_json(evaluated, monkeypatch, model):
    monkeypatch.setattr(sys, "argv", ["/some/where/framefusion", "eval", "--data", "my file.jsonl"])
    first = json.loads(evaluated("--json", "--no-plots").stdout)
    monkeypatch.setattr("framefusion.evaluation.answering.Chunk._answers", lambda *a: pytest.fail("asked again"))
    second = parse(evaluated("--json", "--no-plots"))
    assert first == second
    assert second["commands"] == ["framefusion eval --data 'my file.jsonl'"]
    assert second["data"] == "mine.jsonl"
    assert second["model"].startswith(str(model))
    cells = [(m["method"], m["budget"], m["reached"]) for m in second["frames"][0]["methods"]]
    assert cells == [
        ("full", None, True),
        ("random", 0.5, True),
        ("random", 0.1, True),
        ("segment-dpp", 0.5, True),
        ("segment-dpp", 0.1, False),
    ]
    refuse(evaluated("--max-new-tokens", 2), r"out/eval holds results of another new tokens \(3, now 2\)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "fastvv"], "there is no method 'fastvv'; there are full, .*, and the groups all, controls"),
        (["--methods", ","], "--methods is empty; name at least one"),
        (["--budgets", "0.5,half"], "--budgets must be shares such as 0.2,0.1, got 'half'"),
        (["--budgets", "20"], r"a budget must be in \(0, 1\], got 20"),
        (["--budgets", ""], "--budgets is empty"),
        (["--frames", "0"], "frames must be at least 1, got 0"),
        (["--videos", "0"], "--videos must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--kinds", "large"], "--kinds chooses from the generated questions; leave it out with --data .*mine.jsonl"),
        (["--data", "needle", "--kinds", "large,hue"], "--kinds must be some of large, .*, scene, .*, got 'hue'"),
        (["--data", "needle", "--kinds", ""], "--kinds must be some of large, .*, got ''"),
        (["--seeds", "0"], "seeds must be at least 1, got 0"),
        (["--jobs", "0"], "jobs must be at least 1, got 0"),
        (["--batch", "0"], "batch must be at least 1, got 0"),
        (["--timed", "-1"], "timed must be at least 0, got -1"),
        (["--max-new-tokens", "0"], "new_tokens must be at least 1, got 0"),
        (["--data", "gone.jsonl"], "no such file: gone.jsonl"),
        (["--data", "bad.jsonl"], "bad.jsonl line 1 has no question"),
        (["--data", "movie.jsonl"], "movie.jsonl: .*movie.jsonl is a text file|not a video"),
        (["--out", "bad.jsonl"], "--out must be a directory, but bad.jsonl is a file"),
        (["--out", "bad.jsonl/deeper"], "cannot make the directory bad.jsonl/deeper: "),
        (["--out", "torn"], r"torn/questions\.jsonl line 1 is damaged; delete the line"),
        (["--model", "./gone"], r"there is no directory \./gone"),
        (["--dtype", "int8"], "dtype must be one of"),
    ],
)
def test_evaluations_that_make_no_sense(evaluated, tmp_path, options, message):
    (tmp_path / "bad.jsonl").write_text('{"video": "a.mp4"}\n')
    (tmp_path / "movie.jsonl").write_text('{"video": "movie.jsonl", "question": "what"}\n')
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "questions.jsonl").write_text("{\n{}\n")
    refuse(evaluated(*options), message)


def test_plots_need_matplotlib_before_the_slow_work(evaluated, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refuse(evaluated(), r"pip install 'framefusion\[plot\]', or leave them out with --no-plots")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("option", "begun"), [([], True), (["--no-share"], False)])
def test_sharing_can_be_left_out(evaluated, monkeypatch, option, begun):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("framefusion.hf.Run.extend", interrupted)
    result = evaluated("--no-plots", *option)
    assert result.exit_code == (130 if begun else 0), result.stderr


def test_an_interrupted_evaluation_says_how_to_go_on(evaluated, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("framefusion.evaluation.answering.Chunk._answers", interrupted)
    result = evaluated()
    assert result.exit_code == 130
    assert result.stderr == "framefusion: interrupted; the same command goes on with what is in out/eval\n"
