"""``framefusion app``: what it refuses before anything slow begins, and the command line that its page shows."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from framefusion.app.desk import Asked, Shown
from framefusion.assets import DEMO_VIDEO
from framefusion.cli.options import FrameOptions, ModelOptions, ReductionOptions
from framefusion.cli.page import KNOWS, LimitOptions, PageOptions, ServerOptions, is_local, opening
from tests.cli.said import refuse

MINE = Shown(Path("/tmp/somewhere/0a1b.mp4"), "it's mine.mp4", False, 8.0, None)
BUNDLED = Shown(DEMO_VIDEO, DEMO_VIDEO.name, True, 8.0, None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "70000"], "--port must be from 0 to 65535, got 70000"),
        (["--max-frames", "0"], "--max-frames must be at least 1, got 0"),
        (["--max-upload", "much"], "--max-upload must be a size such as 24GiB or 24GB, got 'much'"),
        (["--max-length", "0s"], "--max-length must be a time"),
        (["--idle", "soon"], "--idle must be a time"),
        (["--cost", "0.2", "--keep", "0.2"], "--keep and --cost exclude each other"),
        (["--max-new-tokens", "0"], "--max-new-tokens must be at least 1"),
    ],
)
def test_what_cannot_be_right_is_refused(run, words, said):
    pytest.importorskip("gradio", reason="the extra app is not installed")
    refuse(run("app", *words), re.escape(said))


def refuse_started(result, message):
    """As :func:`tests.cli.said.refuse`, behind a line that says that it starts."""
    first, rest = result.stderr.split("\n", 1)
    assert first == "framefusion: starting, which takes some seconds"
    refuse(SimpleNamespace(exit_code=result.exit_code, stdout=result.stdout, stderr=rest), message)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cost", "2"], "cost"),
        (["--frames", "65"], "--frames must be at most 64, the --max-frames of the page, got 65"),
        (["--model", "no/such/model"], "no/such/model"),
    ],
)
def test_what_takes_a_while_to_find_out_is_refused(run, words, said):
    pytest.importorskip("gradio", reason="the extra app is not installed")
    refuse_started(run("app", *words), re.escape(said))


def test_without_gradio_the_error_names_the_extra(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "framefusion.app.page", raising=False)
    refuse_started(run("app"), r"the page needs Gradio: pip install 'framefusion\[app\]'")


def options(**more):
    given = {"model": ModelOptions(), "shown": FrameOptions(), "reduction": ReductionOptions(), **more}
    return PageOptions(**{"max_new_tokens": 64, "local": True, **given})


@pytest.mark.parametrize("question", ["what's $(this)?", "-x", "--help", '"quoted"\nand more'])
def test_the_command_line_is_what_was_asked(question, monkeypatch):
    from typer.testing import CliRunner

    from framefusion import cli

    got = []
    monkeypatch.setattr("framefusion.cli.ask.execute", got.append)
    page = options(model=ModelOptions(dtype="bf16"), reduction=ReductionOptions(segmentation="dyseg"))
    words = shlex.split(page.command(Asked(MINE, question, 0.15, 12, True)))
    assert words[:2] == ["framefusion", "ask"]
    result = CliRunner().invoke(cli.app, words[1:])
    assert result.exit_code == 0, result.output
    (request,) = got
    assert (request.media, request.question) == (["it's mine.mp4"], question)
    assert (request.reduction.cost, request.reduction.segmentation) == (0.15, "dyseg")
    assert (request.shown.frames, request.own.compare, request.model.dtype) == (12, True, "bf16")


def test_names_that_look_like_options_are_paths():
    shown = Shown(Path("/tmp/x"), "-i.mp4", False, 8.0, None)
    assert "./-i.mp4" in shlex.split(options().command(Asked(shown, "what?", 0.3, 8, False)))


def test_where_bundled_files_lie_is_told_to_nobody_elsewhere():
    asked = Asked(BUNDLED, "what?", 0.3, 8, False)
    assert str(DEMO_VIDEO) in options().command(asked)
    assert str(DEMO_VIDEO.parent) not in options(local=False).command(asked)
    assert "scenes.mp4" in options(local=False).command(asked)


@pytest.mark.parametrize(
    ("server", "local"),
    [
        (ServerOptions(), True),
        (ServerOptions(host="localhost"), True),
        (ServerOptions(host="::1"), True),
        (ServerOptions(host="0.0.0.0"), False),
        (ServerOptions(host="box.example"), False),
        (ServerOptions(share=True), False),
    ],
)
def test_who_reaches_the_page(server, local):
    assert is_local(server) is local


def test_what_says_all_about_the_reduction_leaves_no_budget_to_move():
    pytest.importorskip("gradio", reason="the extra app is not installed")
    assert opening("m", ReductionOptions(), 8).cost == 0.3
    assert opening("m", ReductionOptions(cost=0.1), 8).cost == 0.1
    assert opening("m", ReductionOptions(keep="0.2"), 8).cost is None
    page = options(reduction=ReductionOptions(keep="0.2"))
    assert "--keep 0.2" in page.command(Asked(MINE, "what?", None, 8, False))


def test_what_the_model_knows_is_told_of_the_bundled_ones():
    pytest.importorskip("gradio", reason="the extra app is not installed")
    knows = {name: opening(name, ReductionOptions(), 8).knows for name in ("bundled", "bundled-qwen", "Qwen/Qwen2-VL")}
    assert knows == {"bundled": KNOWS, "bundled-qwen": KNOWS, "Qwen/Qwen2-VL": ""}


def test_limits_are_those_of_the_page():
    from framefusion.app.limits import Limits

    assert LimitOptions().limits() == Limits()
    given = LimitOptions("3MiB", "1m", 8, 5, 2, "90s").limits()
    assert (given.upload, given.seconds, given.frames) == (3 * 2**20, 60, 8)
    assert (given.questions, given.visits, given.idle) == (5, 2, 90)


def test_it_answers_until_it_is_ended_and_leaves_nothing(tmp_path):
    pytest.importorskip("gradio", reason="the extra app is not installed")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    running = subprocess.Popen(
        [sys.executable, "-m", "framefusion", "app", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    try:
        assert running.stdout is not None
        line = running.stdout.readline()
        (address,) = re.findall(r"The page is at (http://127\.0\.0\.1:\d+/)$", line)
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert b"framefusion" in answer.read()
        running.send_signal(signal.SIGTERM)  # as Ctrl-C, which Python knows by itself
        _, wrong = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 0
    assert wrong.startswith("framefusion: starting")
    assert "Traceback" not in wrong
    assert [path for path in tmp_path.iterdir() if path.name.startswith("framefusion")] == []
