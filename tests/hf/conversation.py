"""A conversation with a video in each of two turns, held in one cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import framefusion
from framefusion.reduction.held import Stage
from tests.hf.case import FIRST_WORD, Case, Video

STEPS = 4


class Conversation:
    """A first turn with a video, two decoded tokens, a second turn with another video, and decoding."""

    def __init__(self, case: Case) -> None:
        self.case = case
        video = Video(6, *case.frame)
        self.whole = case.inputs([[3, video, 9, video, 7]])
        # The first turn ends in the text between the videos, as if an answer had been decoded there.
        self.first = 3 + len(case.wrap(video)) + 4
        self.second = self.first + 2

    @torch.no_grad()
    def run(self, run: framefusion.Run | None = None) -> tuple[Tensor, Tensor, list[list[Stage]]]:
        """The logits ``(1, STEPS, V)`` behind the second turn, the sequence, and the stages of both prefills."""
        case, ids, stages, cache = self.case, self.whole["input_ids"], [], None
        logits: list[Tensor] = []
        calls = [slice(0, self.first), *(slice(c, c + 1) for c in range(self.first, self.second))]
        for columns in [*calls, slice(self.second, None)]:
            part = ids[:, columns]
            pixels = {} if part.shape[1] == 1 else self._pixels(int(columns.start > 0))
            types = case.types(part)
            if case.whole_types:
                # Read by position in the conversation.
                types = case.types(ids[:, : columns.stop])
            out = case.model(input_ids=part, **pixels, **types, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            if run is not None and pixels:
                stages.append(run.stages)
                assert run.tokens_per_layer[-1] < run.summary().visual_tokens_before
        sequence = ids
        for _ in range(STEPS):
            logits.append(out.logits[:, -1])
            token = logits[-1][:, FIRST_WORD:].argmax(-1, keepdim=True) + FIRST_WORD
            assert cache.get_seq_length() == sequence.shape[1]
            sequence = torch.cat([sequence, token], dim=1)
            out = case.model(input_ids=token, past_key_values=cache, use_cache=True)
        return torch.stack(logits, 1), sequence, stages

    def _pixels(self, which: int) -> dict[str, Any]:
        """The inputs of one of the two videos, which are of one size."""
        texts = ("input_ids", "attention_mask", *self.case.types(self.whole["input_ids"]))
        # Views may be packed one behind the other.
        own = {
            name: value.chunk(2, dim=-1 if len(value) == 1 else 0)[which]
            for name, value in self.whole.items()
            if name not in texts
        }
        # Places among the patches of a call begin at the first one.
        return {name: value - value.min() if name.endswith("_pooling") else value for name, value in own.items()}
