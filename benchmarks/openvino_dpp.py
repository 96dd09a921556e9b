"""OpenVINO GenAI's greedy DPP, called in the shared library of its wheel.

The wheel's Python interface offers the DPP only inside a pipeline with a converted model, but its library exports the
C++ class ``ov::genai::cdpruner::FastGreedyDPP``. ``ctypes`` can call it: the constructor takes a small struct, the
tensor comes from OpenVINO's C interface, and the result is a vector of vectors, three pointers each. Nothing of this is
a public interface, so exactly one version is taken, on the one platform for which the layouts here were read out of the
library (the struct from the machine code of its comparison operator). An exception thrown inside would end the process;
the inputs that the bench makes cause none.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import peers
from framefusion.bench.workloads import Case
from framefusion.errors import ArgumentError, MissingDependencyError, StateError

VERSION = "2026.4.1.0"
"""The one release whose layouts are known."""

_FLOAT32 = 4
"""``F32`` of ``ov_element_type_e``."""
_NUMERICAL_THRESHOLD = 1e-6
"""Default of ``cdpruner::Config``: added to a chosen gain before its root is taken."""


class _Config(ctypes.Structure):
    """``ov::genai::cdpruner::Config``; the string is libstdc++'s, its text inside."""

    _fields_ = (
        ("pruning_ratio", ctypes.c_size_t),
        ("relevance_weight", ctypes.c_float),
        ("device", ctypes.c_void_p),
        ("device_length", ctypes.c_size_t),
        ("device_text", ctypes.c_char * 16),
        ("numerical_threshold", ctypes.c_float),
        ("use_negative_relevance", ctypes.c_bool),
        ("use_cl_kernel", ctypes.c_bool),
        ("split_threshold", ctypes.c_size_t),
        ("enable_frame_chunking", ctypes.c_bool),
    )


class _Shape(ctypes.Structure):
    """``ov_shape_t``."""

    _fields_ = (("rank", ctypes.c_int64), ("dims", ctypes.POINTER(ctypes.c_int64)))


class _Vector(ctypes.Structure):
    """libstdc++'s ``std::vector``."""

    _fields_ = (("begin", ctypes.c_void_p), ("end", ctypes.c_void_p), ("capacity", ctypes.c_void_p))


def missing() -> str | None:
    """None where the library can be called, else why not."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "called only in its x86-64 Linux wheel"
    try:
        installed = version("openvino-genai")
    except PackageNotFoundError:
        return "needs openvino-genai: pip install 'framefusion[bench]'"
    return None if installed == VERSION else f"called only in openvino-genai {VERSION}, here is {installed}"


def select(case: Case) -> list[Tensor]:
    """Select with ``FastGreedyDPP::select`` on the kernels of all segments; ascending order within a segment."""
    keep = min(case.config.keep, case.config.tokens)
    return peers.per_sample(case, greedy_dpp(peers.kernels(case), keep))


def greedy_dpp(kernels: Tensor, keep: int) -> list[Tensor]:
    """What OpenVINO GenAI keeps of each kernel.

    Args:
        kernels: (S, n, n) float32, contiguous, on the CPU.
        keep: tokens to keep of each, at most n.

    Returns:
        S tensors (keep,) int64, ascending.

    Raises:
        ValueError: kernels of another kind, or more to keep than there are.
        ImportError: the library cannot be called here; the message says why.
    """
    if kernels.dtype != torch.float32 or not kernels.is_contiguous() or kernels.is_cuda or kernels.dim() != 3:
        raise ArgumentError("kernels must be a contiguous (S, n, n) float32 tensor on the CPU")
    if not 0 < keep <= kernels.shape[1] == kernels.shape[2]:
        raise ArgumentError(f"keep must be 1 … n and the kernels square, got {keep} of {tuple(kernels.shape)}")
    library = _Library.load()
    tensor = library.tensor(kernels)
    picked = _Vector()
    try:
        library.run(ctypes.byref(picked), library.selector, _pointed_to(tensor), keep)
        return list(library.taken(picked))
    finally:
        library.free_tensor(tensor)


class _Library:
    """The loaded libraries, the functions needed of them, and one selector."""

    def __init__(self) -> None:
        reason = missing()
        if reason is not None:
            raise MissingDependencyError(f"OpenVINO GenAI's DPP: {reason}")
        for pattern in ("libtbb.so.*", "libopenvino.so.*"):
            ctypes.CDLL(str(_file("openvino", pattern)), mode=ctypes.RTLD_GLOBAL)
        interface = ctypes.CDLL(str(_file("openvino", "libopenvino_c.so.*")))
        genai = ctypes.CDLL(str(_file("openvino-genai", "libopenvino_genai.so.*")))
        self._create_tensor = interface.ov_tensor_create_from_host_ptr
        self._create_tensor.argtypes = (ctypes.c_int, _Shape, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p))
        self.free_tensor = interface.ov_tensor_free
        self.free_tensor.argtypes, self.free_tensor.restype = (ctypes.c_void_p,), None
        self._free = ctypes.CDLL(None).free
        self._free.argtypes, self._free.restype = (ctypes.c_void_p,), None
        # std::vector<std::vector<size_t>> FastGreedyDPP::select(const ov::Tensor&, size_t): the result's place comes
        # first, as everywhere on this platform for values that are not trivial to copy.
        self.run = genai["_ZN2ov5genai8cdpruner13FastGreedyDPP6selectERKNS_6TensorEm"]
        self.run.argtypes, self.run.restype = (ctypes.c_void_p,) * 3 + (ctypes.c_size_t,), None
        self.selector = self._make_selector(genai)

    @staticmethod
    @cache
    def load() -> _Library:
        """The one instance."""
        return _Library()

    @staticmethod
    def _make_selector(genai: ctypes.CDLL) -> Any:
        """A ``FastGreedyDPP`` that lives as long as the process, on the CPU, without OpenCL."""
        config = _Config(
            device_length=3, device_text=b"CPU", numerical_threshold=_NUMERICAL_THRESHOLD, use_cl_kernel=False
        )
        config.device = ctypes.addressof(config) + _Config.device_text.offset
        # It holds a copy of the settings and at most one pointer more; the rest is room to spare.
        selector = (ctypes.c_char * (2 * ctypes.sizeof(_Config)))()
        construct = genai["_ZN2ov5genai8cdpruner13FastGreedyDPPC1ERKNS1_6ConfigE"]
        construct.argtypes, construct.restype = (ctypes.c_void_p, ctypes.c_void_p), None
        construct(ctypes.addressof(selector), ctypes.addressof(config))
        return selector

    def tensor(self, values: Tensor) -> ctypes.c_void_p:
        """An ``ov_tensor_t*`` on the memory of a contiguous float32 tensor."""
        dims = (ctypes.c_int64 * values.dim())(*values.shape)
        made = ctypes.c_void_p()
        status = self._create_tensor(_FLOAT32, _Shape(values.dim(), dims), values.data_ptr(), ctypes.byref(made))
        if status != 0:
            raise StateError(f"ov_tensor_create_from_host_ptr failed with status {status}")
        return made

    def taken(self, outer: _Vector) -> Iterator[Tensor]:
        """The inner vectors as tensors; frees them and the outer one."""
        size = ((outer.end or 0) - (outer.begin or 0)) // ctypes.sizeof(_Vector)
        for inner in (_Vector * size).from_address(outer.begin or 0) if size else ():
            length = (inner.end - inner.begin) // ctypes.sizeof(ctypes.c_size_t)
            values = (ctypes.c_size_t * length).from_address(inner.begin)
            yield torch.from_numpy(np.array(values, dtype=np.int64))
            self._free(inner.begin)
        self._free(outer.begin)


def _file(package: str, pattern: str) -> Path:
    """A shared library among a package's files."""
    for entry in distribution(package).files or ():
        if entry.match(pattern):
            return Path(str(entry.locate()))
    raise MissingDependencyError(f"{package} has no {pattern}: install it again with pip install 'framefusion[bench]'")


def _pointed_to(tensor: ctypes.c_void_p) -> int | None:
    """The ``ov::Tensor*`` in an ``ov_tensor_t``, whose only member is a shared pointer to one."""
    return ctypes.cast(tensor, ctypes.POINTER(ctypes.c_void_p))[0]
