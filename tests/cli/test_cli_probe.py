"""``framefusion probe`` on a tiny model, and what ``--stages auto`` makes of it."""

from __future__ import annotations

import json

import pytest

from framefusion.assets import DEMO_VIDEO
from framefusion.hf import fitted
from tests.cli.said import QUESTION


@pytest.fixture
def run(run, tmp_path, monkeypatch):
    """The command, with stages kept in a directory of the test."""
    monkeypatch.setattr(fitted, "default_folder", lambda: tmp_path / "stages")
    monkeypatch.setattr(fitted, "_warned", set())
    return run


def test_from_a_probe_to_an_answer(run, tmp_path, model):
    asked = ("ask", DEMO_VIDEO, QUESTION, "--model", model, "--frames", 3, "--json", "--stages", "auto")
    before = run(*asked)
    assert before.exit_code == 0, before.stderr
    assert json.loads(before.stdout)["stages_from"] == "default"

    probed = ("probe", "--model", model, "--frames", 4, "--prompts", 3, "--cost", 0.4)
    result = run(*probed, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["cost"], found["prompts"], found["data"], found["frames"]) == (0.4, 3, "demo", 4)
    assert found["tried"][0]["stages"] == [[0, 1], [2 / 3, 0.25]]
    assert found["written"] == str(tmp_path / "stages" / f"{found['fingerprint']}.json")

    after = json.loads(run(*asked).stdout)
    assert after["stages_from"] == "probed"
    assert after["settings"]["stages"] == found["stages"]

    shown = run(*probed, "--no-save").stdout
    assert "at a cost of 0.4, 3 prompts, next token against all tokens:" in shown
    assert "0:1,0.6667:0.25 (default)" in shown
    assert "Written" not in shown


def test_a_damaged_file_is_one_sentence(run, tmp_path, model):
    (tmp_path / "stages").mkdir()
    found = json.loads(run("probe", "--model", model, "--frames", 2, "--prompts", 2, "--json", "--no-save").stdout)
    (tmp_path / "stages" / f"{found['fingerprint']}.json").write_text("{")
    result = run("ask", DEMO_VIDEO, QUESTION, "--model", model, "--frames", 2, "--stages", "auto")
    assert result.exit_code == 2
    assert "is damaged" in result.stderr
    assert "delete it, or probe the model again" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompts", "1"], "--prompts must be at least 2, got 1"),
        (["--cost", "1"], "--cost must be above 0 and below 1, got 1"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--data", "gone.jsonl"], "gone.jsonl"),
    ],
)
def test_options_that_make_no_sense(run, options, message):
    result = run("probe", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
