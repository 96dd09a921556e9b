"""Prompts whose video is encoded once: whatever reduces the tokens afterwards costs the decoder alone."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from framefusion.asking.media import Media
from framefusion.asking.prompts import model_inputs
from framefusion.hf import tower
from framefusion.hf.encoder import recorded

MODALITIES = ("image", "video")
_PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}
_UNUSED = ("last_hidden_state", "hidden_states")
"""Parts of an encoder's output that no decoder reads beside the features, and that would take most of the memory."""


@dataclass(frozen=True)
class Prompt:
    """One question about one video, ready for ``generate()``.

    Attributes:
        inputs: the processor's outputs for one sample, without pixels that are encoded.
        encoded: per modality the encoder's output, shared by the prompts of a video.
    """

    inputs: dict[str, Any]
    encoded: dict[str, Any]

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return int(self.inputs["input_ids"].shape[1])


def prompts(model: Any, processor: Any, video: Media, questions: Sequence[str]) -> list[Prompt]:
    """The prompts of some questions about one video or photograph, which is encoded once.

    A family that takes no encoded videos (``mm_encoder_outputs`` of ``generate()``) keeps its pixels and encodes
    them with every answer.

    Args:
        model: a supported model.
        processor: its processor.
        video: the frames to show, or the photograph.
        questions: the texts.

    Raises:
        AskError: the processor has no chat template, refuses the video, or leaves it out.
    """
    made: list[Prompt] = []
    encoded: dict[str, Any] = {}
    for question in questions:
        inputs = dict(model_inputs(video, question, model, processor))
        encoded = encoded or _encode(model, inputs)
        for modality in encoded:
            del inputs[_PIXELS[modality]]
        made.append(Prompt(inputs, encoded))
    return made


def collate(batch: Sequence[Prompt], pad: int) -> dict[str, Any]:
    """The arguments of ``generate()`` for a batch, padded on the left.

    Args:
        batch: prompts of one model, with videos of one size.
        pad: token id of the padding.
    """
    longest = max(prompt.length for prompt in batch)
    first = batch[0].inputs
    arguments: dict[str, Any] = {}
    for name, value in first.items():
        values = [prompt.inputs[name] for prompt in batch]
        if isinstance(value, Tensor) and value.shape == first["input_ids"].shape:
            filler = pad if name == "input_ids" else 0
            values = [torch.nn.functional.pad(v, (longest - v.shape[1], 0), value=filler) for v in values]
        if isinstance(value, Tensor):
            arguments[name] = torch.cat(values)
        else:
            arguments[name] = [item for items in values for item in items]
    if batch[0].encoded:
        # A batch of its own: models may write into what they are given.
        arguments["mm_encoder_outputs"] = {
            modality: _joined([prompt.encoded[modality] for prompt in batch]) for modality in batch[0].encoded
        }
    return arguments


def _encode(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """What ``generate()`` computes ahead of the prefill."""
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        return {}
    encoded = {}
    for modality in MODALITIES:
        # Whatever goes by the encoder's attention afterwards finds it in the output.
        with recorded(model), tower.prompt(inputs["input_ids"]), torch.inference_mode():
            encoder = getattr(model.base_model, f"get_{modality}_features", None)
            if encoder is None or inputs.get(_PIXELS[modality]) is None:
                continue
            taken = {name: inputs[name] for name in inspect.signature(encoder).parameters if name in inputs}
            output = encoder(**taken, return_dict=True)
        unused = _UNUSED if "pooler_output" in output else ()
        encoded[modality] = _made_as(output, {name: value for name, value in output.items() if name not in unused})
    return encoded


def _made_as(output: Any, values: dict[str, Any]) -> Any:
    """An encoder output of the same kind with these values; None for others, whether it can do without or not."""
    return type(output)(**{field.name: values.get(field.name) for field in fields(output)})


def _joined(outputs: Sequence[Any]) -> Any:
    """One encoder output for several videos."""
    joined = {}
    for name, value in outputs[0].items():
        values = [output[name] for output in outputs]
        if isinstance(value, Tensor) or name == "pooler_output":
            joined[name] = _one_behind_the_other(values)
        else:
            # one entry for each layer of the encoder that hands its features over
            joined[name] = type(value)(_one_behind_the_other(layer) for layer in zip(*values, strict=True))
    return _made_as(outputs[0], joined)


def _one_behind_the_other(values: Sequence[Any]) -> Any:
    """Of several videos, what is a tensor or has an entry for each of them."""
    if isinstance(values[0], Tensor):
        return torch.cat(list(values))
    return type(values[0])(item for items in values for item in items)
