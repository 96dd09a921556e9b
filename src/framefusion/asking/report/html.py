"""Render a report as one HTML page that needs nothing from the network."""

from __future__ import annotations

import math
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from framefusion.asking.report.data import DROPPED, KEPT, MERGED, ReportData
from framefusion.asking.report.frames import mask_uri, picture_uri
from framefusion.asking.report.text import end_to_end
from framefusion.showing import units

_TEMPLATE = "report.html.j2"
_LONG_ANSWER = 90  # characters; longer answers are set as running text
_LABELLED_BARS = 10  # layers; more of them get labels at the ends only


def render(data: ReportData) -> str:
    """The page as text: images are data URIs, there is no script, every text from outside is escaped."""
    return (
        environment()
        .get_template(_TEMPLATE)
        .render(
            data=data,
            title=data.question if data.question is not None else f"What was kept of {data.video_name}",
            facts=_facts(data),
            tiles=tiles(data),
            columns=_columns(len(data.frames)),
            beginning={row.first_frame: row for row in data.segments},
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
        mask_uri=mask_uri,
        percent=units.percent,
        picture_uri=picture_uri,
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
        ("Time to first token", units.seconds_of(now), "not compared")
        if before is None or now is None
        else (
            "Time to first token",
            units.saved(units.saved_share(before, now)),
            f"{units.seconds(before)} → {units.seconds(now)}",
        ),
    ]


def _decoder(data: ReportData) -> str:
    return units.saved(units.saved_share(data.flops_before, data.flops_after))


def _columns(frames: int) -> int:
    """At most six frames side by side, in rows of about equal length."""
    return math.ceil(frames / math.ceil(frames / (5 if frames <= 15 else 6))) if frames else 1
