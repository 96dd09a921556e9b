"""What the page shows, as HTML: every text from outside is escaped, pictures are data URIs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader
from PIL import Image

from framefusion.app.desk import Outcome, Shown, Turn
from framefusion.asking.media import Media
from framefusion.asking.report import html
from framefusion.asking.report.data import FrameView, ReportData
from framefusion.asking.report.frames import data_uri, marked
from framefusion.asking.report.text import end_to_end
from framefusion.asking.video import Video
from framefusion.showing import units
from framefusion.showing.tokens import KEPT, legend_html, looks_of

WIDTH = 560
"""Pixels of a frame from left to right, unless the video has fewer."""

_SMALLEST = 320

STYLES = (Path(html.__file__).with_name("times.css"),)
"""Of the table that is the report's."""


@dataclass(frozen=True)
class Still:
    """One frame of the player."""

    uri: str
    caption: str


def head(model: str, knows: str = "") -> str:
    """Above everything: the model, and in a sentence what it knows."""
    return _render("head.html.j2", model=model, knows=knows)


def player(data: ReportData) -> str:
    """The frames with what was kept in them, one after the other."""
    frames = [Still(_uri(marked(view, _width(view.picture.shape[1]))), _caption(view)) for view in data.frames]
    legend = legend_html(looks_of([view.states for view in data.frames if view.placed]))
    return _render("player.html.j2", frames=frames, data=data, legend=legend, heading="What the model still sees")


def preview(shown: Shown, medium: Media) -> str:
    """The frames as they were decoded, before any question."""
    if isinstance(medium, Video):
        pictures = [Image.fromarray(frame) for frame in medium.frames]
        captions = [units.clock(float(seconds)) for seconds in medium.timestamps]
    else:
        pictures, captions = [medium], ["photograph"]
    frames = [Still(_uri(_scaled(one)), caption) for one, caption in zip(pictures, captions, strict=True)]
    return _render("player.html.j2", frames=frames, data=None, heading="What the model will be shown")


def told_shown(shown: Shown, medium: Media) -> str:
    """What was taken, in a line."""
    facts = [shown.name]
    if isinstance(medium, Video):
        facts += [units.clock(medium.duration), units.count(len(medium), "frame") + " to show"]
    if shown.warning is not None:
        facts.append(shown.warning)
    return said(" · ".join(facts))


def said(text: str) -> str:
    """A line about how it went."""
    return _render("said.html.j2", text=text, wrong=False)


def refused(text: str) -> str:
    """A line about what was wrong."""
    return _render("said.html.j2", text=text, wrong=True)


def answers(outcome: Outcome) -> str:
    """The answers side by side, and what was saved."""
    data = outcome.data
    return _render("answers.html.j2", data=data, tiles=html.tiles(data))


def costs(outcome: Outcome) -> str:
    """Time and memory by part."""
    data = outcome.data
    return _render(
        "costs.html.j2",
        data=data,
        summed=end_to_end(data),
        part_names=units.PARTS,
        memory=[
            ("weights", units.size(outcome.weight_bytes), units.size(outcome.weight_bytes)),
            ("keys and values behind the prefill", units.size(data.kv_bytes_before), units.size(data.kv_bytes_after)),
        ],
    )


def talk(turns: Sequence[Turn]) -> str:
    """The questions that followed, and their answers."""
    return _render("talk.html.j2", turns=turns)


def _caption(view: FrameView) -> str:
    when = "photograph" if view.seconds is None else units.clock(view.seconds)
    return f"{when} · {view.count(KEPT):,} of {view.tokens:,} tokens kept"


def _width(width: int) -> int:
    return min(WIDTH, max(_SMALLEST, width))


def _scaled(picture: Image.Image) -> Image.Image:
    width = _width(picture.width)
    return picture.resize((width, max(1, round(picture.height * width / picture.width))))


def _uri(picture: Image.Image) -> str:
    return data_uri(picture, "JPEG", quality=84)


@cache
def _environment() -> Environment:
    report = html.environment()
    # The table of times is the report's.
    rooms = ("framefusion.app", "framefusion.asking.report")
    made = report.overlay(loader=ChoiceLoader([PackageLoader(room, "") for room in rooms]))
    made.filters = {**report.filters, "size": units.size}
    return made


def _render(template: str, **values: object) -> str:
    return _environment().get_template(template).render(**values)
