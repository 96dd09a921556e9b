"""Which stages fit a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from framefusion.assets import BUNDLED, usual_frames
from framefusion.cli.common import silence_transformers, table_console
from framefusion.cli.errors import fail
from framefusion.cli.options import FramesOption, JsonOption, ModelOptions
from framefusion.cli.progress import bars
from framefusion.cli.questions import NEEDLE, dataset, usual_model

if TYPE_CHECKING:
    from framefusion.asking.probe import Probed
    from framefusion.evaluation import Dataset

DEMO = "demo"
"""What ``--data`` calls the bundled videos with questions that fit any video."""


def probe(
    model: ModelOptions,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help=f"Your questions, a file of JSON lines (labels are not looked at); {DEMO}, the bundled videos; or "
            f"{NEEDLE}, photos, facts. Default: {NEEDLE} for a bundled model, {DEMO} for others.",
        ),
    ] = None,
    cost: Annotated[
        float, typer.Option("--cost", help="Mean share of visual tokens over all decoder layers, in (0, 1).")
    ] = 0.3,
    prompts: Annotated[int, typer.Option("--prompts", help="How many questions to ask, at least 2.")] = 8,
    frames: FramesOption = None,
    seed: Annotated[int, typer.Option("--seed", help="Of generated questions.")] = 1,
    keep: Annotated[
        bool, typer.Option("--save/--no-save", help="Keep the stages for --stages auto on this model.")
    ] = True,
    json_: JsonOption = False,
) -> None:
    """Find the stages of a cost that fit a model, without labels, and keep them for --stages auto.

    Each question is read with all tokens and with what each candidate leaves; what counts is how far the distribution
    of the next token moves.
    """
    if prompts < 2:
        fail(f"--prompts must be at least 2, got {prompts}")
    if not 0 < cost < 1:
        fail(f"--cost must be above 0 and below 1, got {cost:g}")
    if seed < 0:
        fail(f"--seed must be at least 0, got {seed}")
    named = data or (NEEDLE if model.model is None or model.model in BUNDLED else DEMO)
    arguments = model.arguments(usual_model(named))
    shown = frames if frames is not None else usual_frames(arguments["model"])
    with bars() as progress:
        silence_transformers()
        from framefusion.evaluation.checkpoints import open_model
        from framefusion.evaluation.probing import chosen, probe_data

        asked = _questions(named, prompts, seed)
        questions = chosen(asked.questions(shown), prompts)
        loaded = open_model(arguments)
        found = probe_data(loaded, asked, shown, questions, cost, progress)
        path = found.save() if keep else None
    if json_:
        told = {**found.as_dict(), "model": loaded.name, "data": asked.name, "frames": shown}
        typer.echo(json.dumps({**told, "written": None if path is None else str(path)}, ensure_ascii=False))
    else:
        _show(found, loaded.name, path)


COMMANDS = {"probe": probe}


def _questions(name: str, prompts: int, seed: int) -> Dataset:
    from framefusion.evaluation.probing import Demo

    return Demo() if name == DEMO else dataset(name, prompts, seed)


def _show(found: Probed, model: str, path: Path | None) -> None:
    from rich import box
    from rich.table import Table

    from framefusion.reduction.amounts import stages_text

    typer.echo(f"{model} at a cost of {found.cost:g}, {found.prompts} prompts, next token against all tokens:")
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("stages", "divergence", "gain", "agreement"):
        table.add_column(column, justify="left" if column == "stages" else "right", no_wrap=True)
    for entry in sorted(found.tried, key=lambda entry: entry.divergence):
        default = entry is found.tried[0]
        table.add_row(
            stages_text(entry.stages) + (" (default)" if default else ""),
            f"{entry.divergence:.4f}",
            "" if default else f"{entry.gain:+.4f} ± {entry.error:.4f}",
            f"{100 * entry.agreement:.0f} %",
            style="bold" if entry.stages == found.stages else "",
        )
    table_console().print(table)
    if found.stages == found.tried[0].stages:
        typer.echo("No stages are clearly better than the default ones.")
    else:
        typer.echo(f"Stages that fit: {stages_text(found.stages)}")
    if path is not None:
        typer.echo(f"Written to {path}:")
        typer.echo(f"  framefusion ask VIDEO QUESTION --cost {found.cost:g} --stages auto")
