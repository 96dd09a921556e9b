"""Every argument that can be wrong, and what the message says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from framefusion.selection import greedy_map, select_tokens, split_total
from tests.selection.conftest import FAST, use
from tests.selection.oracle import noise

X = noise(6, 4)
IDS = torch.tensor([0, 0, 0, 1, 1, 1])
NAN, INF = float("nan"), float("inf")


def bad(tensor: torch.Tensor, position: tuple[int, ...], value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor[position] = value
    return tensor


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"features": X.tolist()}, TypeError, "features must be a torch.Tensor, got list"),
        ({"features": X.long()}, TypeError, "features must have dtype .* got torch.int64"),
        ({"features": X[0]}, ValueError, r"features must have shape \(N, D\) or \(B, N, D\), got \(4,\)"),
        ({"features": X[:, :0]}, ValueError, "features must have at least one column"),
        ({"features": X[None, None]}, ValueError, "features must have shape"),
        ({"relevance": [1.0] * 6}, TypeError, "relevance must be a torch.Tensor or None, got list"),
        ({"relevance": torch.ones(6, dtype=torch.int32)}, TypeError, "relevance must have a float dtype"),
        ({"relevance": torch.ones(5)}, ValueError, r"relevance must have shape \(6,\).*got \(5,\)"),
        ({"relevance": torch.ones(1, 6)}, ValueError, r"relevance must have shape \(6,\)"),
        ({"relevance": bad(torch.ones(6), (2,), -0.5)}, ValueError, "relevance must be >= 0, got -0.5 at position 2"),
        ({"relevance": bad(torch.ones(6), (4,), NAN)}, ValueError, "relevance must be finite, got nan at position 4"),
        ({"relevance": bad(torch.ones(6), (1,), INF)}, ValueError, "relevance must be finite, got inf at position 1"),
        ({"segments": IDS.float()}, TypeError, "segments must have an integer dtype, got torch.float32"),
        ({"segments": IDS.bool()}, TypeError, "segments must have an integer dtype, got torch.bool"),
        ({"segments": IDS[:5]}, ValueError, r"segments must have shape \(6,\).*got \(5,\)"),
        ({"segments": bad(IDS, (3,), -2)}, ValueError, "segments must be >= -1 .* got -2 at position 3"),
        ({"segments": "abcdef"}, TypeError, "segments must hold integers"),
        ({"budgets": None}, TypeError, "budgets is required"),
        ({"budgets": 2.0}, TypeError, "budgets must be an integer, got 2.0"),
        ({"budgets": True}, TypeError, "budgets must be an integer, got a bool"),
        ({"budgets": -1}, ValueError, "budgets must be >= 0, got -1"),
        ({"budgets": "22"}, TypeError, "budgets must be an integer, a mapping or a sequence"),
        ({"budgets": [1, 2.5]}, TypeError, r"budgets\[1\] must be an integer, got 2.5"),
        ({"budgets": [1, False]}, TypeError, r"budgets\[1\] must be an integer, got a bool"),
        ({"budgets": [1, -2]}, ValueError, r"budgets\[1\] must be >= 0, got -2"),
        ({"budgets": [1, 2, 3]}, ValueError, r"budgets has 3 entries for 2 segments \(ids 0, 1\)"),
        ({"budgets": [1]}, ValueError, "budgets has 1 entries for 2 segments"),
        ({"budgets": {0: 1.5}}, TypeError, r"budgets\[0\] must be an integer, got 1.5"),
        ({"budgets": {0: -1}}, ValueError, r"budgets\[0\] must be >= 0, got -1"),
        ({"budgets": {-1: 2}}, ValueError, "the segment id -1 in budgets must be >= 0"),
        ({"budgets": {"a": 2}}, TypeError, "the segment id 'a' in budgets must be an integer"),
        ({"budgets": torch.tensor([1.0, 2.0])}, TypeError, "budgets must hold integers, got dtype torch.float32"),
        ({"budgets": torch.tensor([True, False])}, TypeError, "budgets must hold integers, got dtype torch.bool"),
        ({"budgets": np.array([1.0, 2.0])}, TypeError, r"budgets\[0\] must be an integer, got 1.0"),
        ({"backend": "cuda"}, ValueError, "backend must be one of 'auto', .*'triton', 'reference', got 'cuda'"),
        ({"exhausted": "skip"}, ValueError, "exhausted must be one of 'fill', 'stop', 'restart', got 'skip'"),
    ],
)
def test_message(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    call = {"features": X, "relevance": None, "segments": IDS, "budgets": [1, 1], **arguments}
    with pytest.raises(error, match=message):
        select_tokens(**call)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*FAST, "reference"])
def test_first_non_finite_feature_is_named(
    name: str, dtype: torch.dtype, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = use(name, monkeypatch)
    features = bad(bad(X, (4, 3), NAN), (2, 1), value).to(dtype)
    with pytest.raises(ValueError, match=rf"features must be finite, got {value} at position \(2, 1\)"):
        select_tokens(features, None, IDS, [1, 1], backend=name)
    batch = torch.stack([X.to(dtype), features])
    with pytest.raises(ValueError, match=r"features must be finite, got .* at position \(1, 2, 1\)"):
        select_tokens(batch, None, IDS, [1, 1], backend=name)


def test_rows_outside_every_segment_are_not_read(backend: str) -> None:
    features = bad(X, (2, 1), NAN)
    ids = torch.tensor([0, 0, -1, 1, 1, 1])
    assert len(select_tokens(features, None, ids, [1, 1], backend=backend)) == 2


def test_rows_between_segments_are_not_read(backend: str) -> None:
    """Segments of 3 and 4 tokens whose starts are 4 apart look like equal neighbours."""
    features, ids = noise(8, 12), torch.tensor([0, 0, 0, -1, 1, 1, 1, 1])
    expected = select_tokens(features, None, ids, [2, 3], backend=backend)
    assert torch.equal(select_tokens(bad(features, (3, 0), NAN), None, ids, [2, 3], backend=backend), expected)


def test_unchecked_values_still_give_distinct_indices(backend: str) -> None:
    features = bad(bad(X, (2, 1), NAN), (4, 0), INF)
    chosen = select_tokens(features, None, IDS, [3, 3], backend=backend, check_finite=False)
    assert sorted(chosen.tolist()) == [0, 1, 2, 3, 4, 5]


def test_batch_shapes() -> None:
    batch = X.expand(2, -1, -1)
    with pytest.raises(ValueError, match=r"relevance must have shape \(2, 6\).*got \(6,\)"):
        select_tokens(batch, torch.ones(6), IDS, 2)
    with pytest.raises(ValueError, match=r"segments must have shape \(6,\) or \(2, 6\)"):
        select_tokens(batch, None, IDS.expand(3, -1), 2)
    with pytest.raises(ValueError, match="budgets has 3 entries for a batch of 2 samples"):
        select_tokens(batch, None, IDS, [{0: 1}, {0: 1}, {0: 1}])
    with pytest.raises(ValueError, match=r"budgets\[1\]\[0\] must be >= 0"):
        select_tokens(batch, None, IDS, [{0: 1}, {0: -1}])
    with pytest.raises(ValueError, match=r"relevance must be >= 0, got -1 at position \(1, 3\)"):
        select_tokens(batch, bad(torch.ones(2, 6), (1, 3), -1), IDS, 2)


@pytest.mark.parametrize(
    ("kernel", "k", "options", "error", "message"),
    [
        ([[1.0]], 1, {}, TypeError, "kernel must be a torch.Tensor"),
        (torch.eye(2).long(), 1, {}, TypeError, "kernel must have a float dtype"),
        (torch.ones(2, 3), 1, {}, ValueError, r"kernel must be a square matrix \(n, n\), got shape \(2, 3\)"),
        (torch.eye(2), -1, {}, ValueError, "k must be >= 0, got -1"),
        (torch.eye(2), 1.0, {}, TypeError, "k must be an integer"),
        (bad(torch.eye(3), (1, 2), NAN), 1, {}, ValueError, r"kernel must be finite, got nan at position \(1, 2\)"),
        (bad(torch.eye(3), (1, 1), -2), 1, {}, ValueError, "kernel must have a diagonal >= 0, got -2 at position 1"),
        (torch.eye(2), 1, {"exhausted": "no"}, ValueError, "exhausted must be one of"),
        (torch.eye(2), 1, {"backend": "no"}, ValueError, "backend must be one of"),
    ],
)
def test_greedy_map_message(kernel: Any, k: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        greedy_map(kernel, k, **options)


@pytest.mark.parametrize("name", ["numba", "torch", "triton", "triton-steps", "reference"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_greedy_map_on_a_kernel(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    backend_name = use(name, monkeypatch)
    kernel = torch.diag(torch.tensor([1.0, 4.0, 0.0, 4.0, 2.0])).to(dtype)
    assert greedy_map(kernel, 9, backend=backend_name).tolist() == [1, 3, 4, 0, 2]
    assert greedy_map(kernel, 9, backend=backend_name, exhausted="stop").tolist() == [1, 3, 4, 0]
    assert greedy_map(kernel, 2, backend=backend_name).tolist() == [1, 3]
    assert greedy_map(kernel, 0, backend=backend_name).tolist() == []


def test_split_total() -> None:
    assert split_total(10, [3, 3, 3]) == [3, 3, 3]
    assert split_total(5, [3, 3, 3]) == [2, 2, 1]
    assert split_total(0, [3, 3]) == [0, 0]
    assert split_total(3, [0, 5, 1]) == [0, 3, 0]
    assert split_total(4, []) == []
