"""How long the first token takes in a cell, in turns with all tokens."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from framefusion.asking.ask import generate_timed
from framefusion.asking.encodings import Prompt, collate
from framefusion.asking.loading import LoadedModel
from framefusion.evaluation.answering import Chunk
from framefusion.evaluation.cells import Cell
from framefusion.hf import attach

Times = dict[str, Any]
"""Medians of one cell: ``selection_milliseconds``, ``first_token_seconds``, ``full_first_token_seconds``, and
``timed``, the number of questions."""


def measure(loaded: LoadedModel, chunk: Chunk, full: Cell, cell: Cell, questions: Sequence[str]) -> Times:
    """Time a cell on single questions, each asked with all tokens and with the cell in turns, after a warm-up.

    The video is encoded already: what is timed is the prefill with the reduction in it. Nothing else should run.

    Args:
        loaded: the model.
        chunk: with the questions.
        full: the cell with all tokens.
        cell: the one to time.
        questions: ids of the questions.
    """
    whole, reduced = chunk.prompts_of(full), chunk.prompts_of(cell)
    _one(loaded, full, whole[questions[0]])
    _one(loaded, cell, reduced[questions[0]])
    before, after = [], []
    for question in questions:
        before.append(_one(loaded, full, whole[question]))
        after.append(_one(loaded, cell, reduced[question]))
    return {
        "selection_milliseconds": statistics.median(selection for selection, _ in after),
        "first_token_seconds": statistics.median(seconds for _, seconds in after),
        "full_first_token_seconds": statistics.median(seconds for _, seconds in before),
        "timed": len(questions),
    }


def _one(loaded: LoadedModel, cell: Cell, prompt: Prompt) -> tuple[float, float]:
    """Milliseconds of the stages and seconds to the first token."""
    with attach(loaded.model, cell.settings) as run:
        generation = generate_timed(loaded.model, loaded.processor, collate([prompt], 0), 1)
    return run.summary().reduction_milliseconds, generation.seconds_to_first_token
