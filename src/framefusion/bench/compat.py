"""``benchmark_dpp_pruning`` under the signature of the published system."""

from __future__ import annotations

import logging
import statistics
import sys
import time

import torch
from torch import Tensor

from framefusion.bench.contenders import CONTENDERS, contenders_on, ours_on
from framefusion.bench.harness import measure
from framefusion.bench.report import Report, environment
from framefusion.bench.workloads import Config, make_case
from framefusion.errors import ArgumentError

logger = logging.getLogger(__name__)


def benchmark_dpp_pruning(
    batch_size: int = 1,
    num_tokens: int = 1024,
    hidden_dim: int = 4096,
    num_segments: int = 8,
    tokens_per_segment: int = 128,
    topk_per_segment: int = 64,
    device: str = "cuda",
    num_iterations: int = 5,
) -> tuple[Tensor | list[Tensor], float]:
    """Time the selection on random float32 tokens and print it side by side with the original ways.

    Args:
        batch_size: samples.
        num_tokens: tokens of a sample; those beyond the segments belong to none.
        hidden_dim: width of the features.
        num_segments: temporal segments of a sample.
        tokens_per_segment: tokens of each.
        topk_per_segment: tokens to keep of each.
        device: "cuda" or "cpu"; falls back to the CPU with a warning where CUDA is absent.
        num_iterations: timed runs.

    Returns:
        The selected indices, (K,) int64 for one sample and a list of them for more, and the average
        milliseconds of :func:`framefusion.select_tokens`.

    Raises:
        ValueError: the segments hold more than ``num_tokens``, or a number is below 1.
    """
    outside = num_tokens - num_segments * tokens_per_segment
    if outside < 0:
        raise ArgumentError(
            f"num_tokens must be at least num_segments * tokens_per_segment = "
            f"{num_segments * tokens_per_segment}, got {num_tokens}"
        )
    config = Config(num_segments, tokens_per_segment, topk_per_segment, hidden_dim, batch_size, outside)
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        logger.warning("CUDA is not available; benchmarking on the CPU")
        device = "cpu"
    rows = measure(config, contenders_on(device), iterations=num_iterations, device=device)
    report = Report(rows, environment=environment(torch.get_num_threads(), device), device=device)
    sys.stdout.write(report.table() + "\n")

    case = make_case(config, device)
    ours = CONTENDERS[ours_on(device)].run
    times = []
    for _ in range(num_iterations):
        start = time.perf_counter()
        selected = ours(case)
        if case.features.is_cuda:
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return selected[0] if batch_size == 1 else selected, statistics.fmean(times)
