"""The selection under torch.compile and as registered operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from framefusion import select_tokens
from framefusion.selection import greedy_map, ops
from tests.selection.oracle import noise, weights

IDS = torch.arange(24) // 8
BUDGETS: list[Any] = [7, {2: 3, 0: 20}, [1, 0, 5]]


@pytest.fixture(autouse=True)
def compiled_anew() -> None:
    torch._dynamo.reset()


def keep(features: Tensor, relevance: Tensor | None, ids: Tensor | None, budgets: Any, **choices: Any) -> Any:
    return select_tokens(features * 2, relevance, ids, budgets, **choices)


@pytest.mark.parametrize("budgets", BUDGETS)
@pytest.mark.parametrize("exhausted", ["fill", "stop"])
def test_traces_without_a_graph_break(budgets: Any, exhausted: str) -> None:
    features, r = noise(24, 5), weights(24)
    compiled = torch.compile(keep, fullgraph=True, backend="eager")
    expected = keep(features, r, IDS, budgets, exhausted=exhausted)
    assert torch.equal(compiled(features, r, IDS, budgets, exhausted=exhausted), expected)


def test_what_is_selected_goes_on_in_the_graph(pytestconfig: pytest.Config) -> None:
    """``make test`` lowers the graph, ``make test-all`` also makes C++ of it, for a quarter of a minute."""

    def gather(features: Tensor) -> Tensor:
        return features[select_tokens(features, None, None, 6)].sum(0) * 2

    features = noise(24, 5)
    whole = pytestconfig.getoption("--matrix") is not None
    backend = "inductor" if whole else "aot_eager_decomp_partition"
    compiled = torch.compile(gather, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(features), gather(features))


@pytest.mark.parametrize("budgets", [7, [1, 0, 5], [{0: 2}, {1: 3, 2: 8}]])
def test_batches_and_gains_trace(budgets: Any) -> None:
    features = noise(2, 24, 5)
    compiled = torch.compile(keep, fullgraph=True, backend="eager")
    kept, gains = compiled(features, None, IDS, budgets, return_gains=True)
    expected, expected_gains = keep(features, None, IDS, budgets, return_gains=True)
    assert all(map(torch.equal, kept, expected))
    assert all(map(torch.equal, gains, expected_gains))


def test_kernels_trace() -> None:
    features = noise(24, 5)
    kernel = features @ features.T
    compiled = torch.compile(lambda matrix: greedy_map(matrix, 4), fullgraph=True, backend="eager")
    assert torch.equal(compiled(kernel), greedy_map(kernel, 4))


def test_sizes_that_the_budgets_decide_are_part_of_the_graph() -> None:
    with torch._subclasses.FakeTensorMode() as mode:
        features = mode.from_tensor(noise(24, 5))
        arguments = ("auto", "fill", None, False, 0.0, 0, None, True)
        kept, gains = ops.select_tokens(features, None, None, "total", [], [30], [], *arguments)
    assert kept.shape == gains.shape == (24,)


def test_operators_pass_the_check() -> None:
    features, choices = noise(24, 5), ("auto", "stop", None, False, 0.0, 0, 0.5)
    torch.library.opcheck(
        ops.select_tokens, (features, weights(24), IDS, *ops.encode_budgets({0: 3, 2: 9}), *choices, True)
    )
    torch.library.opcheck(ops.select_tokens, (noise(2, 24, 5), None, IDS, *ops.encode_budgets(9), *choices, False))
    torch.library.opcheck(ops.greedy_map, (features @ features.T, 9, "stop", "auto"))


@pytest.mark.parametrize("budgets", [*BUDGETS, [[1, 2], [3, 4]], [{0: 1}, {5: 2, 3: 1}]])
def test_budgets_survive_their_encoding(budgets: Any) -> None:
    assert ops.decode_budgets(*ops.encode_budgets(budgets)) == budgets


def test_budgets_that_cannot_be_traced_are_not_mixed_up() -> None:
    features, mixed = noise(2, 24, 5), [[2, 3, 1], {1: 5, 0: 1}]
    with pytest.raises(Exception, match="all mappings or all sequences"):
        torch.compile(keep, fullgraph=True, backend="eager")(features, None, IDS, mixed)
    kept = torch.compile(keep, backend="eager")(features, None, IDS, mixed)
    assert all(map(torch.equal, kept, keep(features, None, IDS, mixed)))
    for wrong in (None, True):
        with pytest.raises(TypeError, match="budgets"):
            torch.compile(keep, backend="eager")(features, None, IDS, wrong)


def test_budgets_in_tensors_break_the_graph_and_are_right() -> None:
    features = noise(24, 5)
    for budgets in (torch.tensor([2, 3, 1]), np.array([2, 3, 1]), torch.tensor(4)):
        compiled = torch.compile(keep, backend="eager")
        assert torch.equal(compiled(features, None, IDS, budgets), keep(features, None, IDS, budgets))
