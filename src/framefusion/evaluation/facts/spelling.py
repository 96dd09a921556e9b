"""Videos of facts as the prompts of a model: its own word embeddings stand where visual tokens would."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from framefusion.asking.encodings import Prompt
from framefusion.asking.loading import LoadedModel
from framefusion.evaluation.data import DataError
from framefusion.evaluation.facts.scenes import FactVideo
from framefusion.hf.families import find
from framefusion.hf.families.gemma3 import Gemma3
from framefusion.hf.families.llava_onevision import LlavaOnevision

NOISY = 0.5
"""Share of the tokens of a frame that are noisy copies where noise is the control."""
NOISE = 0.2
"""Standard deviation of the noise, relative to the root mean square of the embedding that it is added to."""
LABEL = "\nNote:"
"""Stands before every frame that goes in as a picture: so pictures are the frames of one video."""
BEFORE = "These are notes about a video.\n"
ASKED = "\nQuestion: {question}\nAnswer: {lead}"


def tokens_of(text: str, tokenizer: Any) -> list[int]:
    """Its token ids, without what the tokenizer begins or ends a text with."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def frame_tokens(video: FactVideo, tokenizer: Any, count: int) -> Tensor:
    """``(scenes, count)`` token ids of a frame of each scene: its sentence, and what fills the rest.

    Raises:
        DataError: a sentence does not fit into a frame, so that its fact could be cut off.
    """
    rows = []
    for sentence, tail in video.texts:
        row, filler = tokens_of(f" {sentence}", tokenizer), tokens_of(tail, tokenizer)
        if len(row) > count:
            raise DataError(
                f"{sentence!r} takes {len(row)} tokens of this model, but a frame has {count}; facts are for "
                "tokenizers that know whole words"
            )
        rows.append((row + filler * count)[:count])
    return torch.tensor(rows)


def embedded(video: FactVideo, frames: Sequence[int], embed: Any, tokens: Tensor) -> Tensor:
    """``(frames, count, D)``: the embeddings of some frames of a video.

    Args:
        video: the video.
        frames: which, in order.
        embed: the model's embedding of token ids, scaled as the model does it.
        tokens: of :func:`frame_tokens`.
    """
    scenes = [video.scene_of(frame) for frame in frames]
    with torch.inference_mode():
        clean = embed(tokens)
    shown = clean[scenes].clone()
    if video.control != "noise":
        return shown
    for place, (frame, scene) in enumerate(zip(frames, scenes, strict=True)):
        if frame == video.starts[scene]:
            continue
        # Of the frame alone: a control that shows fewer frames sees the same ones.
        generator = torch.Generator().manual_seed(video.seed + frame)
        noise = torch.randn(clean[scene].shape, generator=generator).to(clean)
        noisy = torch.rand(len(noise), 1, generator=generator).to(clean) < NOISY
        shown[place] += noisy * noise * NOISE * clean[scene].pow(2).mean(-1, keepdim=True).sqrt()
    return shown


def spelled(
    loaded: LoadedModel, video: FactVideo, frames: Sequence[int], blank: bool, asked: Sequence[tuple[str, str]]
) -> list[Prompt]:
    """The prompts of some questions about a video.

    A model that takes videos is handed a video, one that takes pictures only is handed the frames as pictures, each
    between the tokens that its processor puts there.

    Args:
        loaded: the model.
        video: the video.
        frames: to show.
        blank: show the embedding of the end of a line in the place of every token.
        asked: question and beginning of the answer, each.

    Raises:
        DataError: the model takes neither, or its frames have too few tokens.
    """
    model, tokenizer = loaded.model, loaded.processor.tokenizer
    embed, family = model.get_input_embeddings(), find(model)
    if not isinstance(family, (LlavaOnevision, Gemma3)):
        raise DataError(f"facts cannot be handed to {type(model).__name__}; take --model qwen2.5-0.5b or gemma3-270m")
    side = (
        family.side(model.config)
        if isinstance(family, LlavaOnevision)
        else math.isqrt(model.config.mm_tokens_per_image)
    )
    tokens = frame_tokens(video, tokenizer, side**2).to(model.device)
    end = torch.tensor(tokens_of("\n", tokenizer)[:1], device=model.device)
    if blank:
        tokens = end.expand(tokens.shape)
    features = embedded(video, frames, embed, tokens)
    start = [tokenizer.bos_token_id] if _begins(tokenizer) else []
    if isinstance(family, LlavaOnevision):
        with torch.inference_mode():
            rest = embed(end).expand(family.newlines, -1)
        whole = torch.cat([features.flatten(0, 1), rest])[None]
        encoded = {"video": BaseModelOutputWithPooling(pooler_output=whole)}
        shown = [model.config.video_token_id] * whole.shape[1]
    else:
        encoded = {"image": BaseModelOutputWithPooling(pooler_output=features)}
        label = tokens_of(LABEL, tokenizer)
        shown = [*label, *[model.config.image_token_id] * side**2] * len(frames)
    start = [*start, *tokens_of(BEFORE, tokenizer), *shown]
    made = []
    for question, lead in asked:
        ids = torch.tensor([[*start, *tokens_of(ASKED.format(question=question, lead=lead), tokenizer)]])
        inputs = {"input_ids": ids.to(model.device), "attention_mask": torch.ones_like(ids).to(model.device)}
        made.append(Prompt(inputs, encoded))
    return made


def _begins(tokenizer: Any) -> bool:
    """Whether the tokenizer begins every text with a token."""
    return bool(tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id])
