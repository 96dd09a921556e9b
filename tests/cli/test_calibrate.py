"""``framefusion calibrate`` on the bundled model and video, and ``ask --settings`` with what it wrote."""

from __future__ import annotations

import json
import os
import re

import pytest

from framefusion import FrameFusion, load_settings, save_settings
from framefusion.assets import BUNDLED_FRAMES, DEMO_QUESTIONS, DEMO_VIDEO
from framefusion.cli import calibrate as command
from framefusion.evaluation import calibration
from framefusion.evaluation.cells import FULL
from framefusion.evaluation.methods import METHODS
from framefusion.reduction.plain import to_plain
from framefusion.reduction.settings_file import read
from tests.cli.said import QUESTION


def write_questions(directory):
    """Ten questions about the bundled video, without labels, beside a link to it."""
    os.symlink(DEMO_VIDEO, directory / "scenes.mp4")
    pairs = json.loads(DEMO_QUESTIONS.read_text(encoding="utf-8"))
    asked = list(dict.fromkeys(pair["question"] for pair in pairs))[:10]
    path = directory / "mine.jsonl"
    lines = [json.dumps({"video": "scenes.mp4", "question": question}) for question in asked]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path, len(asked)


def sentence(result) -> str:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("framefusion: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_from_questions_to_an_answer(run, tmp_path):
    """With the bundled model. What it answers is no matter here, only that most of it stays at 90 %."""
    data, count = write_questions(tmp_path)
    method = "segment-dpp-cascade"
    options = ("--unit", "question", "--floor", 0.4, "--budgets", "0.9,0.001", "--method", method)
    result = run("calibrate", "--data", data, *options)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.startswith(
        "Floor: 40 % of the answers as with all tokens, with 95 % confidence. "
        f"{count} questions, {count} questions, {BUNDLED_FRAMES} frames; 100 % right with all tokens."
    )
    rows = [line.split() for line in result.stdout.splitlines() if re.match(r" +[\d.]+ %", line)]
    assert [row[0] for row in rows] == ["100", "90", "0.1"]
    assert rows[-1][-3:] == ["cannot", "be", "reached"]
    assert "Of what cannot be reached: a budget of 0.001 cannot be reached" in result.stdout
    assert result.stdout.splitlines()[-1] == "  framefusion ask VIDEO QUESTION --settings settings.json"

    stored = read("settings.json")
    record = stored.calibration
    assert record is not None
    assert (record.questions, record.measure, record.data) == (count, "agreement", "mine.jsonl")
    assert (record.budget, record.frames) == (0.9, BUNDLED_FRAMES)
    assert stored.settings == METHODS[method].settings(0.9, 12)

    answer = run("ask", DEMO_VIDEO, QUESTION, "--settings", "settings.json", "--json")
    assert answer.exit_code == 0, answer.stderr
    assert answer.stderr == "", "it is the model and the number of frames of the calibration"
    found = json.loads(answer.stdout)
    assert found["settings"]["cost"] == 0.9
    assert len(found["video"]["frame_seconds"]) == BUNDLED_FRAMES
    assert "--settings settings.json" in found["command"]


def test_settings_of_another_model_or_other_frames_are_remarked_on(run, tmp_path, model):
    calibrated = {
        "floor": 0.98,
        "confidence": 0.95,
        "budget": 0.5,
        "method": "segment-dpp-cascade",
        "measure": "agreement",
        "unit": "video",
        "units": 200,
        "questions": 200,
        "frames": 4,
        "new_tokens": 16,
        "full": 1.0,
        "model": "big/model",
        "data": "mine.jsonl",
        "version": "0.1.0",
        "budgets": [],
    }
    content = {"schema": 1, "settings": {"cost": 0.5}, "calibration": calibrated}
    (tmp_path / "theirs.json").write_text(json.dumps(content))
    ask = ("ask", DEMO_VIDEO, QUESTION, "--model", model, "--max-new-tokens", 1, "--json", "--settings")
    result = run(*ask, "theirs.json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == (
        "framefusion: theirs.json was calibrated on the model big/model; its floor of 0.98 may not hold here\n"
    )
    assert len(json.loads(result.stdout)["video"]["frame_seconds"]) == 4

    result = run(*ask, "theirs.json", "--frames", 3)
    assert result.stderr == (
        "framefusion: theirs.json was calibrated on the model big/model and 4 frames; its floor of 0.98 may not hold "
        "here\n"
    )
    save_settings("mine.json", FrameFusion(keep=0.5))
    result = run(*ask, "mine.json", "--frames", 3)
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout)["settings"]["keep"] == 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--cost", 0.3), "--settings and --cost exclude each other; the file says all about the reduction"),
        (("--keep", 0.3), "--settings and --keep exclude each other"),
        (("--stages", "0:1"), "--settings and --stages exclude each other"),
        (("--segmentation", "frame-similarity"), "--settings and --segmentation exclude each other"),
        (("--similarity", 0.6), "--settings and --similarity exclude each other"),
        ((), "cannot read mine.json: No such file or directory"),
    ],
)
def test_what_ask_refuses(run, words, message):
    assert message in sentence(run("ask", DEMO_VIDEO, QUESTION, "--settings", "mine.json", *words))


def test_ask_names_what_is_wrong_in_the_file(run, tmp_path):
    (tmp_path / "mine.json").write_text('{"schema": 1, "settings": {"kept": 0.2}}')
    assert "mine.json: settings has an unknown field 'kept'; known are" in sentence(
        run("inspect", DEMO_VIDEO, "--settings", "mine.json")
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "takes at least 181 videos, even if no answer changes, but there is 1; give more; if only"),
        (("--floor", 1), "floor must be above 0 and below 1, got 1"),
        (("--confidence", 0), "confidence must be above 0 and below 1, got 0"),
        (("--method", "text-only"), "method 'text-only' is more or less than settings with a budget; choose one of"),
        (("--method", "magic"), "method 'magic' does not exist; choose one of"),
        (("--unit", "frame"), "unit must be one of 'video', 'question', got 'frame'"),
        (("--budgets", "0.5,much"), "--budgets must be shares such as 0.2,0.1, got 'much'"),
        (("--budgets", "1.5"), "a budget must be in (0, 1], got 1.5"),
        (("--budgets", "1"), "there is no budget below 1 to try; name at least one"),
        (("--videos", 0), "--videos must be at least 1, got 0"),
        (("--frames", 0), "frames must be at least 1, got 0"),
        (("--jobs", 0), "jobs must be at least 1, got 0"),
        (("--settings", "none/settings.json"), "cannot write none/settings.json: there is no directory"),
        (("--settings", "."), "cannot write .: it is a directory"),
        (("--out", "mine.jsonl"), "--out must be a directory, but mine.jsonl is a file"),
        (("--data", "none.jsonl"), "no such file: none.jsonl"),
    ],
)
def test_what_calibrate_refuses(run, tmp_path, words, message):
    data, _ = write_questions(tmp_path)
    assert message in sentence(run("calibrate", "--data", data, *words))
    assert not (tmp_path / "settings.json").exists()


def test_nothing_proven_keeps_all_tokens(run, tmp_path, model):
    """With the answers of a first run on disk, replaced by ones that all changed."""
    data, count = write_questions(tmp_path)
    asked = ("--data", data, "--unit", "question", "--floor", 0.6, "--budgets", "0.5", "--frames", 4, "--model", model)
    first = run("calibrate", *asked, "--max-new-tokens", 2, "--json", "--settings", "first.json")
    told = json.loads(first.stdout)
    assert told["written"] == "first.json"
    assert told["calibration"]["floor"] == 0.6
    assert told["settings"] == to_plain(load_settings("first.json"))

    file = tmp_path / "out/calibrate/questions.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 2 * count
    for row in rows:
        row["prediction"] = "same" if row["cell"].startswith(FULL) else "changed"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("calibrate", *asked, "--max-new-tokens", 2)
    assert result.exit_code == 0
    assert "below the floor" in result.stdout
    assert result.stdout.splitlines()[-1] == (
        "No smaller budget is known to keep the floor: settings.json keeps all tokens."
    )
    assert load_settings("settings.json") == METHODS[FULL].settings(1.0, 1)
    assert load_settings("settings.json").keeps_all


def test_the_defaults_of_the_command_are_those_of_the_library():
    assert tuple(float(budget) for budget in command.BUDGETS.split(",")) == calibration.BUDGETS
    assert command.METHOD == calibration.DEFAULT_METHOD
