"""What a tiny random-weight model of a family has in common with the others, and inputs as its processor makes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from framefusion.hf.decoder import attends, decoder_of

PAD, VIDEO, IMAGE, START, END = 0, 1, 2, 3, 4
FIRST_WORD = 10
"""Smaller ids are no words: generation must not say them, the oracle would take placeholders for video."""
LAYERS = 4

TEXT = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": None,
    "initializer_range": 0.2,
}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}}
SIDE = 24
"""Pixels of the frames of families with frames of one size."""
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO}


class Video(NamedTuple):
    """A video in tokens."""

    frames: int
    height: int
    width: int


class Image(NamedTuple):
    """An image in tokens."""

    height: int
    width: int


Part = int | tuple[int, int, int] | Image
"""A number of text tokens, a video ``(T, H, W)`` or an image."""


@dataclass
class Case:
    """A model and how to make its inputs.

    Attributes:
        name: of the family's builder.
        model: the model with its language-model head.
        encode: the keyword arguments for all videos and images of a batch, in order.
        wrap: the token ids of one video or image in a prompt, with what stands around and between its frames.
        fixed_grid: ``(H, W)`` of families whose frames have one size; rows must use it.
        takes: the kinds that the family takes: ``"video"``, ``"image"`` or both.
        mixes: whether the model takes both kinds in one call.
        finish: adds what the processor derives from the ids, in place.
        whole_types: whether the model reads that by position in the conversation.
    """

    name: str
    model: Any
    encode: Callable[[Sequence[Video], Sequence[Image]], dict[str, Any]]
    wrap: Callable[[Video | Image], list[int]]
    fixed_grid: tuple[int, int] | None = None
    takes: tuple[str, ...] = ("video", "image")
    mixes: bool = True
    finish: Callable[[dict[str, Any]], None] = lambda batch: None
    whole_types: bool = False

    @property
    def frame(self) -> tuple[int, int]:
        """The frame size ``(H, W)`` to test with."""
        return self.fixed_grid or (3, 3)

    @property
    def attending(self) -> list[int]:
        """The decoder layers of softmax attention: all, but in a hybrid decoder."""
        return [index for index, layer in enumerate(self.decoder.layers) if attends(layer)]

    @property
    def decoder(self) -> Any:
        """The decoder, without its head."""
        return decoder_of(self.model)

    def types(self, ids: Tensor) -> dict[str, Tensor]:
        """What the processor derives from these ids alone."""
        batch: dict[str, Any] = {"input_ids": ids}
        self.finish(batch)
        del batch["input_ids"]
        return batch

    def inputs(self, rows: Sequence[Sequence[Part]], side: str = "left") -> dict[str, Tensor]:
        """The model's keyword arguments for a padded batch."""
        generator = torch.Generator().manual_seed(len(rows) + 7)
        ids: list[list[int]] = []
        videos: list[Video] = []
        images: list[Image] = []
        for row in rows:
            tokens: list[int] = []
            for part in row:
                if isinstance(part, int):
                    tokens += torch.randint(FIRST_WORD, TEXT["vocab_size"], (part,), generator=generator).tolist()
                elif isinstance(part, Image):
                    tokens += self.wrap(part)
                    images.append(part)
                else:
                    tokens += self.wrap(Video(*part))
                    videos.append(Video(*part))
            ids.append(tokens)
        length = max(map(len, ids))
        pad = [[PAD] * (length - len(row)) for row in ids]
        ones = [[1] * len(row) for row in ids]
        left = side == "left"
        batch = {
            "input_ids": torch.tensor([p + r if left else r + p for p, r in zip(pad, ids, strict=True)]),
            "attention_mask": torch.tensor([p + r if left else r + p for p, r in zip(pad, ones, strict=True)]),
        }
        batch.update(self.encode(videos, images) if videos or images else {})
        self.finish(batch)
        return batch


def scenes(frames: int, channels: int, size: tuple[int, ...], seed: int) -> Tensor:
    """Frames ``(T, C, *size)`` with cuts and near-still stretches, so that some tokens merge and some do not."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for t in range(frames):
        if t % 3 == 0:
            scene = torch.randn(channels, *size, generator=generator)
        result.append(scene + 0.6 * torch.randn(channels, *size, generator=generator))
    return torch.stack(result)


def square_frames(videos: Sequence[Video], images: Sequence[Image], views: int) -> tuple[list[Tensor], list[Tensor]]:
    """Pixels ``(T, 3, SIDE, SIDE)`` of each video, and of each image's ``views``."""
    frames = [scenes(video.frames, 3, (SIDE, SIDE), seed) for seed, video in enumerate(videos)]
    return frames, [scenes(views, 3, (SIDE, SIDE), 100 + seed) for seed in range(len(images))]


def mrope_types(batch: dict[str, Any]) -> None:
    """The token types from which the models of the Qwen kind compute their positions."""
    ids = batch["input_ids"]
    batch["mm_token_type_ids"] = (ids == VIDEO).int() * 2 + (ids == IMAGE).int()


def patches_of(videos: Sequence[Video], images: Sequence[Image], width: int, merge: int = 2) -> dict[str, Any]:
    """Flattened patches ``(n, width)`` and their grids, as the processors of the Qwen kind give them."""
    result: dict[str, Any] = {}
    sizes = {
        ("pixel_values_videos", "video_grid_thw"): list(videos),
        ("pixel_values", "image_grid_thw"): [Video(1, *image) for image in images],
    }
    for (pixels, grids), items in sizes.items():
        if not items:
            continue
        patches = [
            scenes(t, merge * merge * h * w, (width,), seed + 100 * (grids == "image_grid_thw")).flatten(0, 1)
            for seed, (t, h, w) in enumerate(items)
        ]
        result[pixels] = torch.cat(patches)
        result[grids] = torch.tensor([[t, merge * h, merge * w] for t, h, w in items])
    return result
