"""Memory stays far below N × N, for many short segments and for one long one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

MEASURE = """
import json, os, sys
import torch
from pathlib import Path
from framefusion.selection import select_tokens

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) // 1024

def measure(backend, tokens, dim, length, keep, dtype, consecutive, limit_mib):
    features = torch.randn(tokens, dim).to(getattr(torch, dtype))
    ids = torch.arange(tokens) // length
    if not consecutive:
        ids = ids[torch.randperm(tokens)]
    select_tokens(features[:64], None, None, 4)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    kept = select_tokens(features, None, ids, keep, backend=backend)
    assert len(kept) == keep
    return status("VmHWM") - before

torch.set_num_threads(1)
select_tokens(torch.randn(4, 4), None, None, 2)
for case in json.loads(sys.argv[1]):
    # Memory that one case has freed is not the next one's.
    child = os.fork()
    if child == 0:
        print(measure(*case), flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"failed: {case}")
"""


class Case(NamedTuple):
    """A selection, and how many MiB it may take beside its input."""

    backend: str
    tokens: int
    dim: int
    length: int
    keep: int
    dtype: str
    consecutive: bool
    limit_mib: int


CASES = [
    Case(backend, *case)
    for backend in ("auto", "torch")
    for case in (
        # one (40,000)² float32 matrix would be 6,100 MiB; the chunk buffers are 16 MiB each
        (40_000, 128, 40_000, 25, "float32", True, 60),
        (40_000, 128, 40_000, 25, "bfloat16", False, 100),
        # 100 matrices of 200² are 15 MiB, the full matrix would be 1,500 MiB
        (20_000, 64, 200, 2_000, "float32", True, 120),
    )
]


@pytest.fixture(scope="module")
def measured() -> dict[Case, int]:
    """MiB of each case, in processes that one has imported everything for."""
    command: list[Any] = [sys.executable, "-c", MEASURE, json.dumps(CASES)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return dict(zip(CASES, map(int, result.stdout.split()), strict=True))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux' /proc/self/clear_refs")
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_peak_extra_memory(case: Case, measured: dict[Case, int]) -> None:
    assert measured[case] <= case.limit_mib
