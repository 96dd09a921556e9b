"""The kernels beside plain torch.

- selection: the published way, a loop over segments, and this library's torch and Triton backends; Triton also by a
  plan made beforehand and replayed from a CUDA graph, which is checked against the eager run on other features;
- Gram matrices: the triangle kernel beside one full matrix product;
- one long segment without a Gram matrix, beside the time it takes to read its features once for each pick;
- the attention received: the kernels beside plain torch and the layer's own attention.

Launches are those that the profiler sees; memory is what the allocator handed out beyond the inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu.bench import Bench, Run
from benchmarks.gpu.record import Record
from framefusion.bench.contenders import CONTENDERS, Case, Config, label
from framefusion.bench.workloads import make_case
from framefusion.reduction import relevance
from framefusion.selection import select_tokens
from framefusion.selection.plan import make_segment

Row = dict[str, Any]
DTYPES = (torch.float32, torch.bfloat16)
CLOSE = 1e-4
"""Largest error of what is summed in float32, relative to the largest value."""
COUNTED = 50.0
"""Milliseconds of a run whose launches are counted: the profiler takes long over tens of thousands of them."""
AGREEMENT = 0.995
"""Share of the tokens that two backends have to agree on, on random data."""


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        workloads: of the selection; the Gram matrices are those of the last one of a single sample.
        long: tokens, width and picks of the segment without a Gram matrix.
        prompts: tokens of the layers whose attention is recorded.
        asked: rows that it is recorded of, beside all of them.
        heads: query heads, key heads, width.
    """

    workloads: tuple[Config, ...]
    long: tuple[int, int, int]
    prompts: tuple[int, ...]
    asked: tuple[int, ...]
    heads: tuple[int, int, int]


WHOLE = Sizes(
    (
        Config(8, 128, 64, 4096),
        Config(32, 196, 50, 3584),
        Config(64, 196, 98, 4096, batch=4),
        Config(4, 3000, 300, 3584),
        Config(64, 196, 98, 4096),
    ),
    (100_000, 1024, 100),
    (3_072, 12_288),
    (1, 32),
    (28, 4, 128),
)
SMALL = Sizes((Config(2, 8, 3, 32, batch=2), Config(2, 8, 3, 32)), (40, 16, 3), (12,), (1,), (4, 2, 16))


def run(record: Record, bench: Bench) -> None:
    """All tables in both dtypes."""
    sizes = SMALL if bench.rehearsal else WHOLE
    for dtype in DTYPES:
        for tokens in sizes.prompts:
            for asked in (*sizes.asked, tokens):
                with record.step(f"attention {tokens} {asked} {dtype}"):
                    attention(record, bench, tokens, asked, sizes.heads, dtype)
        with record.step(f"gram {dtype}"):
            gram(record, bench, sizes.workloads[-1], dtype)
        with record.step(f"long segment {dtype}"):
            long_segment(record, bench, *sizes.long, dtype)
        for config in sizes.workloads:
            with record.step(f"selection {config.name} {dtype}"):
                selection(record, bench, config, dtype)


def table(
    record: Record, bench: Bench, title: str, dtype: torch.dtype, runs: dict[str, Run], ours: str, **checks: Any
) -> None:
    """One row for each run; ``of_ours`` are ratios of medians."""
    times = bench.in_turns(runs, 20)
    for name, run in runs.items():
        record.add(
            table=title,
            dtype=str(dtype).removeprefix("torch."),
            name=name,
            of_ours=round(times[name]["median"] / times[ours]["median"], 3),
            launches=bench.launches(run) if times[name]["median"] < COUNTED else None,
            extra_bytes=bench.extra_bytes(run),
            **times[name],
            **checks,
        )


def relative(values: Tensor, exact: Tensor) -> float:
    """The largest error as a share of the largest exact value."""
    return float((values - exact).abs().max() / exact.abs().max())


def share(chosen: list[Tensor], expected: list[Tensor]) -> float:
    """Share of the expected tokens that were chosen too."""
    common = sum(int(torch.isin(b, a).sum()) for a, b in zip(chosen, expected, strict=True))
    return common / sum(map(len, expected))


def plan_run(case: Case) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """Selection by a plan: features and relevance in, rows of all samples out; and the relevance of the case."""
    from framefusion.selection import triton_backend, triton_plan

    config = case.config
    segments = [make_segment(s, rows.cpu(), config.keep) for s, rows in enumerate(case.rows())]
    plan = triton_plan.device_plan([segments] * config.batch, config.dim, case.features.dtype, case.features.device)

    def run(features: Tensor, weights: Tensor) -> Tensor:
        positions, _ = triton_backend.run(plan, features, weights)
        return plan.rows[plan.origin + positions]

    return run, torch.stack([relevance.min_max(own, -1) for own in case.attention])


def selection(record: Record, bench: Bench, config: Config, dtype: torch.dtype) -> None:
    """All ways to select on one workload, whether they agree, and whether a graph replays the eager run."""
    case = make_case(config, bench.device)
    case = replace(case, features=case.features.to(dtype))
    by_plan, weights = plan_run(case)
    replay, result = bench.captured(lambda: by_plan(case.features, weights))
    replay()
    kept = by_plan(case.features, weights)
    agrees = torch.equal(result, kept)
    original = case.features.clone()
    case.features.copy_(original.flip(1))
    replay()
    replays = torch.equal(result, by_plan(case.features, weights))
    case.features.copy_(original)
    runs: dict[str, Run] = {
        label(name): (lambda name=name: CONTENDERS[name].run(case))  # type: ignore[misc]
        for name in ("original", "loop", "torch", "triton", "gram")
        # The published way would fill the device with several samples; both take seconds there.
        if name not in ("original", "loop") or config.batch == 1
    }
    runs["triton, plan made beforehand"] = lambda: by_plan(case.features, weights)
    runs["triton, replay of a CUDA graph"] = replay
    triton, plain = (CONTENDERS[name].run(case) for name in ("triton", "torch"))
    ids, budgets = case.ids, [config.keep] * config.segments
    alone = [select_tokens(x, w, ids, budgets, backend="triton") for x, w in zip(case.features, weights, strict=True)]
    checks = {
        "equal_to_torch": share(triton, plain),
        "batch_equals_single": all(torch.equal(a, b) for a, b in zip(triton, alone, strict=True)),
        "plan_equals_call": torch.equal(kept, torch.cat(triton)),
        "graph_equals_eager": agrees and replays,
    }
    table(record, bench, f"selection, {config.name}", dtype, runs, label("triton"), **checks)
    assert checks.pop("equal_to_torch") >= AGREEMENT, "other tokens than torch selects"
    assert all(checks.values()), checks


def gram(record: Record, bench: Bench, config: Config, dtype: torch.dtype) -> None:
    """The triangle kernel beside full products."""
    from framefusion.selection import triton_kernels, triton_plan

    case = make_case(config, bench.device)
    x = case.features.to(dtype)
    segments = [make_segment(s, rows.cpu(), config.keep) for s, rows in enumerate(case.rows())]
    (group,) = (plan := triton_plan.device_plan([segments], config.dim, dtype, bench.device)).groups
    norms, matrices = x.new_empty(x.shape[1], dtype=torch.float32), x.new_empty(group.gram_size, dtype=torch.float32)

    def triangle() -> None:
        triton_kernels.gram_tiles[(len(group.pairs),)](
            x, *x.stride()[:2], config.dim, plan.rows, group.table, group.pairs, matrices, norms,
            **triton_kernels.gram_options(dtype),
        )  # fmt: skip

    stacked = x[0].view(config.segments, config.tokens, config.dim)
    wide = stacked.float()
    runs: dict[str, Run] = {"triangle kernel": triangle, "bmm, float32 copy": lambda: torch.bmm(wide, wide.mT)}
    if dtype != torch.float32 and bench.on_gpu:
        runs["bmm, half in, float32 out"] = lambda: torch.bmm(stacked, stacked.mT, out_dtype=torch.float32)
    triangle()
    error = relative(matrices.view(config.segments, config.tokens, -1), torch.bmm(wide.double(), wide.double().mT))
    table(record, bench, f"Gram matrices, {config.name}", dtype, runs, "triangle kernel", largest_error=error)
    assert error <= CLOSE, f"the products are off by {error:.1e} of the largest"


def long_segment(record: Record, bench: Bench, tokens: int, dim: int, keep: int, dtype: torch.dtype) -> None:
    """One segment without a Gram matrix, beside what memory bandwidth allows."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, dim, generator=generator).to(bench.device, dtype)
    ids = torch.zeros(tokens, dtype=torch.int64)

    def read() -> None:
        for _ in range(keep):
            x.view(torch.int32).sum()

    runs: dict[str, Run] = {
        "triton": lambda: select_tokens(x, None, ids, keep, backend="triton"),
        "torch": lambda: select_tokens(x, None, ids, keep, backend="torch"),
        "features read once for each pick": read,
    }
    same = share([runs["triton"]()], [runs["torch"]()])
    title = f"Gram–Schmidt, {tokens} tokens → {keep}, D {dim}"
    table(record, bench, title, dtype, runs, "triton", equal_to_torch=same)


def attention(
    record: Record, bench: Bench, tokens: int, asked: int, heads: tuple[int, int, int], dtype: torch.dtype
) -> None:
    """The attention received from the last ``asked`` rows of a layer."""
    from framefusion.reduction import relevance_triton

    of_queries, of_keys, width = heads
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, count, tokens, width, generator=generator).to(bench.device, dtype)
        for count in (of_queries, of_keys, of_keys)
    )
    rows = torch.arange(tokens - asked, tokens, device=bench.device)[None]
    valid = torch.ones(1, tokens, dtype=torch.bool, device=bench.device)
    arguments = (query, key, rows, valid, width**-0.5)
    runs: dict[str, Run] = {
        "kernels": lambda: relevance_triton.attention_received(*arguments),
        "torch": lambda: relevance.attention_received_in_torch(*arguments),
        "the layer's attention": lambda: scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True
        ),
    }
    error = relative(runs["kernels"](), runs["torch"]())
    title = f"attention received from {asked} rows, {tokens} tokens"
    table(record, bench, title, dtype, runs, "kernels", largest_error=error)
    assert error <= CLOSE, f"the attention is off by {error:.1e} of the largest"
