"""The same report as lines of text and as a JSON record."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from framefusion.asking.report.data import ReportData
from framefusion.hf.timing import Times
from framefusion.showing import units

_LISTED_SEGMENTS = 6


def lines(data: ReportData) -> list[tuple[str, str]]:
    """Label and value of each line: what was kept and what it saved."""
    rows = [
        ("Visual tokens", units.kept(data.tokens_after, data.tokens_before, data.mean_share)),
        ("Per layer", per_layer(data.tokens_per_layer)),
    ]
    rows += [("Warning", f"{row.name}: {row.warning}") for row in data.media if row.warning is not None]
    if len(data.media) > 1 or any(row.kind == "image" for row in data.media):
        each = (f"{row.name} {row.kept:,} of {row.tokens:,}" for row in data.media)
        rows.append(("Kept of each", ", ".join(each)))
    if sum(row.tokens for row in data.media) > data.tokens_before:
        rows.append(("Photographs", "left as they are, as the settings say, and not counted above"))
    if data.segmented:
        rows.append(("Segments", _segments(data)))
    if data.tower_share is not None:
        rows.append(("Vision tower", units.encoded(data.tower_share)))
    rows += [
        ("Prefill compute", _compute(data)),
        (
            "KV cache",
            units.change(data.kv_bytes_before, data.kv_bytes_after, units.size),
        ),
    ]
    now, before = data.seconds_to_first_token, data.full_seconds_to_first_token
    if now is None:
        rows += [("Parts", _parts(data.times))] if data.times.parts else []
    elif before is None:
        rows.append(("In generate()", f"first token after {units.seconds(now)}"))
    else:
        change = units.saved(units.saved_share(before, now))
        rows.append(("In generate()", f"{change} ({units.seconds(before)} → {units.seconds(now)} to the first token)"))
    if data.times.first_token is not None:
        parts = "Parts" if before is None else "Parts, reduced"
        rows += [("End to end", end_to_end(data)), (parts, _parts(data.times))]
    if data.timing:
        rows.append(("Timing", data.timing))
    return rows


def _compute(data: ReportData) -> str:
    whole = data.first_token_flops
    said = units.compute((data.flops_before, data.flops_after), whole)
    return said if whole is not None else f"{said}; the vision encoder cannot be counted"


def end_to_end(data: ReportData) -> str:
    """The time from the file to the first token, what dominates it, and what every further token takes."""
    times = data.times
    if times.first_token is None:
        return units.NOT_MEASURED
    if data.factor is None or data.full_times is None or data.full_times.first_token is None:
        said = f"{units.seconds(times.first_token)} to the first token"
    else:
        before = units.seconds(data.full_times.first_token)
        said = f"{units.factor(data.factor)} ({before} → {units.seconds(times.first_token)} to the first token)"
        said += "" if data.decoder_factor is None else f", {units.factor(data.decoder_factor)} in the decoder"
    if times.largest is not None:
        name, share = times.largest
        said += f"; {share:.0%} of it {units.PARTS[name]}"
    if times.per_token is not None:
        said += f"; {units.seconds(times.per_token)} for each further token"
    return said


def _parts(times: Times) -> str:
    """``decoding 12 ms, processor 20 ms, …``, also what was not measured."""
    return ", ".join(f"{name} {units.seconds_of(getattr(times, key))}" for key, name in units.PARTS.items())


def _segments(data: ReportData) -> str:
    kept = [row.kept for row in data.segments]
    if len(kept) <= _LISTED_SEGMENTS:
        detail = ", ".join(f"{row.kept:,} of {row.tokens:,}" for row in data.segments)
        return f"{len(kept)}: kept {detail}"
    return f"{len(kept)}: kept {min(kept):,} to {max(kept):,} tokens each"


def per_layer(tokens: Sequence[int]) -> str:
    """Runs of equal layers: ``[512, 512, 102]`` as ``512 × 2, 102``."""
    runs = [(value, len(list(run))) for value, run in groupby(tokens)]
    return ", ".join(f"{value:,}" if length == 1 else f"{value:,} × {length}" for value, length in runs)


def record(data: ReportData) -> dict[str, Any]:
    """One JSON object: plain numbers, texts and lists. Shares are 0 … 1, times in seconds unless named."""
    return {
        "question": data.question,
        "answer": data.answer,
        "full_answer": data.full_answer,
        "video": _video(data),
        "media": [
            {
                "kind": row.kind,
                "name": row.name,
                "duration": row.duration,
                "frame_seconds": _seconds(data, number),
                "tokens": row.tokens,
                "kept": row.kept,
                "warning": row.warning,
            }
            for number, row in enumerate(data.media)
        ],
        "visual_tokens": {
            "before": data.tokens_before,
            "after": data.tokens_after,
            "per_layer": list(data.tokens_per_layer),
            "mean_share": data.mean_share,
        },
        "stages": [{"layer": row.layer, "kept": row.kept, "milliseconds": row.milliseconds} for row in data.stages],
        "segments": [
            {
                "first_frame": row.first_frame,
                "last_frame": row.last_frame,
                "tokens": row.tokens,
                "kept": row.kept,
                "merged": row.merged,
            }
            for row in data.segments
        ]
        if data.segmented
        else None,
        "tower_share": data.tower_share,
        "flops": {
            "before": data.flops_before,
            "after": data.flops_after,
            "encoder": data.encoder_flops,
            "head": data.head_flops,
            "first_token": None if data.first_token_flops is None else list(data.first_token_flops),
        },
        "kv_bytes": {"before": data.kv_bytes_before, "after": data.kv_bytes_after},
        "seconds_to_first_token": {
            "reduced": data.seconds_to_first_token,
            "full": data.full_seconds_to_first_token,
            "timing": data.timing,
        },
        "times": {
            "reduced": data.times.as_dict(),
            "full": None if data.full_times is None else data.full_times.as_dict(),
            "largest_part": None if data.times.largest is None else data.times.largest[0],
            "end_to_end_factor": data.factor,
            "decoder_factor": data.decoder_factor,
        },
        "reduction_milliseconds": data.reduction_milliseconds,
        "command": data.command,
    }


def _video(data: ReportData) -> dict[str, Any] | None:
    """The first video; None with photographs alone."""
    for number, row in enumerate(data.media):
        if row.kind == "video":
            return {"name": row.name, "duration": row.duration, "frame_seconds": _seconds(data, number)}
    return None


def _seconds(data: ReportData, medium: int) -> list[float] | None:
    """When each frame of a video is shown; None for a photograph."""
    found = [frame.seconds for frame in data.frames if frame.medium == medium]
    return None if None in found else [seconds for seconds in found if seconds is not None]
