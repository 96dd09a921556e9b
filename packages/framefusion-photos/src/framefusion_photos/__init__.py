"""What was trained of the model that sees photographs, for ``framefusion eval --data photos``."""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""Projector, decoder, processor and words of a ``LlavaOnevisionForConditionalGeneration``; without its encoder, a
DINOv2-S/14, which framefusion fetches."""
