"""Long videos in ``framefusion ask``: shown in parts, as a session shows them."""

import json
import re

import av
import numpy as np
import pytest
from PIL import Image

from framefusion import session
from framefusion.asking.loading import load
from framefusion.cli.request import LONG
from tests.cli.said import QUESTION, refuse


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Some more frames than are shown in one part, one a second."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for index in range(LONG + 8):
            picture = np.full((32, 48, 3), 30, np.uint8)
            picture[:, index % 40 : index % 40 + 8] = 230
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    return path


@pytest.fixture
def ask(run, clip, model):
    return lambda *words: run("ask", clip, QUESTION, "--model", model, "--max-new-tokens", 3, *words)


def parse(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_from_so_many_frames_on_a_video_is_shown_in_parts(ask, clip, model):
    """Without being asked to; the answer is that of a session."""
    assert "parts" not in parse(ask("--frames", LONG, "--json"))
    found = parse(ask("--frames", LONG + 1, "--json"))
    assert found["parts"] == 32
    assert found["session"]["frames"] == LONG + 1
    loaded = load(model, device="cpu")
    with session(loaded.model, loaded.processor, max_new_tokens=3) as talk:
        talk.add(clip, frames=LONG + 1)
        assert talk.ask(QUESTION).text == found["answer"]
        assert talk.summary().held == found["session"]["held"]
    said = ask("--fps", 1).stdout
    assert said.splitlines()[0].startswith("Answer ")
    assert f"Shown   {LONG + 8} frames in parts of 32" in said
    assert "forgotten" not in said


def test_what_is_held_of_it_is_bounded_and_what_was_forgotten_is_told(ask):
    found = parse(ask("--frames", 40, "--chunk", 8, "--memory", 200, "--cost", 1, "--json"))
    assert found["session"]["held"] <= 200
    assert found["session"]["forgotten"] > 0
    said = ask("--frames", 40, "--chunk", 8, "--memory", "200KiB", "--cost", 1)
    assert (said.exit_code, said.stderr) == (0, "")
    assert re.search(r"Kept .* MiB are held, \d+ were forgotten\n", said.stdout)


def test_a_photograph_may_stand_beside_it(run, clip, tmp_path):
    Image.new("RGB", (48, 32), (200, 30, 30)).save(tmp_path / "red.png")
    words = ("ask", "red.png", clip, QUESTION, "--max-new-tokens", 3, "--frames", 9, "--chunk", 4)
    assert parse(run(*words, "--json"))["session"]["items"] == [["red.png", 1], ["long.mp4", 9]]


def test_what_cannot_be_shown_in_parts(ask):
    for words in (("--chunk", 4), ("--memory", "2GiB")):
        for other in (("--compare",), ("--report", "x.html")):
            refuse(ask(*words, *other), f"{words[0]} lets frames go once they were shown, which --compare and --report")
    refuse(ask("--chunk", 0), "--chunk must be a whole number, at least 1, got 0")
    refuse(ask("--memory", "much"), "memory must be a number of visual tokens, or bytes such as '2GiB'")
    refuse(ask("--chunk", 8, "--memory", 20), "memory=20 visual tokens is less than what was just added takes")
