"""Questions about one video on one prefix: what their prompts begin with is prefilled once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from framefusion.asking.encodings import Prompt, collate
from framefusion.hf import Run
from framefusion.hf.calls import cache_argument
from framefusion.hf.decoder import Decoder
from framefusion.hf.families import unwrapped
from framefusion.hf.prefix import Prefix, media_end, takes_padding
from framefusion.reduction.settings import FrameFusion

SHORTEST = 2
"""Tokens that have to follow a prefix."""


def shares(model: Any, settings: FrameFusion) -> bool:
    """Whether prompts about one video share any layer: not where a stage before the first one goes by the question.

    Args:
        model: a supported model.
        settings: of the reduction.
    """
    decoder = Decoder(model)
    if not takes_caches(model):
        return False
    return settings.values == 1 and settings.fork(len(decoder.layers), decoder.first) > 0


def takes_caches(model: Any) -> bool:
    """Whether the model's ``generate()`` goes on from a cache: not where it is configured to make one of a kind."""
    # "hybrid" is what it ignores.
    return getattr(model.generation_config, "cache_implementation", None) in (None, "hybrid")


def beginning(model: Any, prompts: Sequence[Prompt]) -> int | None:
    """Tokens that the prompts of one video begin with, up to its last; None where there is nothing to share.

    Args:
        model: a supported model.
        prompts: at least one, all with the same videos and images.
    """
    ids = [prompt.inputs["input_ids"] for prompt in prompts]
    try:
        end = media_end(model, _seen(prompts[0]))
    except ValueError:
        return None
    if any(own.shape[1] < end + SHORTEST or not torch.equal(own[:, :end], ids[0][:, :end]) for own in ids):
        return None
    return end


def fitting(model: Any, prompts: Sequence[Prompt], most: int) -> list[list[int]]:
    """Positions of prompts of one video, in batches that may follow their beginning, of nearly one length each.

    Args:
        model: a supported model.
        prompts: of one video.
        most: prompts of a batch.
    """
    padded = takes_padding(model)
    groups: dict[int, list[int]] = {}
    for position in sorted(range(len(prompts)), key=lambda position: prompts[position].length):
        groups.setdefault(0 if padded else prompts[position].length, []).append(position)
    return [group[first : first + most] for group in groups.values() for first in range(0, len(group), most)]


def behind(model: Any, prefix: Prefix, texts: Sequence[Prompt], pad: int) -> dict[str, Any]:
    """The arguments of ``generate()`` for texts behind a prefix, padded between the two.

    Args:
        model: that goes on.
        prefix: what it holds.
        texts: with ``input_ids``, ``attention_mask`` and what else has an entry for each token.
        pad: token id of the padding.
    """
    after = collate(texts, pad)
    arguments = cache_argument(type(unwrapped(model)).forward, prefix.to_continue(after["attention_mask"]))
    for name, value in after.items():
        # Which tokens are visual is for calls that bring what they show.
        before = torch.ones_like(prefix.ids) if name == "attention_mask" else torch.zeros_like(prefix.ids)
        before = prefix.ids if name == "input_ids" else before
        arguments[name] = torch.cat([before.to(value).expand(len(texts), -1), value], dim=1)
    # Whatever the model is configured to: what is held is in the cache alone.
    return {**arguments, "use_cache": True}


class Together:
    """Prompts on the beginnings of their videos; the latest beginning is held.

    Args:
        model: that answers.
        run: the reduction that is attached to it.
        pad: token id of the padding.
    """

    def __init__(self, model: Any, run: Run, pad: int) -> None:
        self._model, self._run, self._pad = model, run, pad
        self._held: tuple[Hashable, Tensor, Prefix] | None = None

    def arguments(self, batch: Sequence[Prompt], video: Hashable = None, end: int | None = None) -> dict[str, Any]:
        """The arguments of ``generate()`` for a batch, padded between the beginning and what follows it.

        Args:
            batch: prompts of one video, as :func:`fitting` puts them together.
            video: what tells it from others; its batches should follow each other.
            end: tokens that its prompts begin with, of :func:`beginning`; None takes every prompt as a whole.

        Raises:
            ValueError: the prompts cannot be reduced.
        """
        if end is None:
            return collate(batch, self._pad)
        prefix = self._beginning(batch[0], video, end)
        return behind(self._model, prefix, [text_from(prompt, end) for prompt in batch], self._pad)

    def _beginning(self, prompt: Prompt, video: Hashable, end: int) -> Prefix:
        ids = prompt.inputs["input_ids"][:, :end]
        if self._held is None or self._held[0] != video or not torch.equal(self._held[1], ids):
            # Not two of them in memory.
            self._held = None
            self._held = video, ids, self._run.extend(collate([prompt], self._pad), columns=(0, end))
        return self._held[2]


def text_from(prompt: Prompt, end: int) -> Prompt:
    """What has an entry for each token of a prompt, of those from ``end`` on."""
    shape = prompt.inputs["input_ids"].shape
    by_token = {n: v for n, v in prompt.inputs.items() if isinstance(v, Tensor) and v.shape == shape}
    return Prompt({name: value[:, end:] for name, value in by_token.items()}, {})


def _seen(prompt: Prompt) -> dict[str, Any]:
    return {**prompt.inputs, **({"mm_encoder_outputs": prompt.encoded} if prompt.encoded else {})}
