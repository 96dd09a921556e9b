"""Qwen2.5-Omni: its thinker is laid out as Qwen2.5-VL; with a video's sound, audio tokens stand between the frames."""

from __future__ import annotations

from framefusion.hf.families.qwen2_5_vl import Qwen25VL


class Qwen25Omni(Qwen25VL):
    """Attach to the whole model's ``thinker`` and call its ``generate()``: answers come as text only, because speech is
    made from the hidden states of the whole prompt. Audio tokens stay, as text does.
    """

    name = "Qwen2.5-Omni (thinker)"
    model_classes = ("Qwen2_5OmniThinkerForConditionalGeneration", "Qwen2_5OmniThinkerModel")
    placeholder = "video or image token; one run per image or video, or several with its sound between"
    tells_encoder = False
