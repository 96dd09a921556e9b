"""The public functions with features on another device, so that tests which make them on the CPU run there too."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

FUNCTIONS = ("select_tokens", "greedy_map")
"""Those that are replaced in a test module; both take a backend."""

BACKENDS = ("torch", "gram-schmidt", "triton", "triton-steps", "triton-gram-schmidt")
"""Those of ``conftest.FAST`` that run on any device, or on CUDA."""


def on(device: torch.device, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose float tensors go to a device, and whose result comes back to the CPU.

    What is not finite is looked for, as it is on the CPU by default. The reference stays on the CPU: it says what is
    right.
    """

    @wraps(function)
    def called(*args: Any, backend: str = "auto", **options: Any) -> Any:
        if backend == "reference":
            return function(*args, backend=backend, **options)
        if function.__name__ == "select_tokens":
            options.setdefault("check_finite", True)
        args, options = tree_map_only(Tensor, lambda tensor: sent(tensor, device), (args, options))
        return tree_map_only(Tensor, Tensor.cpu, function(*args, backend=backend, **options))

    return called


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A float tensor on a device, with the strides and the alignment that it has here; others stay."""
    if not tensor.is_floating_point():
        return tensor
    memory = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())
    moved = memory.to(device, copy=True).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    return moved.requires_grad_(tensor.requires_grad)
