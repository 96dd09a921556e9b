"""What the training scripts share: where a run lives, its schedule, and steps rendered ahead by a worker."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

HERE = Path(__file__).resolve().parent
RUNS = HERE / "runs"
FILMS = RUNS / "footage"


def learning_rate(step: int, steps: int, peak: float, *, warm_up: int = 100) -> float:
    """Linear warm-up, then cosine decay to a fiftieth."""
    progress = step / max(1, steps)
    return peak * min(1.0, (step + 1) / warm_up) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def build_optimizer(parameters: list[nn.Parameter]) -> torch.optim.AdamW:
    """AdamW; vectors and biases do not decay."""
    matrices, vectors = [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), fused=True)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a resumable state; a kill leaves the old one or the new one."""
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def log(path: Path, entry: dict[str, Any]) -> None:
    """Print one entry of the learning curve and add it to ``path``."""
    with path.open("a") as stream:
        stream.write(json.dumps(entry) + "\n")
    print(json.dumps(entry), flush=True)


class _Steps(Dataset):
    def __init__(self, make: Callable[[int], Any], steps: int) -> None:
        self.make, self.steps = make, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Any:
        torch.set_num_threads(1)
        return self.make(step)


def _below(_: int) -> None:
    os.nice(5)


def ahead(make: Callable[[int], Any], first: int, steps: int) -> DataLoader:
    """The batches ``make(step)`` of steps ``first … steps − 1``, made ahead by one worker process."""
    return DataLoader(
        _Steps(make, steps),
        batch_size=None,
        sampler=range(first, steps),
        num_workers=1,
        prefetch_factor=8,
        worker_init_fn=_below,
    )
