"""Every rule that needs no model on real footage: ``framefusion eval --data footage``.

A rule runs as the stage before the first layer of a decoder that has a single one: what it does there without attention
and without a question. Rules that rank by attention have nothing to go by there and are listed as left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framefusion import log
from framefusion.asking.provenance import versions
from framefusion.evaluation import dinov2, footage, footage_shots
from framefusion.evaluation.cells import Cell, MethodError, Unreachable, choose
from framefusion.evaluation.footage import Film, Tools
from framefusion.evaluation.footage_summary import COMPARED, page, summarise
from framefusion.evaluation.methods import BudgetError, Method
from framefusion.evaluation.plan import SEED, Plan
from framefusion.evaluation.statistics import LEVEL, RESAMPLES
from framefusion.evaluation.store import Store
from framefusion.progress import Progress, Silent
from framefusion.reduction.layout import VisualItem, VisualLayout
from framefusion.reduction.reducer import Reduction
from framefusion.reduction.rules import name_of
from framefusion.reduction.segmentation import SEGMENTATIONS
from framefusion.reduction.settings import FrameFusion
from framefusion.reduction.sources import Relevance

VIDEOS = 4
"""Videos of the pedestrian clip unless said otherwise."""
TOLERANCE = 1
"""Sampled frames by which a boundary may be off."""
ROWS, SHOTS = "rows.jsonl", "shots.jsonl"


def evaluate_footage(
    out: Path,
    what: Plan | None = None,
    *,
    videos: int = VIDEOS,
    command: str = "framefusion.evaluation.evaluate_footage",
    progress: Progress | None = None,
    cache: Path | None = None,
    tools: Tools | None = None,
) -> dict[str, Any]:
    """Who keeps a token, by rule and budget, and which cuts a segmentation finds.

    What is measured is written to ``out`` at once and never measured again, whenever this is interrupted.
    ``rows.jsonl`` has a line for each cell and video, ``shots.jsonl`` one for each film and segmentation,
    ``footage.md`` the tables.

    Args:
        out: directory for the results.
        what: methods, budgets, frames and seeds; the rest has no meaning here. Default ``Plan(frames=32)``.
        videos: of the pedestrian clip, as many times ``frames`` frames are sampled.
        command: how to repeat it, for whoever reads the results.
        progress: told what is under way.
        cache: folder for what is fetched; default that of :mod:`framefusion.evaluation.parts`.
        tools: the networks that look at films; default the real ones.

    Returns:
        The content of ``summary.json``: provenance, and what
        :func:`framefusion.evaluation.footage_summary.summarise` returns.

    Raises:
        MethodError: no such method, or none of them can run without a model.
        DataError: a clip or network cannot be fetched or read.
        LogError: ``out`` holds something else, or is damaged.
        MissingDependencyError: onnx or scipy is not installed.
    """
    what, progress = what or Plan(frames=32), progress or Silent()
    tools = tools or Tools(cache)
    cells, missing = plan(choose(what.methods), what.budgets, what.frames, what.seeds)
    if not cells:
        raise MethodError(f"no method of {', '.join(what.methods)} runs without a model; try controls or ours")
    store = Store(out)
    identity = {
        "model": f"none, DINOv2-S/14 ({dinov2.PACKAGE} {dinov2.VERSION})",
        "data": f"footage, {videos} videos",
        "new_tokens": 0,
    }
    manifest = store.open(identity, command, versions())

    progress.step("Looking at the pedestrians")
    _reduce(footage.pedestrians(videos, what.frames, cache, tools), cells, out / ROWS, progress)
    progress.step("Looking for cuts")
    _look_for_cuts(footage.cut_films(cache, tools), out / SHOTS)
    progress.step("Summing up")
    keys = {cell.key for cell in cells}
    rows = [row for row in log.read(out / ROWS) if row["cell"] in keys]
    summary = {
        **manifest,
        "frames": what.frames,
        "videos": videos,
        "seed": SEED,
        "resamples": RESAMPLES,
        "level": LEVEL,
        "tolerance": TOLERANCE,
        **summarise(rows, log.read(out / SHOTS), missing, seed=SEED),
    }
    store.write("summary.json", json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    store.write("footage.md", page(summary))
    return summary


def _reduce(films: Sequence[Film], cells: Sequence[Cell], path: Path, progress: Progress) -> None:
    """Write what is not written yet of every video and cell."""
    done = {(row["cell"], row["video"]) for row in log.read(path)}
    left = [(cell, number) for number in range(len(films)) for cell in cells if (cell.key, number) not in done]
    progress.step("Reducing", len(left))
    for cell, number in left:
        log.append(path, [{**_about(cell), "video": number, **measured(films[number], cell)}])
        progress.advance(1)


def _look_for_cuts(films: Sequence[Film], path: Path) -> None:
    """Write what is not written yet of every film and segmentation."""
    known = {(row["film"], row["segmentation"]) for row in log.read(path)}
    for film in films:
        for settings in segmentations():
            if (film.name, name_of(settings.segmentation, SEGMENTATIONS)) not in known:
                log.append(path, [cuts(film, settings)])


def plan(
    methods: Sequence[Method], budgets: Sequence[float], frames: int, seeds: int
) -> tuple[list[Cell], list[Unreachable]]:
    """The cells of the methods that have something to do before the first layer, and why the others have not.

    Args:
        methods: from ``framefusion.evaluation.methods``; those without a budget show everything or
            nothing and are not listed.
        budgets: shares of the tokens, each in (0, 1].
        frames: of a video.
        seeds: how many a random method gets.
    """
    cells: list[Cell] = []
    missing: list[Unreachable] = []
    known: dict[tuple[str, int], str] = {}
    for method in methods:
        for budget in budgets if method.budgeted else ():
            try:
                shown = frames if method.frames is None else method.frames(budget, frames)
                settings = _alone(method, budget)
            except (BudgetError, MethodError) as error:
                missing.append(Unreachable(method.name, budget, frames, str(error)))
                continue
            same = known.setdefault((repr(without_attention(settings)), shown), method.name)
            if same != method.name:
                missing.append(Unreachable(method.name, budget, frames, f"the same as {same} where there is no model"))
                continue
            cell = Cell(method.name, budget, 0, frames, shown, method.blank, settings)
            others = range(1, seeds if method.random else 1)
            cells += [cell, *(replace(cell, seed=s, settings=replace(settings, seed=s)) for s in others)]
    return cells, missing


def _alone(method: Method, budget: float) -> FrameFusion:
    """The settings of a method in a decoder of one layer.

    Raises:
        MethodError: there is nothing that it could do.
    """
    try:
        settings = method.settings(budget, layers=1)
    except BudgetError as error:
        raise MethodError("begins behind a layer that runs on every token") from error
    if settings.relevance.source == "similarity":
        raise MethodError("goes by the similarity to a question, and there is none")
    if settings.relevance.of.encoder:
        raise MethodError("goes by the attention of the vision encoder, which is not read here")
    return settings


def without_attention(settings: FrameFusion) -> FrameFusion:
    """The same settings where no attention was ever recorded."""
    if settings.relevance.source == "dissimilarity":
        return settings
    return replace(settings, relevance=Relevance("none"))


def _about(cell: Cell) -> dict[str, Any]:
    (method,) = [found for found in choose([cell.method]) if found.name == cell.method]
    return {
        "cell": cell.key,
        "method": cell.method,
        "title": method.title,
        "kind": method.kind,
        "budget": cell.budget,
        "seed": cell.seed,
    }


def measured(one: Film, cell: Cell) -> dict[str, Any]:
    """One cell on one video.

    Returns:
        ``tokens`` of the video, how many were ``kept``, host ``milliseconds`` of the rule, and ``people``: for each
        the frame, the patches that show it, how many of them were kept, and how many left a trace, kept ones and those
        averaged into kept ones.
    """
    tokens = one.features[..., 0].numel()
    started = time.perf_counter()
    kept, traced = reduced(one, cell)
    milliseconds = (time.perf_counter() - started) * 1e3
    people = []
    for frame, patches in one.people:
        mine = frame * footage.SIDE**2 + torch.tensor(patches)
        people.append([frame, len(patches), int(kept[mine].sum()), int(traced[mine].sum())])
    return {"tokens": tokens, "kept": int(kept.sum()), "milliseconds": round(milliseconds, 1), "people": people}


def reduced(one: Film, cell: Cell) -> tuple[Tensor, Tensor]:
    """Which tokens a cell keeps, and which leave a trace in one that is kept: ``(T·H·W,)`` bool each."""
    frames, height, width, _ = one.features.shape
    kept = torch.ones(frames, height * width, dtype=torch.bool)
    if cell.shown < frames:
        # The middles of equal intervals, as a video is sampled.
        kept[:] = False
        kept[[(2 * i + 1) * frames // (2 * cell.shown) for i in range(cell.shown)]] = True
    kept = kept.flatten()
    reduction = reduction_of(one, cell.settings)
    if not reduction.stages:
        return kept, kept
    stays = torch.zeros_like(kept)
    stays[reduction.stages[-1].kept[0]] = True
    return stays, reduction.merged_into[0] >= 0


def reduction_of(one: Film, settings: FrameFusion) -> Reduction:
    """The stage before layer 0 on a film and nothing else: token ``n`` is column ``n``."""
    frames, height, width, size = one.features.shape
    layout = VisualLayout.of([VisualItem.run("video", (frames, height, width), 0)])
    reduction = Reduction(settings, [layout], torch.ones(1, len(layout), dtype=torch.bool), layers=1)
    reduction.before_layer(0, one.features.reshape(1, -1, size))
    return reduction


def segmentations() -> Iterator[FrameFusion]:
    """Settings with each segmentation that looks at the tokens."""
    for name in COMPARED:
        yield FrameFusion(keep={0: 0.5}, segmentation=name, selector="uniform", dropped="drop")


def cuts(one: Film, settings: FrameFusion) -> Mapping[str, Any]:
    """The cuts that a segmentation finds in a film, beside the true ones."""
    segments = reduction_of(one, settings).segments
    assert segments is not None
    of_frame = segments[0].reshape(len(one), -1)[:, 0]
    found = (of_frame.diff().nonzero().squeeze(-1) + 1).tolist()
    return {
        "film": one.name,
        "frames": len(one),
        "segmentation": name_of(settings.segmentation, SEGMENTATIONS),
        "threshold": getattr(settings.segmentation, "threshold", None),
        "found": found,
        "true": list(one.starts),
        "matched": footage_shots.matched(found, one.starts, TOLERANCE),
    }
