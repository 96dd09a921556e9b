"""The parts of a run, in order: what must be right first, then what takes how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One part of a run.

    Attributes:
        name: of the module here, and of its results.
        seconds: after which it is ended. Together less than nine minutes.
        title: what it finds out.
    """

    name: str
    seconds: float
    title: str


PARTS = (
    Part("contract", 110, "The selection's contract, backends torch and Triton"),
    Part("oracle", 90, "Whole models against the masked oracle"),
    Part("prefill", 110, "A 7B-shaped Qwen2.5-VL: tower, prefill, tokens, memory"),
    Part("kernels", 85, "Kernels beside plain torch"),
    Part("decoding", 90, "Decoding steps in CUDA graphs"),
    Part("tower", 35, "A vision tower that encodes only what changed, or merges patches"),
    Part("engine", 15, "vLLM"),
)
