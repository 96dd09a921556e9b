"""How to measure on a device: CUDA, or the CPU where a run is rehearsed."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Run = Callable[[], Any]


@dataclass(frozen=True)
class Bench:
    """A device and how large the work on it is.

    Attributes:
        device: ``"cuda"`` or ``"cpu"``.
        rehearsal: shrink everything: each line of each part runs, and no number means anything.
    """

    device: str
    rehearsal: bool

    @property
    def on_gpu(self) -> bool:
        """Whether kernels run beside the host."""
        return self.device == "cuda"

    def facts(self) -> dict[str, Any]:
        """What the numbers depend on."""
        import triton

        from framefusion.asking.provenance import versions

        facts: dict[str, Any] = {"rehearsal": self.rehearsal, "versions": {**versions(), "triton": triton.__version__}}
        if not self.on_gpu:
            return {**facts, "device": {"name": platform.processor() or platform.machine()}}
        own = torch.cuda.get_device_properties(0)
        name = {
            "name": own.name,
            "capability": f"{own.major}.{own.minor}",
            "gigabytes": round(own.total_memory / 1e9, 1),
        }
        facts["versions"]["CUDA"] = torch.version.cuda
        return {**facts, "device": name}

    def synchronize(self) -> None:
        """Wait for all that was launched."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def milliseconds(self, run: Run) -> float:
        """Time of one run between two CUDA events, with nothing queued before."""
        if not self.on_gpu:
            begun = time.process_time()
            run()
            return (time.process_time() - begun) * 1e3
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end)

    def in_turns(self, runs: Mapping[str, Run], rounds: int, seconds: float = 4.0, warm_up: int = 2) -> dict[str, Any]:
        """Times of several runs in turns, after a warm-up of each.

        Args:
            runs: by name.
            rounds: at most this many.
            seconds: after which no round begins, but for the first two.
            warm_up: runs of each that are not counted; they compile.

        Returns:
            For each name ``milliseconds`` of each round, their ``median`` and ``repeats``, how many there are.
        """
        rounds, warm_up = (1, 1) if self.rehearsal else (rounds, warm_up)
        for _ in range(warm_up):
            for run in runs.values():
                run()
        times: dict[str, list[float]] = {name: [] for name in runs}
        begun = time.monotonic()
        for done in range(rounds):
            if done >= 2 and time.monotonic() - begun > seconds:
                break
            for name, run in runs.items():
                times[name].append(self.milliseconds(run))
        return {
            name: {
                "median": round(statistics.median(own), 4),
                "repeats": len(own),
                "milliseconds": [round(value, 4) for value in own],
            }
            for name, own in times.items()
        }

    def launches(self, run: Run) -> int | None:
        """Kernels and copies that one run puts on the device; None on the CPU."""
        if not self.on_gpu:
            return None
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            run()
            torch.cuda.synchronize()
        return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())

    def extra_bytes(self, run: Run) -> int | None:
        """Peak of what one run allocates beyond what is held; None on the CPU."""
        if not self.on_gpu:
            run()
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def captured(self, run: Callable[[], Tensor]) -> tuple[Run, Tensor]:
        """A run that has run before as a CUDA graph: what replays it, and the tensor in which its result will be."""
        if not self.on_gpu:
            held = run()
            return lambda: held.copy_(run()), held
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = run()
        return graph.replay, result
