"""What "auto" stands for on a CPU: nothing is compiled that does not pay, and what is kept does not change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.selection import automatic, greedy_map, numba_backend, select_tokens, torch_backend
from framefusion.selection.problem import Choices, Problem, make_problem
from tests.selection.oracle import noise, weights


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process on a new machine: nothing was selected, compiled or cached."""
    monkeypatch.setattr(automatic._Spared, "seconds", 0.0)
    monkeypatch.setattr(numba_backend, "is_compiled", lambda dtype: False)
    monkeypatch.setattr(numba_backend, "is_cached", lambda: False)


def problem(n: int = 600, k: int = 300, dim: int = 8) -> Problem:
    return make_problem(noise(n, dim), None, None, [k], Choices())


def first_numba(each: float, monkeypatch: pytest.MonkeyPatch) -> int:
    """Problems that spare so many seconds each, until Numba has one."""
    monkeypatch.setattr(automatic, "surplus", lambda segments, dim: each)
    return next(i for i in range(1, 100) if automatic.for_problem("auto", problem()) == "numba")


@pytest.mark.usefixtures("anew")
def test_it_compiles_once_that_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_numba(automatic.COMPILING / 8, monkeypatch) == 8


@pytest.mark.usefixtures("anew")
def test_compiled_code_on_disk_costs_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_backend, "is_cached", lambda: True)
    assert first_numba(automatic.IMPORTING / 4, monkeypatch) == 4


@pytest.mark.usefixtures("anew")
def test_one_problem_may_be_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_numba(2 * automatic.COMPILING, monkeypatch) == 1


@pytest.mark.usefixtures("anew")
def test_what_is_compiled_in_this_process_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_backend, "is_compiled", lambda dtype: dtype == torch.float32)
    assert automatic.for_problem("auto", problem()) == "numba"
    half = make_problem(noise(9, 8).bfloat16(), None, None, [3], Choices())
    assert automatic.for_problem("auto", half) == "numba"
    double = make_problem(noise(9, 8).double(), None, None, [3], Choices())
    assert automatic.for_problem("auto", double) == "torch"
    assert automatic.for_kernel("auto", torch.device("cpu"), torch.float64, 9, 3) == "torch"
    assert automatic.for_kernel("auto", torch.device("cpu"), torch.float32, 9, 3) == "numba"


@pytest.mark.usefixtures("anew")
def test_a_backend_that_was_named_is_taken() -> None:
    for name in ("torch", "numba", "triton", "reference"):
        assert automatic.for_problem(name, problem()) == name
    assert automatic._Spared.seconds == 0


@pytest.mark.usefixtures("anew")
def test_both_ways_in_go_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for module in (torch_backend, numba_backend):
        for name in ("select", "select_from_kernel"):
            real, called = getattr(module, name), (module.__name__.rpartition(".")[2], name)
            monkeypatch.setattr(module, name, lambda *a, real=real, called=called: calls.append(called) or real(*a))
    select_tokens(noise(9, 3), None, None, 2)
    greedy_map(torch.eye(5), 2)
    monkeypatch.setattr(numba_backend, "is_compiled", lambda dtype: True)
    select_tokens(noise(9, 3), None, None, 2)
    greedy_map(torch.eye(5), 2)
    backends = ("torch_backend", "torch_backend", "numba_backend", "numba_backend")
    assert calls == list(zip(backends, ("select", "select_from_kernel") * 2, strict=True))


def test_surplus_counts_what_is_selected_with_a_gram_matrix() -> None:
    none = automatic.surplus([(100, 0)], 64)
    short, long = automatic.surplus([(100, 10)], 64), automatic.surplus([(100, 10), (200, 50)], 64)
    assert none == 0 < short < long
    assert automatic.surplus([(100, 10), (100, 10)], 64) < 2 * short  # they take their steps together


@pytest.mark.usefixtures("anew")
def test_long_segments_do_not_count() -> None:
    long = make_problem(noise(5000, 4), None, None, [9], Choices())
    automatic.for_problem("auto", long)
    assert automatic._Spared.seconds == 0


@given(
    n=st.integers(2, 400), segments=st.integers(1, 5), share=st.floats(0.05, 0.9), seed=st.integers(0, 999),
    relevant=st.booleans(), gamma=st.sampled_from([None, 1.0]),
    exhausted=st.sampled_from(["fill", "stop", "restart"]),
)  # fmt: skip
def test_both_keep_the_same(
    n: int, segments: int, share: float, seed: int, relevant: bool, gamma: float | None, exhausted: str
) -> None:
    """On noise without near-ties, as in models; near-ties are held to the textbook in test_backends.py."""
    features, r = noise(n, 48, seed=seed), weights(n, seed=seed) if relevant else None
    ids = torch.arange(n) * segments // n
    kept = [
        select_tokens(features, r, ids, round(share * n), backend=backend, gamma=gamma, exhausted=exhausted)
        for backend in ("torch", "numba")
    ]
    assert torch.equal(*kept)


def test_the_cache_on_disk_is_looked_at(tmp_path: Path) -> None:
    script = (
        "import torch\n"
        "from framefusion.selection import numba_backend, warm_up\n"
        "print(numba_backend.is_cached(), numba_backend.is_compiled(torch.float32))\n"
        "warm_up()\n"
        "print(numba_backend.is_cached(), *map(numba_backend.is_compiled, (torch.float32, torch.float64)))\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["False", "False", "True", "True", "False"], done.stderr
