"""Render a report as one HTML page that needs nothing from the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from framefusion.asking.report import units
from framefusion.asking.report.data import DROPPED, KEPT, MERGED, FrameView, ReportData, SegmentRow
from framefusion.asking.report.frames import mask_uri, picture_uri

_LONG_ANSWER = 90  # characters; longer answers are set as running text
_LABELLED_BARS = 10  # layers; more of them get labels at the ends only
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render(data: ReportData) -> str:
    """The page as text: images are data URIs, there is no script, every text from outside is escaped."""
    title = data.question if data.question is not None else f"What was kept of {data.video_name}"
    style = files("framefusion.asking.report").joinpath("style.css").read_text(encoding="utf-8")
    photographs = sum(frame.seconds is None for frame in data.frames)
    shown = [("frame", len(data.frames) - photographs), ("photograph", photographs)]
    facts = [
        data.video_name,
        *([] if data.duration is None else [units.clock(data.duration)]),
        *(units.count(number, noun) for noun, number in shown if number or (noun == "frame" and not photographs)),
        units.count(data.tokens_before, "visual token"),
    ]
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<link rel="icon" href="data:,">',
        f"<title>{escape(title)} · framefusion</title>",
        f"<style>\n{style}</style>",
        "</head>",
        "<body>",
        "<header>",
        '<p class="brand">framefusion report</p>',
        f"<h1>{escape(title)}</h1>",
        f'<p class="facts">{escape(" · ".join(facts))}</p>',
        "</header>",
        "<main>",
        _answers(data),
        _numbers(data),
        _strip(data),
        _depth(data),
        _segments(data.segments, data.segmented),
        _repeat(data),
        "</main>",
        "<footer>",
        "<p>Shares are of the visual tokens before any reduction. FLOPs and cache bytes are those of the "
        "decoder’s prefill, estimated from the sequence length in each layer.</p>",
        "</footer>",
        "</body>",
        "</html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _answers(data: ReportData) -> str:
    if data.question is None:
        return ""
    reduced = _answer_card(
        f"With {data.tokens_after:,} of {data.tokens_before:,} visual tokens",
        data.answer or "",
        data.seconds_to_first_token,
        "card reduced",
    )
    if data.full_answer is None or data.full_seconds_to_first_token is None:
        return f'<section class="answers" aria-label="Answer">\n{reduced}\n</section>'
    full = _answer_card(
        f"With all {data.tokens_before:,} visual tokens",
        data.full_answer,
        data.full_seconds_to_first_token,
        "card",
    )
    same = (data.answer or "").strip() == data.full_answer.strip()
    verdict = "The answers are the same" if same else "The answers differ"
    return "\n".join(
        [
            '<section class="answers" aria-label="Answers">',
            full,
            reduced,
            "</section>",
            f'<p class="verdict{"" if same else " differs"}"><span>{verdict}</span></p>',
        ]
    )


def _answer_card(label: str, answer: str, seconds: float, classes: str) -> str:
    text = escape(answer) if answer.strip() else '<span class="empty">no text</span>'
    size = "answer long" if len(answer) > _LONG_ANSWER else "answer"
    return (
        f'<article class="{classes}"><p class="label">{escape(label)}</p>'
        f'<p class="{size}">{text}</p>'
        f'<p class="label">first token after {units.seconds(seconds)}</p></article>'
    )


def _numbers(data: ReportData) -> str:
    share = data.tokens_after / data.tokens_before if data.tokens_before else 1.0
    tiles = [
        ("Visual tokens kept", units.percent(share), f"{data.tokens_after:,} of {data.tokens_before:,}"),
        ("Mean over layers", units.percent(data.mean_share), "of the visual tokens"),
        (
            "Prefill compute",
            units.saved(units.saved_share(data.flops_before, data.flops_after)),
            units.flops(data.flops_before, data.flops_after),
        ),
        (
            "KV cache",
            units.saved(units.saved_share(data.kv_bytes_before, data.kv_bytes_after)),
            units.size(data.kv_bytes_before, data.kv_bytes_after),
        ),
    ]
    now = data.seconds_to_first_token
    if data.full_seconds_to_first_token is None:
        tiles.append(("Time to first token", units.seconds(now), "not compared"))
    else:
        before = data.full_seconds_to_first_token
        tiles.append(
            (
                "Time to first token",
                units.saved(units.saved_share(before, now)),
                f"{units.seconds(before)} → {units.seconds(now)}",
            )
        )
    body = "\n".join(
        f'<div class="card"><dt>{escape(name)}</dt><dd class="value">{escape(value)}</dd>'
        f'<dd class="detail">{escape(detail)}</dd></div>'
        for name, value, detail in tiles
    )
    return (
        f'<dl class="numbers">\n{body}\n</dl>\n'
        f'<p class="note">Time to first token: {escape(data.timing)}. '
        f"The reduction itself took {units.seconds(data.reduction_milliseconds / 1000)}.</p>"
    )


def _strip(data: ReportData) -> str:
    if not data.frames:
        return ""
    merged = '<li><i class="merged"></i>merged: averaged into one that stayed</li>' if data.has_merged else ""
    rows = {row.first_frame: row for row in data.segments}
    frames = "\n".join(_frame(i, frame, rows.get(i), data.segmented) for i, frame in enumerate(data.frames))
    return "\n".join(
        [
            '<section aria-labelledby="frames">',
            '<h2 id="frames">What the model still sees</h2>',
            f'<ul class="legend"><li><i></i>kept</li>{merged}<li><i class="dropped"></i>dropped</li></ul>',
            '<input type="checkbox" id="whole" class="switch"><label for="whole">Show the whole frames</label>',
            *_warnings(data),
            *_unplaced(data.frames),
            f'<ol class="strip" style="--columns:{_columns(len(data.frames))}">\n{frames}\n</ol>',
            "</section>",
        ]
    )


def _warnings(data: ReportData) -> list[str]:
    return [
        f'<p class="note">{escape(row.name)}: {escape(row.warning)}.</p>'
        for row in data.media
        if row.warning is not None
    ]


def _unplaced(frames: Sequence[FrameView]) -> list[str]:
    if all(frame.placed for frame in frames):
        return []
    return [
        '<p class="note">A picture without marks was shown to the model in several views, whose tokens have no single '
        "place in it.</p>"
    ]


def _columns(frames: int) -> int:
    """At most six frames side by side, in rows of about equal length."""
    return math.ceil(frames / math.ceil(frames / (5 if frames <= 15 else 6)))


def _frame(position: int, frame: FrameView, begins: SegmentRow | None, segmented: bool) -> str:
    """One frame of the strip, headed by its segment when it is the first of it."""
    height, width = frame.picture.shape[:2]
    kept, merged, dropped = (frame.count(state) for state in (KEPT, MERGED, DROPPED))
    when = "photograph" if frame.seconds is None else units.clock(frame.seconds)
    what = f"Photograph {position + 1}" if frame.seconds is None else f"Frame {position + 1} at {when}"
    alt = f"{what}: {kept} tokens kept, {merged} merged, {dropped} dropped"
    mask = f'<img class="mask" src="{mask_uri(frame.states)}" alt="">' if frame.placed else ""
    head = ""
    if begins is not None:
        name = f"Segment {begins.number + 1}" if segmented else "All frames"
        head = f"<h3>{name} <span>{begins.kept:,} of {begins.tokens:,}</span></h3>"
    return (
        f'<li{" class=begins" if begins is not None else ""}>{head}<figure><div class="window">'
        f'<img src="{picture_uri(frame.picture)}" width="{width}" height="{height}" alt="{alt}">'
        f"{mask}</div>"
        f"<figcaption><span>{when}</span><span>{kept} of {frame.tokens}</span></figcaption></figure></li>"
    )


def _depth(data: ReportData) -> str:
    stages = "\n".join(
        f"<tr><th scope=row>before layer {stage.layer}</th><td>{stage.kept:,}</td>"
        f"<td>{units.percent(stage.kept / data.tokens_before if data.tokens_before else 1.0)}</td>"
        f"<td>{units.seconds(stage.milliseconds / 1000)}</td></tr>"
        for stage in data.stages
    )
    table = (
        '<div class="card scroll" tabindex="0" role="region" aria-label="Stages"><table>'
        "<caption>Where tokens went</caption><thead><tr><th scope=col>Stage</th><th scope=col>Left</th>"
        f"<th scope=col>Share</th><th scope=col>Took</th></tr></thead><tbody>\n{stages}\n</tbody></table></div>"
        if stages
        else '<p class="card">No stage reduced anything: every visual token reached every layer.</p>'
    )
    return "\n".join(
        [
            '<section aria-labelledby="layers">',
            '<h2 id="layers">Visual tokens per layer</h2>',
            f'<div class="depth">\n{_chart(data.tokens_per_layer, data.tokens_before)}\n{table}\n</div>',
            "</section>",
        ]
    )


def _chart(tokens: Sequence[int], full: int) -> str:
    """Bars in a stretched drawing; the labels are text beside it, so they keep their size on a phone."""
    tracks, bars = [], []
    for layer, present in enumerate(tokens):
        height = 100 * present / full if full else 0.0
        place = f'x="{layer + 0.1:g}" width="0.8"'
        tracks.append(f'<rect class="track" {place} y="0" height="100"/>')
        bars.append(
            f'<rect class="bar" {place} y="{100 - height:.2f}" height="{height:.2f}">'
            f"<title>layer {layer}: {present:,} visual tokens</title></rect>"
        )
    if len(tokens) <= _LABELLED_BARS:
        cells = "".join(f"<span><b>{present:,}</b>{layer}</span>" for layer, present in enumerate(tokens))
        labels = f'<div class="bars" aria-hidden="true">{cells}</div>'
    else:
        labels = (
            f'<div class="ends" aria-hidden="true"><span>layer 0: {tokens[0]:,}</span>'
            f"<span>layer {len(tokens) - 1}: {tokens[-1]:,}</span></div>"
        )
    listing = ", ".join(f"layer {layer}: {present}" for layer, present in enumerate(tokens))
    return (
        f'<div class="card chart"><p class="label">of {full:,}, in decoder layers 0–{len(tokens) - 1}</p>'
        f'<svg viewBox="0 0 {len(tokens)} 100" preserveAspectRatio="none" role="img" '
        f'aria-label="Visual tokens in each decoder layer. {listing}">'
        f"{''.join(tracks)}{''.join(bars)}</svg>{labels}</div>"
    )


def _segments(rows: Sequence[SegmentRow], segmented: bool) -> str:
    if not rows:
        return ""
    lines = "\n".join(
        f"<tr><th scope=row>{row.number + 1}</th><td>{_frame_range(row)}</td>"
        f'<td class="wide">{"" if row.seconds is None else units.clock(row.seconds)}</td>'
        f"<td>{row.tokens:,}</td><td>{row.kept:,}</td><td>{row.merged:,}</td>"
        f'<td>{units.percent(row.share)}<span class="meter"><i style="width:{100 * row.share:.1f}%"></i></span>'
        "</td></tr>"
        for row in rows
    )
    note = "" if segmented else '<p class="note">No stage divided the video: it counts as one segment.</p>'
    return "\n".join(
        [
            '<section aria-labelledby="segments">',
            '<h2 id="segments">Segments</h2>',
            '<div class="card scroll" tabindex="0" role="region" aria-labelledby="segments"><table><thead><tr>'
            '<th scope=col>Segment</th><th scope=col>Frames</th><th scope=col class="wide">Starts</th>'
            "<th scope=col>Tokens</th><th scope=col>Kept</th><th scope=col>Merged</th>"
            f"<th scope=col>Share</th></tr></thead><tbody>\n{lines}\n</tbody></table></div>",
            note,
            "</section>",
        ]
    )


def _frame_range(row: SegmentRow) -> str:
    first, last = row.first_frame + 1, row.last_frame + 1
    return str(first) if first == last else f"{first}–{last}"


def _repeat(data: ReportData) -> str:
    rows = "\n".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in data.settings)
    # A line may end before an option, not inside its hyphens; the text that a reader copies is unchanged.
    words = [f"<span>{word}</span>" if word.startswith("--") else word for word in escape(data.command).split(" ")]
    command = f'<pre class="card">{" ".join(words)}</pre>' if data.command else ""
    return "\n".join(
        [
            '<section aria-labelledby="repeat">',
            '<h2 id="repeat">Repeat it</h2>',
            command,
            f'<dl class="settings">\n{rows}\n</dl>',
            "</section>",
        ]
    )
