"""A tiny Nemotron-Nano-VL: its configuration, for weights that vLLM draws itself (``load_format="dummy"``).

Released checkpoints bring the class of their configuration along; :func:`register` puts one in its place.
"""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoConfig, NemotronHConfig, PreTrainedConfig

from tests.tiny_checkpoints import SPECIAL, tokenizer

TYPE = "tiny_nemotron_nano_vl"
VIDEO = SPECIAL.index("<image>")
"""The token of which a frame has as many as it has features."""
SIDE, PATCH = 64, 16
"""Of a frame and of a patch, in pixels; two by two patches are a token."""


class NemotronNanoVLConfig(PreTrainedConfig):
    """What vLLM reads of the configuration of Nemotron-Nano-VL."""

    model_type = TYPE

    def __init__(self, **given: object) -> None:
        self.architectures = ["NemotronH_Nano_VL_V2"]
        self.force_image_size, self.patch_size, self.downsample_ratio = SIDE, PATCH, 0.5
        self.template, self.ps_version, self.image_tag_type = "chatml", "v2", "internvl"
        self.use_thumbnail = True
        self.norm_mean = self.norm_std = [0.5] * 3
        self.vit_hidden_size, self.projector_hidden_size = 384, 64
        self.img_context_token_id = VIDEO
        self.vision_config = PreTrainedConfig(
            args={"model": "vit_small_patch16_224", "register_multiple": 4, "teachers": [], "cpe_max_size": 256},
            patch_size=PATCH,
            preferred_resolution=[SIDE, SIDE],
            video_temporal_patch_size=1,
        )
        self.text_config = NemotronHConfig(
            layers_block_type=["mamba", "attention", "mlp"],
            hidden_size=64,
            intermediate_size=64,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=32,
            vocab_size=64,
            ssm_state_size=16,
            mamba_num_heads=4,
            mamba_head_dim=32,
            n_groups=1,
            chunk_size=64,
            dtype="bfloat16",
            bos_token_id=None,
            eos_token_id=2,
        )
        super().__init__(**given)

    def get_text_config(self, **kwargs: object) -> PreTrainedConfig:
        return self.text_config


def register() -> None:
    """Let transformers, and so the engine, know the configuration."""
    AutoConfig.register(TYPE, NemotronNanoVLConfig, exist_ok=True)


def save(directory: Path) -> Path:
    """What an engine with weights of its own needs: configuration and tokenizer."""
    register()
    words = tokenizer()
    words.add_special_tokens({"additional_special_tokens": [*SPECIAL, "<img>", "</img>"]})
    words.save_pretrained(directory)
    (directory / "config.json").write_text(
        json.dumps({"model_type": TYPE, "architectures": ["NemotronH_Nano_VL_V2"], "dtype": "bfloat16"}), "utf-8"
    )
    return directory
