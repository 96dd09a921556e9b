"""The HTML: everything is there, every text from outside is escaped."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from framefusion.app import view
from framefusion.app.desk import Asked, Outcome, Shown, Turn
from framefusion.asking.report.frames import marked
from framefusion.asking.video import Video
from framefusion.showing.tokens import LEGEND, legend_html
from tests.asking.report import samples
from tests.asking.report.test_html import Outline

SHOWN = Shown(Path("a.mp4"), "a.mp4", False, 7.0, None)


def outcome(data):
    return Outcome(Asked(SHOWN, str(data.question), 0.3, 8, True), data, 2**20)


def test_answers_side_by_side():
    data = samples.data()
    page = view.answers(outcome(data))
    texts = " ".join(" ".join(Outline(page).texts).split())
    assert f"With all {data.tokens_before} visual tokens {data.full_answer}" in texts
    assert f"With {data.tokens_after} of {data.tokens_before} visual tokens {data.answer}" in texts
    assert "The answers are the same" in texts
    assert "KV cache" in texts
    alone = view.answers(outcome(samples.data(compared=False)))
    assert "With all" not in alone
    assert "answers are" not in alone


def test_frames_are_drawn_by_the_report(monkeypatch):
    data = samples.data()
    page = view.player(data)
    images = Outline(page).named("img")
    assert len(images) == len(data.frames)
    drawn = [np.asarray(marked(one, view.WIDTH)).mean() for one in data.frames]
    for image, expected in zip(images, drawn, strict=True):
        picture = Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1])))
        assert np.asarray(picture).mean() == pytest.approx(expected, abs=4)
    assert "tokens kept" in images[0]["alt"]
    figures = [attributes for tag, attributes in Outline(page).tags if tag == "figure"]
    assert ["hidden" in one for one in figures] == [False] + [True] * (len(images) - 1)
    assert legend_html(LEGEND) in page
    (slider,) = Outline(page).named("input")
    assert (slider["min"], slider["max"], slider["aria-label"]) == ("1", str(len(images)), "Frame")


def test_a_single_picture_has_no_slider():
    page = view.preview(SHOWN, Image.new("RGB", (30, 20)))
    assert len(Outline(page).named("img")) == 1
    assert Outline(page).named("input") == []


def test_a_preview_has_the_frames_as_they_were_decoded():
    frames = np.full((3, 40, 60, 3), 90, np.uint8)
    video = Video(frames, np.array([0.0, 1.0, 61.5]), np.arange(3), 63.0, 1.0, 63, Path("a.mp4"))
    page = view.preview(SHOWN, video)
    assert len(Outline(page).named("img")) == 3
    assert "1:01.5" in page
    assert view.told_shown(SHOWN, video).count("3 frames to show") == 1


def test_time_and_memory_by_part():
    data = samples.data()
    page = view.costs(outcome(data))
    texts = " ".join(" ".join(Outline(page).texts).split())
    for part in ("decoding the file", "processor", "vision tower", "decoder", "each further token", "weights 1 MiB"):
        assert part in texts
    assert data.timing in texts


def test_what_followed():
    turns = [Turn("q", "a", "b", 0.1, 0.2, 9, 20, 2**20), Turn("r", "", None, 0.1, None, 9, 20, 2**20)]
    page = view.talk(turns)
    assert re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page) == [
        ("all tokens", "b"),
        ("reduced", "a"),
        ("reduced", "(no text)"),
    ]
    assert "9 tokens of text were read; 20 visual tokens are held in 1 MiB" in page
    assert view.talk([]).strip() == ""


def test_every_text_from_outside_is_escaped():
    data = samples.data(samples.NASTY)
    shown = Shown(Path("a"), samples.NASTY, False, 7.0, samples.NASTY)
    turn = Turn(samples.NASTY, samples.NASTY, samples.NASTY, 0.1, 0.2, 9, 20, 10)
    pages = [
        view.answers(outcome(data)),
        view.player(data),
        view.costs(outcome(data)),
        view.talk([turn]),
        view.told_shown(shown, Image.new("RGB", (3, 2))),
        view.said(samples.NASTY),
        view.refused(samples.NASTY),
        view.head(samples.NASTY),
    ]
    for page in pages:
        outline = Outline(page)
        assert outline.named("script") == []
        assert all("onerror" not in image for image in outline.named("img"))
        assert any(samples.NASTY in text for text in outline.texts)


def test_what_was_wrong_is_an_alert():
    assert 'role="alert"' in view.refused("no")
    assert 'role="status"' in view.said("yes")
