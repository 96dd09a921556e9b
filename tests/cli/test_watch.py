"""``framefusion watch``: files, files that grow, what is told and written, and how it ends."""

import json
import math
import re
import sys
import threading
import time

import pytest

from framefusion import assets, cli
from framefusion.asking import sessions
from framefusion.asking.sessions import Session
from framefusion.cli.errors import OptionError
from framefusion.cli.watch import seconds_of
from tests.asking.streams.clips import evenly, write
from tests.cli.said import QUESTION, refuse
from tests.cli.terminal import INTERRUPT, Terminal

OTHER = "describe the video"


@pytest.fixture
def watched(run, clip, model):
    """Of three seconds, at four frames a second, asked every second."""

    def invoked(*words, source=None, ask=(QUESTION,)):
        asked = [word for question in ask for word in ("--ask", question)]
        given = ["--model", model, "--max-new-tokens", 2, "--fps", 4, "--every", "1s", *words]
        return run("watch", clip if source is None else source, *asked, *given)

    return invoked


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_bundled_model_tells_what_it_sees_next(run, tmp_path):
    """Its video has the answers; the last scene is from 6 s on."""
    question = "what is the large object in the third scene?"
    words = ["watch", assets.DEMO_VIDEO, "--ask", question, "--every", 2, "--fps", 4, "--jsonl", "out.jsonl"]
    result = run(*words)
    assert (result.exit_code, result.stderr) == (0, "")
    *changes, summary = result.stdout.splitlines()
    rows = rows_of(tmp_path / "out.jsonl")
    assert [round(row["time"]) for row in rows] == [2, 4, 6, 8]
    assert changes == [f"0:00:0{round(row['time'])}  {question}: {row['answer']}" for row in rows if row["changed"]]
    assert len(changes) > 1
    assert rows[-1]["answer"] == "red diamond"
    assert summary.startswith("32 frames, 0 dropped, 0 damaged; 0 reconnections; 4 answers, the last at 0:00:07; ")
    assert summary.endswith(" visual tokens held, 0 forgotten; the file ended")


def test_only_changes_are_told_and_everything_is_written(watched, tmp_path):
    (tmp_path / "out.jsonl").write_bytes(b'{"time":0}\n{"torn')
    result = watched("--jsonl", "out.jsonl", ask=(QUESTION, OTHER))
    assert result.exit_code == 0, result.stderr
    before, *rows = rows_of(tmp_path / "out.jsonl")
    assert before == {"time": 0}
    assert set(rows[0]) == {
        *("time", "question", "answer", "changed", "frames", "held", "forgotten", "dropped", "reconnections"),
        *("seconds", "tower_share"),
    }
    assert [(row["time"], row["question"]) for row in rows] == [
        (time, question) for time in (1, 2, 2.8) for question in (QUESTION, OTHER)
    ]
    assert [row["frames"] for row in rows] == [5, 5, 9, 9, 12, 12]
    *told, _ = result.stdout.splitlines()
    assert len(told) == sum(row["changed"] for row in rows)
    *every, _ = watched("--all", ask=(QUESTION, OTHER)).stdout.splitlines()
    assert every == [f"0:00:0{int(row['time'])}  {row['question']}: {row['answer'] or '(no text)'}" for row in rows]


def test_the_tower_encodes_what_changed_and_says_how_much(watched, tmp_path):
    result = watched("--tower", "changed:1", "--jsonl", "out.jsonl")
    assert result.exit_code == 0, result.stderr
    shares = [row["tower_share"] for row in rows_of(tmp_path / "out.jsonl")]
    assert all(0 < share <= 1 for share in shares)
    assert f"the tower did {shares[-1]:.0%} of its work; the file ended" in result.stdout.splitlines()[-1]


def test_it_watches_for_so_long(watched, tmp_path):
    result = watched("--for", "2", "--every", "0.5", "--jsonl", "out.jsonl")
    assert [row["time"] for row in rows_of(tmp_path / "out.jsonl")] == [0.5, 1, 1.5, 2]
    assert result.stdout.splitlines()[-1].endswith("; stopped")


@pytest.mark.parametrize(
    ("words", "expected"), [([], 8192), (["--memory", "500"], 500), (["--memory", "1GiB"], "1GiB")]
)
def test_what_is_held_is_bounded(watched, monkeypatch, words, expected):
    given = []

    class Noting(Session):
        def __init__(self, *rest, **options):
            given.append(options["memory"])
            super().__init__(*rest, **options)

    monkeypatch.setattr(sessions, "Session", Noting)
    assert watched(*words).exit_code == 0
    assert given == [expected]


def test_what_is_forgotten_is_told(watched, tmp_path):
    result = watched("--memory", "64", "--chunk", "4", "--cost", "1", "--jsonl", "out.jsonl")
    assert [(row["held"], row["forgotten"]) for row in rows_of(tmp_path / "out.jsonl")] == [
        (64, 16),
        (64, 80),
        (64, 128),
    ]
    assert "; 64 visual tokens held, 128 forgotten; " in result.stdout


def test_a_file_that_grows(watched, tmp_path):
    data = write(tmp_path / "a.ts", evenly(60)).read_bytes()
    path, third = tmp_path / "growing.ts", len(data) // 3
    path.write_bytes(data[:third])

    def writing():
        for begin in range(third, len(data), third // 2):
            time.sleep(0.05)
            with path.open("ab") as file:
                file.write(data[begin : begin + third // 2])

    thread = threading.Thread(target=writing)
    thread.start()
    result = watched("--follow", "--for", "4s", "--jsonl", "out.jsonl", source=path)
    thread.join()
    assert result.exit_code == 0, result.stderr
    assert path.read_bytes() == data
    assert [round(row["time"]) for row in rows_of(tmp_path / "out.jsonl")] == [1, 2, 3, 4]


def test_an_interrupt_ends_it_with_what_it_has(watched, monkeypatch, tmp_path):
    ask, asked = Session.ask_all, []

    def interrupted(self, questions):
        asked.append(questions)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return ask(self, questions)

    monkeypatch.setattr(Session, "ask_all", interrupted)
    result = watched("--jsonl", "out.jsonl")
    assert result.exit_code == 0
    assert len(rows_of(tmp_path / "out.jsonl")) == 2
    assert result.stdout.splitlines()[-1].startswith("12 frames, 0 dropped")
    assert "2 answers, the last at 0:00:02" in result.stdout
    assert result.stderr == "\n"


def test_an_error_ends_it_after_the_summary(watched, tmp_path):
    result = watched("--memory", "40", "--cost", "1")
    assert result.exit_code == 2
    assert re.fullmatch(r"framefusion: memory=40 visual tokens is less than .* with a smaller chunk\n", result.stderr)
    assert result.stdout.startswith("5 frames, ")


def test_what_cannot_be_watched(watched, clip, tmp_path):
    (tmp_path / "notes.txt").write_text("not a video " * 99)
    refuse(watched(source="gone.mp4"), r"no such file: gone\.mp4")
    refuse(watched(source="notes.txt"), "not a video|neither a picture nor a video")
    refuse(watched(source="ftp://host/a.mp4"), "is not an address that can be read")
    refuse(watched(source="camera:"), "needs a number or a name")
    refuse(watched("--follow", source="rtsp://host/live"), "is for a file that grows")
    refuse(watched(ask=()), "there is no question, or an empty one; give at least one with --ask")
    refuse(watched(ask=(QUESTION, " ")), "there is no question, or an empty one")
    refuse(watched("--every", "soon"), "--every must be a time such as 10s, 5m or 1h30m, got 'soon'")
    refuse(watched("--every", "0"), "--every must be a time")
    refuse(watched("--for", "-1s"), "--for must be a time")
    refuse(watched("--fps", "0"), "fps must be in")
    refuse(watched("--memory", "lots"), "memory must be a number of visual tokens")
    refuse(watched("--chunk", "0"), "--chunk must be at least 1")
    refuse(watched("--max-new-tokens", "0"), "--max-new-tokens must be at least 1")
    refuse(watched("--jsonl", "gone/out.jsonl"), "there is no directory")
    (tmp_path / "mine.txt").write_text("what nobody wants cut off")
    refuse(watched("--jsonl", "mine.txt"), "mine.txt ends in the middle of a line that is no JSON object")
    assert (tmp_path / "mine.txt").read_text() == "what nobody wants cut off"
    refuse(watched("--cost", "2"), "cost must be in")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("10s", 10),
        ("10", 10),
        ("0.5", 0.5),
        ("500ms", 0.5),
        ("5m", 300),
        ("5 min", 300),
        ("1h30m", 5400),
        ("2D", 172800),
    ],
)
def test_spans_of_time(given, expected):
    assert math.isclose(seconds_of("--every", given), expected)


@pytest.mark.parametrize("given", ["", "s", "1x", "s1", "1h-30m", "0s", "-5", "inf", "nan", "1..5s"])
def test_what_is_no_span_of_time(given):
    with pytest.raises(OptionError, match="--every must be a time"):
        seconds_of("--every", given)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_ctrl_c_on_a_terminal(model, tmp_path):
    """While it waits for a file to grow."""
    path = write(tmp_path / "a.ts", evenly(40))
    words = ["watch", path, "--follow", "--ask", QUESTION, "--every", 1, "--model", model, "--max-new-tokens", 2]
    with Terminal([*words, "--all"], tmp_path) as terminal:
        terminal.until(f"0:00:02  {QUESTION}: ")
        terminal.type(INTERRUPT)
        rest, code = terminal.rest()
    assert code == 0
    assert re.search(r"\d frames, 0 dropped, .* forgotten; stopped\r\n$", rest), rest
    assert "Traceback" not in rest


def test_help_tells_what_is_held(run):
    assert "8192" in run("watch", "--help").stdout
    assert cli.MODULES.index("chat") < cli.MODULES.index("watch")
