"""The recorded attention equals what eager attention reports, for every choice of query rows, in every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import framefusion
from framefusion import FrameFusion
from framefusion.hf import recording
from framefusion.hf.families import find
from tests.hf import models
from tests.hf.prompts import PROMPTS

LAYER = 2
"""The stage; the layer before is recorded."""


def expected(weights: Tensor, visual: list[Tensor], valid: Tensor, which: str) -> Tensor:
    """``(B, N)`` from ``(B, H, N, N)``, as the docstring of ``relevance`` reads."""
    rows = []
    for b, own in enumerate(weights.mean(1).double()):
        real = valid[b].nonzero().squeeze(-1)
        if which == "last":
            queries = real[-1:]
        elif which == "text":
            after = real[real > (visual[b].max() if len(visual[b]) else -1)]
            queries = after if len(after) and len(visual[b]) else real if not len(visual[b]) else real[-1:]
        else:
            queries = real
        total = own[queries].sum(0)
        if which == "all-viewers":
            # A sliding or bidirectional layer is seen by others than the later tokens.
            rows.append(total / (own[queries] > 0).sum(0).clamp_min(1))
        else:
            rows.append(total / len(queries))
    return torch.stack(rows).float()


@pytest.mark.covering(1)
@pytest.mark.parametrize("which", ["last", "text", "all-viewers"])
def test_equals_eager_attention(name: str, which: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = models.build(name, "eager")
    inputs = case.inputs(PROMPTS["ragged"](case))
    with torch.no_grad():
        # Only layers of softmax attention tell theirs.
        latest = sum(index < LAYER for index in case.attending) - 1
        weights = case.model(**inputs, output_attentions=True).attentions[latest]
    case.model.set_attn_implementation("sdpa")
    seen: list[Tensor] = []
    original = recording.Recorder.record

    def record(self: recording.Recorder, *args: Any) -> None:
        original(self, *args)
        assert self.received is not None
        seen.append(self.received)

    monkeypatch.setattr(recording.Recorder, "record", record)
    settings = FrameFusion(keep={LAYER: 0.3}, relevance=which)
    with framefusion.attach(case.model, settings) as run, torch.no_grad():
        case.model(**inputs)
    (received,) = seen
    visual = [layout.columns for layout in run.layout]
    valid = inputs["attention_mask"].bool()
    # A newline at the end of a video has a placeholder, and is no text; nor is what closes a video.
    ids, closing = inputs["input_ids"], find(case.model).closing
    filled = [torch.isin(row, row[columns]).nonzero().flatten() for row, columns in zip(ids, visual, strict=True)]
    filled = [torch.cat([own, own[-1:] + 1 + torch.arange(closing)]) if len(own) else own for own in filled]
    for b, columns in enumerate(visual):
        if len(columns):
            wanted = expected(weights, filled, valid, which)[b]
            torch.testing.assert_close(received[b, columns], wanted[columns], atol=1e-5, rtol=0)
