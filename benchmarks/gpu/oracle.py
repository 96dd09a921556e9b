"""Whole models on the device against the masked oracle, as tests/hf does on the CPU in float32.

In half precision two ways to the same logits round differently, and so does the oracle from what it would be in
float32. Both are compared with the oracle in float32 on the same weights: a reduced prefill must not be further from it
than 1.5 times the oracle itself in half precision, as the root of the mean square over all logits.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from transformers.utils import is_flash_attn_2_available

import framefusion
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.record import Record
from tests.hf import models, oracle, ways
from tests.hf.case import Case
from tests.hf.prompts import PROMPTS

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "llava_onevision", "gemma3", "internvl", "qwen3_5")
WAYS = {"greedy": ways.greedy, "StaticCache": ways.static_cache}
DTYPES = (torch.float32, torch.bfloat16)
FURTHER = 1.5
"""How much further from the oracle in float32 a reduced prefill in half precision may be than the oracle itself."""


@dataclass(frozen=True)
class Cell:
    """One comparison."""

    family: str
    attention: str
    dtype: torch.dtype
    plan: str
    prompt: str
    way: str

    def described(self) -> dict[str, str]:
        """Its fields, for a row."""
        return {**self.__dict__, "dtype": str(self.dtype).removeprefix("torch.")}


def cells(rehearsal: bool) -> Iterator[Cell]:
    """All comparisons, the first plan of every family ahead of the second, so that a run that is cut off has them."""
    kinds = [("sdpa", dtype) for dtype in DTYPES]
    if is_flash_attn_2_available():
        kinds.append(("flash_attention_2", torch.bfloat16))
    first, *others = ways.PLANS
    if rehearsal:
        yield from (Cell(family, *kind, first, "single", "greedy") for family in FAMILIES for kind in kinds)
        yield from (Cell(FAMILIES[0], *kind, first, "single", "StaticCache") for kind in kinds)
        return
    for plan, prompt, way in (
        (first, "ragged", "greedy"),
        (first, "single", "StaticCache"),
        *((plan, "ragged", "greedy") for plan in others),
    ):
        yield from (Cell(family, *kind, plan, prompt, way) for family in FAMILIES for kind in kinds)


def run(record: Record, bench: Bench) -> None:
    """A row for each comparison; one that is too far off is an error of the part."""
    cases: dict[tuple[str, str, torch.dtype], Case] = {}
    for cell in cells(bench.rehearsal):
        with record.step(" ".join(cell.described().values())):
            key = cell.family, cell.attention, cell.dtype
            if key not in cases:
                cases[key] = models.build(*key)
                cases[key].model.to(bench.device)
            row = compared(cell, cases[key], bench.device)
            record.add(**cell.described(), **row)
            assert row["passed"], f"differs from the oracle: {row}"


def compared(cell: Cell, case: Case, device: str) -> dict[str, Any]:
    """How far what a reduced model said is from the oracle."""
    inputs = on(device, case.inputs(PROMPTS[cell.prompt](case)), cell.dtype)
    with framefusion.attach(case.model, ways.PLANS[cell.plan]) as run:
        said = WAYS[cell.way](case, inputs, run)
        kept, tokens = run.tokens_per_layer[-1], run.summary().visual_tokens_before
    assert said.logits is not None
    assert kept < tokens, "nothing was reduced"
    masked = expected(case.model, inputs, said, device)
    difference = float((said.logits - masked).abs().max())
    found: dict[str, Any] = {"kept": kept, "visual_tokens": tokens, "largest_difference": difference}
    if cell.dtype == torch.float32:
        return {**found, "passed": difference <= ways.TOLERANCE}
    exact = expected(copy.deepcopy(case.model).float(), on(device, inputs, torch.float32), said, device)
    own, of_oracle = (float((logits.float() - exact).square().mean().sqrt()) for logits in (said.logits, masked))
    return {**found, "rms": own, "rms_of_oracle": of_oracle, "passed": own <= FURTHER * of_oracle}


def expected(model: Any, inputs: dict[str, Tensor], said: ways.Said, device: str) -> Tensor:
    """The logits of the oracle, whose own tensors are made on the device, and whose masks want PyTorch's attention."""
    stages = [
        replace(stage, kept=on(device, stage.kept), merged_into=on(device, stage.merged_into)) for stage in said.stages
    ]
    own = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    try:
        with torch.device(device):
            return oracle.logits(model, inputs, stages, said.sequences)
    finally:
        model.set_attn_implementation(own)


def on(device: str, value: Any, dtype: torch.dtype | None = None) -> Any:
    """All tensors in something on a device, those of floats in a dtype."""

    def sent(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    return tree_map_only(Tensor, sent, value)
