"""The Triton backend beside the contract: launches, what stays on the device, plans, fallbacks, refusals."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from framefusion.selection import backends, greedy_map, select_tokens
from framefusion.selection import plan as planning
from framefusion.selection.greedy_loop import greedy
from framefusion.selection.numerics import EXHAUSTION_FACTOR
from framefusion.selection.plan import make_segment
from tests.selection.oracle import noise, weights

pytest.importorskip("triton")

from framefusion.selection import triton_backend, triton_kernels, triton_plan

KERNELS = [
    "gram_tiles",
    "row_norms",
    "scale_segments",
    "greedy_resident",
    "first_gains",
    "greedy_step",
    "next_direction",
    "project",
]


@pytest.fixture(autouse=True)
def interpreter() -> None:
    if not triton_kernels.INTERPRETED:
        pytest.skip("Triton was imported without TRITON_INTERPRET=1")


class Launch:
    """Stands for a kernel: notes its launches, and runs them if it has one."""

    def __init__(self, name: str, log: list[tuple[str, tuple[Any, ...]]], kernel: Any = None) -> None:
        self.name, self.log, self.kernel = name, log, kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*args: Any, **options: Any) -> None:
            self.log.append((self.name, args))
            if self.kernel is not None:
                self.kernel[grid](*args, **options)

        return launch


def record(monkeypatch: pytest.MonkeyPatch, run: bool) -> list[tuple[str, tuple[Any, ...]]]:
    """Note all launches, and run them if asked."""
    log: list[tuple[str, tuple[Any, ...]]] = []
    for name in KERNELS:
        kernel = getattr(triton_kernels, name)
        monkeypatch.setattr(triton_kernels, name, Launch(name, log, kernel if run else None))
    return log


def lower(monkeypatch: pytest.MonkeyPatch, resident: int) -> None:
    """Segments above ``resident`` tokens take a launch for each step."""
    for module in (triton_kernels, triton_plan):
        monkeypatch.setattr(module, "STEP_TILE", 32)
    monkeypatch.setattr(triton_plan, "RESIDENT", resident)


def ragged(lengths: list[int]) -> Tensor:
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))


def test_all_segments_of_all_samples_share_their_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    features, r = noise(3, 40, 12), weights(3, 40)
    ids = torch.stack([ragged([3, 20, 17]), ragged([40]), ragged([1] * 40)])
    expected = select_tokens(features, r, ids, 6, backend="reference")
    log = record(monkeypatch, run=True)
    chosen = select_tokens(features, r, ids, 6, backend="triton")
    assert all(torch.equal(*pair) for pair in zip(chosen, expected, strict=True))
    assert [name for name, _ in log] == ["gram_tiles", "scale_segments", "greedy_resident"]


def test_short_and_long_segments_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """One segment in registers, one in steps of several tiles, two without a Gram matrix, in two samples."""
    lower(monkeypatch, 16)
    monkeypatch.setattr(planning, "LONG_SEGMENT", 50)
    features, r = noise(2, 90, 20), weights(2, 90)
    ids = torch.stack([ragged([10, 40, 40]), ragged([30, 60])])
    budgets = [{2: 6, 0: 3, 1: 4}, {1: 5, 0: 2}]
    log = record(monkeypatch, run=True)
    chosen, gains = select_tokens(features, r, ids, budgets, backend="triton", return_gains=True)
    expected, exact = select_tokens(features, r, ids, budgets, backend="reference", return_gains=True)
    assert all(torch.equal(*pair) for pair in zip(chosen, expected, strict=True))
    for pair in zip(gains, exact, strict=True):
        torch.testing.assert_close(*pair, rtol=1e-4, atol=0)
    names = [name for name, _ in log]
    assert {name: names.count(name) for name in KERNELS} == {
        "gram_tiles": 2,
        "row_norms": 1,
        "scale_segments": 3,
        "greedy_resident": 1,
        "first_gains": 2,
        "greedy_step": 6,
        "next_direction": 5,
        "project": 5,
    }


def test_memory_bounds_what_is_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_plan, "GRAM_BYTES", 2 * 12 * 12 * 4)
    features, ids = noise(60, 16), torch.arange(60) // 12
    log = record(monkeypatch, run=True)
    chosen = select_tokens(features, None, ids, [3] * 5, backend="triton")
    assert torch.equal(chosen, select_tokens(features, None, ids, [3] * 5, backend="reference"))
    assert [name for name, _ in log].count("greedy_resident") == 3


@pytest.mark.parametrize("resident", [1024, 0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_greedy_map_equals_numba(resident: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    lower(monkeypatch, resident)
    x = noise(3, 40, 6, dtype=dtype)
    gram = x @ x.mT
    diagonal = (weights(3, 40, seed=2).to(dtype) - 0.05) ** 2
    scale = diagonal.sqrt() / gram.diagonal(dim1=1, dim2=2).sqrt()
    scale[0, 3] = diagonal[0, 3] = 0
    lengths, counts = torch.tensor([40, 33, 7]), torch.tensor([5, 9, 7])
    trace, compiled_trace = torch.zeros(3, 9, 2, dtype=dtype), torch.zeros(3, 9, 2, dtype=torch.float64)
    picks = triton_backend.greedy_map(gram, scale, diagonal, lengths, counts, trace)
    factor = EXHAUSTION_FACTOR * torch.finfo(dtype).eps
    for s, (n, k) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True)):
        expected = torch.full((9,), -1)
        own = [t[s, :n].numpy() for t in (gram, scale, diagonal)]
        found = greedy(own[0][:, :n].copy(), *own[1:], factor, expected[:k].numpy(), compiled_trace[s, :k].numpy())
        assert torch.equal(picks[s], expected)
        assert found == min(k, 6), "the rank is 6"
    torch.testing.assert_close(trace.double(), compiled_trace, rtol=1e-3, atol=1e-6)


def make_plan(device: str = "cpu") -> triton_plan.DevicePlan:
    rows = torch.arange(90)
    samples = [
        [make_segment(0, rows[:10], 3), make_segment(1, rows[10:50], 4), make_segment(2, rows[50:], 0)],
        [make_segment(0, rows[:30], 2), make_segment(1, rows[30:], 30)],
    ]
    return triton_plan.device_plan(samples, 20, torch.float32, device, long_segment=50)


def test_a_plan_serves_many_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    lower(monkeypatch, 16)
    plan = make_plan()
    for seed in (0, 3):
        features = noise(2, 90, 20, seed=seed)
        local, trace = triton_backend.run(plan, features, None)
        assert trace is None
        rows = plan.rows[plan.origin + local].split([7, 32])
        ids = torch.stack([ragged([10, 40, 40]), ragged([30, 60])])
        expected = select_tokens(features, None, ids, [{0: 3, 1: 4}, {0: 2, 1: 30}], backend="reference")
        assert all(torch.equal(*pair) for pair in zip(rows, expected, strict=True))
    with pytest.raises(
        ValueError, match=r"features must have the width 20 and dtype torch.float32 of the plan, got 21"
    ):
        triton_backend.run(plan, noise(2, 90, 21), None)


class NothingMoves(TorchDispatchMode):
    """Refuses what waits for the device, and whatever touches tensors elsewhere."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "local_scalar_dense" not in str(func), func
        assert "nonzero" not in str(func), func
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, out)):
            # A single number of the host goes with the launch.
            assert not isinstance(value, Tensor) or value.device.type == "cuda" or value.dim() == 0, func
        return out


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("fill", [False, True])
def test_a_selection_by_a_plan_stays_on_the_device(fill: bool, traced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors of a device that is not there: no operation reads one, or brings one from the host."""
    lower(monkeypatch, 16)
    plan = make_plan()
    log = record(monkeypatch, run=False)
    monkeypatch.setattr(torch.cuda, "device_of", lambda tensor: contextlib.nullcontext())
    with FakeTensorMode() as fake:

        def sent(value: Any) -> Any:
            if isinstance(value, Tensor):
                return torch.empty(value.shape, dtype=value.dtype, device="cuda")
            return value

        groups = tuple(replace(g, **{f.name: sent(getattr(g, f.name)) for f in fields(g)}) for g in plan.groups)
        plan = replace(plan, rows=sent(plan.rows), origin=sent(plan.origin), groups=groups)
        features, r = sent(noise(2, 90, 20)), sent(weights(2, 90))
        with NothingMoves():
            local, trace = triton_backend.run(plan, features, r, fill=fill, traced=traced)
            rows = plan.rows[plan.origin + local]
    assert fake is not None
    assert rows.device.type == "cuda"
    assert (trace is not None) == traced
    for name, arguments in log:
        assert all(value.device.type == "cuda" for value in arguments if isinstance(value, Tensor)), name
    assert {name for name, _ in log} == set(KERNELS)


def test_wide_features_without_a_gram_matrix_go_through_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "LONG_SEGMENT", 0)
    monkeypatch.setattr(triton_kernels, "DIRECTION_BYTES", 60)
    features, ids, r = noise(2, 30, 16), torch.arange(30) % 2, weights(2, 30)
    for exhausted in ("fill", "stop"):
        options: dict[str, Any] = {"return_gains": True, "exhausted": exhausted}
        chosen, gains = select_tokens(features, r, ids, [15, 4], backend="triton", **options)
        expected, exact = select_tokens(features, r, ids, [15, 4], backend="reference", **options)
        assert all(torch.equal(*pair) for pair in zip(chosen, expected, strict=True))
        torch.testing.assert_close(torch.cat(gains), torch.cat(exact), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 2.0**-30, 1e300])
def test_gains_are_on_the_scale_of_any_relevance(scale: float) -> None:
    features, r = torch.eye(4, dtype=torch.float64), torch.tensor([1.0, 3.0, 0.0, 2.0], dtype=torch.float64) * scale
    chosen, gains = select_tokens(features, r, None, 4, backend="triton", return_gains=True)
    assert chosen.tolist() == [1, 3, 0, 2]
    expected = select_tokens(features, r, None, 4, backend="torch", return_gains=True)[1]
    assert torch.equal(gains, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_relevance_of_any_dtype(dtype: torch.dtype) -> None:
    features, r = noise(30, 16), weights(30).to(dtype)
    chosen = select_tokens(features, r, None, 8, backend="triton")
    assert torch.equal(chosen, select_tokens(features, r, None, 8, backend="reference"))


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 4)])
def test_nothing_to_select_from(shape: tuple[int, ...]) -> None:
    chosen = select_tokens(torch.zeros(*shape, 3), torch.zeros(shape), None, 2, backend="triton")
    assert len(chosen) == (shape[0] if len(shape) == 2 else 0)
    assert all(own.numel() == 0 for own in chosen)


def test_unchecked_bad_rows_count_as_zero_vectors() -> None:
    features = noise(12, 8)
    features[2, 1], features[5, 0] = torch.nan, torch.inf
    chosen = select_tokens(features, None, None, 12, backend="triton", check_finite=False).tolist()
    assert sorted(chosen) == list(range(12))
    assert not {2, 5} & set(chosen[:8])


def test_automatic_choice_and_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert backends.resolve("auto", cuda) == "triton"
    assert backends.resolve("auto", cpu) == "numba"
    assert backends.resolve("auto", torch.device("mps")) == "torch"
    monkeypatch.setattr(triton_kernels, "INTERPRETED", False)
    message = "backend 'triton' runs on CUDA devices, features are on cpu; move them there, or use backend='auto'"
    with pytest.raises(ValueError, match=message):
        select_tokens(noise(4, 3), None, None, 2, backend="triton")
    with pytest.raises(ValueError, match=message):
        greedy_map(torch.eye(3), 2, backend="triton")
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert backends.resolve("auto", cuda) == "torch"
    with pytest.raises(ImportError, match=r"backend 'triton' needs the package triton, which torch brings along"):
        select_tokens(noise(4, 3), None, None, 2, backend="triton")


def test_every_kernel_compiles_without_spilling(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """As launched, for sm_80 and sm_90; float32 products never become TF32; shared memory fits both.

    ``make test`` compiles each variant for one of them, ``make test-all`` for both.
    """
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.selection.compile_kernels", "80", "90"]
    if pytestconfig.getoption("--matrix") is None:
        command.append("--in-turns")
    root = Path(__file__).parents[2]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=root)
    assert result.returncode == 0, result.stderr
    variants = json.loads(result.stdout)
    assert {v["architecture"] for v in variants} == {80, 90}
    assert {v["kernel"] for v in variants} == {*KERNELS, "row_normalisers", "column_sums"}
    bad = [v for v in variants if v["spilled"] or v["tf32"] or v["shared"] > 160 << 10]
    assert not bad, bad
