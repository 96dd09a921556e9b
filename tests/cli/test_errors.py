"""How commands end: a sentence, and an exit code that follows from the class of the error."""

import errno

import pytest
import torch
import typer
from typer.testing import CliRunner

from framefusion.cli import errors
from framefusion.errors import ArgumentError, FrameFusionError, MissingDependencyError, StateError


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (ArgumentError("keep must be in (0, 1]."), 2, "keep must be in (0, 1]"),
        (StateError("not\n now"), 2, "not now"),
        (MissingDependencyError("needs Ray"), 2, "needs Ray"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.mp4"), 2, "cannot use a.mp4: no such file"),
        (OSError(errno.EIO, "Input/output error", b"a.mp4"), 2, "cannot use a.mp4: input/output error"),
        (OSError("the network is gone"), 2, "the network is gone"),
        (MemoryError(), 2, "there is not enough memory; show fewer frames"),
        (torch.OutOfMemoryError("CUDA"), 2, "there is not enough memory; show fewer frames"),
        (errors.InterruptedCommandError("interrupted; go on"), 130, "interrupted; go on"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyError("a"), 1, "unexpected KeyError: 'a'; this is a defect of framefusion"),
        (ValueError("not ours"), 1, "unexpected ValueError: not ours; this is a defect"),
    ],
)
def test_exit_code_and_sentence_follow_from_the_class(error, code, sentence):
    app = typer.Typer(cls=errors.Commands)

    @app.command()
    def other():
        pass

    @app.command()
    def work():
        raise error

    result = CliRunner().invoke(app, ["work"])
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(f"framefusion: {sentence}")
    assert result.stderr.count("\n") == 1


def test_what_typer_handles_is_left_to_it():
    app = typer.Typer(cls=errors.Commands)

    @app.command()
    def other():
        pass

    @app.command()
    def work(number: int):
        raise typer.Exit(7)

    assert CliRunner().invoke(app, ["work", "1"]).exit_code == 7
    wrong = CliRunner().invoke(app, ["work", "one"])
    assert wrong.exit_code == 2
    assert "Usage" in wrong.stderr


def test_every_class_has_a_code():
    kinds = [kind for kind, _ in errors.EXIT_CODES]
    assert kinds[-1] is BaseException, "the last resort"
    for position, kind in enumerate(kinds):
        assert not any(issubclass(kind, before) for before in kinds[:position]), "is never reached"
    assert issubclass(errors.OptionError, FrameFusionError)


def test_what_is_told_inside_does_not_end_the_command(capsys):
    with errors.told():
        raise ArgumentError("keep must be in (0, 1].")
    with errors.told():
        raise KeyError("a")
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "framefusion: keep must be in (0, 1]"
    assert told[1].startswith("framefusion: unexpected KeyError: 'a'; this is a defect")
    assert len(told) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BrokenPipeError(errno.EPIPE, "gone"), typer.Exit(3)])
def test_what_ends_a_command_goes_through(error):
    with pytest.raises(type(error)), errors.told():
        raise error
