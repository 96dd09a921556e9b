"""The backends, by name. A new one is a module that is a :class:`Backend`, and a line in :data:`REGISTRY`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol, cast

import torch
from torch import Tensor

from framefusion.errors import MissingDependencyError
from framefusion.selection.problem import Answer, Problem


class Backend(Protocol):
    """What a module must have to be a backend."""

    OWN_STEPS: frozenset[str]
    """The steps of :mod:`framefusion.selection.dispatch` that it does itself; the others are done around it."""

    def check_device(self, device: torch.device) -> None:
        """Raise an :class:`~framefusion.errors.ArgumentError` where it does not run."""

    def select(self, problem: Problem) -> Answer:
        """What each segment of each sample keeps, with traces where the problem is ``traced``.

        Raises:
            NonFiniteFeaturesError: NaN or Inf in a row of a segment, where the problem has ``check_finite``.
        """

    def select_from_kernel(self, kernel: Tensor, diagonal: Tensor, count: int) -> Tensor:
        """Greedy MAP of one determinantal point process.

        Args:
            kernel: (n, n) float32 or float64, symmetric.
            diagonal: (n,) its diagonal, same dtype; 0 excludes a candidate.
            count: picks wanted, at most n.

        Returns:
            (count,) int64 in greedy order on the kernel's device, −1 after the last pick.
        """


@dataclass(frozen=True)
class Entry:
    """A backend that is imported when it is used.

    Attributes:
        module: its name in this package.
        default_on: the type of the devices on which "auto" stands for it.
        package: what must be installed.
        hint: who brings that package along.
    """

    module: str
    default_on: str | None = None
    package: str | None = None
    hint: str = ""


REGISTRY = {
    "torch": Entry("torch_backend"),
    "numba": Entry("numba_backend", default_on="cpu"),
    "triton": Entry("triton_backend", "cuda", package="triton", hint=", which torch brings along on Linux"),
    "reference": Entry("reference"),
}

BACKENDS = ("auto", *REGISTRY)
"""What ``backend`` may be."""


def resolve(name: str, device: torch.device) -> str:
    """The backend that a name stands for on a device."""
    if name != "auto":
        return name
    there = (own for own, entry in REGISTRY.items() if entry.default_on == device.type and _is_installed(entry))
    return next(there, "torch")


def load(name: str, device: torch.device) -> Backend:
    """The backend for a device.

    Raises:
        ValueError: it does not run there.
        ImportError: it needs a package that is not installed.
    """
    name = resolve(name, device)
    entry = REGISTRY[name]
    if not _is_installed(entry):
        raise MissingDependencyError(
            f"backend {name!r} needs the package {entry.package}{entry.hint}; install it, or use backend='auto'"
        )
    backend = cast(Backend, importlib.import_module(f"{__package__}.{entry.module}"))
    backend.check_device(device)
    return backend


def _is_installed(entry: Entry) -> bool:
    return entry.package is None or find_spec(entry.package) is not None
