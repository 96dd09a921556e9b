"""Render a report as one HTML page that needs nothing from the network."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from framefusion.asking.report.data import FrameView, ReportData, SegmentRow
from framefusion.asking.report.frames import embedded_width, picture_uri, shade_uri
from framefusion.asking.report.text import end_to_end
from framefusion.showing import units
from framefusion.showing.tokens import DROPPED, KEPT, MERGED, legend_html, looks_of

_TEMPLATE = "report.html.j2"
_LONG_ANSWER = 90  # characters; longer answers are set as running text
_MOST_FRAMES = 256
_LABELLED_BARS = 10  # layers; more of them get labels at the ends only


def render(data: ReportData) -> str:
    """The page as text: images are data URIs, no script but its own may run, every text from outside is escaped."""
    shown = _shown(data.frames)
    script = _script() if len(shown) > 1 else None
    return (
        environment()
        .get_template(_TEMPLATE)
        .render(
            data=data,
            title=data.question if data.question is not None else f"What was kept of {data.video_name}",
            facts=_facts(data),
            tiles=tiles(data),
            names=[row.name for row in data.media],
            shown=shown,
            width=embedded_width([view for _, view in shown]),
            widest=max((view.picture.shape[1] / view.picture.shape[0] for _, view in shown), default=1.0),
            most=max((view.count(KEPT) for _, view in shown), default=0) or 1,
            legend=legend_html(looks_of([s for frame in data.frames if frame.placed for s in frame.views])),
            columns=_columns(len(shown)),
            beginning=_beginning(data.segments, [number for number, _ in shown]),
            script=script,
            script_hash=None if script is None else _hash(script),
            layers=len(data.tokens_per_layer),
            summed=end_to_end(data),
            part_names=units.PARTS,
        )
    )


@cache
def environment() -> Environment:
    """Where the page's templates are, with numbers as people read them; every text from outside is escaped."""
    made = Environment(
        loader=PackageLoader("framefusion.asking.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.globals.update(
        KEPT=KEPT, MERGED=MERGED, DROPPED=DROPPED, LONG_ANSWER=_LONG_ANSWER, LABELLED_BARS=_LABELLED_BARS
    )
    made.filters.update(
        clock=units.clock,
        percent=units.percent,
        picture_uri=picture_uri,
        shade_uri=shade_uri,
        seconds=units.seconds,
        seconds_of=units.seconds_of,
        share_of=units.share_of,
        thousands="{:,}".format,
    )
    return made


def _facts(data: ReportData) -> list[str]:
    photographs = sum(frame.seconds is None for frame in data.frames)
    shown = [("frame", len(data.frames) - photographs), ("photograph", photographs)]
    return [
        data.video_name,
        *([] if data.duration is None else [units.clock(data.duration)]),
        *(units.count(number, noun) for noun, number in shown if number or (noun == "frame" and not photographs)),
        units.count(data.tokens_before, "visual token"),
    ]


def tiles(data: ReportData) -> list[tuple[str, str, str]]:
    """Name, value and detail of the numbers at the top."""
    share = units.share_of(data.tokens_after, data.tokens_before, 1.0)
    now, before = data.seconds, data.full_seconds
    compute = data.first_token_flops or (data.flops_before, data.flops_after)
    return [
        ("Visual tokens kept", units.percent(share), f"{data.tokens_after:,} of {data.tokens_before:,}"),
        ("Mean over layers", units.percent(data.mean_share), "of the visual tokens"),
        (
            "Decoder’s compute" if data.first_token_flops is None else "Compute",
            units.saved(units.saved_share(*compute)),
            units.flops(*compute) + ("" if data.first_token_flops is None else f", {_decoder(data)} in the decoder"),
        ),
        (
            "KV cache",
            units.saved(units.saved_share(data.kv_bytes_before, data.kv_bytes_after)),
            units.size(data.kv_bytes_before, data.kv_bytes_after),
        ),
        (_timed(data), units.seconds_of(now), "to the first token, not compared")
        if before is None or now is None
        else (
            _timed(data),
            units.saved(units.saved_share(before, now)),
            f"{units.seconds(before)} → {units.seconds(now)} to the first token",
        ),
    ]


def _timed(data: ReportData) -> str:
    """What the time to the first token is of, in the words of the lines on a terminal."""
    return "In generate()" if data.times.first_token is None else "End to end"


def _decoder(data: ReportData) -> str:
    return units.saved(units.saved_share(data.flops_before, data.flops_after))


def _shown(frames: Sequence[FrameView]) -> list[tuple[int, FrameView]]:
    """Positions and frames that are drawn; of very many as many as a page bears, at equal distances."""
    count = min(len(frames), _MOST_FRAMES)
    chosen = [(2 * place + 1) * len(frames) // (2 * count) for place in range(count)]
    return [(number, frames[number]) for number in chosen]


def _beginning(segments: Sequence[SegmentRow], shown: Sequence[int]) -> dict[int, SegmentRow]:
    """The segment that begins at a frame, or before it and behind the one that is shown before."""
    found = {}
    for row in segments:
        first = next((number for number in shown if number >= row.first_frame), None)
        if first is not None and first <= row.last_frame:
            found[first] = row
    return found


def _columns(frames: int) -> int:
    """At most six frames side by side, ten of many, in rows of about equal length."""
    most = 5 if frames <= 15 else 6 if frames <= 24 else 10
    return math.ceil(frames / math.ceil(frames / most)) if frames else 1


@cache
def _script() -> str:
    return files("framefusion.asking.report").joinpath("player.js").read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """By which a page's policy knows the one script that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
