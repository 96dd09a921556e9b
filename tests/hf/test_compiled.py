"""What ``torch.compile`` makes of an attached model: graph breaks, recompilations, and equal logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

import framefusion
from framefusion import FrameFusion
from tests.hf import models
from tests.hf.case import Case
from tests.hf.prompts import PROMPTS
from tests.hf.ways import TOLERANCE

STEPS = 2


@torch.no_grad()
def said(case: Case, forward: Any) -> torch.Tensor:
    """The logits behind a prefill and of a few steps on its cache."""
    out = forward(**case.inputs(PROMPTS["single"](case)))
    logits = [out.logits[:, -1]]
    for word in range(20, 20 + STEPS):
        out = forward(input_ids=torch.tensor([[word]]), past_key_values=out.past_key_values)
        logits.append(out.logits[:, -1])
    return torch.stack(logits)


def breaks(case: Case, calls: int = 1) -> tuple[int, torch.Tensor]:
    """Graph breaks of ``torch.compile(model.forward)``, and what it said last."""
    torch.compiler.reset()
    counters.clear()
    compiled = torch.compile(case.model.forward, backend="eager")
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for _ in range(calls):
            logits = said(case, compiled)
    return sum(counters["graph_break"].values()), logits


# Another family has other positions, which are made before the first layer; its steps are in the matrix.
@pytest.mark.parametrize("family", ["llava_onevision", pytest.param("qwen2_5_vl", marks=pytest.mark.whole)])
def test_one_graph_break_more_than_the_plain_model(family: str) -> None:
    """One for all stages: dynamo would run a loop with a break in it layer by layer. A step is one graph; where it is
    not, every layer is a graph of its own, and dynamo reaches its limit of recompilations."""
    case = models.build(family)
    plain, _ = breaks(case)
    with framefusion.attach(case.model, FrameFusion()) as run:
        expected = said(case, case.model)
        assert len(run.stages) == 2
        reduced, logits = breaks(case, calls=2)
        assert run.tokens_per_layer[-1] < run.summary().visual_tokens_before
    assert reduced <= plain + 1
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)
