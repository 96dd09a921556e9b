"""What a video costs a model, from its configuration alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from framefusion.cli.common import silence_transformers, table_console
from framefusion.cli.errors import fail
from framefusion.cli.options import (
    DEFAULT_NEW_TOKENS,
    DtypeOption,
    JsonOption,
    ModelOption,
    NewTokensOption,
    TrustOption,
)
from framefusion.cli.progress import spinner
from framefusion.cli.questions import names

if TYPE_CHECKING:
    from rich.table import Table

    from framefusion.asking.planned import PlanRow, Sizing
    from framefusion.reduction.settings import FrameFusion

T = TypeVar("T")

_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", start=1):
    _UNITS[f"{_letter}B"] = 1000**_power
    _UNITS[f"{_letter}IB"] = 1024**_power


@dataclass(frozen=True)
class PlannedOptions:
    """The reductions to plan for."""

    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="Share of visual tokens that stays, or LAYER:SHARE,…, as of ask; may be repeated."),
    ] = None
    cost: Annotated[
        list[float] | None,
        typer.Option(
            "--cost",
            help="Mean share of visual tokens over all decoder layers; may be repeated. Default without --keep and "
            "--settings: 0.3.",
        ),
    ] = None
    stages: Annotated[
        list[str] | None,
        typer.Option("--stages", help="Where --cost is spent, DEPTH:SHARE,… as of ask; may be repeated."),
    ] = None
    tower: Annotated[
        str | None,
        typer.Option(
            "--tower", help="What the vision tower leaves out, with every reduction: changed or tome, as of ask."
        ),
    ] = None
    settings: Annotated[
        Path | None, typer.Option("--settings", help="A reduction from a file, as calibrate writes it.")
    ] = None


def plan(
    *,
    model: ModelOption = None,
    frames: Annotated[str, typer.Option("--frames", help="Frames shown to the model; several by commas.")] = "32",
    size: Annotated[str, typer.Option("--size", help="Width and height of the video, in pixels.")] = "1280x720",
    reductions: PlannedOptions,
    memory: Annotated[
        str | None,
        typer.Option("--memory", help="For weights and caches, such as 24GiB: tells how many requests fit."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", help="Size of the weights, such as 5GiB. Default: parameters times dtype."),
    ] = None,
    max_new_tokens: NewTokensOption = DEFAULT_NEW_TOKENS,
    fps: Annotated[
        float, typer.Option("--fps", help="Frames shown per second of video; for timestamps in the prompt only.")
    ] = 1.0,
    prompt: Annotated[str, typer.Option("--prompt", help="The question.")] = "Describe the video.",
    per_layer: Annotated[bool, typer.Option("--per-layer", help="Show every decoder layer.")] = False,
    json_: JsonOption = False,
    dtype: DtypeOption = "auto",
    trust_remote_code: TrustOption = False,
) -> None:
    """Visual tokens, KV cache and prefill FLOPs of a video, with and without reduction; no weights needed."""
    counts = [_frames(text) for text in names(frames, "--frames")]
    shape = _size(size)
    room, taken = bytes_of("--memory", memory), bytes_of("--weights", weights)
    with spinner() as progress:
        planned = _settings(reductions)
        silence_transformers()
        from framefusion.asking.sizing import plan as plan_video

        found = plan_video(
            model,
            frames=counts,
            settings=planned or None,
            size=shape,
            fps=fps,
            prompt=prompt,
            new_tokens=max_new_tokens,
            memory=room,
            weights=taken,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    if json_:
        typer.echo(json.dumps(found.as_dict(), ensure_ascii=False))
    else:
        _show(found, per_layer)


COMMANDS = {"plan": plan}


def _frames(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        fail(f"--frames must be whole numbers of at least 1, such as 32,128, got {text!r}")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,5})[x×]([1-9]\d{0,5})", text.strip().lower())
    if found is None:
        fail(f"--size must be width and height such as 1280x720, got {text!r}")
    return int(found[1]), int(found[2])


def bytes_of(option: str, text: str | None) -> int | None:
    """A size such as ``24GiB`` in bytes; None stays None."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)", text.strip())
    unit = None if found is None else _UNITS.get(found[2].upper())
    if found is None or unit is None or int(float(found[1]) * unit) < 1:
        fail(f"{option} must be a size such as 24GiB or 24GB, got {text!r}")
    return int(float(found[1]) * unit)


def _settings(given: PlannedOptions) -> list[FrameFusion]:
    from framefusion.reduction.amounts import parse_keep, parse_stages
    from framefusion.reduction.settings import FrameFusion
    from framefusion.reduction.settings_file import read
    from framefusion.reduction.towers import tower_of

    found = []
    for text in given.keep or []:
        try:
            found.append(FrameFusion(keep=parse_keep(text)))
        except ValueError as error:
            fail(error if str(error).startswith("keep") else f"--keep {error}")
    shapes = [parse_stages(text) for text in given.stages] if given.stages else [None]
    alone = given.tower is not None and not given.keep and given.settings is None
    costs = given.cost or [0.3] * bool(given.stages or alone)
    found += [FrameFusion(cost=share, stages=shape) for share in costs for shape in shapes]
    if given.settings is not None:
        found.append(read(given.settings).settings)
    if given.tower is None:
        return found
    return [replace(one, tower=tower_of("--tower", given.tower)) for one in found]


def _show(found: Sizing, per_layer: bool) -> None:
    from framefusion.showing import units

    known = "" if found.weight_bytes is None else f", {units.size(found.weight_bytes)}"
    width, height = found.size
    typer.echo(
        f"{found.model}: {found.parameters:,} parameters in {found.dtype}{known}; {found.layers} decoder layers. "
        f"Video: {width}×{height}."
    )
    console = table_console()
    console.print(_held(found))
    console.print(_computed(found))
    if per_layer:
        for row in found.rows:
            console.print(_layers(row))
    if not all(row.exact for row in found.rows):
        typer.echo("* What merges, or is new enough to stay, depends on the video: layers as if nothing merged.")
    if any(row.encoder_at_most for row in found.rows):
        typer.echo(
            "≤ What changed depends on the video: the vision tower counts in full, and encodes at most that much."
        )
    for row in found.rows:
        if row.tower_share is not None and not row.encoder_at_most:
            typer.echo(f"{row.plan} with {row.frames:,} frames: {row.tower_share:.0%} of the vision tower's work.")
    typer.echo(
        "Encoder: vision tower and projector. First token: encoder, decoder and language-model head; factor: how many "
        "times less that is than with all tokens, beside the decoder's."
    )
    if found.memory is not None:
        state = f", {units.size(found.state_bytes)} of states each" if found.state_bytes else ""
        typer.echo(
            f"Requests: in {units.size(found.memory)} beside the weights, with answers of {found.new_tokens} "
            f"tokens{state}; activations need more."
        )


def _held(found: Sizing) -> object:
    """Tokens and what they take."""
    from framefusion.showing import units

    table = _table("visual tokens", "last layer", "mean share", "KV cache", "requests" if found.memory else None)
    for row in found.rows:
        cells = [
            f"{row.visual_tokens:,}",
            f"{row.visual_tokens_per_layer[-1]:,}",
            units.percent(row.mean_share),
            units.size(row.kv_bytes),
        ]
        table.add_row(*_start(row), *cells, *([] if row.requests is None else [f"{row.requests:,}"]))
    return table


def _computed(found: Sizing) -> object:
    """What is computed up to the first token, and for each one behind it."""
    from framefusion.showing import units

    table = _table("encoder", "decoder", "first token", "factor", "decoder's", "largest part", "further token")
    for row in found.rows:
        most, least = ("≤ ", "≥ ") if row.encoder_at_most else ("", "")
        table.add_row(
            *_start(row),
            most + _or_dash(row.encoder_flops, units.flops),
            units.flops(row.flops),
            most + _or_dash(row.first_token_flops, units.flops),
            least + _or_dash(row.end_to_end_factor, units.factor),
            units.factor(row.decoder_factor),
            _or_dash(row.largest, lambda part: f"{part[0]} {part[1]:.0%}"),
            units.flops(row.token_flops),
        )
    return table


def _table(*names: str | None) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("frames", "plan", *filter(None, names)):
        table.add_column(name, justify="left" if name == "plan" else "right", no_wrap=True)
    return table


def _start(row: PlanRow) -> tuple[str, str]:
    return f"{row.frames:,}", row.plan + ("" if row.exact else " *")


def _or_dash(value: T | None, say: Callable[[T], str]) -> str:
    return "–" if value is None else say(value)


def _layers(row: PlanRow) -> object:
    from rich import box
    from rich.table import Table

    from framefusion.showing import units

    table = Table(box=box.SIMPLE_HEAD, title=f"{row.frames} frames, {row.plan}", title_justify="left")
    for name in ("layer", "visual tokens", "KV cache", "decoder"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer, tokens in enumerate(row.visual_tokens_per_layer):
        kv, flops = row.kv_bytes_per_layer[layer], row.flops_per_layer[layer]
        table.add_row(str(layer), f"{tokens:,}", units.size(kv), units.flops(flops))
    return table
