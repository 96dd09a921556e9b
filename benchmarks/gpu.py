"""Everything that runs on a CUDA device, measured in one command.

    python benchmarks/gpu.py --json docs/data/gpu.json

- selection: the published way, a loop over segments, and this library's torch and Triton backends; Triton also by a
  plan made beforehand and replayed from a CUDA graph, which is checked against the eager run on other features;
- Gram matrices: the triangle kernel beside one full matrix product;
- one long segment without a Gram matrix, beside the time it takes to read its features once for each pick;
- the attention received: the kernels beside plain torch and the layer's own attention.

Times are medians of CUDA events in turns after a warm-up; launches are those that the profiler sees; memory is what the
allocator handed out beyond the inputs. Read ratios within one table. Without a CUDA device it says so and exits with 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from framefusion.bench.contenders import CONTENDERS, LABELS, Case, Config, make_case
from framefusion.reduction import relevance
from framefusion.selection import select_tokens
from framefusion.selection.plan import make_segment

Run = Callable[[], Any]
Row = dict[str, Any]

WORKLOADS = (
    Config(8, 128, 64, 4096),
    Config(32, 196, 50, 3584),
    Config(64, 196, 98, 4096),
    Config(64, 196, 98, 4096, batch=4),
    Config(4, 3000, 300, 3584),
)
DTYPES = (torch.float32, torch.bfloat16)


def milliseconds(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Median of each, in turns, after two runs of each that compile and warm up."""
    for run in (*runs.values(), *runs.values()):
        run()
    torch.cuda.synchronize()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            run()
            end.record()
            torch.cuda.synchronize()
            times[name].append(begin.elapsed_time(end))
    return {name: statistics.median(own) for name, own in times.items()}


def launches(run: Run) -> int:
    """Kernels and copies that one run puts on the device."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())


def extra_bytes(run: Run) -> int:
    """Peak of what one run allocates."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def table(title: str, runs: dict[str, Run], rounds: int, ours: str, extra: Row | None = None) -> list[Row]:
    """Measure, print and return one row for each; ratios are to ``ours``."""
    print(f"\n{title}", flush=True)
    times = milliseconds(runs, rounds)
    rows = []
    for name, run in runs.items():
        row: Row = {
            "table": title,
            "name": name,
            "median_ms": times[name],
            "of_ours": times[name] / times[ours],
            "launches": launches(run),
            "extra_bytes": extra_bytes(run),
            **(extra or {}),
        }
        rows.append(row)
        print(
            f"  {name:34} {row['median_ms']:10.3f} ms {row['of_ours']:8.2f}× {row['launches']:7} launches "
            f"{row['extra_bytes'] / 2**20:10.1f} MiB",
            flush=True,
        )
    return rows


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


def captured(run: Run) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """A CUDA graph of a run that has run before, and where its result will be."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph, result


def selection(config: Config, dtype: torch.dtype, rounds: int) -> list[Row]:
    """All ways to select on one workload, whether they agree, and whether a graph replays the eager run."""
    case = make_case(config, "cuda")
    case = replace(case, features=case.features.to(dtype))
    by_plan, weights = plan_run(case)
    graph, result = captured(lambda: by_plan(case.features, weights))
    graph.replay()
    kept = by_plan(case.features, weights)
    agrees = torch.equal(result, kept)
    original = case.features.clone()
    case.features.copy_(original.flip(1))
    graph.replay()
    replays = torch.equal(result, by_plan(case.features, weights))
    case.features.copy_(original)
    runs: dict[str, Run] = {
        LABELS[name]: (lambda name=name: CONTENDERS[name](case))  # type: ignore[misc]
        for name in ("original", "loop", "torch", "triton", "gram")
        # The matrices over all tokens of several samples would fill the device.
        if name != "original" or config.batch == 1
    }
    runs["triton, plan made beforehand"] = lambda: by_plan(case.features, weights)
    runs["triton, replay of a CUDA graph"] = graph.replay
    triton, plain = (CONTENDERS[name](case) for name in ("triton", "torch"))
    ids, budgets = case.ids, [config.keep] * config.segments
    alone = [select_tokens(x, w, ids, budgets, backend="triton") for x, w in zip(case.features, weights, strict=True)]
    checks = {
        "config": asdict(config),
        "dtype": str(dtype),
        "equal_to_torch": share(triton, plain),
        "batch_equals_single": all(torch.equal(a, b) for a, b in zip(triton, alone, strict=True)),
        "plan_equals_call": torch.equal(kept, torch.cat(triton)),
        "graph_equals_eager": agrees and replays,
    }
    rows = table(f"selection, {config.name}, {dtype}", runs, rounds, LABELS["triton"], checks)
    print("  " + ", ".join(f"{key}: {value}" for key, value in checks.items() if key not in ("config", "dtype")))
    return rows


def gram(config: Config, dtype: torch.dtype, rounds: int) -> list[Row]:
    """The triangle kernel beside full products."""
    from framefusion.selection import triton_kernels, triton_plan

    case = make_case(config, "cuda")
    x = case.features.to(dtype)
    segments = [make_segment(s, rows.cpu(), config.keep) for s, rows in enumerate(case.rows())]
    (group,) = (plan := triton_plan.device_plan([segments], config.dim, dtype, "cuda")).groups
    norms, matrices = x.new_empty(x.shape[1], dtype=torch.float32), x.new_empty(group.gram_size, dtype=torch.float32)

    def triangle() -> None:
        triton_kernels.gram_tiles[(len(group.pairs),)](
            x, *x.stride()[:2], config.dim, plan.rows, group.table, group.pairs, matrices, norms,
            **triton_kernels.gram_options(dtype),
        )  # fmt: skip

    stacked = x[0].view(config.segments, config.tokens, config.dim)
    wide = stacked.float()
    runs: dict[str, Run] = {"triangle kernel": triangle, "bmm, float32 copy": lambda: torch.bmm(wide, wide.mT)}
    if dtype != torch.float32:
        runs["bmm, half in, float32 out"] = lambda: torch.bmm(stacked, stacked.mT, out_dtype=torch.float32)
    triangle()
    error = (matrices.view(config.segments, config.tokens, -1) - torch.bmm(wide.double(), wide.double().mT)).abs().max()
    extra = {"largest_error": float(error), "dtype": str(dtype)}
    return table(f"Gram matrices, {config.name}, {dtype}", runs, rounds, "triangle kernel", extra)


def long_segment(tokens: int, dim: int, keep: int, dtype: torch.dtype, rounds: int) -> list[Row]:
    """One segment without a Gram matrix, beside what memory bandwidth allows."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, dim, generator=generator).to("cuda", dtype)
    ids = torch.zeros(tokens, dtype=torch.int64)
    passes = [x] * keep

    def read() -> None:
        for part in passes:
            part.view(torch.int32).sum()

    runs: dict[str, Run] = {
        "triton": lambda: select_tokens(x, None, ids, keep, backend="triton"),
        "torch": lambda: select_tokens(x, None, ids, keep, backend="torch"),
        "features read once for each pick": read,
    }
    same = share([runs["triton"]()], [runs["torch"]()])
    title = f"Gram–Schmidt, {tokens} tokens → {keep}, D {dim}, {dtype}"
    return table(title, runs, rounds, "triton", {"equal_to_torch": same, "dtype": str(dtype)})


def attention(tokens: int, asked: int, dtype: torch.dtype, rounds: int) -> list[Row]:
    """The attention received from the last ``asked`` rows of a layer of 28 heads, 4 key heads of 128."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 28, tokens, 128, generator=generator).to("cuda", dtype)
    key, value = (torch.randn(1, 4, tokens, 128, generator=generator).to("cuda", dtype) for _ in range(2))
    rows = torch.arange(tokens - asked, tokens, device="cuda")[None]
    valid = torch.ones(1, tokens, dtype=torch.bool, device="cuda")
    arguments = (query, key, rows, valid, 128**-0.5)
    runs: dict[str, Run] = {
        "kernels": lambda: relevance.attention_received(*arguments),
        "torch": lambda: relevance.attention_received_in_torch(*arguments),
        "the layer's attention": lambda: scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True
        ),
    }
    error = float((runs["kernels"]() - runs["torch"]()).abs().max())
    title = f"attention received from {asked} rows, {tokens} tokens, {dtype}"
    return table(title, runs, rounds, "kernels", {"largest_error": error, "dtype": str(dtype)})


def main() -> None:
    """Measure and print; write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", default=None, metavar="FILE")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a CUDA device, and torch sees none here.", file=sys.stderr)
        sys.exit(1)
    device = torch.cuda.get_device_properties(0)
    print(f"{device.name}, torch {torch.__version__}")
    rows: list[Row] = []
    for dtype in DTYPES:
        for config in WORKLOADS:
            rows += selection(config, dtype, args.rounds)
        rows += gram(WORKLOADS[2], dtype, args.rounds)
        rows += long_segment(100_000, 1024, 100, dtype, max(1, args.rounds // 5))
        for tokens in (3_072, 12_288):
            for asked in (1, 32, tokens):
                rows += attention(tokens, asked, dtype, args.rounds)
    if args.json:
        command = f"python benchmarks/gpu.py --json {args.json}"
        facts = {"command": command, "device": device.name, "torch": torch.__version__, "rows": rows}
        with open(args.json, "w", encoding="utf-8") as stream:
            json.dump(facts, stream, indent=1)


if __name__ == "__main__":
    main()
