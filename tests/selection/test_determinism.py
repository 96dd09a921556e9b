"""Bitwise the same output for the same input, whatever surrounds it."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from framefusion.selection import greedy_map, select_tokens
from framefusion.selection.gram import make_buckets, raw_gram
from framefusion.selection.plan import make_segment
from tests.selection.conftest import interpreting
from tests.selection.oracle import noise, weights

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def near_ties(batch: int, tokens: int, dim: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Tokens in noisy pairs under uniform relevance: gains a few rounding errors apart decide the order."""
    half = noise(batch, (tokens + 1) // 2, dim, seed=seed, dtype=torch.float64)
    pairs = half.repeat_interleave(2, dim=1)[:, :tokens]
    signs = torch.where(noise(batch, tokens, 1, seed=seed + 1) > 0, 1.0, -1.0)
    return (pairs * signs).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "dim"), [(37, 19), (64, 64), (101, 333), (196, 96)])
def test_row_of_a_batch_equals_the_single_run(
    backend: str, interpreted: bool, dtype: torch.dtype, tokens: int, dim: int
) -> None:
    batch, seeds, share = (2, 1, 6) if interpreted else (5, 3, 2)
    if interpreted and tokens > 40:
        pytest.skip("too slow in an interpreter")
    for seed in range(seeds):
        features = near_ties(batch, tokens, dim, dtype, seed)
        ids = torch.randint(-1, 4, (batch, tokens), generator=torch.Generator().manual_seed(seed))
        ids[0] = ids[0].sort().values
        r = None if seed == 0 else weights(batch, tokens, seed=seed)
        together = select_tokens(features, r, ids, tokens // share, backend=backend)
        for b in range(batch):
            alone = select_tokens(
                features[b].clone(), None if r is None else r[b].clone(), ids[b], tokens // share, backend=backend
            )
            assert torch.equal(together[b], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_layout_does_not_matter(backend: str, interpreted: bool, dtype: torch.dtype) -> None:
    n, k = (24, 2) if interpreted else (120, 20)
    features = near_ties(1, n, 77, dtype, 3)[0]
    ids = torch.arange(4).repeat_interleave(n // 4)
    expected = select_tokens(features, None, ids, [k] * 4, backend=backend)
    shifted = torch.empty(features.numel() + 1, dtype=dtype)[1:].view_as(features).copy_(features)
    wide = torch.empty(n, 99, dtype=dtype)
    wide[:, 11:88] = features
    for same in (shifted, wide[:, 11:88], features.T.contiguous().T):
        assert torch.equal(select_tokens(same, None, ids, [k] * 4, backend=backend), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("consecutive", [True, False])
def test_gram_matrices_are_bitwise_independent_of_the_batch(dtype: torch.dtype, consecutive: bool) -> None:
    features = noise(6, 83, 45, dtype=dtype)
    rows = torch.arange(80).view(4, 20) if consecutive else torch.randperm(80).sort().values.view(20, 4).T
    segments = [make_segment(i, r.contiguous(), 5) for i, r in enumerate(rows)]
    (bucket,) = make_buckets(list(enumerate(segments)), 45, dtype.itemsize, 1 << 30)
    padded = rows.contiguous()
    for b in range(6):
        assert torch.equal(raw_gram(features[b], bucket, padded), raw_gram(features[b].clone(), bucket, padded))


def test_repeated_runs_agree(backend: str, interpreted: bool) -> None:
    n, runs = (30, 1) if interpreted else (400, 5)
    features = near_ties(1, n, 128, torch.float32, 0)[0]
    ids = torch.randint(0, 5, (n,), generator=torch.Generator().manual_seed(1))
    first = select_tokens(features, None, ids, n // 2, backend=backend)
    for _ in range(runs):
        assert torch.equal(select_tokens(features, None, ids, n // 2, backend=backend), first)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_numba_threads_do_not_change_the_result(threads: int, monkeypatch) -> None:
    monkeypatch.setattr("framefusion.selection.numba_backend.LITTLE", 0)
    features, ids = noise(40 * 64, 80), torch.arange(40).repeat_interleave(64)
    before = torch.get_num_threads()
    expected = select_tokens(features, None, ids, [40] * 40, backend="reference")
    try:
        torch.set_num_threads(threads)
        assert torch.equal(select_tokens(features, None, ids, [40] * 40, backend="numba"), expected)
    finally:
        torch.set_num_threads(before)


def test_concurrent_calls(backend: str) -> None:
    if backend == "triton" and interpreting():
        pytest.skip("Triton's interpreter has one state for all threads")
    features, ids = noise(16 * 64, 80), torch.arange(16).repeat_interleave(64)
    expected = select_tokens(features, None, ids, [40] * 16, backend=backend)
    results: list[Tensor] = []

    def run() -> None:
        results.append(select_tokens(features, None, ids, [40] * 16, backend=backend))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(results) == 4
    assert all(torch.equal(r, expected) for r in results)


def _put(function: Callable[[], Tensor], queue: multiprocessing.queues.Queue) -> None:  # type: ignore[type-arg]
    queue.put(function().tolist())


def in_fork(function: Callable[[], Tensor]) -> list[int]:
    """What a function returns in a forked process."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_put, args=(function, queue))
    child.start()
    try:
        return queue.get(timeout=60)
    finally:
        child.kill()
        child.join()


def test_numba_survives_fork() -> None:
    x = noise(300, 200)
    kernel = x @ x.T
    expected = greedy_map(kernel, 100).tolist()

    def pick() -> Tensor:
        torch.set_num_threads(1)
        return greedy_map(kernel, 100)

    assert in_fork(pick) == expected


def test_autocast_does_not_change_the_result(backend: str, interpreted: bool, device: torch.device) -> None:
    k = 2 if interpreted else 20
    features, ids = near_ties(1, 120, 64, torch.float32, 0)[0], torch.arange(120) // 30
    expected = select_tokens(features, None, ids, [k] * 4, backend=backend)
    kernel = features @ features.T
    expected_map = greedy_map(kernel, 30, backend="torch")
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert torch.equal(select_tokens(features, None, ids, [k] * 4, backend=backend), expected)
        assert torch.equal(greedy_map(kernel, 30, backend="torch"), expected_map)


def test_default_device_does_not_matter(backend: str) -> None:
    """Models are often built under a default device other than the features'."""
    features, ids = noise(60, 24), torch.arange(60) % 4
    expected = select_tokens(features, None, ids, {0: 5, 9: 1, 2: 5}, backend=backend)
    reference = select_tokens(features, None, ids, {0: 5, 9: 1, 2: 5}, backend="reference")
    with torch.device("meta"):
        assert torch.equal(select_tokens(features, None, ids, {0: 5, 9: 1, 2: 5}, backend=backend), expected)
        same = select_tokens(features, None, ids, {0: 5, 9: 1, 2: 5}, backend="reference")
        assert torch.equal(same, reference)
        assert len(greedy_map(features @ features.T, 5)) == 5
