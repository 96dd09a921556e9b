"""Peak extra memory of each contender.

On the CPU: a child process runs every contender once to load and compile its code, hands freed memory back to
the system, resets the kernel's high-water mark of its resident memory (``/proc/self/clear_refs``), runs the
contender again and reports ``VmHWM`` minus the resident memory before that run. This sees every allocation,
whoever made it (torch, NumPy, MKL), and nothing of the inputs. It needs Linux; elsewhere the numbers are
absent.

On CUDA: ``torch.cuda.max_memory_allocated`` minus what was allocated before.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from framefusion.bench.contenders import CONTENDERS
from framefusion.bench.workloads import Case, Config, make_case
from framefusion.errors import StateError

logger = logging.getLogger(__name__)

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def peak_extra_bytes(config: Config, contenders: Sequence[str], threads: int, device: str) -> dict[str, int | None]:
    """Peak extra bytes of one run of each contender; None where it cannot be measured."""
    if torch.device(device).type == "cuda":
        return _on_cuda(make_case(config, device), contenders)
    if not _CLEAR_REFS.exists():
        logger.warning("peak memory is not measured: this system has no /proc/self/clear_refs")
        return dict.fromkeys(contenders)
    modules = sorted({CONTENDERS[name].module for name in contenders})
    job = {"config": asdict(config), "contenders": list(contenders), "threads": threads, "modules": modules}
    # Without a fixed threshold glibc keeps large freed blocks and the next run would not show them.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    child = subprocess.run(
        [sys.executable, "-m", "framefusion.bench.memory"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if child.returncode:
        raise StateError(f"the memory measurement of {config.name} failed:\n{child.stderr.strip()}")
    measured: dict[str, int | None] = json.loads(child.stdout)
    return measured


def _on_cuda(case: Case, contenders: Sequence[str]) -> dict[str, int | None]:
    measured: dict[str, int | None] = {}
    for name in contenders:
        CONTENDERS[name].run(case)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        CONTENDERS[name].run(case)
        torch.cuda.synchronize()
        measured[name] = torch.cuda.max_memory_allocated() - before
    return measured


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise StateError(f"{_STATUS} has no {field}")


def resident_bytes() -> int:
    """What this process has in memory now; Linux."""
    return _status_bytes("VmRSS")


def _give_back_freed_memory() -> None:
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def extra_bytes(run: Callable[[], object], warm: bool = False) -> int:
    """Peak extra bytes of one run in this process, whose allocator must give freed blocks back (see the caller).

    Unless the code is ``warm``, it runs once before.
    """
    if not warm:
        run()
    _give_back_freed_memory()
    _CLEAR_REFS.write_text("5")
    before = resident_bytes()
    run()
    return max(0, _status_bytes("VmHWM") - before)


def _child() -> None:
    job = json.load(sys.stdin)
    for module in job["modules"]:
        importlib.import_module(module)
    torch.set_num_threads(job["threads"])
    case = make_case(Config(**job["config"]))
    measured = {}
    for name in job["contenders"]:
        measured[name] = extra_bytes(partial(CONTENDERS[name].run, case))
    json.dump(measured, sys.stdout)


if __name__ == "__main__":
    _child()
