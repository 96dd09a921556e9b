"""Memory stays far below N × N, for many short segments and for one long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
import torch
from pathlib import Path
from framefusion.selection import select_tokens

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) // 1024

torch.set_num_threads(1)
features = torch.randn({tokens}, {dim}).to(torch.{dtype})
ids = torch.arange({tokens}) // {length}
if not {consecutive}:
    ids = ids[torch.randperm({tokens})]
select_tokens(features[:64], None, None, 4)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
kept = select_tokens(features, None, ids, {keep}, backend="{backend}")
assert len(kept) == {keep}
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux' /proc/self/clear_refs")
@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize(
    ("tokens", "dim", "length", "keep", "dtype", "consecutive", "limit_mib"),
    [
        # one (40,000)² float32 matrix would be 6,100 MiB; the chunk buffers are 16 MiB each
        (40_000, 128, 40_000, 25, "float32", True, 60),
        (40_000, 128, 40_000, 25, "bfloat16", False, 100),
        # 100 matrices of 200² are 15 MiB, the full matrix would be 1,500 MiB
        (20_000, 64, 200, 2_000, "float32", True, 120),
    ],
)
def test_peak_extra_memory(
    backend: str, tokens: int, dim: int, length: int, keep: int, dtype: str, consecutive: bool, limit_mib: int
) -> None:
    code = MEASURE.format(
        tokens=tokens, dim=dim, length=length, keep=keep, dtype=dtype, consecutive=consecutive, backend=backend
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) <= limit_mib
