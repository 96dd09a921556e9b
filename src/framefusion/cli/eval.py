"""Ask every question with every method at every budget, and tell how much of the accuracy stays."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from framefusion.cli.common import silence_transformers, table_console
from framefusion.cli.errors import fail, resumable
from framefusion.cli.options import JsonOption, ModelOptions, WorkOptions
from framefusion.cli.progress import bars
from framefusion.cli.questions import (
    FOOTAGE,
    NEEDLE,
    check_directory,
    command_line,
    dataset,
    names,
    shares,
    usual_model,
)

if TYPE_CHECKING:
    from framefusion.evaluation import Plan

FRAMES = 16
METHODS = "controls,published,ours"
BUDGETS = "0.5,0.3,0.2,0.1,0.05"


@dataclass(frozen=True)
class ComparisonOptions:
    """What is asked, and with which methods."""

    data: Annotated[
        str,
        typer.Option(
            "--data",
            help=f"{NEEDLE}, photos, facts, {FOOTAGE} (film, no model), or a file of JSON lines "
            "(docs/guides/evaluation.md).",
        ),
    ] = NEEDLE
    frames: Annotated[int, typer.Option("--frames", help="Frames of each video.")] = FRAMES
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            help="Names, or all, controls, published, ours, ablations; separated by commas. All tokens "
            "always come along.",
        ),
    ] = METHODS
    budgets: Annotated[
        str, typer.Option("--budgets", help="Mean shares of visual tokens over the decoder layers, each in (0, 1].")
    ] = BUDGETS
    videos: Annotated[
        int | None,
        typer.Option("--videos", help="How many videos. Default: as many as the data set has, 100 of needle."),
    ] = None
    seed: Annotated[int, typer.Option("--seed", help="Of the generated benchmark.")] = 0
    kinds: Annotated[
        str | None,
        typer.Option("--kinds", help="Generated questions to ask, separated by commas. Default: all but count."),
    ] = None
    seeds: Annotated[int, typer.Option("--seeds", help="How many seeds a random method gets.")] = 3

    def plan(self, **more: Any) -> Plan:
        """Methods, budgets and the rest."""
        from framefusion.evaluation import Plan

        methods, budgets = names(self.methods, "--methods"), shares(self.budgets)
        return Plan(frames=self.frames, methods=methods, budgets=budgets, seeds=self.seeds, **more)


def eval_(
    *,
    model: ModelOptions,
    compared: ComparisonOptions,
    out: Annotated[
        Path, typer.Option("--out", help="Directory for the results; what it holds already is not asked again.")
    ] = Path("out/eval"),
    work: WorkOptions,
    timed: Annotated[
        int, typer.Option("--timed", help="Questions on which each cell is timed after all answers; 0 for none.")
    ] = 5,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the results, with matplotlib.")] = True,
    json_: JsonOption = False,
) -> None:
    """Compare methods at equal budgets: accuracy with intervals, time and memory.

    Interrupt it whenever you like; the same command goes on where it was.
    """
    _check(compared, out)
    if compared.data == FOOTAGE:
        if model.model is not None or compared.kinds is not None:
            fail(f"--data {FOOTAGE} asks no model and no questions; leave out --model and --kinds")
        if work.jobs > 1:
            fail(f"--data {FOOTAGE} runs in one process; leave out --jobs")
        _footage(compared, out, json_)
        return
    with bars() as progress, resumable(out):
        silence_transformers()
        from framefusion import evaluation

        generating = evaluation.Generating(work.batch, work.max_new_tokens, work.share)
        what = compared.plan(jobs=work.jobs, timed=timed, generating=generating)
        if plots:
            _check_plots()
        summary = evaluation.evaluate(
            dataset(compared.data, compared.videos, compared.seed, compared.kinds),
            out,
            what,
            model=model.arguments(usual_model(compared.data)),
            command=command_line(sys.argv[1:]),
            progress=progress,
            prepare=silence_transformers,
        )
        _write(summary, out, plots)
    if json_:
        typer.echo(json.dumps(summary, ensure_ascii=False))
    else:
        _show(summary, out)


COMMANDS = {"eval": eval_}


def _check(compared: ComparisonOptions, out: Path) -> None:
    """Refuse what makes no sense before anything heavy is imported."""
    if compared.seed < 0:
        fail(f"--seed must be at least 0, got {compared.seed}")
    if compared.videos is not None and compared.videos < 1:
        fail(f"--videos must be at least 1, got {compared.videos}")
    names(compared.methods, "--methods")
    shares(compared.budgets)
    check_directory(out)


def _footage(compared: ComparisonOptions, out: Path, json_: bool) -> None:
    """Real footage without a model: other results, so other tables."""
    with bars() as progress, resumable(out):
        silence_transformers()
        from framefusion.evaluation.footage_run import VIDEOS, evaluate_footage
        from framefusion.evaluation.footage_summary import people_table, shots_table

        summary = evaluate_footage(
            out,
            compared.plan(),
            videos=VIDEOS if compared.videos is None else compared.videos,
            command=command_line(sys.argv[1:]),
            progress=progress,
        )
    if json_:
        typer.echo(json.dumps(summary, ensure_ascii=False))
        return
    typer.echo(f"{people_table(summary)}\n\n{shots_table(summary)}")
    typer.echo(f"Results in {out}: footage.md, summary.json, rows.jsonl, shots.jsonl")


def _write(summary: dict[str, Any], out: Path, plots: bool) -> None:
    """The page of the results, with pictures or without."""
    from framefusion.evaluation.leaderboard import page

    if plots:
        from framefusion.evaluation.plots import draw

        for part in summary["frames"]:
            draw(part, out)
    text = page(summary, "framefusion eval", images="." if plots else None)
    (out / "leaderboard.md").write_text(text, encoding="utf-8")


def _check_plots() -> None:
    from framefusion.evaluation.plots import require_matplotlib

    try:
        require_matplotlib()
    except ImportError as error:
        fail(f"{error}, or leave them out with --no-plots")


def _show(summary: dict[str, Any], out: Path) -> None:
    from framefusion.evaluation.table import LEGEND, headline, terminal

    console = table_console()
    for part in summary["frames"]:
        console.print(headline(part), highlight=False)
        console.print(terminal(part))
    console.print(LEGEND, style="dim", highlight=False)
    typer.echo(f"Results in {out}: leaderboard.md, summary.json, cells.jsonl, questions.jsonl")
