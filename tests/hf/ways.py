"""Every way to generate, each checked against the masked oracle: one function and one line per way.

A way runs an attached model and returns what it said; the matrix compares all of it with the oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import framefusion
from framefusion import FrameFusion
from framefusion.reducer import Stage
from tests.hf import oracle
from tests.hf.case import FIRST_WORD, Case

STEPS = 6
"""Generated tokens: the prefill's and five decoded ones."""


@dataclass
class Said:
    """What a way generated.

    Attributes:
        logits: ``(B, STEPS, V)``, or None if the way only tells scores.
        sequences: ``(B, N + STEPS)``.
        stages: of the prefill.
        scores: ``(B,)`` log probability of the generated tokens, or None.
    """

    logits: Tensor | None
    sequences: Tensor
    stages: Sequence[Stage]
    scores: Tensor | None = None


def generate(case: Case, inputs: dict[str, Any], **kwargs: Any) -> Any:
    """``generate()`` that only says words and tells the raw logits."""
    options: dict[str, Any] = {
        "do_sample": False,
        "max_new_tokens": STEPS,
        "suppress_tokens": list(range(FIRST_WORD)),
        "output_logits": True,
        "return_dict_in_generate": True,
        **kwargs,
    }
    with torch.no_grad():
        return case.model.generate(**inputs, **options)


def _plain(case: Case, inputs: dict[str, Any], run: framefusion.Run, **kwargs: Any) -> Said:
    out = generate(case, inputs, **kwargs)
    return Said(torch.stack(out.logits, 1), out.sequences, run.stages)


def greedy(case: Case, inputs: dict[str, Any], run: framefusion.Run) -> Said:
    return _plain(case, inputs, run)


def sampling(case: Case, inputs: dict[str, Any], run: framefusion.Run) -> Said:
    torch.manual_seed(3)
    return _plain(case, inputs, run, do_sample=True, top_k=5)


def returned_sequences(case: Case, inputs: dict[str, Any], run: framefusion.Run) -> Said:
    torch.manual_seed(3)
    return _plain(case, inputs, run, do_sample=True, num_return_sequences=2)


def beams(case: Case, inputs: dict[str, Any], run: framefusion.Run) -> Said:
    out = generate(case, inputs, num_beams=3, num_return_sequences=2, length_penalty=0.0, output_scores=True)
    # The prefill saw three rows a sample, of which two come back.
    stages = [_rows(stage, [3 * (row // 2) for row in range(len(out.sequences))]) for stage in run.stages]
    return Said(None, out.sequences, stages, out.sequences_scores)


def prompt_lookup(case: Case, inputs: dict[str, Any], run: framefusion.Run) -> Said:
    return _plain(case, inputs, run, prompt_lookup_num_tokens=2)


def static_cache(case: Case, inputs: dict[str, Any], run: framefusion.Run) -> Said:
    return _plain(case, inputs, run, cache_implementation="static", disable_compile=True)


def manual(case: Case, inputs: dict[str, Any], run: framefusion.Run) -> Said:
    """A decoding loop without ``generate()``."""
    return manual_loop(case, inputs, run, None)


def manual_loop(case: Case, inputs: dict[str, Any], run: framefusion.Run, cache: Any) -> Said:
    sequence, logits = inputs["input_ids"], []
    step: dict[str, Any] = dict(inputs)
    for _ in range(STEPS):
        with torch.no_grad():
            out = case.model(**step, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logits.append(out.logits[:, -1])
        token = logits[-1][:, FIRST_WORD:].argmax(-1, keepdim=True) + FIRST_WORD
        assert int(cache.get_seq_length()) == sequence.shape[1]
        sequence = torch.cat([sequence, token], dim=1)
        step = {"input_ids": token}
    return Said(torch.stack(logits, 1), sequence, run.stages)


WAYS: dict[str, Callable[[Case, dict[str, Any], framefusion.Run], Said]] = {
    "greedy": greedy,
    "sampling": sampling,
    "num_return_sequences": returned_sequences,
    "beams": beams,
    "prompt lookup": prompt_lookup,
    "StaticCache": static_cache,
    "manual loop": manual,
}

ONE_ROW = ("prompt lookup", "manual loop")
"""Ways that transformers itself only offers for one row (or, in a loop without ``generate()``, for equal rows)."""

PLANS: dict[str, FrameFusion] = {
    "merge, then prune": FrameFusion(cost=0.4, similarity_lower_bound=0.8),
    "two stages": FrameFusion(keep={1: 0.5, 3: 0.15}),
    "before layer 0": FrameFusion(keep={0: 0.4, 2: 0.2}, relevance="text"),
    "merge, then keep": FrameFusion(keep={2: 0.3}, merge=True, similarity_lower_bound=0.8, relevance_sign=-1),
}


def _rows(stage: Stage, rows: Sequence[int]) -> Stage:
    """The same stage for some rows of the batch."""
    merged = None if stage.merged_into is None else [stage.merged_into[row] for row in rows]
    return Stage(stage.layer, [stage.kept[row] for row in rows], merged, stage.milliseconds)


def difference(case: Case, inputs: dict[str, Any], said: Said) -> float:
    """The largest difference between what a way said and the masked oracle."""
    batch, worst = len(inputs["input_ids"]), 0.0
    returned = len(said.sequences) // batch
    for turn in range(returned):
        rows = range(turn, len(said.sequences), returned)
        sequences = said.sequences[turn::returned]
        expected = oracle.logits(case.model, inputs, [_rows(stage, rows) for stage in said.stages], sequences)
        if said.logits is not None:
            worst = max(worst, float((said.logits[turn::returned] - expected).abs().max()))
        if said.scores is not None:
            scores = expected.log_softmax(-1).gather(-1, sequences[:, -STEPS:, None]).sum((1, 2))
            worst = max(worst, float((said.scores[turn::returned] - scores).abs().max()))
    return worst
