"""Nemotron-Nano-VL and the Nemotron Omni models in vLLM: their own rule is two functions, and those are all to replace.

Their decoder gives attention no positions, so that nothing has to be said about those of the tokens that stay.
"""

from __future__ import annotations

from framefusion.vllm.needs import Need
from framefusion.vllm.rules import COUNT, MASK, count, mask

MODEL = "vllm.model_executor.models.nano_nemotron_vl"
PROCESSOR = "vllm.transformers_utils.processors.nano_nemotron_vl"
NEEDS = [
    Need(MODEL, "compute_retained_tokens_count", COUNT, count),
    Need(PROCESSOR, "compute_retained_tokens_count", COUNT, count),
    Need(MODEL, "compute_retention_mask", MASK, mask),
]
"""What pruning needs of them."""
