"""LLaVA-OneVision: one run of ``T * ceil(g / 2)**2`` tokens a video and one newline token at its end."""

from __future__ import annotations

import math
from typing import Any

from framefusion.hf.families.base import Call, Family
from framefusion.layout import VisualLayout, runs


class LlavaOnevision(Family):
    name = "LLaVA-OneVision"
    model_classes = ("LlavaOnevisionForConditionalGeneration", "LlavaOnevisionModel")
    placeholder = "video token; one run per video; the newline at its end stays, as text"
    verified = "masked oracle on a random-weight model; bundled trained checkpoint"

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        config = model.config
        side = math.ceil(config.vision_config.image_size // config.vision_config.patch_size / 2)
        encoded = call.encoded("video")
        if encoded is not None:
            frames = (encoded.pooler_output.shape[1] - 1) // side**2
        else:
            frames = call.arguments["pixel_values_videos"].shape[1]
        length = frames * side**2 + 1
        layouts = []
        assert call.input_ids is not None
        for b, row in enumerate(call.input_ids.cpu()):
            starts: list[int] = []
            for first, end in runs(row == config.video_token_id):
                if (end - first) % length:
                    raise ValueError(
                        f"input_ids[{b}] has a run of {end - first} video tokens, which is no multiple of the "
                        f"{length} tokens of a video of {frames} frames; pass the inputs as the processor makes them, "
                        "the whole prompt at once (no prefill_chunk_size)."
                    )
                starts += range(first, end, length)
            layouts.append(VisualLayout.from_grids(starts, [(frames, side, side)] * len(starts)))
        return layouts
