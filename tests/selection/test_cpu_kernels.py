"""The compiled Gram matrices and threads, beyond what the contract's sizes reach."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from framefusion.selection import api, gram_schmidt, numba_backend, select_tokens, threads
from framefusion.selection import cpu_kernels as kernels
from framefusion.selection.plan import make_segment
from tests.selection.oracle import kernel, log_determinant, noise, weights


def lower_triangle(features: Tensor, rows: Tensor) -> np.ndarray:
    """``X Xᵀ`` as the backend computes it."""
    read = numba_backend._features(features)
    size = -(-len(rows) // kernels.ROW_MULTIPLE) * kernels.ROW_MULTIPLE
    gram = np.full((size, size), np.nan, read.numbers.dtype)
    kernels._gram(read, rows.numpy(), np.empty(0, np.int64), gram, kernels.make_scratch())
    return np.tril(gram[: len(rows), : len(rows)])


@pytest.fixture(params=[True, False], ids=["amx", "without amx"])
def amx(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 with and without the matrix unit."""
    if request.param and not numba_backend._amx_allowed():
        pytest.skip("this processor has no AMX")
    if not request.param:
        monkeypatch.setattr(numba_backend, "_amx_allowed", lambda: False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("tokens", "dim"),
    [(1, 1), (5, 7), (196, 1100), (kernels.BLOCK, 33), (kernels.BLOCK + 1, 64), (700, 1025), (97, 2049)],
)
@pytest.mark.usefixtures("amx")
def test_gram_matrices(tokens: int, dim: int, dtype: torch.dtype) -> None:
    features = noise(tokens + 9, dim).to(dtype)
    rows = torch.randperm(tokens + 9, generator=torch.Generator().manual_seed(0))[:tokens]
    x = features[rows].double().numpy()
    exact = np.tril(x @ x.T)
    tolerance = 1e-14 if dtype == torch.float64 else 1e-6
    assert np.abs(lower_triangle(features, rows) - exact).max() <= tolerance * np.abs(exact).max()


@settings(max_examples=25)
@given(tokens=st.integers(1, 330), dim=st.integers(1, 90), seed=st.integers(0, 99))
def test_gram_matrices_of_any_shape(tokens: int, dim: int, seed: int) -> None:
    features = noise(tokens, dim, seed=seed).bfloat16()
    x = features.double().numpy()
    exact = np.tril(x @ x.T)
    assert np.abs(lower_triangle(features, torch.arange(tokens)) - exact).max() <= 1e-6 * np.abs(exact).max()


def test_float16_is_read_exactly() -> None:
    bits = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    every = bits.view(torch.float16)
    finite = every[torch.isfinite(every)]
    line = np.empty(len(finite), np.float32)
    kernels._read_row(numba_backend._features(finite[None]), 0, 0, line)
    assert np.array_equal(line, finite.float().numpy())
    wrong = every[~torch.isfinite(every)]
    line = np.empty(len(wrong), np.float32)
    kernels._read_row(numba_backend._features(wrong[None]), 0, 0, line)
    assert not np.isfinite(line).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_names_what_is_not_finite(dtype: torch.dtype) -> None:
    for value in (torch.nan, torch.inf):
        features = noise(20, 40).to(dtype)
        features[7, 33] = value
        with pytest.raises(ValueError, match=r"features.*7, 33"):
            select_tokens(features, None, None, 5)


@pytest.mark.usefixtures("amx")
def test_bfloat16_meets_the_agreement_bar() -> None:
    features = (noise(196 * 6, 512) + noise(6, 512, seed=4).repeat_interleave(196, 0)).bfloat16()
    ids, r = torch.arange(6).repeat_interleave(196), weights(196 * 6)
    mine = select_tokens(features, r, ids, [98] * 6)
    exact = select_tokens(features.double(), r, ids, [98] * 6)
    assert (mine == exact).float().mean() >= 0.995
    for s, (own, best) in enumerate(zip(mine.split(98), exact.split(98), strict=True)):
        rows = torch.arange(s * 196, (s + 1) * 196)
        full = kernel(features[rows], r[rows])
        gap = log_determinant(full, best - s * 196) - log_determinant(full, own - s * 196)
        assert abs(gap) <= 1e-3 * 98


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_long_segments_equal_the_float64_ones(dtype: torch.dtype) -> None:
    features, r = noise(1500, 40).to(dtype), weights(1500)
    ids = torch.arange(1500) % 2
    assert torch.equal(select_tokens(features, r, ids, [30, 20]), select_tokens(features.double(), r, ids, [30, 20]))


def test_long_segments_are_done_one_by_one_where_no_more_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    features, ids = noise(2000, 20), torch.arange(2000) // 400
    together = select_tokens(features, None, ids, [15] * 5)
    monkeypatch.setattr(numba_backend, "GRAM_BYTES", 1)
    assert torch.equal(together, select_tokens(features, None, ids, [15] * 5))


def test_long_segments_of_any_lengths_share_the_threads() -> None:
    lengths = torch.tensor([300, 700, 289, 1000, 20, 400, 577, 288, 301])
    features, r = noise(int(lengths.sum()), 40), weights(int(lengths.sum()))
    ids = torch.arange(len(lengths)).repeat_interleave(lengths)
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results += [select_tokens(features, r, ids, [20] * len(lengths)) for _ in range(3)]
    finally:
        torch.set_num_threads(before)
    expected = select_tokens(features.double(), r, ids, [20] * len(lengths), backend="torch")
    assert all(torch.equal(each, expected) for each in results)


def test_what_is_not_finite_in_one_of_many_long_segments_is_named() -> None:
    features = noise(2000, 20)
    features[1234, 7] = torch.nan
    with pytest.raises(ValueError, match=r"features.*1234, 7"):
        select_tokens(features, None, torch.arange(2000) // 400, [15] * 5)


def test_nobody_waits_for_a_task_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = kernels.select_shared, []

    def first_fails(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            counter = arguments[-1]
            counter[0] += 1
            raise MemoryError("the first task is taken and not done")
        real(*arguments)

    monkeypatch.setattr(kernels, "select_shared", first_fails)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(MemoryError, match="taken and not done"):
            select_tokens(noise(1500, 20), None, torch.arange(1500) // 500, [15] * 3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_long_segments_out_of_range_are_rescaled(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    features = noise(700, 30)
    expected = select_tokens(features, None, None, 25)
    factors = torch.full((700, 1), scale)
    factors[::3] = 1
    assert torch.equal(select_tokens(features * factors, None, None, 25), expected)
    monkeypatch.setattr(api, "LONG_SEGMENT", 0)
    assert torch.equal(select_tokens(features * factors, None, None, 25), expected)


def test_features_are_read_in_place() -> None:
    wide = noise(300, 50)
    plain = select_tokens(wide[:, 10:40].contiguous(), None, None, 20)
    assert torch.equal(select_tokens(wide[:, 10:40], None, None, 20), plain)
    assert numba_backend._features(wide[:, 10:40]).numbers.base is not None
    assert torch.equal(select_tokens(wide[:, 10:40].T.contiguous().T, None, None, 20), plain)
    assert torch.equal(select_tokens(wide[:1, 10:40].expand(9, 30), None, None, 3), torch.arange(3))


@pytest.mark.parametrize("openmp", [True, False])
def test_threads_are_as_many_as_torch_may_have(openmp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if openmp and threads._openmp() is None:
        pytest.skip("no OpenMP here")
    if not openmp:
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    monkeypatch.setattr(numba_backend, "WORK_PER_THREAD", 1)
    ran: list[int] = []
    real = kernels.select_short
    monkeypatch.setattr(kernels, "select_short", lambda *a: ran.append(threading.get_ident()) or real(*a))
    features, ids = noise(400, 20), torch.arange(400) // 50
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            ran.clear()
            results.append(select_tokens(features, None, ids, [9] * 8))
            assert len(ran) == count
            assert openmp or len(set(ran)) <= count
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_the_openmp_library_is_that_of_torch() -> None:
    own, others = "/site/torch/lib/libgomp.so.1", {"/site/torchother/libgomp.so.1", "/site/sklearn.libs/libgomp-1.so"}
    assert threads._of_torch({own, *others}, "/site/torch") == own
    assert threads._of_torch({"/usr/lib/libgomp.so.1"}, "/site/torch") == "/usr/lib/libgomp.so.1"
    assert threads._of_torch(others, "/site/torch") is None
    assert threads._of_torch(set(), "/site/torch") is None


@pytest.mark.parametrize("openmp", [True, False])
def test_errors_leave_their_thread(openmp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not openmp:
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    done = []

    def fail() -> None:
        done.append(1)
        raise ArithmeticError("one thread failed")

    with pytest.raises(ArithmeticError, match="one thread failed"):
        threads.run(fail, 2)
    assert len(done) == 2


def test_scratch_memory_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_backend, "_spare", [])
    for _ in range(3):
        select_tokens(noise(30, 5), None, None, 4)
    assert len(numba_backend._spare) == 1


def test_callers_in_many_threads_do_not_disturb_each_other() -> None:
    cases = [(noise(400, 64, seed=s).bfloat16(), torch.arange(400) // 80) for s in range(8)]
    expected = [select_tokens(x, None, ids, [30] * 5) for x, ids in cases]
    found: dict[int, Tensor] = {}

    def work(i: int) -> None:
        for _ in range(5):
            found[i] = select_tokens(cases[i][0], None, cases[i][1], [30] * 5)

    helpers = [threading.Thread(target=work, args=(i,)) for i in range(len(cases))]
    for helper in helpers:
        helper.start()
    for helper in helpers:
        helper.join()
    assert all(torch.equal(found[i], kept) for i, kept in enumerate(expected))


def test_no_precision_switch_is_touched() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.mkldnn.matmul.fp32_precision
    select_tokens(noise(30, 5).bfloat16(), None, None, 4)
    assert before == (torch.get_float32_matmul_precision(), torch.backends.mkldnn.matmul.fp32_precision)


def test_each_step_of_gram_schmidt_is_rounded_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether blocks catch up at once (as novelty makes them) or step by step."""
    monkeypatch.setattr(api, "LONG_SEGMENT", 0)
    features, r = noise(900, 70), weights(900)
    lazy = select_tokens(features, r, None, 60)
    eager, gains = select_tokens(features, r, None, 60, return_gains=True)
    assert torch.equal(lazy, eager)
    monkeypatch.undo()
    whole, exact = select_tokens(features.double(), r, None, 60, return_gains=True)
    assert torch.equal(eager, whole)
    torch.testing.assert_close(gains, exact, rtol=1e-4, atol=0)


def test_more_segments_than_fit_one_block_of_picks() -> None:
    features = noise(600, 8)
    segments = [make_segment(i, torch.arange(i, 600, 200), 2) for i in range(200)]
    picks = numba_backend.select(features, None, segments, "fill", True, True)
    assert all(len(p.rows) == 2 and p.trace is not None and p.trace.shape == (2, 2) for p in picks)


def test_selections_without_tokens_or_features() -> None:
    assert select_tokens(torch.zeros(5, 8)[:0, :4], None, None, 0).tolist() == []
    segment = make_segment(0, torch.arange(3), 2)
    assert api.select_in_segments(torch.zeros(3, 0), None, [segment]).tolist() == [0, 1]
    narrow = torch.randn(9, 1, dtype=torch.cfloat).conj().imag
    assert torch.equal(select_tokens(narrow, None, None, 2), select_tokens(narrow.resolve_neg(), None, None, 2))


def test_warming_up_compiles_all_that_is_called() -> None:
    api.warm_up(torch.float32)
    called = (kernels.select_short, kernels.select_shared, kernels.next_pick)
    assert all(len(function.signatures) for function in called)


def test_long_segments_restart_without_reading_everything_again(monkeypatch: pytest.MonkeyPatch) -> None:
    features = noise(40, 5)[torch.arange(200) % 40]
    expected = select_tokens(features, None, None, 30, exhausted="restart")
    monkeypatch.setattr(api, "LONG_SEGMENT", 100)
    monkeypatch.setattr(gram_schmidt.Rows, "norms_squared", once(gram_schmidt.Rows.norms_squared))
    assert torch.equal(select_tokens(features, None, None, 30, exhausted="restart"), expected)
    kept, gains = select_tokens(features[:150], None, None, 30, exhausted="restart", return_gains=True)
    assert len(kept) == len(gains) == 30


def once(function: Any) -> Any:
    """A function that each of its objects may call once."""
    # The objects themselves: the number of one that is gone may be given to the next.
    seen: list[Any] = []

    def call(self: Any) -> Any:
        assert all(self is not other for other in seen)
        seen.append(self)
        return function(self)

    return call


OTHERS = {
    "AVX2": {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+f16c,+sse4.2,+bmi,+bmi2,+popcnt",
    },
    "AMX": {"PYTEST_PLUGINS": "tests.selection.emulated_amx"},
}
MISSING = [name for name, there in (("AVX2", kernels.REGISTER_BYTES == 32), ("AMX", kernels.AMX)) if not there]


@pytest.mark.parametrize("processor", MISSING)
def test_other_processors(processor: str, tmp_path: Path) -> None:
    """These tests on the kernels that other processors get, where they are not this one's."""
    files = ["tests/selection/test_cpu_kernels.py", "tests/selection/test_relevant_first.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not other_processors", *files]
    environment = {**os.environ, **OTHERS[processor], "NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    child = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stdout + child.stderr
