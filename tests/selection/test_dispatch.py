"""A backend that does nothing but one greedy for each segment gets everything else from the steps around it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from framefusion.selection import backends, dispatch, plan, reference, select_and_assign, select_tokens
from framefusion.selection.problem import Answer, Problem
from tests.selection.oracle import noise, weights


@pytest.fixture
def simplest(monkeypatch: pytest.MonkeyPatch) -> list[Problem]:
    """A backend "simplest", and what it is asked."""
    asked: list[Problem] = []

    def select(problem: Problem) -> Answer:
        asked.append(problem)
        relevance = [None] * len(problem.samples) if problem.relevance is None else problem.relevance
        early_stop = problem.exhausted == "stop"
        samples = zip(problem.features, relevance, problem.samples, strict=True)
        return [reference.select_segments(x, r, own, early_stop, problem.gamma) for x, r, own in samples]

    module: Any = ModuleType("framefusion.selection.simplest")
    module.OWN_STEPS, module.select = frozenset(), select
    module.check_device, module.select_from_kernel = (lambda device: None), reference.select_from_kernel
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(backends.REGISTRY, "simplest", backends.Entry("simplest"))
    monkeypatch.setattr(backends, "BACKENDS", (*backends.BACKENDS, "simplest"))
    return asked


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"exhausted": "stop"},
        {"exhausted": "restart"},
        {"joint": True},
        {"joint": True, "novelty_lower_bound": 0.3, "at_least": 5},
        {"gamma": 1.0, "joint": True},
    ],
)
def test_every_option_is_a_step_around_it(simplest: list[Problem], options: dict[str, Any]) -> None:
    features, r = noise(2, 60, 6, dtype=torch.float64), weights(2, 60)
    ids = torch.arange(60) // 20
    mine, gains = select_tokens(features, r, ids, 36, backend="simplest", return_gains=True, **options)
    theirs, expected = select_tokens(features, r, ids, 36, backend="numba", return_gains=True, **options)
    assert all(map(torch.equal, mine, theirs))
    for pair in zip(gains, expected, strict=True):
        torch.testing.assert_close(*pair, rtol=1e-6, atol=1e-12)
    for problem in simplest:
        assert (problem.total, problem.novelty_lower_bound) == (None, 0)
        assert problem.exhausted in ("fill", "stop")


def test_long_segments_do_not_reach_it(simplest: list[Problem], monkeypatch: pytest.MonkeyPatch) -> None:
    features, ids = noise(50, 12, dtype=torch.float64), (torch.arange(50) >= 10).long()
    expected = select_tokens(features, None, ids, [4, 9])
    monkeypatch.setattr(plan, "LONG_SEGMENT", 20)
    assert torch.equal(select_tokens(features, None, ids, [4, 9], backend="simplest"), expected)
    assert [[len(s) for own in problem.samples for s in own] for problem in simplest] == [[10]]


@pytest.mark.parametrize("gamma", [None, 1.0])
def test_what_it_leaves_out_is_assigned(
    simplest: list[Problem], monkeypatch: pytest.MonkeyPatch, gamma: float | None
) -> None:
    features, r, ids = noise(60, 8), weights(60), torch.arange(60) % 3
    expected = select_and_assign(features, r, ids, [5, 0, 9], gamma=gamma)
    monkeypatch.setattr(backends, "resolve", lambda name, device: "simplest")
    chosen, nearest, similarity = select_and_assign(features, r, ids, [5, 0, 9], gamma=gamma)
    assert simplest
    assert torch.equal(chosen, expected[0])
    assert torch.equal(nearest, expected[1])
    torch.testing.assert_close(similarity, expected[2], rtol=1e-5, atol=1e-6)


def test_every_backend_is_one() -> None:
    for name in backends.REGISTRY:
        if name == "triton":
            pytest.importorskip("triton")
        module = backends.load(name, torch.device("cpu"))
        assert dispatch.STEPS.keys() >= module.OWN_STEPS
