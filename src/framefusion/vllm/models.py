"""Which architectures of vLLM are pruned, and why the others are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from framefusion.errors import ArgumentError
from framefusion.vllm import nemotron, qwen
from framefusion.vllm.needs import Need


class Family(NamedTuple):
    """Architectures whose classes share the methods that are replaced."""

    base: str
    """``module.Class`` that they are or inherit from."""
    needs: Sequence[Need]
    rotates: bool
    """Whether its decoder has positions on three axes (M-RoPE), so that those of the tokens that stay must be told."""


QWEN_2_5 = Family(qwen.MODEL_2_5, qwen.NEEDS_2_5, True)
QWEN_3 = Family(qwen.MODEL_3, qwen.NEEDS_3, True)
NEMOTRON = Family(f"{nemotron.MODEL}.NemotronH_Nano_VL_V2", nemotron.NEEDS, False)

FAMILIES = {
    "Qwen2_5_VLForConditionalGeneration": QWEN_2_5,
    "Qwen3VLForConditionalGeneration": QWEN_3,
    "Qwen3VLMoeForConditionalGeneration": QWEN_3,
    "Qwen3_5ForConditionalGeneration": QWEN_3,
    "Qwen3_5MoeForConditionalGeneration": QWEN_3,
    "InternS2PreviewForConditionalGeneration": QWEN_3,
    "InternS2MobiusForConditionalGeneration": QWEN_3,
    "Cosmos3ForConditionalGeneration": QWEN_3,
    "Alpamayo2Super": QWEN_3,
    "NemotronH_Nano_VL_V2": NEMOTRON,
    "NemotronH_Nano_Omni_Reasoning_V3": NEMOTRON,
    "NemotronH_Super_Omni_Reasoning_V3": NEMOTRON,
    "NemotronH_Omni_Reasoning_V3": NEMOTRON,
}
"""By architecture, as the checkpoint's configuration names it."""

RUN = {
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3VLForConditionalGeneration",
    "Qwen3VLMoeForConditionalGeneration",
    "Qwen3_5ForConditionalGeneration",
    "Qwen3_5MoeForConditionalGeneration",
    "NemotronH_Nano_VL_V2",
}
"""Those that the tests run in the engine; the others have the same methods, and bring a warning."""

ONE_AXIS = (
    "its decoder has positions on one axis: the engine counts them without the dropped tokens, and those that stay "
    "would not keep theirs"
)
IMAGES = "it takes images only, which are never pruned"
EMBEDS = "it embeds documents, all of whose tokens are compared, and generates nothing"

REFUSED = {
    "Qwen4ExpForConditionalGeneration": (
        "its layers read the ids of the prompt as well, and those of a pruned video are laid out before it is known "
        "how many tokens of which frame stay"
    ),
    "InternS1ProForConditionalGeneration": ONE_AXIS,
    "Exaone4_5_ForConditionalGeneration": ONE_AXIS,
    "OpenCUAForConditionalGeneration": IMAGES,
    "CohereCompassForConditionalGeneration": IMAGES,
    "ColQwen3": EMBEDS,
    "OpsColQwen3Model": EMBEDS,
    "ColQwen3_5": EMBEDS,
    "Qwen3VLNemotronEmbedModel": EMBEDS,
    "ClefFlashForJointSchema": "it fills in a schema and generates nothing",
}
"""Why not: architectures with the methods of an own rule that are not pruned all the same."""


def family_of(architecture: str | None, rotates: bool) -> Family:
    """The family of an architecture.

    Args:
        architecture: as the engine's configuration has it; None without a model.
        rotates: whether this checkpoint has positions on three axes.

    Raises:
        ValueError: it is not pruned; says why.
    """
    leave = "Leave the key out."
    if architecture in REFUSED:
        raise ArgumentError(f"framefusion does not prune {architecture}: {REFUSED[architecture]}. {leave}")
    family = FAMILIES.get(architecture or "")
    if family is None:
        raise ArgumentError(
            f"framefusion prunes in vLLM for {', '.join(FAMILIES)}; this model is {architecture}. {leave}"
        )
    if family.rotates and not rotates:
        raise ArgumentError(f"framefusion does not prune this {architecture}: {ONE_AXIS}. {leave}")
    return family
