"""The rules of all methods in the same stages."""

from __future__ import annotations

import pytest

from framefusion import FrameFusion
from framefusion.evaluation.cells import MethodError, choose
from framefusion.evaluation.methods import METHODS
from framefusion.evaluation.methods.method import behind_attention
from framefusion.evaluation.methods.placed import SCHEDULES, placed

WITH_RULE = [method for method in METHODS.values() if method.rule is not None and method.kind != "ablation"]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("method", WITH_RULE, ids=lambda method: method.name)
def test_a_rule_moves_and_nothing_else(method, schedule) -> None:
    assert method.rule is not None
    if schedule != "attention" and method.rule["selector"] == "topk":
        with pytest.raises(ValueError, match="no attention exists before layer 0"):
            placed(method, schedule).settings(0.3, 12)
        return
    settings = placed(method, schedule).settings(0.3, 12)
    stages = {"input": {0: 0.3}, "attention": behind_attention(0.3, 12), "stages": FrameFusion(cost=0.3).shares(12)}
    assert settings.keep == pytest.approx(stages[schedule])
    assert settings == FrameFusion(keep=settings.keep, **method.rule)


def test_names_and_groups_with_stages() -> None:
    found = {method.name for method in choose(["divprune@stages", "published@input"])}
    assert {"full", "divprune@stages", "divprune@input", "holitom@input"} <= found
    assert "framefusion@input" not in found
    with pytest.raises(MethodError, match="there are no stages 'middle'; behind @ comes input, attention, stages"):
        choose(["divprune@middle"])
    with pytest.raises(MethodError, match="there is no method 'no-such@input'"):
        choose(["no-such@input"])
    with pytest.raises(ValueError, match="method 'full' has no rule"):
        placed(METHODS["full"], "input")
    with pytest.raises(ValueError, match="schedule must be one of 'input', 'attention', 'stages', got 'late'"):
        placed(METHODS["evs"], "late")
