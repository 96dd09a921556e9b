"""Two real actors on this machine; what the schedule does is tested in tests/supervision."""

from __future__ import annotations

import json
import logging
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from framefusion import assets
from framefusion.batch import BatchError, RayEngine, run
from tests.batch.fake import Broken, Fake, questions, results, write

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    """One cluster for all tests: starting it is what takes long. Two CPUs, however many there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=80 * 2**20,
        )
        yield
        ray.shutdown()


def test_two_actors_answer_all_rows_in_order_although_one_is_killed(cluster, tmp_path):
    """The row that kills its actor is asked again, and the first row takes until another actor is at the eighth."""
    texts = ["until released", *map(str, range(1, 7)), "release", "die once", "fail", "last"]
    data = questions(tmp_path / "questions.jsonl", texts)
    summary = run(data, tmp_path / "out.jsonl", engine=RayEngine(actors=2, cpus=0.5), make=Fake(tmp_path))
    rows = results(tmp_path / "out.jsonl")
    assert [row["line"] for row in rows] == list(range(1, len(texts) + 1))
    assert [row.get("answer") for row in rows] == [None if text == "fail" else text for text in texts]
    assert {row["visible"] for row in rows if "answer" in row} == {""}, "no GPU was reserved"
    assert rows[9]["error"] == "RuntimeError: a tensor of the wrong size"
    asked = [line.split(" ", 1) for line in (tmp_path / "asked").read_text().splitlines()]
    assert sorted(text for _, text in asked) == sorted([*texts, "die once"]), "nothing else was asked twice"
    assert len({process for process, text in asked if text == "die once"}) == 2
    assert len({process for process, text in asked if text.endswith(("released", "release"))}) == 2
    assert (summary.answered, summary.errors) == (10, 1)


def test_unordered_results_come_as_they_are(cluster, tmp_path):
    """The first row takes until the last one is asked."""
    data = questions(tmp_path / "questions.jsonl", ["until released", *map(str, range(19)), "release"])
    run(data, tmp_path / "out.jsonl", engine=RayEngine(actors=2, cpus=0.5), make=Fake(tmp_path), ordered=False)
    lines = [row["line"] for row in results(tmp_path / "out.jsonl")]
    assert sorted(lines) == list(range(1, 22))
    assert lines.index(1) >= 19


def test_a_row_that_kills_every_actor_becomes_an_error(cluster, tmp_path):
    data = questions(tmp_path / "questions.jsonl", ["before", "die", "behind"])
    run(data, tmp_path / "out.jsonl", engine=RayEngine(cpus=0.5), make=Fake())
    before, dead, behind = results(tmp_path / "out.jsonl")
    assert (before["answer"], behind["answer"]) == ("before", "behind")
    assert dead["error"].startswith("3 processes died over it: ")


def test_a_model_that_cannot_be_loaded_ends_the_batch(cluster, tmp_path):
    data = questions(tmp_path / "questions.jsonl", ["who?"])
    with pytest.raises(BatchError, match=r"^there is no such model$"):
        run(data, tmp_path / "out.jsonl", engine=RayEngine(cpus=0.5), make=Broken())
    assert results(tmp_path / "out.jsonl") == []


def test_more_than_the_machine_has_is_refused(cluster, tmp_path):
    data = questions(tmp_path / "questions.jsonl", ["who?"])
    with pytest.raises(BatchError, match=r"2 actors with 3 CPUs each need 6, there are 2; take fewer actors"):
        run(data, tmp_path / "out.jsonl", engine=RayEngine(actors=2, cpus=3), make=Fake())


def test_the_command_answers_on_an_existing_cluster(cluster, tmp_path):
    """Two actors with the bundled model; what Ray has to tell is not on stdout."""
    asked = {"video": str(assets.DEMO_VIDEO), "question": "what large object came after the red circle?"}
    rows = [{**asked, "id": number} for number in range(6)]
    write(tmp_path / "questions.jsonl", [*rows, {"video": "none.mp4", "question": "who?"}])
    words = ["questions.jsonl", "--cost", "0.2", "--json", "--engine", "ray", "--actors", "2"]
    words += ["--address", ray.get_runtime_context().gcs_address]
    said = subprocess.run(
        [sys.executable, "-m", "framefusion", "batch", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout).items() >= {"rows": 7, "answered": 6, "errors": 1}.items()
    *found, missing = results(tmp_path / "results.jsonl")
    assert [row["id"] for row in found] == list(range(6))
    assert {row["answer"] for row in found} == {"red diamond"}
    assert missing["error"] == f"no such file: {tmp_path / 'none.mp4'}"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"actors": 0}, "actors must be a whole number, at least 1, got 0"),
        ({"actors": 1.5}, "actors must be a whole number, at least 1, got 1.5"),
        ({"cpus": -1}, "cpus must be a number, 0 or more, got -1"),
        ({"gpus": float("nan")}, "gpus must be a number, 0 or more, got nan"),
    ],
)
def test_numbers_out_of_range(values, words):
    with pytest.raises(BatchError) as caught:
        RayEngine(**values)
    assert str(caught.value) == words


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    data = questions(tmp_path / "questions.jsonl", ["who?"])
    with pytest.raises(BatchError, match=r"pip install 'framefusion\[ray\]'"):
        run(data, tmp_path / "out.jsonl", engine=RayEngine(), make=Fake())


def test_the_example_asks_a_folder(cluster, tmp_path, monkeypatch, capsys):
    script = Path(__file__).resolve().parents[2] / "examples" / "batch_on_ray.py"
    (tmp_path / "videos").mkdir()
    shutil.copy(assets.DEMO_VIDEO, tmp_path / "videos")
    monkeypatch.chdir(tmp_path)
    asked = ["--ask", "what colour is the star?", "--ask", "which large thing came after the red circle?"]
    monkeypatch.setattr("sys.argv", [script.name, "videos", *asked, "--cpus", "0.5"])
    runpy.run_path(str(script), run_name="__main__")
    first = capsys.readouterr().out
    assert "scenes.mp4  what colour is the star?  green\n" in first
    assert "red circle?  red diamond\n2 answered in" in first
    runpy.run_path(str(script), run_name="__main__")
    assert "0 answered in 0 s, 2 before, 0 errors" in capsys.readouterr().out
