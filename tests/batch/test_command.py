"""``framefusion batch`` with the bundled model: bad videos, a killed process, options."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import av
import pytest
from typer.testing import CliRunner

from framefusion import FrameFusion, assets, cli
from framefusion.asking.ask import ask
from framefusion.asking.loading import load
from framefusion.asking.video import read_video
from framefusion.cli.progress import EVERY_SECONDS, Lines
from tests.batch.fake import results, write

QUESTION = "what large object came after the red circle?"


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(cli.app, ["batch", *map(str, words)], catch_exceptions=False)


def test_bad_videos_become_errors_and_the_rest_goes_on(invoke, tmp_path):
    demo = assets.DEMO_VIDEO.read_bytes()
    (tmp_path / "torn.mp4").write_bytes(demo[:500])
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 64)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    with av.open(str(tmp_path / "no-frames.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()
    bad = {
        "torn.mp4": "is not a video that can be read",
        "noise.mp4": "is not a video that can be read",
        "empty.mp4": "is empty, not a video",
        "text.mp4": "not a video",
        "no-frames.mkv": "contains no frames|has no video stream|end of file",
        "missing.mp4": "no such file: ",
        ".": "is a directory without pictures",
    }
    rows = [{"video": str(assets.DEMO_VIDEO), "question": QUESTION, "id": "first"}]
    rows += [{"video": name, "question": QUESTION, "id": name} for name in bad]
    rows += [{"video": "torn.mp4"}, {"video": str(assets.DEMO_VIDEO), "prompt": QUESTION, "id": "last"}]
    write(tmp_path / "questions.jsonl", rows)
    said = invoke("questions.jsonl", "--cost", "0.2", "--json")
    assert said.exit_code == 0, said.stderr
    summary = json.loads(said.stdout)
    assert summary.items() >= {"rows": 10, "found": 0, "answered": 2, "errors": 8, "written": "results.jsonl"}.items()
    first, *broken, last = results(tmp_path / "results.jsonl")
    for row, (name, words) in zip(broken, bad.items(), strict=False):
        assert row["id"] == name
        assert re.search(words, row["error"]), name
        assert "answer" not in row
    assert broken[-1]["error"] == "line 9 has no question"
    model = load()
    video = read_video(assets.DEMO_VIDEO, frames=assets.BUNDLED_FRAMES)
    expected = ask(video, QUESTION, model=model.model, processor=model.processor, settings=FrameFusion(cost=0.2))
    for row in (first, last):
        assert row["answer"] == expected.text == "red diamond"
        assert row["tokens_before"] == expected.summary.visual_tokens_before
        assert row["tokens_after"] == expected.summary.visual_tokens_after < row["tokens_before"]
        assert row["mean_share"] == pytest.approx(expected.summary.mean_share, abs=1e-4)
        assert row["seconds"] > 0
    refused = invoke("questions.jsonl", "--cost", "0.1")
    assert refused.exit_code == 2
    assert "results.jsonl differ in settings (cost 0.2, now 0.1); choose another file" in refused.stderr


def test_a_batch_of_errors_alone_has_an_answer_for_every_row(invoke, tmp_path):
    write(tmp_path / "questions.jsonl", [{"video": "missing.mp4", "question": QUESTION}])
    said = invoke("questions.jsonl")
    counted, first = said.stdout.splitlines()
    assert (said.exit_code, counted) == (0, "1 row: 0 answered, 1 error. Written to results.jsonl")
    assert first.startswith("The first error is of line 1: no such file")
    again = invoke("questions.jsonl")
    expected = "1 row: 0 answered, 0 errors, 1 was there already. Written to results.jsonl\n"
    assert (again.exit_code, again.stdout) == (0, expected)


def test_a_killed_command_goes_on_where_it_was(invoke, tmp_path):
    count = 400
    rows = [{"video": str(assets.DEMO_VIDEO), "question": QUESTION, "id": i} for i in range(count)]
    write(tmp_path / "questions.jsonl", rows)
    out = tmp_path / "out.jsonl"
    words = ["questions.jsonl", "--out", "out.jsonl", "--cost", "0.2", "--max-new-tokens", "2"]
    with subprocess.Popen([sys.executable, "-m", "framefusion", "batch", *words], cwd=tmp_path) as process:
        while process.poll() is None and (not out.exists() or out.read_bytes().count(b"\n") < 3):
            time.sleep(0.01)
        process.kill()
    there = out.read_bytes()
    done = there.count(b"\n")
    assert 3 <= done < count
    # What is left of a long file would only take long.
    write(tmp_path / "questions.jsonl", rows[: done + 3])
    said = invoke(*words)
    assert said.exit_code == 0, said.stderr
    assert said.stdout == f"{done + 3} rows: 3 answered, 0 errors, {done} were there already. Written to out.jsonl\n"
    assert out.read_bytes().startswith(there[: there.rfind(b"\n") + 1])
    found = results(out)
    assert [row["id"] for row in found] == list(range(done + 3))
    assert len({row["answer"] for row in found}) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--keep", "0.2", "--cost", "0.3"], "--keep and --cost exclude each other; give one of them"),
        (["--keep", "x"], "--keep must be a share such as 0.2 or LAYER:SHARE pairs such as 2:0.5,14:0.1"),
        (["--frames", "8", "--fps", "1"], "--frames and --fps exclude each other; give one of them"),
        (["--frames", "0"], "frames must be at least 1, got 0"),
        (["--max-new-tokens", "0"], "--max-new-tokens must be at least 1, got 0"),
        (["--out", "."], "cannot write .: it is a directory"),
        (["--out", "none/out.jsonl"], "cannot write none/out.jsonl: there is no directory"),
        (["--engine", "spark"], "--engine must be local or ray, got 'spark'"),
        (["--actors", "2"], "--actors needs --engine ray"),
        (["--address", "auto"], "--address needs --engine ray"),
        (["--engine", "ray", "--actors", "0"], "--actors must be a whole number, at least 1, got 0"),
        (["--model", "./none"], "there is no directory ./none"),
        (["--keep", "2:0.7,12:0.5"], "keep"),
        (["--out", "questions.jsonl"], "questions.jsonl is there already and has no questions.jsonl.run.json"),
    ],
)
def test_what_is_wrong_is_one_sentence(words, sentence, invoke, tmp_path):
    write(tmp_path / "questions.jsonl", [{"video": "a.mp4", "question": "who?"}])
    said = invoke("questions.jsonl", *words)
    assert said.exit_code == 2
    assert said.stderr.startswith(f"framefusion: {sentence}")
    assert said.stderr.count("\n") == 1
    assert not (tmp_path / "results.jsonl").exists() or not (tmp_path / "results.jsonl").read_bytes()


def test_a_missing_file_makes_nothing(invoke, tmp_path):
    said = invoke("none.jsonl")
    assert (said.exit_code, said.stderr) == (2, "framefusion: no such file: none.jsonl\n")
    assert list(tmp_path.iterdir()) == []


def test_progress_in_a_log_has_a_rate_and_the_time_that_is_left():
    now, said = 100.0, []
    lines = Lines(said.append, lambda: now)
    lines.step("Loading the model")
    now += 1000
    lines.step("Answering", 8000)
    for _ in range(100):
        now += 0.5
        lines.advance(1)
    assert EVERY_SECONDS == 30
    assert said == ["60 of 8000 rows, 2 a second, about 1:06:10 left"]
