"""A batch in this process, with a model that only repeats the question."""

from __future__ import annotations

import json
import os
import subprocess
import tracemalloc
from dataclasses import replace

import pytest

from framefusion import FrameFusion
from framefusion.batch import BatchError, Local, Plan, run
from framefusion.batch.rows import GROUP
from tests.batch.fake import MODEL, Broken, Fake, questions, results, write

LOADING = "Loading the model, compiling unless that was done before"


@pytest.fixture
def files(tmp_path):
    return tmp_path / "questions.jsonl", tmp_path / "out.jsonl"


def asked(directory) -> list[str]:
    path = directory / "asked"
    return [line.split(" ", 1)[1] for line in path.read_text().splitlines()] if path.exists() else []


class Steps:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int | None]] = []
        self.parts = 0

    def step(self, name: str, total: int | None = None) -> None:
        self.steps.append((name, total))

    def advance(self, parts: int) -> None:
        self.parts += parts


def test_answers_and_errors(files):
    data, out = files
    write(
        data, [{"video": "a.mp4", "question": "who?", "id": 7}, {"video": "a.mp4"}, {"video": "b", "question": "fail"}]
    )
    progress = Steps()
    summary = run(data, out, make=Fake(), progress=progress, command="the command")
    first, second, third = results(out)
    assert {"line": 1, "id": 7, "answer": "who?"}.items() <= first.items()
    assert {"line": 2, "id": None, "error": "line 2 has no question"}.items() <= second.items()
    assert {"line": 3, "error": "RuntimeError: a tensor of the wrong size"}.items() <= third.items()
    assert (summary.rows, summary.found, summary.answered, summary.errors, summary.model) == (3, 0, 1, 2, MODEL)
    assert summary.first_error == "line 2: has no question"
    assert progress.steps == [("Reading the questions", None), (LOADING, None), ("Answering", 3)]
    assert progress.parts == 3
    manifest = json.loads(out.with_name("out.jsonl.run.json").read_text())
    assert manifest["model"] == MODEL
    assert manifest["settings"]["cost"] == 0.3
    assert {"frames": 16, "fps": None, "max_new_tokens": 64, "command": "the command"}.items() <= manifest.items()


def test_what_is_there_is_not_asked_again(files, tmp_path):
    data, out = files
    questions(data, ["a", "b", "stop", "c"])
    with pytest.raises(BatchError, match="no more"):
        run(data, out, make=Fake(tmp_path))
    assert [row["answer"] for row in results(out)] == ["a", "b"]
    before = out.read_bytes()
    # A torn row, and a hole.
    out.write_bytes(before + b'{"line":3,"id":"q3"')
    questions(data, ["a", "b", "again", "c"])
    (tmp_path / "asked").unlink()
    summary = run(data, out, make=Fake(tmp_path))
    assert asked(tmp_path) == ["again", "c"]
    assert [row["answer"] for row in results(out)] == ["a", "b", "again", "c"]
    assert (summary.found, summary.answered) == (2, 2)
    whole = out.read_bytes()
    progress = Steps()
    nothing = run(data, out, make=Broken(), progress=progress)
    assert (nothing.found, nothing.answered, nothing.model) == (4, 0, None)
    assert out.read_bytes() == whole


def test_rows_may_be_added_at_the_end_or_deleted_from_the_results(files, tmp_path):
    data, out = files
    questions(data, ["a", "fail", "c"])
    run(data, out, make=Fake())
    questions(data, ["a", "fail", "c", "d"])
    out.write_text("".join(line + "\n" for line in out.read_text().splitlines() if '"error"' not in line))
    run(data, out, make=Fake(tmp_path))
    assert asked(tmp_path) == ["fail", "d"]
    assert [row["line"] for row in results(out)] == [1, 3, 2, 4]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["a", "other", "c"], "line 2 of .* is not the one that .* has a result for"),
        (["a", "b"], "has results for lines that .* does not have, such as 3"),
    ],
)
def test_other_questions_are_refused(texts, words, files):
    data, out = files
    questions(data, ["a", "b", "c"])
    run(data, out, make=Fake())
    before = out.read_bytes()
    questions(data, texts)
    with pytest.raises(BatchError, match=words):
        run(data, out, make=Fake())
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (
            Plan(FrameFusion(keep=0.2)),
            r"differ in settings \(cost 0.3, now None, keep None, now 0.2, stages \[\[0.0, 1.0\], .*\]\], now None\)",
        ),
        (Plan(frames=4), r"differ in frames \(16, now 4\)"),
        (Plan(max_new_tokens=3), r"differ in max_new_tokens \(64, now 3\)"),
    ],
)
def test_other_settings_are_refused_before_a_model_is_loaded(plan, words, files):
    data, out = files
    questions(data, ["a", "b"])
    run(data, out, make=Fake())
    questions(data, ["a", "b", "c"])
    with pytest.raises(BatchError, match=words):
        run(data, out, plan, make=Broken())


def test_another_model_is_refused(files):
    data, out = files
    questions(data, ["a"])
    run(data, out, make=Fake())
    questions(data, ["a", "b"])
    before = out.read_bytes()
    with pytest.raises(BatchError, match=r"differ in model \(fake .*, now larger\)"):
        run(data, out, make=replace(Fake(), description="larger"))
    assert out.read_bytes() == before


def test_nothing_is_made_without_questions(files):
    data, out = files
    data.write_text("\n\n")
    with pytest.raises(BatchError, match="holds no questions"):
        run(data, out, make=Fake())
    with pytest.raises(BatchError, match="no such file"):
        run(data.with_name("none"), out, make=Fake())
    assert not out.exists()
    questions(data, ["a"])
    with pytest.raises(BatchError, match="is there already"):
        run(data, data, make=Fake())
    assert results(data)[0]["question"] == "a"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"frames": 0}, "frames must be at least 1"),
        ({"frames": 8, "fps": 1.0}, "exclude each other"),
        ({"fps": -1.0}, "fps must be a number above 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number, at least 1, got 0"),
    ],
)
def test_plans_that_make_no_sense(values, words):
    with pytest.raises(BatchError, match=words):
        Plan(**values)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB, and a function that makes it larger."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(disk)]
        try:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            return False

    if not mount("size=64k"):
        pytest.skip("only root may mount a disk")
    yield disk, lambda: mount("remount", "size=1m")
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_ends_the_batch_and_it_goes_on_when_there_is_room(small_disk, files, tmp_path):
    disk, enlarge = small_disk
    data, _ = files
    out = disk / "out.jsonl"
    questions(data, map(str, range(1500)))
    with pytest.raises(BatchError, match=r"^cannot write .*: No space left on device; what is there stays, and the"):
        run(data, out, make=Fake(tmp_path))
    done = len(results(out))
    assert 100 < done < 1500
    with pytest.raises(BatchError, match="No space left on device"):
        run(data, out, make=Fake())
    assert len(results(out)) == done
    assert enlarge()
    (tmp_path / "asked").unlink()
    run(data, out, make=Fake(tmp_path))
    assert asked(tmp_path) == [str(i) for i in range(done, 1500)]
    assert [row["answer"] for row in results(out)] == [str(i) for i in range(1500)]


class Counting:
    """The local engine, which notes how many rows were taken and not yet handed out."""

    def __init__(self) -> None:
        self.most = 0

    def answers(self, make, rows, count, confirm, ordered):
        taken = 0

        def counted():
            nonlocal taken
            for row in rows:
                taken += 1
                yield row

        for written, pair in enumerate(Local().answers(make, counted(), count, confirm, ordered)):
            self.most = max(self.most, taken - written)
            yield pair


def peak(work) -> int:
    """Bytes that were allocated at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_is_bounded_by_no_number_of_rows(files, monkeypatch, pytestconfig):
    """Two groups of rows are in flight, and ten times the rows take no more memory: nobody lists them."""
    data, out = files
    monkeypatch.setattr(os, "fsync", lambda file: None)
    peaks, most = [], 30_000 if pytestconfig.getoption("--matrix") is None else 100_000
    for count in (most // 10, most):
        questions(data, (f"what is in the {i}th of many videos?" for i in range(count)))
        engine = Counting()
        out.unlink(missing_ok=True)
        peaks.append(peak(lambda engine=engine: run(data, out, engine=engine, make=Fake())))
        assert engine.most <= 2 * GROUP + 1
    assert peaks[1] < peaks[0] + most, "bytes"
    # Everything is there: what is known of it takes eight bytes a row, and some room to grow.
    again = peak(lambda: run(data, out, make=Broken()))
    assert again < peaks[0] + 2 * 8 * most, "bytes"
