"""LLaVA-NeXT-Video: one run of ``T * (g // stride)**2`` tokens a video, in raster order."""

from __future__ import annotations

from typing import Any

from framefusion.hf.families.llava_onevision import LlavaOnevision


class LlavaNextVideo(LlavaOnevision):
    """Laid out as LLaVA-OneVision, but for the size of a frame and without a newline behind a video."""

    name = "LLaVA-NeXT-Video"
    model_classes = ("LlavaNextVideoForConditionalGeneration", "LlavaNextVideoModel")
    placeholder = "video or image token; one run per video or image"
    verified = "masked oracle on a random-weight model"
    newlines = 0
    tells_encoder = False

    def side(self, config: Any) -> int:
        return config.vision_config.image_size // config.vision_config.patch_size // config.spatial_pool_stride
