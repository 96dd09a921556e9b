"""A mid-size LLaVA-OneVision with random weights in the proportions of a real one, and what those proportions are.

    python -m benchmarks.llava --json docs/data/llava-proportions.json

``framefusion plan`` counts the operations of the published configurations and of the mid-size ones for a video of 16
frames: a dense tower (SigLIP) over every frame, and the decoder behind it. In the 7B model the decoder is most of them,
in the 0.5B model the tower. The mid-size ones see the 96 pixels and patches of 6 of the bundled checkpoint, so that
what moves in a video is as many of their patches.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.end_to_end import machine
from framefusion import plan
from framefusion.asking.loading import load
from framefusion.assets import BUNDLED

MODEL = "bundled"
FRAMES = 16
WIDTHS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True)
class Size:
    """The numbers of a LLaVA-OneVision that its operations follow from.

    Attributes:
        tower: width, width of the MLP, blocks, heads.
        decoder: width, width of the MLP, layers, heads.
        kv_heads: of the decoder.
        pixels: across and down a frame.
        patch: pixels across and down a patch.
        vocabulary: entries of the language-model head.
    """

    tower: tuple[int, int, int, int]
    decoder: tuple[int, int, int, int]
    kv_heads: int
    pixels: int = 96
    patch: int = 6
    vocabulary: int = 86


SIGLIP = (1152, 4304, 26, 16)
REAL = {
    "7B": Size(SIGLIP, (3584, 18944, 28, 28), 4, 384, 14, 152_000),
    "0.5B": Size(SIGLIP, (896, 4864, 24, 14), 2, 384, 14, 152_000),
}
"""``llava-hf/llava-onevision-qwen2-7b-ov-hf`` and ``-0.5b-ov-hf``."""
MID = {
    "7B": Size((256, 960, 26, 4), (1024, 5760, 18, 8), 1),
    "0.5B": Size((256, 960, 26, 4), (288, 1680, 12, 4), 1),
}
"""Of the same proportions, small enough for a CPU."""


def config(size: Size) -> Any:
    """Of the model class, from the bundled checkpoint's."""
    from transformers import AutoConfig

    made = AutoConfig.from_pretrained(BUNDLED[MODEL])
    layers = size.decoder[2]
    made.text_config.update(dict(zip(WIDTHS, size.decoder, strict=True)))
    made.text_config.update({"num_key_value_heads": size.kv_heads, "vocab_size": size.vocabulary})
    made.text_config.update({"layer_types": ["full_attention"] * layers, "max_window_layers": layers})
    made.vision_config.update(dict(zip(WIDTHS, size.tower, strict=True)))
    made.vision_config.update({"image_size": size.pixels, "patch_size": size.patch})
    made.image_grid_pinpoints = [[size.pixels, size.pixels]]
    return made


def mid_size(name: str) -> tuple[Any, Any]:
    """The model with random weights and the bundled processor.

    Args:
        name: of :data:`MID`.
    """
    from transformers import LlavaOnevisionForConditionalGeneration

    processor = load(MODEL, device="cpu").processor
    torch.manual_seed(0)
    return LlavaOnevisionForConditionalGeneration(config(MID[name])).eval(), processor


def write(size: Size, directory: Path) -> None:
    """What ``framefusion plan`` reads: configuration, tokenizer and processor, no weights."""
    shutil.copytree(BUNDLED[MODEL], directory, ignore=shutil.ignore_patterns("*.safetensors"))
    config(size).save_pretrained(directory)
    file = directory / "processor_config.json"
    processor = json.loads(file.read_text())
    processor["num_image_tokens"] = (size.pixels // size.patch) ** 2
    for kind in ("image_processor", "video_processor"):
        processor[kind]["size"] = {"height": size.pixels, "width": size.pixels}
    file.write_text(json.dumps(processor))


def counted(size: Size) -> dict[str, Any]:
    """Operations up to the first token of a video of 16 frames, all tokens."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "model"
        write(size, directory)
        found = plan(directory, frames=FRAMES, size=(size.pixels, size.pixels))
    row = found.rows[0]
    assert row.encoder_flops is not None
    assert row.projector_flops is not None
    tower, decoder = row.encoder_flops - row.projector_flops, row.flops
    return {
        "visual_tokens": row.visual_tokens,
        "tower": tower,
        "projector": row.projector_flops,
        "decoder": decoder,
        "decoder_over_tower": decoder / tower,
    }


def main() -> None:
    """Count and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = [
        {"proportions": name, "model": title, **counted(sizes[name])}
        for name in REAL
        for title, sizes in (("published", REAL), ("mid-size", MID))
    ]
    for row in rows:
        sys.stdout.write(f"{json.dumps(row)}\n")
    if given.json is not None:
        about = {name: value for name, value in machine().items() if name != "machine"}
        given.json.write_text(json.dumps({**about, "frames": FRAMES, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
