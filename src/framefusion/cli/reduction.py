"""From the options of a reduction to its settings, and whether a calibration holds with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from framefusion.assets import usual_frames
from framefusion.cli.common import importing
from framefusion.cli.errors import fail
from framefusion.cli.groups import option_of
from framefusion.cli.options import FrameOptions, ModelOptions, ReductionOptions

if TYPE_CHECKING:
    from framefusion.reduction.settings_file import Calibration, StoredSettings


def check_options(shown: FrameOptions, reduction: ReductionOptions, max_new_tokens: int = 1) -> None:
    """Refuse options that contradict each other before anything slow begins."""
    if reduction.cost is not None and reduction.keep is not None:
        fail("--keep and --cost exclude each other; give one of them")
    if reduction.settings is not None:
        for field in dataclasses.fields(reduction):
            if field.name != "settings" and getattr(reduction, field.name) is not None:
                option = option_of(ReductionOptions, field.name)
                fail(f"--settings and {option} exclude each other; the file says all about the reduction")
    if shown.frames is not None and shown.fps is not None:
        fail("--frames and --fps exclude each other; give one of them")
    if max_new_tokens < 1:
        fail(f"--max-new-tokens must be at least 1, got {max_new_tokens}")


def stored_settings(reduction: ReductionOptions) -> StoredSettings:
    """The settings that the options say, or their file."""
    with importing("torch"):
        from framefusion.reduction.amounts import parse_keep, parse_stages
        from framefusion.reduction.settings import FrameFusion
        from framefusion.reduction.settings_file import StoredSettings, read
        from framefusion.reduction.towers import tower_of

    try:
        keep = None if reduction.keep is None else parse_keep(reduction.keep)
    except ValueError as error:
        fail(f"--keep {error}")
    if reduction.settings is not None:
        return read(reduction.settings)
    if reduction.similarity is not None and reduction.segmentation != "frame-similarity":
        fail("--similarity is of --segmentation frame-similarity; give both, or leave it out")
    given = {"segmentation": reduction.segmentation, "similarity_lower_bound": reduction.similarity}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    stages = None if reduction.stages is None else parse_stages(reduction.stages)
    try:
        tower = tower_of("--tower", reduction.tower)
    except ValueError as error:
        fail(str(error).rstrip("."))
    return StoredSettings(FrameFusion(cost=reduction.cost, keep=keep, stages=stages, tower=tower, **chosen))


def shown_frames(shown: FrameOptions, model: ModelOptions, calibration: Calibration | None) -> int | None:
    """How many frames to show; None if that depends on the video."""
    if shown.frames is not None or shown.fps is not None:
        return shown.frames
    return usual_frames(model.model) if calibration is None else calibration.frames


def warn_elsewhere(
    shown: FrameOptions, reduction: ReductionOptions, described: Callable[[], str], calibration: Calibration | None
) -> None:
    """Say where a floor was not shown: on another model, or another number of frames.

    Args:
        shown: the options.
        reduction: the options, with the file of the calibration.
        described: makes the description of the model that answers.
        calibration: of the file; None without one.
    """
    if calibration is None:
        return
    elsewhere = []
    if calibration.model != described():
        elsewhere.append(f"the model {calibration.model}")
    if shown.fps is not None or shown.frames not in (None, calibration.frames):
        elsewhere.append(f"{calibration.frames} frames")
    if elsewhere:
        typer.echo(
            f"framefusion: {reduction.settings} was calibrated on {' and '.join(elsewhere)}; its floor of "
            f"{calibration.floor:g} may not hold here",
            err=True,
        )
