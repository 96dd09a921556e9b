"""Options that are declared once: what a command takes, and how what was taken is spelled again."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from framefusion import cli
from framefusion.cli.ask import AskOptions
from framefusion.cli.groups import command_of, option_of, spelled
from framefusion.cli.options import FrameOptions, ModelOptions, ReductionOptions


@dataclass(frozen=True)
class Sizes:
    width: Annotated[int, typer.Option("--width")] = 3
    wide: Annotated[bool, typer.Option("--wide")] = False


def test_a_group_is_its_fields_in_their_place_and_one_argument():
    got = []

    def draw(name: Annotated[str, typer.Argument()], sizes: Sizes, deep: Annotated[int, typer.Option("--deep")] = 1):
        """Draw something."""
        got.append((name, sizes, deep))

    made = command_of(draw)
    assert list(inspect.signature(made).parameters) == ["name", "width", "wide", "deep", "verbose"]
    assert made.__doc__ == "Draw something."
    app = typer.Typer()
    app.command()(made)
    result = CliRunner().invoke(app, ["a", "--wide", "--deep", "4"])
    assert result.exit_code == 0, result.output
    assert got == [("a", Sizes(3, True), 4)]


def test_only_what_differs_is_spelled_and_flags_come_last():
    assert spelled(Sizes()) == []
    assert spelled(Sizes(5, True), FrameOptions(fps=0.5)) == ["--width", "5", "--fps", "0.5", "--wide"]
    assert option_of(AskOptions, "max_new_tokens") == "--max-new-tokens"


TEXTS = st.none() | st.text("ab-1:0,. ", min_size=1).filter(lambda text: not text.startswith("-"))


@given(
    model=st.builds(
        ModelOptions, model=TEXTS, dtype=st.sampled_from(["auto", "bf16"]), trust_remote_code=st.booleans()
    ),
    shown=st.builds(FrameOptions, frames=st.none() | st.integers(1, 99), fps=st.none() | st.floats(0.01, 99)),
    reduction=st.builds(
        ReductionOptions, cost=st.none() | st.floats(0.01, 1), keep=TEXTS, settings=st.just(Path("a b"))
    ),
    own=st.builds(AskOptions, compare=st.booleans(), max_new_tokens=st.integers(1, 99)),
)
def test_what_is_spelled_is_what_was_asked(model, shown, reduction, own):
    got = []

    def ask(model: ModelOptions, shown: FrameOptions, reduction: ReductionOptions, own: AskOptions):
        got.append((model, shown, reduction, own))

    app = typer.Typer()
    app.command()(command_of(ask))
    result = CliRunner().invoke(app, spelled(model, shown, reduction, own))
    assert result.exit_code == 0, result.output
    assert got == [(model, shown, reduction, own)]


@pytest.mark.parametrize("name", [command.name for command in cli.app.registered_commands])
def test_every_command_has_help_and_verbose(name):
    result = CliRunner().invoke(cli.app, [name, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "--verbose" in result.stdout
