"""A video LLM as the hooks see it: where its decoder is, and what kinds of layers it has."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from framefusion.hf.families import UnsupportedModelError, find, unwrapped


def attends(layer: Any) -> bool:
    """Whether a layer attends by softmax; in hybrid decoders others keep a recurrent state."""
    return hasattr(layer, "self_attn")


def window_of(layer: Any) -> int | None:
    """The window of a sliding-window layer, in tokens."""
    attention = getattr(layer, "self_attn", None)
    # Some modules of full attention know the window of the others.
    return getattr(attention, "sliding_window", None) if getattr(attention, "is_sliding", True) else None


def first_after_attention(layers: Sequence[Any]) -> int:
    """The first layer before which attention exists; as many as there are layers if none attends by softmax."""
    return next((index + 1 for index, layer in enumerate(layers) if attends(layer)), len(layers))


class Decoder:
    """The decoder of a model and what is around it. No dataclass, which dynamo would take apart field by field.

    Args:
        model: a loaded model, bare or inside what PEFT or ``torch.compile`` put around it.

    Attributes:
        model: the bare model.
        name: of its class.
        family: the object of the registry that finds its visual tokens.
        multimodal: the model without its language-model head.
        module: the decoder itself.
        layers: of the decoder, in order.
        attending: indices of the layers that attend by softmax.
        first: the first layer before which attention exists.
        deepstack: whether the decoder adds visual features after its first layers.

    Raises:
        UnsupportedModelError: the family is not supported; lists those that are.
    """

    def __init__(self, model: Any) -> None:
        self.model: Any = unwrapped(model)
        self.name = type(self.model).__name__
        self.family = find(self.model)
        self.multimodal: Any = self.model.base_model
        self.module: Any = self.multimodal.get_decoder()
        if not hasattr(self.module, "layers"):
            raise UnsupportedModelError(
                f"{self.name} keeps its decoder elsewhere in this release of transformers; use a later one."
            )
        self.layers: list[Any] = list(self.module.layers)
        self.attending = [index for index, layer in enumerate(self.layers) if attends(layer)]
        self.first = first_after_attention(self.layers)
        self.deepstack = "deepstack_visual_embeds" in inspect.signature(type(self.module).forward).parameters
        self._signature = inspect.signature(type(self.multimodal).forward)

    @property
    def has_head(self) -> bool:
        """Whether the model has a language-model head, and so ``generate()``."""
        return self.model is not self.multimodal

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """What the multimodal model is called with, by name."""
        bound = self._signature.bind_partial(self.multimodal, *args, **kwargs).arguments
        more = bound.pop("kwargs", {})
        return {**bound, **more}

    def served(self, index: int) -> range:
        """The layers before which the latest attention is that of layer ``index``."""
        later = [layer for layer in self.attending if layer > index]
        return range(index + 1, later[0] + 1 if later else len(self.layers))
